"""Bytes broken at random, in the ways that break parsers. Deterministic for a seeded `Random`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

EXTREMES = (b"\xff" * 9 + b"\x01", b"\x80" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x00", b"\x01")


def flip(rng: Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(rng: Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) + 1) :]


def remove(rng: Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randrange(1, 9)]


def insert(rng: Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.randrange(1, 9))


def exaggerate(rng: Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    data[start : start + 1] = rng.choice(EXTREMES)


def double(rng: Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    data += data[start : start + 64]


MUTATIONS: tuple[Callable[[Random, bytearray], None], ...] = (
    flip,
    cut,
    remove,
    insert,
    exaggerate,
    double,
)


def broken(rng: Random, valid: bytes, most: int = 3) -> bytes:
    """Returns `valid` after one to `most` mutations."""
    data = bytearray(valid)
    for _ in range(rng.randint(1, most)):
        rng.choice(MUTATIONS)(rng, data)
    return bytes(data)
