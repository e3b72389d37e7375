"""The memory of batches is kept for the next ones, whatever the program did before."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
import replayring

with replayring.connect("127.0.0.1:1"):
    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 20, np.uint8)
    before = faults()
    for _ in range(100):
        np.ones(1 << 20, np.uint8), np.ones(1 << 20, np.uint8)
    print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's allocator")
def test_a_batch_takes_the_memory_of_the_one_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) < 2 * 256 * 4, "pages are faulted in once, not for every batch"
