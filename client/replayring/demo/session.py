"""Which processes make up a demo, and what it means when one of them speaks or ends."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from replayring.demo.plot import Evaluation
from replayring.demo.progress import Display, Report
from replayring.demo.supervisor import Ended, Event, Line, StopSignals, Supervisor

__all__ = ["DemoError", "Session", "Settings", "Stopped"]

SERVER = "server"
OF_SERVERS = "REPLAYRING_SERVE_"
LEARNER = "learner"
STATUS = {
    "all": "learner and actors start",
    "learner": "the learner starts",
    "actor": "collecting as the learner asks",
}
SECONDS_TO_START_SERVER = 60.0
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Settings:
    """What was asked for on the command line."""

    role: str
    steps: int
    actors: int
    seed: int
    address: str | None
    data_dir: Path
    connection: tuple[str, ...] = ()
    """Options for the processes that connect to a server elsewhere."""
    resume: bool = False
    device: str | None = None


class DemoError(Exception):
    """The demo cannot go on. The message is what the user reads."""


class Stopped(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Session:
    """One run of the demo, from the first process to the last evaluation."""

    def __init__(
        self, settings: Settings, supervisor: Supervisor, display: Display, stop: StopSignals
    ) -> None:
        """Prepare a run; whoever made the supervisor ends the processes."""
        self._settings = settings
        self._supervisor = supervisor
        self._display = display
        self._stop = stop
        self._address: str | None = settings.address
        self._finished = False
        self._evaluations: list[Evaluation] = []

    def run(self) -> list[Evaluation]:
        """Start what the role needs and stay until the learner is done.

        Raises:
            DemoError: A process failed that the demo cannot do without.
            Stopped: A signal came.
        """
        address = self._address or self._start_server()
        if self._settings.role != "actor":
            self._supervisor.start(LEARNER, self._learner_command(address))
        if self._settings.role != "learner":
            for number in range(self._settings.actors):
                command = self._actor_command(address, number)
                self._supervisor.start(f"actor-{number}", command, restart=True)
        self._display.status(STATUS[self._settings.role])
        if self._settings.role != "all":  # whose server may be away, or elsewhere
            name = LEARNER if self._settings.role == "learner" else "actor-0"
            self._display.note(f"what keeps it waiting stands in {self._supervisor.log(name)}")
        while not self._finished:
            self._look()
        self._display.refresh(force=True)
        return self._evaluations

    def _start_server(self) -> str:
        # What is meant for another server here, its token file say, would keep the actors out.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OF_SERVERS)}
        command = self._server_command("127.0.0.1:0")
        self._supervisor.start(SERVER, command, environment=environment)
        self._display.status("the server starts")
        deadline = time.monotonic() + SECONDS_TO_START_SERVER
        while self._address is None:
            if time.monotonic() > deadline:
                raise DemoError(
                    f"the server said nothing for {SECONDS_TO_START_SERVER:.0f} s"
                    f" (log: {self._supervisor.log(SERVER)})"
                )
            self._look()
        # Started again, it must be where the others look for it.
        self._supervisor.restart_with(SERVER, self._server_command(self._address))
        self._display.note(f"server on {self._address}, data in {self._settings.data_dir}")
        return self._address

    def _look(self) -> None:
        for event in self._supervisor.events(SECONDS_BETWEEN_LOOKS):
            self._handle(event)
        if self._stop.received is not None:
            raise Stopped(self._stop.received)
        self._display.refresh()

    def _handle(self, event: Event) -> None:
        if isinstance(event, Ended):
            self._handle_end(event)
        elif event.name == LEARNER:
            if report := Report.from_line(event.text):
                self._handle_report(report)
        elif event.name == SERVER and self._address is None:
            self._address = _address_in(event)

    def _handle_report(self, report: Report) -> None:
        self._display.update(report)
        if report.mean_return is not None:
            self._evaluations.append(Evaluation(report.steps, report.seconds, report.mean_return))

    def _handle_end(self, event: Ended) -> None:
        if event.restarted:
            self._display.note(f"{event.name} {event.how}; started again")
        elif event.name == LEARNER and event.succeeded:
            self._finished = True
        else:
            log = self._supervisor.log(event.name)
            raise DemoError(f"{event.name} {event.how} (log: {log})")

    def _server_command(self, listen: str) -> list[str]:
        data_dir = str(self._settings.data_dir)
        serve = ["serve", "--data-dir", data_dir, "--listen", listen]
        return [sys.executable, "-m", "replayring_server", *serve]

    def _learner_command(self, address: str) -> list[str]:
        numbers = ["--steps", str(self._settings.steps), "--seed", str(self._settings.seed)]
        more = [*self._settings.connection, *(["--resume"] if self._settings.resume else [])]
        if self._settings.device:
            more += ["--device", self._settings.device]
        return [*_module("learner"), "--address", address, *numbers, *more]

    def _actor_command(self, address: str, number: int) -> list[str]:
        seed = str(self._settings.seed * 1_000 + number)
        more = self._settings.connection
        return [*_module("actor"), "--address", address, "--seed", seed, *more]


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"replayring.demo.{name}"]


def _address_in(line: Line) -> str | None:
    match = re.fullmatch(r"replayring listening on (\S+)", line.text.strip())
    return match[1] if match else None
