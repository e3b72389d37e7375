"""The command line of a peer's program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from benchmark.workloads import WORKLOADS, Workload

Role = Callable[..., None]


def run(roles: Mapping[str, Role]) -> None:
    """Does what the command line says: a role is called with a workload and further arguments."""
    role, name, capacity, *arguments = sys.argv[1:]
    workload: Workload = WORKLOADS[name].of_capacity(int(capacity))
    roles[role](workload, *arguments)


def serve_until_told(address: str) -> None:
    """Says where this process serves, and returns when it shall end."""
    print(address, flush=True)
    sys.stdin.read()
