"""How many files this process may hold open at once."""

from __future__ import annotations

import contextlib
import resource
import sys


def raise_descriptor_limit() -> None:
    """Takes the descriptors that the system allows: every mapped column holds one, as mmap has it.

    The usual 1024 would be used up by 90 small buffers, and connections refused from then on.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # a limit that the kernel itself does not keep
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Returns how many files this process may hold open at once."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
