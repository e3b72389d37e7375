"""Looking at a data directory without a server: is it sound, and what is in it.

Reads files and changes none of them, not even their times. Knows what the engine keeps on disk, and
nothing of grpc. `verify` wants the directory for itself; `describe` also works beside a server.
"""

from replayring_server.inspection.directory import verify
from replayring_server.inspection.overview import describe
from replayring_server.inspection.report import Finding, Report

__all__ = ["Finding", "Report", "describe", "verify"]
