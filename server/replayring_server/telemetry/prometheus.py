"""Metrics for Prometheus: an HTTP server of its own, on a thread of its own.

It keeps the house's rules: it speaks TLS where the service does, asks for a token where the service
does, and peers that stall or trickle cost no more than a few threads for a few seconds. A scrape
reads one status and keeps nothing.
"""

from __future__ import annotations

import itertools
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from replayring_proto.address import without_brackets
from replayring_proto.errors import AccessDeniedError
from replayring_proto.server_status import Durations, ServerStatus
from replayring_proto.tokens import SCHEME, TOKEN_KEY
from replayring_server.listening import cannot_listen
from replayring_server.security.authorisation import Metadata
from replayring_server.security.certificates import Certificates
from replayring_server.telemetry.families import Family, Kind, families_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

PATH = "/metrics"

Check: TypeAlias = "Callable[[Metadata], object]"
Unanswered: TypeAlias = "Callable[[str, str], object]"

MAX_SCRAPES = 16
_PATIENCE_S = 10.0

_FAMILIES: dict[Kind, Any] = {
    Kind.GAUGE: GaugeMetricFamily,
    Kind.COUNTER: CounterMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
    Kind.DISTRIBUTION: GaugeHistogramMetricFamily,
}


def _log_unanswered(peer: str, reason: str) -> None:
    logger.info("no metrics for %s: %s", peer, reason)


class StatusCollector(Collector):
    """A server's metrics, for a registry. Thread-safe if `status` is."""

    def __init__(self, status: Callable[[], ServerStatus]) -> None:
        """Collects what `status` returns at that moment."""
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yields every metric."""
        return map(_metric, families_of(self._status()))

    def describe(self) -> Iterable[Metric]:
        """Yields none: the names are not checked against those of other collectors."""
        return ()


def _metric(family: Family) -> Metric:
    metric = _FAMILIES[family.kind](family.name, family.help, labels=family.labels)
    for labels, value in family.values:
        if isinstance(value, Durations):
            metric.add_metric(labels, _buckets(value), value.sum_s)
        else:
            metric.add_metric(labels, value)
    found: Metric = metric
    return found


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    """Returns counts of all that took at most so long, which is how Prometheus counts."""
    bounds = [*map(repr, durations.bounds_s), "+Inf"]
    return [*zip(bounds, itertools.accumulate(durations.counts), strict=True)]


class MetricsServer(socketserver.ThreadingMixIn, WSGIServer):
    """Answers GET /metrics. Whoever started it closes it.

    Attributes:
        server_port: where it listens.
    """

    daemon_threads = True
    allow_reuse_port = False  # two servers would share a port unseen
    request_queue_size = MAX_SCRAPES

    def __init__(
        self,
        host: str,
        port: int,
        status: Callable[[], ServerStatus],
        certificates: Certificates | None,
        check: Check,
        unanswered: Unanswered = _log_unanswered,
    ) -> None:
        """Starts listening, and a thread that answers.

        Args:
            host: where to listen; an IPv6 address stands in brackets.
            port: where to listen; 0 takes a free one.
            status: returns how the server is doing, from any thread.
            certificates: makes it speak TLS, and nothing else.
            check: raises `AccessDeniedError` for a request's metadata that does not suffice.
            unanswered: told, from any thread, of a peer that got no answer by its own doing, and
                why; by default each is logged.

        Raises:
            StorageError: the address cannot be listened on.
        """
        self._certificates = certificates
        self._unanswered = unanswered
        self._room = threading.BoundedSemaphore(MAX_SCRAPES)
        self._begun: dict[socket.socket, float] = {}
        self._guard = threading.Lock()  # a descriptor that was closed may be another's by then
        bare = without_brackets(host)
        if bare != host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((bare, port), _Handler)
        except (OSError, UnicodeError) as error:  # the latter: no name that a host can have
            raise cannot_listen("--metrics-listen", host, port, error) from None
        self.set_app(_application(status, check))
        self._thread = threading.Thread(
            target=self.serve_forever, name="replayring-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops listening. Scrapes under way are not waited for."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def server_bind(self) -> None:
        """Takes the address, without asking a name server what it is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "replayring", self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers on a thread, if there are not too many already."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # there was no thread to be had
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers one request, over TLS where there are certificates."""
        if self._certificates is None:
            with self._bounded(request):
                return super().finish_request(request, client_address)
        context = self._certificates.context()
        with (
            context.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            ) as encrypted,
            self._bounded(encrypted),
        ):
            encrypted.do_handshake()
            return super().finish_request(encrypted, client_address)

    def service_actions(self) -> None:
        """Ends the connections that have had their time; it is called twice a second."""
        overdue = time.monotonic() - _PATIENCE_S
        with self._guard:
            for connection, begun in self._begun.items():
                if begun < overdue:
                    with suppress(OSError):  # it has been ended before, or by its peer
                        socket.socket.shutdown(connection, socket.SHUT_RDWR)
                        logger.info("gave up a scrape that took %g s", _PATIENCE_S)

    @contextmanager
    def _bounded(self, connection: socket.socket) -> Iterator[None]:
        """Bounds how long a connection may take as a whole, whatever its peer does meanwhile."""
        with self._guard:
            self._begun[connection] = time.monotonic()
        try:
            yield
        finally:
            with self._guard:
                del self._begun[connection]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs why one request was not answered."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):  # the peer said nothing, is gone, or speaks no TLS
            self._unanswered("{}:{}".format(*client_address), str(error))
        else:
            logger.exception("no metrics for %s", client_address[0])


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("metrics: " + format, *args)


def _application(status: Callable[[], ServerStatus], check: Check) -> WSGIApplication:
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    metrics: WSGIApplication = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [f"metrics are at {PATH}\n".encode()]
        header = environ.get("HTTP_AUTHORIZATION")
        try:
            check([] if header is None else [(TOKEN_KEY, header)])
        except AccessDeniedError:
            headers = [("Content-Type", "text/plain"), ("WWW-Authenticate", SCHEME)]
            start_response("401 Unauthorized", headers)
            return [b"a token to read with is needed: Authorization: Bearer TOKEN\n"]
        try:
            return metrics(environ, start_response)
        except Exception:  # or wsgiref would write it to stderr, past the log
            logger.exception("the metrics could not be collected")
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the metrics could not be collected; the server's log says why\n"]

    return answer
