"""Nobody ever sees a torn row (invariant 2), and the check that sees to it is what does it.

First with a writer and a reader that alternate step by step as a seeded schedule says, so that
every kind of overtaking comes up; then with a writer process and readers that map its files.

REPLAYRING_SCHEDULES sets how many schedules are tried for each kind of read.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replayring_proto import layout
from replayring_proto.errors import FrameNotFoundError, OvertakenError
from replayring_proto.pack import Pack, aligned_empty
from replayring_proto.query import SampleQuery, View
from replayring_proto.ring import Plan, RingReader, UniformSampler
from replayring_proto.spec import BufferSpec
from tests.engine.crowd import BUFFERS, member
from tests.engine.crowd import SPEC as CROWD_SPEC
from tests.engine.frames import assert_contiguous, assert_whole, checked_spec
from tests.engine.interleaving import Writer
from tests.engine.killed_writer import Zygote
from tests.engine.mapped import open_for_reading, read_batch
from tests.engine.mutations import no_check_after_gathering
from tests.engine.rings import HookedColumns, MemoryRing

WINDOWS = View.of(
    delta_indices={"a.tag": [-2, 0, 1], "frame_index": [-2, 0, 1], "b.bytes": [-2, 0, 1]},
    delta_timestamps={"z.tag": [-0.1, 0.3], "index": [0.0]},
)

SCHEDULES = int(os.environ.get("REPLAYRING_SCHEDULES", "25"))

Read = Callable[[RingReader, random.Random], None]


def check_batch(spec: BufferSpec, pack: Pack) -> None:
    assert_whole(spec, pack.arrays)


def read_sample(reader: RingReader, rng: random.Random) -> None:
    query = SampleQuery(8, View(), rng.choice((0, 2)))
    sampler = UniformSampler(reader, query, np.random.default_rng(rng.getrandbits(32)))
    check_batch(reader.spec, sampler.batch())


def read_positions(reader: RingReader, rng: random.Random) -> None:
    positions = np.array([rng.randrange(-5, 5) for _ in range(5)])
    check_batch(reader.spec, reader.at_positions(Plan(reader.spec, View()), positions))


def read_windows(reader: RingReader, rng: random.Random) -> None:
    """Frames in windows are of the anchor's own episode, the right ones, and whole."""
    positions = np.array([rng.randrange(-5, 5) for _ in range(5)])
    arrays = reader.at_positions(Plan(reader.spec, WINDOWS), positions).arrays
    around = {name: arrays[name] for name in ("a.tag", "frame_index", "b.bytes")}
    around["z.tag"] = arrays["a.tag"]
    seed = around["a.tag"] * 7919 + around["frame_index"] * 104729
    around["c.words"] = np.repeat(seed[..., None] % (1 << 30), 80, axis=-1).astype(np.int32)
    assert_whole(reader.spec, around)
    tags = arrays["a.tag"][:, 1]
    assert (arrays["a.tag"] == tags[:, None]).all(), "a window of two episodes"
    assert (arrays["z.tag"] == tags[:, None]).all(), "a window of two episodes"
    assert (np.diff(arrays["frame_index"], axis=1) >= 0).all()


def read_column(reader: RingReader, rng: random.Random) -> None:
    """All keys show the same frames: together they are whole."""
    names = ("index", "episode_index", "a.tag", "b.bytes", "c.words", "z.tag", "frame_index")
    form, pieces = reader.read_columns(names)
    try:
        body = np.concatenate([*pieces, np.empty(0, np.uint8)])
    except OvertakenError:
        return
    assert len(body) == form.nbytes
    arrays = form.views(np.array(body))
    assert_whole(reader.spec, arrays)
    order = np.argsort(arrays["index"])
    assert_contiguous({name: array[order] for name, array in arrays.items()})


def read_state(reader: RingReader, rng: random.Random) -> None:
    live, episodes, following = reader.state()
    assert 0 <= episodes <= len(live)
    assert episodes <= following


READS = [read_sample, read_positions, read_windows, read_column, read_state]


