"""The demo's reports, rates and display, on a clock that the test moves."""

from __future__ import annotations

import io

import pytest

from replayring.demo.progress import Display, Rate, Report, Reporter, clock


class Clock:
    """Time stands still until it is set."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def reports_in(stream: io.StringIO) -> list[Report]:
    reports = [Report.from_line(line) for line in stream.getvalue().splitlines()]
    assert None not in reports
    return [report for report in reports if report]


@pytest.mark.parametrize("mean_return", [None, -123.4])
def test_a_report_survives_the_way_through_a_line(mean_return: float | None) -> None:
    report = Report(steps=1, frames_inserted=2, frames_sampled=3, mean_return=mean_return)

    assert Report.from_line(report.to_line()) == report
    assert "\n" not in report.to_line()


@pytest.mark.parametrize(
    "line", ["", "pygame 2.6.1 (SDL 2.28.4)", "5", "[1]", "null", '{"steps": 1, "odd": 2}', "{"]
)
def test_what_a_library_writes_is_no_report(line: str) -> None:
    assert Report.from_line(line) is None


def test_reports_come_now_and_then_with_totals() -> None:
    now, stream = Clock(), io.StringIO()
    reporter = Reporter(stream, now)
    reporter.collected(200, frames=201)
    for _ in range(10):
        reporter.sampled(256)
    now.time += 1.0
    reporter.sampled(256)

    assert reports_in(stream) == [Report(200, 201, 0), Report(200, 201, 11 * 256)]


def test_evaluations_are_reported_at_once_and_once() -> None:
    now, stream = Clock(), io.StringIO()
    reporter = Reporter(stream, now)
    reporter.evaluated(0, -1500.0, 0.5)
    reporter.evaluated(400, -1200.0, 7.5)
    now.time += 1.0
    reporter.sampled(256)

    found = [(report.mean_return, report.seconds) for report in reports_in(stream)]
    assert found == [(-1500.0, 0.5), (-1200.0, 7.5), (None, 0.0)]


def test_rate_forgets_what_is_long_ago() -> None:
    rate = Rate()
    assert rate.per_second(100.0) == 0
    rate.add(100.0, 0)
    assert rate.per_second(100.0) == 0
    rate.add(101.0, 500)
    assert rate.per_second(101.0) == 500
    for second in range(102, 200):
        rate.add(float(second), 500 + 10 * (second - 101))
    assert rate.per_second(199.0) == 10


def test_rate_falls_when_nothing_comes() -> None:
    rate = Rate()
    rate.add(100.0, 0)
    rate.add(101.0, 500)

    assert rate.per_second(105.0) == 100


def test_terminal_shows_one_line_in_place_and_notes_above() -> None:
    now, stream = Clock(), Terminal()
    display = Display(stream, 10_000, now)
    display.update(Report(200, 201, 0))
    display.refresh()
    now.time += 2
    display.update(Report(4_200, 4_221, 51_200, -311.6))
    display.refresh()
    display.note("actor-0 was killed by SIGKILL; started again")
    display.refresh(force=True)
    display.close()

    erase = "\r\x1b[2K"
    line = "0:02  4,200/10,000 steps  return -312  frames/s: insert 2,010, sample 25,600"
    first = "0:00  200/10,000 steps  return -  frames/s: insert 0, sample 0"
    note = "actor-0 was killed by SIGKILL; started again\n"
    fits = [text[:79] for text in (first, line, line)]
    assert stream.getvalue() == (fits[0] + erase + fits[1] + erase + note + fits[2] + "\n")


def test_elsewhere_a_line_comes_now_and_then() -> None:
    now, stream = Clock(), io.StringIO()
    display = Display(stream, 10_000, now)
    display.update(Report(200, 201, 0))
    for _ in range(20):
        display.refresh()
        now.time += 0.5
    display.close()

    assert [line[:6] for line in stream.getvalue().splitlines()] == ["0:00  ", "0:05  "]


def test_elsewhere_a_status_comes_once() -> None:
    now, stream = Clock(), io.StringIO()
    display = Display(stream, 10_000, now)
    for status in ("the server starts", "learner and actors start"):
        display.status(status)
        for _ in range(20):
            display.refresh()
            now.time += 0.5

    assert stream.getvalue() == "0:00  the server starts\n0:10  learner and actors start\n"


def test_clock() -> None:
    assert clock(67.9) == "1:07"
