"""docker/stack.yaml: three shards on one engine. One is killed and heals; all are updated."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from replayring_server.security.development import DEFAULT_HOSTS, make_folders
from tests.docker.engine import ROOT, docker, docker_log, inspect, quiet, run
from tests.support import eventually

pytestmark = pytest.mark.timeout(1200)

FILE = ROOT / "docker" / "stack.yaml"
SHARDS = ("shard-1", "shard-2", "shard-3")
ADDRESSES = [f"{shard}:50051" for shard in SHARDS]
SECRETS = ("server/server.pem", "server/server.key", "server/tokens", "client/ca.pem")
PATIENCE = 240.0


@pytest.fixture(scope="module")
def swarm(docker_engine: None) -> Iterator[None]:
    """This engine as a swarm of one, which it is no longer at the end unless it was before."""
    active = docker("info", "--format", "{{.Swarm.LocalNodeState}}") == "active"
    if not active:
        docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1")
    node = docker("info", "--format", "{{.Swarm.NodeID}}")
    docker("node", "update", "--label-add", "replay=true", node)
    yield
    if not active and not docker("service", "ls", "--quiet"):  # another tree's tests, say
        docker("swarm", "leave", "--force")


@dataclass
class Stack:
    """The stack under a name of its own."""

    name: str
    certs: Path
    environment: dict[str, str]

    def deploy(self) -> None:
        """Brings it up, and waits until its shards are."""
        flags = ["--compose-file", str(FILE), "--resolve-image", "never", "--detach=true"]
        run(["docker", "stack", "deploy", *flags, self.name], PATIENCE, self.environment)
        for slot in (1, 2, 3):
            self.running(f"shard.{slot}")

    def container(self, task: str) -> str | None:
        """Returns the container that runs a task now, or None."""
        label = f"label=com.docker.swarm.service.name={self.name}_{task.partition('.')[0]}"
        for found in docker("ps", "--quiet", "--filter", label).split():
            name = inspect(found)["Config"]["Labels"]["com.docker.swarm.task.name"]
            if name.startswith(f"{self.name}_{task}."):
                return found
        return None

    def running(self, task: str) -> str:
        """Waits until a container runs a task, and returns it."""
        return eventually(lambda: self.container(task) or "", f"{task} runs", PATIENCE)

    def remove(self) -> None:
        """Takes it away with its secrets and volumes, whatever there is of them."""
        # Swarm keeps the network for a moment after a test's own container has left it.
        eventually(lambda: quiet("stack", "rm", self.name), "the stack is removed")
        tasks = ("ps", "--all", "--quiet", "--filter", f"name={self.name}_")
        eventually(lambda: not docker(*tasks), "its tasks are gone")
        for kind in ("secret", "volume", "network"):
            eventually(lambda kind=kind: self._gone(kind), f"each {kind} is free")

    def _gone(self, kind: str) -> bool:
        found = docker(kind, "ls", "--quiet", "--filter", f"name={self.name}").split()
        return all(quiet(kind, "rm", each) for each in found)


@pytest.fixture(scope="module")
def stack(
    swarm: None, server_image: str, trainer_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The stack, prepared and deployed as the file itself says."""
    name = f"replayring-test-{uuid.uuid4().hex[:12]}"
    certs = tmp_path_factory.mktemp("stack") / "certs"
    make_folders(certs, (*DEFAULT_HOSTS, "replay", *SHARDS), days=1, renew=False)
    environment = {
        "SERVER_IMAGE": server_image,
        "TRAINER_IMAGE": trainer_image,
        "SHARDS_PER_NODE": "3",
        "SHARD_VOLUME": f"{name}-shard-{{{{.Task.Slot}}}}",
        "SECRETS": name,
        "ACTORS": "1",
        "STEPS": "2000",  # enough that the learner still runs when it is looked at
    }
    stack = Stack(name, certs, environment)
    try:
        for secret in (*SECRETS, "client/token"):
            path = certs / secret
            docker("secret", "create", f"{name}-{path.name}", str(path))
        stack.deploy()
        yield stack
    finally:
        stack.remove()


@pytest.fixture
def second_image(server_image: str) -> Iterator[str]:
    """The server's image under another name, as a newer one would have."""
    tag = f"replayring-server:{uuid.uuid4().hex[:12]}"
    docker("tag", server_image, tag)
    yield tag
    docker("rmi", tag)


