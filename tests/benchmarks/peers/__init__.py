"""What others do with the same loads, and what memory and wire could do at best.

Each module is a program that is run by the interpreter that has what it measures:

    PYTHON -m tests.benchmarks.peers.MODULE ROLE WORKLOAD CAPACITY [ARGUMENT...]

A role either takes turns, as `replayring.benchmark.turns` says, or serves: it then prints its
address and ends when its stdin does. Their interpreters are made like this, on Linux on x86-64:

    python3.11 -m venv reverb
    reverb/bin/pip install 'dm-reverb[tensorflow]==0.14.0' 'tensorflow==2.15.*'
    python3.11 -m venv torchrl
    torchrl/bin/pip install torch==2.13.0 torchrl==0.14.1
    python3.11 -m venv flight
    flight/bin/pip install numpy pyarrow
    pip download lerobot==0.3.3 --no-deps
    unzip -p lerobot-0.3.3*.whl lerobot/datasets/online_buffer.py > online_buffer.py

Reverb's server listens on all interfaces, and cannot be told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Those interpreters have no replayring. Of it they get the two modules that need none.
sys.path.append(str(Path(__file__).parents[3] / "client" / "replayring"))
