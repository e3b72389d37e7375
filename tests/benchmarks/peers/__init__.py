"""What others do with the same loads, and what memory and wire could do at best.

Each module is a program that is run by the interpreter that has what it measures:

    PYTHON -m tests.benchmarks.peers.MODULE ROLE WORKLOAD CAPACITY [ARGUMENT...]

A role either takes turns, as `replayring.benchmark.turns` says, or serves: it then prints its
address and ends when its stdin does.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Those interpreters have no replayring. Of it they get the two modules that need none.
sys.path.append(str(Path(__file__).parents[3] / "client" / "replayring"))
