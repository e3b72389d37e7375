"""docker/compose.yaml trains the demo, whichever of its containers is killed, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from replayring.demo.experience import open_buffer
from tests.docker.engine import (
    ROOT,
    Compose,
    connect,
    crash,
    docker,
    docker_log,
    free_port,
    inspect,
)
from tests.docker.witness import Witness
from tests.support import eventually

pytestmark = pytest.mark.timeout(1200)

FILE = ROOT / "docker" / "compose.yaml"
STEPS = 5_000  # enough that it is not done before everything has been killed
PATIENCE = 180.0
PORT = free_port()


@pytest.fixture(scope="module")
def compose(server_image: str, trainer_image: str) -> Iterator[Compose]:
    """The project, with this tree's images, which is up and trains while the tests run."""
    environment = {
        "SERVER_IMAGE": server_image,
        "TRAINER_IMAGE": trainer_image,
        "REPLAYRING_PUBLISH": f"127.0.0.1:{PORT}",
        "STEPS": str(STEPS),
    }
    with Compose(FILE, environment) as compose:
        up(compose)
        yield compose


def up(compose: Compose) -> None:
    compose("up", "--detach", "--no-build", timeout=PATIENCE)


def services() -> dict[str, dict[str, Any]]:
    """Returns what the file says of those that run our images."""
    known: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    return {name: known[name] for name in known if name not in ("prometheus", "grafana")}


def there_before(services: dict[str, dict[str, Any]], name: str) -> set[str]:
    """Returns the services that one waits for, directly or not."""
    before = set(services[name].get("depends_on", ()))
    return before.union(*(there_before(services, other) for other in before))


def restarts(container: str) -> int:
    return int(inspect(container)["RestartCount"])


def test_one_service_builds_each_image_and_the_others_wait_for_it() -> None:
    # Compose builds all at once. Where images are kept in containerd, as in new engines, a second
    # one of the same name fails; and what has no build is looked for in a registry, unless told.
    ours = services()
    builders = {name for name, known in ours.items() if "build" in known}
    assert len({ours[name]["image"] for name in builders}) == len(builders)
    for name in set(ours) - builders:
        assert ours[name]["pull_policy"] == "never", name
        before = there_before(ours, name) & builders
        assert ours[name]["image"] in {ours[builder]["image"] for builder in before}, name


def test_every_container_is_hardened_and_sees_only_what_it_needs(compose: Compose) -> None:
    sees = {
        "certs": {f"/certs/{who}" for who in ("authority", "server", "client", "reader")},
        "server": {"/certs/server", "/data"},
        "actor": {"/certs/client"},
        "learner": {"/certs/client", "/data", "/output"},
    }
    for service, mounts in sees.items():
        known = inspect(compose.containers(service)[0])
        host = known["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["Init"], service
        assert not host["Privileged"], service
        assert known["Config"]["User"] == "10001:10001", service
        named = [mount for mount in known["Mounts"] if mount["Name"].startswith(compose.project)]
        assert {mount["Destination"] for mount in named} == mounts, service
        writable = {mount["Destination"] for mount in named if mount["RW"]}
        assert (
            writable
            == {
                "certs": mounts,
                "server": {"/data"},
                "actor": set(),
                "learner": {"/output"},
            }[service]
        )


def test_a_learner_on_the_servers_machine_reads_its_files(compose: Compose) -> None:
    (server,), (learner,) = compose.containers("server"), compose.containers("learner")
    code = """
import replayring
tls = replayring.TLS(ca="/certs/client/ca.pem")
with replayring.connect("127.0.0.1:50051", tls=tls, token_file="/certs/client/token") as client:
    buffer = client.create_buffer("x", {"x": {"shape": (), "dtype": "int64"}}, 10)
    buffer.add_episode({"x": [7]})
    print(buffer.info().same_host, buffer.sample(1)["x"])
"""
    there = ("--network", f"container:{server}", "--volumes-from", learner)
    image = inspect(learner)["Image"]
    said = docker("run", "--rm", *there, "--entrypoint", "python", image, "-c", code, timeout=120)
    assert said == "True [7]"


def test_training_goes_on_whichever_container_is_killed_and_nothing_acknowledged_is_lost(
    compose: Compose, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    (server,), (learner,) = compose.containers("server"), compose.containers("learner")
    actors = compose.containers("actor")
    assert len(actors) == 2
    with connect(actors[0], PORT, tmp_path / "client", PATIENCE) as client:
        buffer = open_buffer(client)

        def trained_on(episodes: int) -> None:
            """Waits until so many more have come, which they only do while the learner learns."""
            goal = buffer.info().next_episode_index + episodes
            eventually(lambda: buffer.info().next_episode_index >= goal, "it goes on", PATIENCE)

        with Witness(client) as witness:
            trained_on(1)
            docker("kill", actors[0])  # the other one carries on alone
            trained_on(2)
            docker("kill", server)
            up(compose)  # which starts both again
            trained_on(2)
            docker("kill", learner)
            up(compose)
            trained_on(1)
            for container in (server, learner):  # docker itself sees to these
                crash(container)
            trained_on(1)
            assert docker("wait", learner, timeout=PATIENCE) == "0", docker_log(learner)
        witness.check()
        frames, episodes = buffer.info().next_index, buffer.info().next_episode_index

    assert restarts(server) == restarts(learner) == 1
    assert frames == 201 * episodes  # whole episodes only
    assert frames - episodes >= STEPS
    docker("cp", f"{learner}:/output/learning-curve.png", str(tmp_path))
    assert (tmp_path / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    measured(f"compose: {docker_log(learner).splitlines()[-2]}, over 5 kills")
    compose("stop", "--timeout", "30", "server")
    assert inspect(server)["State"]["ExitCode"] == 0
    verify = ("run", "--rm", "--volumes-from", server, "--entrypoint", "replayring")
    assert "no damage found" in docker(*verify, inspect(server)["Image"], "verify", "/data")


def test_a_learner_with_a_gpu_trains(trainer_image: str, server_image: str, tmp_path: Path) -> None:
    """All that compose says of it but the GPU, which there is none of, and torch's build for it."""
    known = yaml.safe_load(FILE.read_text())
    gpu = known["services"]["learner-gpu"]
    assert gpu.pop("deploy")["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    gpu["image"] = trainer_image
    for service in known["services"].values():
        service.pop("build", None)
    file = tmp_path / "compose.yaml"
    file.write_text(yaml.safe_dump(known))
    environment = {
        "SERVER_IMAGE": server_image,
        "TRAINER_IMAGE": trainer_image,
        "REPLAYRING_PUBLISH": f"127.0.0.1:{free_port()}",
        "STEPS": "600",
        "GPU": "cpu",
    }
    with Compose(file, environment) as compose:
        compose("up", "--detach", "actor", "learner-gpu", timeout=PATIENCE)
        (learner,) = compose.containers("learner-gpu")
        assert docker("wait", learner, timeout=PATIENCE) == "0", docker_log(learner)
        assert not compose.containers("learner")
        assert "--device" in inspect(learner)["Args"]
