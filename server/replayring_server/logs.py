"""How the log looks: lines for people, or one JSON object a line for machines.

What is logged, and when, is decided where it happens. Calls supply fields as logging has it, by
`extra={"name": value}`; in text they do not show.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"

# What any record has; all else was supplied by the call.
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def set_up(form: str = "text", level: str = "info") -> None:
    """Sends the log of the whole process to stderr; may be called again.

    Args:
        form: "text" or "json".
        level: the least severe level that is logged, in any case.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """Makes each record one line of JSON. Thread-safe.

    An object has `time` (RFC 3339, UTC, milliseconds), `level`, `logger` and `message`; `exception`
    where there was one, with its traceback; and `fields` where the call supplied some.
    """

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a record, without its end."""
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        line: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        fields = {name: _plain(value) for name, value in vars(record).items() if name not in _OWN}
        if fields:
            line["fields"] = fields
        return json.dumps(line)


def _plain(value: object) -> object:
    """Returns a value that JSON has: itself, or how it is written."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
