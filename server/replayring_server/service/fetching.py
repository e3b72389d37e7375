"""GetItem and ReadColumn: frames and columns on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from replayring_proto.arrays import Array
from replayring_proto.errors import FrameNotFoundError, InvalidRequestError
from replayring_proto.framing import encode_data, encode_header
from replayring_proto.limits import CHUNK_BYTES, MAX_VIEW_KEYS, ServerLimits, check_limit
from replayring_proto.messages import parse, view_from_message
from replayring_proto.pack import PackLayout
from replayring_proto.ring import MakingRoom, Plan
from replayring_proto.spec import BufferSpec
from replayring_proto.v1 import buffer_pb2, replay_pb2
from replayring_server.engine import Buffer, Store
from replayring_server.service.calls import Call, Calls
from replayring_server.service.packs import send_pack
from replayring_server.service.workers import Lane, LeaveTo, Workers

T = TypeVar("T")

# What one entry of a window takes about, of memory or of the time to move as much. Those in seconds
# are searched for.
_ENTRY_BYTES = 25
_SOUGHT_ENTRY_BYTES = 100

_MAX_INDEX = np.iinfo(np.int64).max

# Plans of larger views are not kept; they would take memory.
_KEPT_VIEW_BYTES = 4096


async def get_item(store: Store, workers: Workers, calls: Calls, call: Call) -> None:
    """Answers GetItem: each request, in order."""
    times = calls.tally.work["GetItem"]
    while (message := await call.read()) is not None:
        begun = time.perf_counter()
        await _send_items(store, workers, calls, call, message)
        call.release()
        times.add(time.perf_counter() - begun)


async def _send_items(
    store: Store, workers: Workers, calls: Calls, call: Call, message: bytes
) -> None:
    request = parse(replay_pb2.GetItemRequest, message)
    buffer = store.get(request.buffer)
    if bool(request.positions) == bool(request.indices):
        raise InvalidRequestError(
            "GetItem needs either positions or indices; received "
            + ("both" if request.positions else "neither")
        )
    count = len(request.positions) or len(request.indices)
    plan = _planned(buffer.spec, request.view.SerializeToString())
    plan.check_size(count, store.limits)
    if request.positions:
        # A list: numpy takes twice as long over protobuf's own sequences.
        positions = np.array(request.positions[:], np.int64)
        gather = partial(buffer.reader.at_positions, plan, positions)
    else:
        gather = partial(buffer.reader.at_indices, plan, _signed(request.indices[:]))
    work = work_for(plan, count)
    await call.take(calls.sending, held_for(work, store.limits))
    if request.positions:
        pack = await steadily(workers, buffer, gather, work, call.leave_to)
    else:
        pack = await workers.run(Lane.READ, gather, work, call.leave_to)
    await send_pack(call, pack)


async def steadily(
    workers: Workers,
    buffer: Buffer,
    read: Callable[..., T],
    nbytes: int | None,
    leave_to: LeaveTo | None = None,
) -> T:
    """Returns what `read` gives of a window as it is between two appends.

    An append that needs the rows of live frames makes the window short for as long as it takes;
    then it is waited for. Otherwise positions that a caller knows to be there would not be, for a
    moment, or be others'.

    Args:
        workers: where to read.
        buffer: what is read.
        read: reads; given `steady=True`, raises `MakingRoom` in such a moment.
        nbytes: bytes that it moves; None if nobody knows yet.
        leave_to: as for `Workers.run`.
    """
    try:
        return await workers.run(Lane.READ, partial(read, steady=True), nbytes, leave_to)
    except MakingRoom:
        read_then = partial(buffer.between_appends, read)
        return await workers.run(Lane.READ, read_then, leave_to=leave_to)


def _signed(indices: Sequence[int]) -> npt.NDArray[np.int64]:
    """Returns values of `index` as the ring counts them.

    Raises:
        FrameNotFoundError: one is beyond int64, and so beyond any frame.
    """
    unsigned = np.array(indices, np.uint64)
    beyond = unsigned > _MAX_INDEX
    if beyond.any():
        raise FrameNotFoundError(
            f"the frame with index {unsigned[beyond][0]} does not exist yet: no buffer is that "
            "large; ask for values that the column `index` has"
        )
    return unsigned.astype(np.int64)


def _planned(spec: BufferSpec, view: bytes) -> Plan:
    """Returns the plan of an encoded view. Learners repeat one small view for every batch."""
    return _kept(spec, view) if len(view) <= _KEPT_VIEW_BYTES else _plan(spec, view)


def _plan(spec: BufferSpec, view: bytes) -> Plan:
    return Plan(spec, view_from_message(buffer_pb2.View.FromString(view)))


_kept = lru_cache(maxsize=64)(_plan)


def work_for(plan: Plan, count: int) -> int:
    """Returns the work for a reply of `count` frames, in bytes that could be moved meanwhile."""
    entry_bytes = _SOUGHT_ENTRY_BYTES if plan.seeks else _ENTRY_BYTES
    return plan.layout(count).nbytes + count * plan.entries_per_frame * entry_bytes


def held_for(work: int, limits: ServerLimits) -> int:
    """Returns the bytes of the budget for what is sent that such work is charged for.

    What is sent, and what it takes to resolve its windows, which may be more.
    """
    return min(work, limits.max_sending_bytes)


async def read_column(store: Store, workers: Workers, call: Call) -> None:
    """Answers ReadColumn: large columns a piece at a time, as they may be larger than memory."""
    request = parse(replay_pb2.ReadColumnRequest, await call.request())
    buffer = store.get(request.buffer)
    keys = tuple(request.keys)
    check_limit(len(keys), MAX_VIEW_KEYS, "keys of columns", "name each column once")
    if not keys or len(set(keys)) != len(keys):
        raise InvalidRequestError(f"ReadColumn needs at least one key, each once; received {keys}")
    layout, pieces = await steadily(workers, buffer, partial(_begin_columns, buffer, keys), None)
    check_limit(
        layout.nbytes,
        store.limits.max_column_bytes,
        "bytes of these columns",
        "read fewer at once",
        "max_column_bytes",
    )
    await call.write(encode_header(layout.header()))
    if isinstance(pieces, list):
        for piece in pieces:
            await call.write(encode_data(piece.data))
        return
    while (piece := await workers.run(Lane.READ, partial(next, pieces, None))) is not None:
        await call.write(encode_data(piece.data))


def _begin_columns(
    buffer: Buffer, keys: tuple[str, ...], *, steady: bool = False
) -> tuple[PackLayout, list[Array] | Iterator[Array]]:
    """Returns whole columns as `read_columns` does; small ones as a list of what was read.

    In a small ring writers are soon back at the rows that were to be read next.
    """
    layout, pieces = buffer.reader.read_columns(keys, steady=steady)
    return layout, list(pieces) if layout.nbytes <= CHUNK_BYTES else pieces
