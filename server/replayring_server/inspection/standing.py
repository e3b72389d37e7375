"""Where a buffer's ring stands, by its cursor: as the next opening will find it, or make it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replayring_proto import layout
from replayring_proto.errors import OvertakenError, StorageError
from replayring_proto.ring import Counters, Live
from replayring_proto.spec import EPISODE_INDEX
from replayring_server.engine.cursor import Checkpoint, read_slots
from replayring_server.engine.ring import check_counters
from replayring_server.inspection.reading import FrameReader
from replayring_server.inspection.report import Finding

_ATTEMPTS = 1000
_RESTORE = "restore the buffer from a copy, or delete it"


@dataclass(frozen=True)
class Standing:
    """The counters, and what the disk holds for sure.

    Attributes:
        live: the live window.
        intent: the writer may have written any frame below it.
        low: frames below it are dead although the capacity would still hold them.
        durable: the newest whole durable slot.
        restored: whether opening falls back to it, because the machine was restarted since, or the
            disk failed.
        given_up: frames that this costs.
    """

    live: Live
    intent: int
    low: int
    durable: Checkpoint
    restored: bool
    given_up: int = 0

    @classmethod
    def read(cls, page: npt.NDArray[np.uint8], capacity: int) -> Standing:
        """Reads the bytes of a cursor file.

        Raises:
            StorageError: neither durable slot is whole.
        """
        slots = [slot for slot in read_slots(page) if slot]
        if not slots:
            raise StorageError("neither durable slot of the cursor is whole")
        durable = max(slots, key=lambda slot: slot.generation)
        counters = Counters(page)
        # A server that opens it meanwhile makes the counters right before it says so here.
        restored = layout.boot_id_of(page).tobytes() != layout.machine_boot_id()
        # As `RingReader.live` reads them, and for the same reason in this order.
        low, head = counters.low, counters.head
        live = Live(max(low, head - capacity), head, capacity)
        if not restored:
            return cls(live, counters.intent, low, durable, restored=False)
        low = durable.low_after_power_loss(layout.physical_rows(capacity))
        kept = Live(max(low, durable.head - capacity), durable.head, capacity)
        lost = max(live.end - kept.end, 0) + max(kept.start - durable.low, 0)
        return cls(kept, kept.end, low, durable, restored=True, given_up=lost)


def read_ends(
    page: npt.NDArray[np.uint8], episodes: FrameReader, capacity: int
) -> tuple[Standing, int, int]:
    """Returns where a ring stands, and the numbers of its first and last episode.

    A server may be writing: the frames that were read count if none of them was overwritten, as in
    `ring.reader`. Without live frames the last number is that before the next.

    Args:
        page: the mapped cursor file.
        episodes: reads the column `episode_index`.
        capacity: of the ring.

    Raises:
        OvertakenError: writers overwrote every attempt to read it.
        StorageError: the cursor is damaged.
    """
    rows = layout.physical_rows(capacity)
    for _ in range(_ATTEMPTS):
        standing = Standing.read(page, capacity)
        live = standing.live
        if not 0 <= live.start <= live.end:
            raise StorageError(f"the cursor is damaged: frames {live.start} to {live.end} live")
        if not len(live):
            return standing, 0, standing.durable.episodes - 1
        first, last = (
            int(episodes.read(index, index + 1)[EPISODE_INDEX][0])
            for index in (live.start, live.end - 1)
        )
        if standing.restored or live.start >= Counters(page).intent - rows:
            return standing, first, last
    raise OvertakenError("writers overtook every attempt to read it; try again")


def check_standing(
    where: Path, page: npt.NDArray[np.uint8], standing: Standing
) -> Iterator[Finding]:
    """Checks a cursor against itself.

    Args:
        where: the buffer's folder, below the data directory.
        page: the bytes of its cursor file.
        standing: what they say.
    """
    cursor = str(where / layout.CURSOR)
    whole = [slot is not None for slot in read_slots(page)]
    if not all(whole) and standing.durable.generation:
        yield Finding(
            cursor,
            f"durable slot {whole.index(False)} at byte "
            f"{layout.SLOT_OFFSETS[whole.index(False)]} is not whole",
            "a server that is killed while it writes one leaves it so. Opening uses the other one; "
            "if the machine lost power besides, that is the state one sync earlier",
            "none is needed: the next sync writes it anew",
            harmless=True,
        )
    if standing.restored:
        if standing.given_up:
            yield _restart(cursor, standing)
        return
    try:
        check_counters(standing.live.capacity, standing.low, standing.live.end, standing.intent)
    except StorageError as error:
        yield Finding(cursor, str(error), "opening refuses the buffer", _RESTORE)
        return
    yield from _check_against_slot(cursor, standing, all(whole))


def _restart(cursor: str, standing: Standing) -> Finding:
    return Finding(
        cursor,
        "the machine was restarted since the buffer was last open, or the disk failed then, or it "
        "comes from another machine",
        f"opening goes back to the last sync: {len(standing.live):,} frames live then, "
        f"{standing.given_up:,} frames written or overwritten since are given up, as the buffer's "
        "durability allows",
        "none is needed after a power loss; before a copy is made, stop the server properly",
        harmless=True,
    )


def _check_against_slot(cursor: str, standing: Standing, both: bool) -> Iterator[Finding]:
    """Checks the live counters against the durable slot, which was written under them."""
    durable, live = standing.durable, standing.live
    if live.end < durable.head:
        yield Finding(
            cursor,
            f"head is {live.end:,}, but {durable.head:,} frames had been synced",
            "opening would drop the frames in between, and give their numbers to others",
            _RESTORE,
        )
    # What an append gives up it has reserved before; what a power loss did, the slot knows.
    given_up = max(durable.low, durable.reserved - layout.physical_rows(live.capacity))
    if both and standing.low > max(given_up, live.end - live.capacity):
        yield Finding(
            cursor,
            f"low is {standing.low:,}, which no append left there",
            "frames below it count as dead although they are not",
            _RESTORE,
        )
