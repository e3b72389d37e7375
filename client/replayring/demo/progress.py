"""How training is doing: what the learner reports, and the line that shows it.

Reports are lines of JSON, because learner and display are two processes. They carry totals, which
the display turns into rates by its own clock: a late report does no harm.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TextIO

__all__ = ["Display", "Rate", "Report", "Reporter", "clock"]

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_REDRAWS = 0.2
SECONDS_BETWEEN_LINES = 5.0
RATE_WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class Report:
    """How far training is: totals, and the mean return if the policy was evaluated.

    Attributes:
        steps: environment steps, over all actors.
        frames_inserted: frames that they make, final observations included.
        frames_sampled: frames that the learner has been given.
        mean_return: what the policy was found to earn after these steps.
        seconds: with a mean return, how long the training had taken by then.
    """

    steps: int = 0
    frames_inserted: int = 0
    frames_sampled: int = 0
    mean_return: float | None = None
    seconds: float = 0.0

    def to_line(self) -> str:
        """This report as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Report | None:
        """The report that `to_line` wrote, or None: libraries also write to stdout."""
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError):
            return None


class Reporter:
    """Writes the learner's reports: every evaluation, and otherwise a few a second."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        """Write to this stream, which another process may be reading."""
        self._stream = stream
        self._now = now
        self._report = Report()
        self._due = now()

    def collected(self, steps: int, *, frames: int) -> None:
        """Actors have taken this many steps, and the buffer was given this many frames, in all."""
        self._report = replace(self._report, steps=steps, frames_inserted=frames)
        self._write_if_due()

    def sampled(self, frames: int) -> None:
        """This many more frames were sampled."""
        total = self._report.frames_sampled + frames
        self._report = replace(self._report, frames_sampled=total)
        self._write_if_due()

    def evaluated(self, steps: int, mean_return: float, seconds: float) -> None:
        """The policy after this many steps, and so much time, was found to earn this much."""
        found = replace(self._report, steps=steps, mean_return=mean_return, seconds=seconds)
        self._write(found)

    def _write_if_due(self) -> None:
        if self._now() >= self._due:
            self._write(self._report)

    def _write(self, report: Report) -> None:
        print(report.to_line(), file=self._stream, flush=True)
        self._due = self._now() + SECONDS_BETWEEN_REPORTS


class Rate:
    """How fast a total has been growing over the last seconds."""

    def __init__(self) -> None:
        self._totals: deque[tuple[float, int]] = deque()

    def add(self, now: float, total: int) -> None:
        """The total at this time."""
        self._totals.append((now, total))
        # One total older than the window stays, so that the window is always spanned.
        while len(self._totals) > 2 and self._totals[1][0] <= now - RATE_WINDOW_SECONDS:
            self._totals.popleft()

    def per_second(self, now: float) -> float:
        """Growth per second up to now; 0 before anything is known."""
        if not self._totals or now <= self._totals[0][0]:
            return 0.0
        return (self._totals[-1][1] - self._totals[0][1]) / (now - self._totals[0][0])


class Display:
    """Shows the newest report: one line redrawn in place on a terminal, else a line now and then.

    Until there is a report it shows a status; not on a terminal, each once.
    Not thread-safe. `close` ends the line being redrawn; anything printed then goes below it.
    """

    def __init__(
        self, stream: TextIO, total_steps: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Show progress towards this many steps; the clock starts now."""
        self._stream = stream
        self._total_steps = total_steps
        self._now = now
        self._started = now()
        self._terminal = stream.isatty()
        self._interval = SECONDS_BETWEEN_REDRAWS if self._terminal else SECONDS_BETWEEN_LINES
        self._due = self._started
        self._drawn = False
        self._status = "starting"
        self._printed_status: str | None = None
        self._report: Report | None = None
        self._last_return: float | None = None
        self._inserts = Rate()
        self._samples = Rate()

    @property
    def seconds(self) -> float:
        """Seconds since the display was made."""
        return self._now() - self._started

    def status(self, text: str) -> None:
        """What is going on as long as no report has come."""
        self._status = text

    def update(self, report: Report) -> None:
        """Take a newer report; it is shown at the next refresh."""
        now = self._now()
        self._report = report
        self._inserts.add(now, report.frames_inserted)
        self._samples.add(now, report.frames_sampled)
        if report.mean_return is not None:
            self._last_return = report.mean_return

    def note(self, text: str) -> None:
        """Say something that stays, above the line being redrawn."""
        self._erase()
        print(text, file=self._stream, flush=True)

    def refresh(self, *, force: bool = False) -> None:
        """Redraw the line, if it is time to."""
        if self._now() < self._due and not force:
            return
        self._due = self._now() + self._interval
        if self._terminal:
            self._erase()
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(self.line()[:width])
            self._stream.flush()
            self._drawn = True
        elif self._report is not None or self._status != self._printed_status:
            self._printed_status = self._status
            print(self.line(), file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the last line standing."""
        if self._drawn:
            self._stream.write("\n")
            self._stream.flush()
            self._drawn = False

    def line(self) -> str:
        """The line as it would be drawn now."""
        elapsed = clock(self.seconds)
        if self._report is None:
            return f"{elapsed}  {self._status}"
        now = self._now()
        mean_return = "-" if self._last_return is None else f"{self._last_return:.0f}"
        inserts, samples = self._inserts.per_second(now), self._samples.per_second(now)
        return "  ".join(
            [
                elapsed,
                f"{self._report.steps:,}/{self._total_steps:,} steps",
                f"return {mean_return}",
                f"frames/s: insert {inserts:,.0f}, sample {samples:,.0f}",
            ]
        )

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[2K")
            self._drawn = False


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, such as 1:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
