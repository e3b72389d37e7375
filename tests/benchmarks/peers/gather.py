"""The memory's limit: numpy picks rows from the very files that the server keeps."""

from __future__ import annotations

from pathlib import Path

from benchmark.turns import take_turns
from benchmark.workloads import Workload

from tests.benchmarks.peers.columns import Picks, mapped
from tests.benchmarks.peers.program import run


def sample(workload: Workload, folder: str) -> None:
    """Gathers batches of all columns that a sampled batch has."""
    picks = Picks(mapped(Path(folder), workload), workload)

    def step() -> int:
        picks.gather()
        return workload.batch_size

    take_turns(step)


if __name__ == "__main__":
    run({"sample": sample})