def ignore_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: readers that believe whatever they read."""
    no_check_after_gathering(monkeypatch.setattr)


def run_schedule(read: Read, capacity: int, seed: int) -> None:
    """One read, interrupted at random steps by any number of the writer's steps."""
    rng = random.Random(seed)
    ring = MemoryRing(checked_spec(capacity), slices=2, pieces=rng.choice((1, 2)))
    for _ in range(rng.randrange(3, 12)):
        ring.append(rng.choice((1, capacity // 2, capacity)))
    budget = 20  # overtakings of one read; after that it gets through

    def interrupt(step: str) -> None:
        nonlocal budget
        if budget and rng.random() < 0.3:
            budget -= 1
            writer.advance(rng.choice((1, 3, 20, 200)))

    with Writer(ring, lambda: rng.choice((1, 3, capacity))) as writer:
        writer.advance(rng.randrange(40))
        ring.on_read = interrupt
        read(ring.reader(), rng)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("capacity", [12, 100])
def test_a_reader_interrupted_at_any_step_sees_whole_rows(read: Read, capacity: int) -> None:
    """The writer may stand anywhere within an append, and turn the ring in the meantime.

    With a capacity of 12 the slack is several episodes; with 100 an episode is longer than it.
    """
    for seed in range(SCHEDULES):
        with contextlib.suppress(FrameNotFoundError):  # fewer frames are alive than asked for
            run_schedule(read, capacity, seed)


@pytest.mark.parametrize("read", [read for read in READS if read is not read_state])
def test_without_the_check_of_intent_such_a_reader_sees_torn_rows(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignore_intent(monkeypatch)
    torn = 0
    for seed in range(40):
        try:
            run_schedule(read, 100, seed)
        except (AssertionError, IndexError, ValueError):
            torn += 1
        except FrameNotFoundError:
            pass
    assert torn > 3


def test_a_reader_that_is_always_overtaken_gives_up_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("replayring_proto.ring.patience.MOST", 20)
    ring = MemoryRing(checked_spec(12))
    ring.append(12)

    def overtake(step: str) -> None:
        if step == "a.tag":
            for _ in range(8):
                ring.append(12)

    ring.on_read = overtake
    with pytest.raises(OvertakenError, match="overtook this read 20 times"):
        ring.reader().at_positions(Plan(ring.spec, View()), np.array([0]))


def test_a_reader_of_large_batches_gives_up_after_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a thousand attempts would take minutes; but it is not without a few, however long."""
    now, times = 0.0, iter([7.0, 7.0, 7.0, 7.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr("replayring_proto.ring.patience.time.monotonic", lambda: now)
    ring = MemoryRing(checked_spec(12))
    ring.append(12)

    def overtake(step: str) -> None:
        nonlocal now
        if step == "a.tag":
            now += next(times)
            for _ in range(8):
                ring.append(12)

    ring.on_read = overtake
    for attempts in (4, 7):
        with pytest.raises(OvertakenError, match=f"overtook this read {attempts} times; read few"):
            ring.reader().at_positions(Plan(ring.spec, View()), np.array([0]))


def test_a_reader_that_is_overtaken_lets_go_of_what_it_has_before_it_gathers_anew() -> None:
    """Or a large batch would take twice the memory that is held for it."""
    ring = MemoryRing(checked_spec(12))
    ring.append(12)
    made: list[weakref.ref[Any]] = []

    def memory(nbytes: int) -> Any:
        assert not any(each() is not None for each in made)
        body = aligned_empty(nbytes)
        made.append(weakref.ref(body))
        return body

    def overtake(step: str) -> None:
        if step == "a.tag" and len(made) < 3:
            for _ in range(8):
                ring.append(12)

    ring.on_read = overtake
    plan = Plan(ring.spec, View())
    ring.reader().gather(plan, lambda live: live.index_at(np.array([0])), memory)
    assert len(made) == 3


# Real processes and threads


@contextlib.contextmanager
def writing_process(folder: Path, spec: BufferSpec) -> Iterator[None]:
    """A process that appends episodes to a buffer as fast as it can."""
    with Zygote() as zygote:
        life = zygote.start(folder, spec, first=1, longest=spec.capacity, quiet=True)
        life.wait_for_first_append()
        yield
        life.kill()


def read_until(reader: RingReader, turns: int, at_least: int, seed: int) -> tuple[int, int]:
    """Reads batches until the ring has turned so often; returns rows read, and torn batches."""
    rng = random.Random(seed)
    goal = reader.live.end + turns * reader.spec.capacity
    rows = torn = 0
    while reader.live.end < goal or rows < at_least:
        with contextlib.suppress(OvertakenError):
            size, is_torn = read_batch(reader, rng, rng.choice((1, 64, 1024, 2048)))
            rows += size
            torn += is_torn
    return rows, torn


SPEC = checked_spec(16, width=8192)


def test_readers_in_another_process_see_no_torn_row(memory_path: Path) -> None:
    with writing_process(memory_path, SPEC):
        reader = open_for_reading(memory_path / "ring", SPEC)
        rows, torn = read_until(reader, turns=100, at_least=50_000, seed=1)
    assert rows >= 50_000
    assert torn == 0


def overtaken_once(reader: RingReader) -> RingReader:
    """The same reader, which stands still once in mid-read until the writer has turned the ring.

    Left to chance, a machine may for minutes never let the writer overtake: that is what the slack
    is for.
    """
    due = ["c.words"]  # the small columns have been read by then

    def stand_still(name: str) -> None:
        if name in due:
            due.remove(name)
            goal = reader.live.end + 2 * layout.physical_rows(reader.spec.capacity)
            while reader.live.end < goal:
                os.sched_yield()

    columns = HookedColumns(reader.columns, stand_still)
    return RingReader(reader.spec, reader._counters, columns)


@pytest.mark.parametrize("check", [True, False], ids=["checked", "unchecked"])
def test_a_reader_overtaken_by_another_process_reads_anew_and_unchecked_sees_torn_rows(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    """The control of the test above: without the check, these readers do see torn rows."""
    if not check:
        ignore_intent(monkeypatch)
    rng = random.Random(1)
    with writing_process(memory_path, SPEC):
        reader = open_for_reading(memory_path / "ring", SPEC)
        torn = [read_batch(overtaken_once(reader), rng, 64)[1] for _ in range(50)]
    assert any(torn) is not check


def test_threads_that_share_one_reader_see_no_torn_row(memory_path: Path) -> None:
    found: list[tuple[int, int]] = []
    with writing_process(memory_path, SPEC):
        reader = open_for_reading(memory_path / "ring", SPEC)
        threads = [
            threading.Thread(
                target=lambda seed=seed: found.append(read_until(reader, 20, 5000, seed))
            )
            for seed in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    assert [torn for _, torn in found] == [0] * 4


ROWS = int(os.environ.get("REPLAYRING_TORN_ROWS", "1000000"))
READING_PROCESSES = 3


def test_a_million_rows_read_beside_many_writers_are_whole_and_unchecked_ones_are_not(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers and readers in several processes, each of several threads, on two buffers.

    The control reads the same rows, of the same writers, at the same time, without the check.
    """
    with contextlib.ExitStack() as crowd:
        assert crowd.enter_context(member("write", memory_path)).readline() == "full\n"
        share = -(-ROWS // READING_PROCESSES)
        answers = [
            crowd.enter_context(member("read", memory_path, share, seed))
            for seed in range(READING_PROCESSES)
        ]
        ignore_intent(monkeypatch)
        rng = random.Random(1)
        unchecked = []
        for _ in range(20):
            reader = open_for_reading(memory_path / rng.choice(BUFFERS), CROWD_SPEC)
            unchecked.append(read_batch(overtaken_once(reader), rng, 256)[1])
        rows, torn = zip(*(json.loads(answer.readline()) for answer in answers), strict=True)
    assert sum(rows) >= ROWS
    assert sum(torn) == 0
    assert sum(unchecked) > 0
