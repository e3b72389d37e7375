"""The compose file's profile `observability`: a Prometheus as it is asks a server as it is.

Where its image is neither here nor to be had, Debian's Prometheus on the usual base stands in.
"""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import replayring
from tests.docker.engine import (
    BASE,
    ROOT,
    Compose,
    connect,
    docker,
    docker_log,
    free_port,
    inspect,
    quiet,
)
from tests.observability.test_dashboards import ALERTS, DASHBOARD
from tests.support import eventually

pytestmark = pytest.mark.timeout(600)

FILE = ROOT / "docker" / "compose.yaml"
PATIENCE = 120.0
PORT = free_port()
SPEC = {"x": {"shape": (), "dtype": "float32"}}

# What Grafana puts in: as little time as a rate can be taken of here, and all of the rest.
VARIABLES = {"$__rate_interval": "20s", "$instance": ".*", "$buffer": ".*"}


@pytest.fixture(scope="module")
def prometheus_image(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the image that the compose file names, or one that stands in for it."""
    named = yaml.safe_load(FILE.read_text())["services"]["prometheus"]["image"]
    (image,) = re.findall(r":-(.*)}", named)
    if quiet("image", "inspect", image) or quiet("pull", "--quiet", image, timeout=120):
        return str(image)
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "Dockerfile").write_text(
        f"FROM {BASE}\n"
        "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus\n"
        'ENTRYPOINT ["prometheus"]\n'
    )
    return docker("build", "-q", str(folder), timeout=300)


class Prometheus:
    """A running one, by its HTTP API."""

    def __init__(self, container: str) -> None:
        (network,) = inspect(container)["NetworkSettings"]["Networks"].values()
        self.container = container
        self._url = f"http://{network['IPAddress']}:9090/api/v1/"

    def ask(self, what: str, **parameters: str) -> Any:
        """Returns the data of an answer."""
        url = f"{self._url}{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        """Returns what an expression gives now: for each set of labels a value."""
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def rules(self) -> list[Any]:
        """Returns the alerts, and how they stand."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def sees(self, state: int) -> bool:
        """Whether the server answered when it was asked last (1), or not (0)."""
        try:
            return [each["value"][1] for each in self.query("up")] == [str(state)]
        except OSError:  # it is starting
            return False


@pytest.fixture(scope="module")
def compose(server_image: str, prometheus_image: str) -> Iterator[Compose]:
    environment = {
        "SERVER_IMAGE": server_image,
        "PROMETHEUS_IMAGE": prometheus_image,
        "REPLAYRING_PUBLISH": f"127.0.0.1:{PORT}",
    }
    with Compose(FILE, environment) as compose:
        profile = ("--profile", "observability")
        compose(*profile, "up", "--detach", "--no-build", "prometheus", timeout=PATIENCE)
        yield compose


@pytest.fixture(scope="module")
def prometheus(compose: Compose) -> Prometheus:
    """Returns the project's, which has found the server."""
    (container,) = compose.containers("prometheus")
    found = Prometheus(container)
    eventually(lambda: found.sees(1), "the server is scraped", PATIENCE)
    return found


@contextmanager
def everything_in_use(compose: Compose, folder: Path) -> Iterator[replayring.Buffer]:
    """Connects to the server, and gives a buffer; a writer and parameters are in use as well."""
    (certs,) = compose.containers("certs")
    with connect(certs, PORT, folder / "client", PATIENCE) as client:
        buffer = client.create_buffer("b", SPEC, 1000)
        with buffer.writer() as writer:
            client.publish("policy", {"w": np.zeros(3)})
            next(client.watch("policy"))
            writer.add_episode({"x": np.zeros(10)})
            writer.flush()
            yield buffer


def test_what_it_is_given_is_valid(prometheus: Prometheus) -> None:
    check = ("promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    said = docker("exec", prometheus.container, *check)
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert f"{len(rules)} rules found" in said


def test_every_panel_shows_something_and_no_alert_is_raised(
    compose: Compose, prometheus: Prometheus, tmp_path: Path
) -> None:
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    with everything_in_use(compose, tmp_path) as buffer:

        def shows(expression: str) -> bool:
            buffer.add_episode({"x": np.zeros(10)})
            buffer.sample(5)
            with pytest.raises(replayring.FrameNotFoundError):  # one panel shows refusals
                buffer.get([1000])
            return bool(prometheus.query(expression))

        for expression in shown:
            eventually(partial(shows, expression), expression, PATIENCE)
        eventually(lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"}, "evaluated")
        assert not [rule for rule in prometheus.rules() if rule["state"] == "firing"]


def test_a_server_that_is_down_is_noticed(compose: Compose, prometheus: Prometheus) -> None:
    (server,) = compose.containers("server")
    docker("kill", server)
    eventually(lambda: prometheus.sees(0), "it is noticed", PATIENCE)
    raised = 'ALERTS{alertname="ReplayringDown"}'
    eventually(lambda: prometheus.query(raised), docker_log(prometheus.container), PATIENCE)
