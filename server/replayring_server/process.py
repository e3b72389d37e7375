"""A server as a process: descriptors, memory, loop and signals, from settings to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from replayring_proto.errors import ReplayRingError, ServerError, StorageError
from replayring_proto.limits import ServerLimits
from replayring_server.allocator import keep_freed_memory
from replayring_server.configuration import Settings
from replayring_server.descriptors import raise_descriptor_limit
from replayring_server.diagnostics import handlers_of
from replayring_server.engine import Store
from replayring_server.extras import needs_extra
from replayring_server.security.certificates import Certificates, certificates_from
from replayring_server.security.exposure import check_exposure, missing
from replayring_server.security.tokens import Tokens
from replayring_server.server import Server
from replayring_server.telemetry import from_other_threads

if TYPE_CHECKING:
    from replayring_server.telemetry.otlp import OpenTelemetry

logger = logging.getLogger(__name__)

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_SIGNALS_TAKEN_S = 0.05
_LOOK_S = 1.0


def run_server(settings: Settings, limits: ServerLimits) -> None:
    """Serves until SIGTERM or SIGINT. A second one ends at once what is still in flight.

    Whatever signals come, buffers are closed properly.

    Raises:
        ReplayRingError: the settings do not go together, or it cannot serve, or not any more.
    """
    hung_up: list[int] = []  # by now it may be about tokens that are read below
    signal.signal(signal.SIGHUP, lambda number, _: hung_up.append(number))
    raise_descriptor_limit()
    keep_freed_memory()
    certificates = certificates_from(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    tokens = None if settings.token_file is None else Tokens(settings.token_file)
    _check_exposure(settings, certificates, tokens)
    diagnostics = handlers_of(reflection=settings.reflection, channelz=settings.channelz)
    make_server = partial(Server, certificates=certificates, tokens=tokens, diagnostics=diagnostics)
    _run_loop(_Life(settings, limits, make_server, hung_up).live())


def _check_exposure(
    settings: Settings, certificates: Certificates | None, tokens: Tokens | None
) -> None:
    lacking = missing(
        encrypted=certificates is not None,
        authenticated=tokens is not None
        or (certificates is not None and certificates.client_ca is not None),
    )
    if not settings.insecure:
        for address in (settings.listen, settings.metrics_listen):
            if address is not None:
                check_exposure(str(address), address.host, lacking)
    elif lacking:
        logger.warning("--insecure: there is no %s", " and no ".join(lacking))


class _Life:
    """One run of a server, on one event loop."""

    def __init__(
        self,
        settings: Settings,
        limits: ServerLimits,
        make_server: Callable[..., Server],
        hung_up: Sequence[int],
    ) -> None:
        """Prepares it; `hung_up` has each SIGHUP that comes before it can be dealt with."""
        self._settings = settings
        self._limits = limits
        self._make_server = make_server
        self._hung_up = hung_up
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._failure: ReplayRingError | None = None
        self._server: Server | None = None

    async def live(self) -> None:
        """Opens the store, serves it, and closes it.

        Raises:
            StorageError: the disk failed.
            ServerError: gRPC's own loop died.
        """
        from_any_thread = asyncio.get_running_loop().call_soon_threadsafe

        def on_disk_failure() -> None:
            self._failure = StorageError(
                "stopped because the disk failed, see above; check it, then restart"
            )
            from_any_thread(self._stopping.set)

        try:
            with (
                _signals_handled(
                    partial(from_any_thread, self._on_signal),
                    partial(from_any_thread, self._on_hang_up),
                    self._hung_up,
                ),
                Store(self._settings.data_dir, self._limits, on_disk_failure) as store,
            ):
                async with _telemetry(self._settings.otel) as telemetry:
                    server = self._server = self._make_server(
                        store, interceptors=telemetry.interceptors if telemetry else ()
                    )
                    if telemetry:
                        telemetry.watch(from_other_threads(server.status))
                    await self._serve(store, server)
                    await self._stop(server)
        finally:
            if self._failure is not None:
                raise self._failure
        logger.info("stopped")

    def _on_signal(self) -> None:
        (self._hurried if self._stopping.is_set() else self._stopping).set()

    def _on_hang_up(self) -> None:
        if self._server is not None:  # else it has failed to start
            _reload_tokens(self._server)

    async def _serve(self, store: Store, server: Server) -> None:
        """Serves until it is told to stop."""
        settings = self._settings
        host, port = settings.listen
        bound = await server.start(host, port, settings.health_listen, settings.metrics_listen)
        # On stdout, and whole: whoever started this process waits for the line to learn the port.
        print(f"replayring listening on {host}:{bound}", flush=True)
        logger.info("serving %s on %s:%d", store.data_dir, host, bound)
        watching = asyncio.create_task(self._watch(server))
        await self._stopping.wait()
        watching.cancel()

    async def _watch(self, server: Server) -> None:
        """Stops when the server takes no connections any more, so that somebody restarts it."""
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                await server.check()
        except Exception:
            logger.exception("gRPC's own loop died")
            self._failure = self._failure or ServerError(
                "stopped because it took no connections any more, see above; restart"
            )
            self._stopping.set()

    async def _stop(self, server: Server) -> None:
        """Says NOT_SERVING, serves on for a while, lets calls finish, and ends the others."""
        delay, grace = self._settings.drain_delay, self._settings.grace
        server.announce_stop()
        if delay:
            logger.info("stopping: NOT_SERVING, but calls are taken for %.1f s more", delay)
        hurry = asyncio.create_task(self._hurried.wait())
        await asyncio.wait({hurry}, timeout=delay)
        logger.info("stopping: calls in flight have %.1f s to finish", grace)
        stop = asyncio.create_task(server.stop(grace))
        await asyncio.wait({hurry, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            logger.info("stopping: told so again, calls in flight are cut")
            await server.stop(0)
        hurry.cancel()
        await stop


@contextlib.contextmanager
def _signals_handled(
    stop: Callable[[], object], hang_up: Callable[[], object], hung_up: Sequence[int]
) -> Iterator[None]:
    """Calls `stop` or `hang_up`, between any two instructions, at each signal; in the end none.

    The event loop's own handlers would not do: it takes them back before the interpreter has
    ended, and one more signal would kill what is about to end with 0.
    """
    for number in _STOPPING:
        signal.signal(number, lambda *_: stop())
    signal.signal(signal.SIGHUP, lambda *_: hang_up())
    if hung_up:
        hang_up()
    try:
        yield
    finally:
        _ignore((*_STOPPING, signal.SIGHUP))


def _ignore(numbers: Iterable[int]) -> None:
    """Ignores signals: first by the system, then, when none is on its way any more, by Python.

    Python tells of one that it took before, and has no handler for by now, with a traceback. Any
    thread may be the one that takes it, and be kept from that by others for a moment.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ignore = ctypes.CDLL(None).signal
        ignore.restype, ignore.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        for number in numbers:
            ignore(number, int(signal.SIG_IGN))
        time.sleep(_SIGNALS_TAKEN_S)
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


@contextlib.asynccontextmanager
async def _telemetry(wanted: bool) -> AsyncIterator[OpenTelemetry | None]:
    """Gives what exports to OpenTelemetry, if it is wanted; what is left is exported at the end.

    Raises:
        InvalidRequestError: its libraries are not installed, or its variables are not valid.
    """
    if not wanted:
        yield None
        return
    try:
        from replayring_server.telemetry.otlp import OpenTelemetry
    except ModuleNotFoundError as error:
        raise needs_extra("--otel", "otel", error) from None
    telemetry = OpenTelemetry.from_environment()
    try:
        yield telemetry
    finally:
        await asyncio.to_thread(telemetry.close)


def _reload_tokens(server: Server) -> None:
    try:
        server.reload_tokens()
    except ReplayRingError as error:
        logger.error("the tokens in use stay: %s", error)


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs `main` on uvloop where it is installed, which is faster, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
