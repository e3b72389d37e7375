"""What a machine has to be where memory is shared without a lock."""

from __future__ import annotations

import platform
import sys

from replayring_proto.errors import StorageError

# What one core stores, the others see in the order in which it was stored. x86-64 promises that.
# Others need barriers, and numpy has none.
STORES_IN_ORDER = sys.platform == "linux" and platform.machine() == "x86_64"


def check_serves() -> None:
    """Checks that a server may run here, whose readers and writers share a ring without a lock.

    Raises:
        StorageError: it may not.
    """
    if not STORES_IN_ORDER:
        raise StorageError(
            "a server needs Linux on x86-64, on which memory that is shared without a lock is seen "
            f"in the order in which it was written; this is {platform.system()} on "
            f"{platform.machine()}. Clients run here: have the server on such a machine, or in a "
            "container for one (docker run --platform linux/amd64)"
        )
