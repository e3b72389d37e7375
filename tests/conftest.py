"""What holds for all tests: what hypothesis tries, and that clients use the wire.

The suite tries the same examples in every run, so that a red run means that the change did it.
REPLAYRING_EXPLORE=1 tries new ones each time; what it finds becomes an example in the code.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Servers under test run on this machine, and tests of the wire mean the wire.
os.environ["REPLAYRING_SAME_HOST"] = "0"

settings.register_profile(
    "suite",
    derandomize=not os.environ.get("REPLAYRING_EXPLORE"),
    # How fast examples are made tells about the machine, not about the code.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
