"""Stages of scripted streams, which bring batches to a device: a plugin of the tests of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from replayring._blocks import in_blocks
from replayring._device import Link
from replayring._staging import Staging
from tests.client.scripted_streams import ScriptedStream


@pytest.fixture
def staging() -> Iterator[Any]:
    """Makes stages of scripted streams, and closes them in the end."""
    made: list[Staging] = []

    def make(link: Link, *steps: Any) -> tuple[Staging, ScriptedStream]:
        stream = ScriptedStream(*steps, memory=in_blocks(link.allocate))
        made.append(Staging(stream, link))
        return made[-1], stream

    yield make
    for one in made:
        one.close()