def test_shards_are_hardened_and_read_secrets_as_their_own_user(stack: Stack) -> None:
    for slot in (1, 2, 3):
        container = stack.container(f"shard.{slot}")
        assert container
        known = inspect(container)
        host = known["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert known["Config"]["User"] == "10001:10001"
        assert known["Config"]["Hostname"] == f"shard-{slot}"
        volumes = [mount["Name"] for mount in known["Mounts"] if mount["Type"] == "volume"]
        assert volumes == [f"{stack.name}-shard-{slot}"]
        modes = docker("exec", container, "stat", "-c", "%a %u", "/run/secrets/server.key")
        assert modes == "400 10001"


def test_a_task_writes_as_its_user_only_where_it_may(stack: Stack) -> None:
    may = {"learner.1": {"/tmp", "/output"}, "actor.1": {"/tmp"}, "shard.1": {"/data"}}
    for task, folders in may.items():
        container = stack.running(task)
        assert docker("exec", container, "id", "-u") == "10001"
        for folder in ("/tmp", "/output", "/data", "/var/tmp", "/"):
            wrote = quiet("exec", container, "sh", "-c", f"echo 1 > {folder}/written")
            assert wrote == (folder in folders), f"{task}: {folder}"


def test_all_shards_metrics_are_found_by_one_name(
    stack: Stack, trainer_image: str, run_container: Callable[..., str]
) -> None:
    """As the file says it to Prometheus; an actor's episodes are on one of them by then."""
    network = f"{stack.name}_replay"
    (addresses,) = re.findall(r"names: \[(\S+)\], type: A, port: (\d+)", FILE.read_text())
    (server_name,) = re.findall(r"server_name: (\w+)", FILE.read_text())

    def scraped() -> list[tuple[str, str]]:
        scraper = run_container(
            *("--network", network, "--user", "0:0", "--workdir", "/source"),
            *("--volume", f"{ROOT / 'tests'}:/source/tests:ro"),
            *("--volume", f"{stack.certs / 'client'}:/certs:ro"),
            *("--entrypoint", "python", trainer_image, "-m", "tests.docker.scraper"),
            *("/certs", *addresses, server_name),
        )
        assert docker("wait", scraper) == "0", docker_log(scraper)
        lines = docker("logs", scraper).splitlines()
        return [(address, received) for address, received in map(str.split, lines)]

    def busy() -> bool:
        found = dict(scraped())
        return len(found) == len(SHARDS) and any(int(received) > 0 for received in found.values())

    eventually(busy, "all are found, and one has received something", PATIENCE)


def test_a_shard_heals_and_an_update_under_load_loses_nothing_acknowledged(
    stack: Stack,
    trainer_image: str,
    second_image: str,
    run_container: Callable[..., str],
    measured: Callable[[str], None],
) -> None:
    witness = run_container(
        *("--network", f"{stack.name}_replay", "--user", "0:0", "--workdir", "/source"),
        *("--volume", f"{ROOT / 'tests'}:/source/tests:ro"),
        *("--volume", f"{stack.certs / 'client'}:/certs:ro"),
        *("--entrypoint", "python", trainer_image, "-m", "tests.docker.witness", "/certs"),
        *ADDRESSES,
    )

    def acknowledged() -> list[int]:
        lines = docker("logs", "--tail", "50", witness).splitlines()
        return [int(word) for word in lines[-1].split()] if lines else [0] * len(SHARDS)

    def goes_on() -> None:
        before = acknowledged()
        eventually(
            lambda: all(now > then for now, then in zip(acknowledged(), before, strict=True)),
            "every shard takes episodes",
            PATIENCE,
        )

    goes_on()
    killed = stack.container("shard.2")
    assert killed
    began = time.monotonic()
    docker("kill", killed)
    goes_on()  # on all of them, the one that was killed as well
    measured(f"swarm: a killed shard takes episodes again after {time.monotonic() - began:.0f} s")
    assert stack.container("shard.2") != killed

    before = [stack.container(f"shard.{slot}") for slot in (1, 2, 3)]
    service = f"{stack.name}_shard"
    update = ("service", "update", "--no-resolve-image", "--image", second_image, service)
    began = time.monotonic()
    docker(*update, timeout=PATIENCE)
    measured(f"swarm: three shards are updated in {time.monotonic() - began:.0f} s")
    after = [stack.container(f"shard.{slot}") for slot in (1, 2, 3)]
    assert not set(before) & set(after)
    assert None not in after
    goes_on()

    def learner() -> str:
        tasks = ("service", "ps", "--format", "{{.CurrentState}}", f"{stack.name}_learner")
        return docker(*tasks)

    eventually(lambda: "Complete" in learner(), "the demo has trained", PATIENCE)
    counts = acknowledged()
    docker("stop", "--time", "120", witness, timeout=150)
    assert docker("wait", witness) == "0", docker_log(witness)
    assert "all found" in docker("logs", witness).splitlines()
    measured(f"swarm: episodes acknowledged by three shards over a kill and an update {counts}")
