"""README's section on several servers is true."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import replayring
from tests.support import ServerProcess

SECTION = (Path(__file__).parents[2] / "README.md").read_text().partition("## Several servers")[2]
BLOCK = SECTION.partition("```py\n")[2].partition("```")[0]
ADDRESSES = "replay-1:50051,replay-2:50051,replay-3:50051"
SPEC = {
    "observation": {"shape": (3,), "dtype": np.dtype("float32")},
    "action": {"shape": (1,), "dtype": np.dtype("float32")},
}


def test_the_block_runs_and_the_capacity_is_shared(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(ServerProcess(tmp_path / str(n))) for n in range(3)]
        addresses = ",".join(server.address for server in servers)
        names: dict[str, Any] = {"replayring": replayring, "spec": SPEC}
        exec(BLOCK.replace(ADDRESSES, addresses), names)
        stack.enter_context(names["client"])
        info = names["buffer"].info()
        assert info.capacity == 300_000
        for server in servers:
            with replayring.connect(server.address) as client:
                assert client.buffer("online").info().capacity == 100_000
