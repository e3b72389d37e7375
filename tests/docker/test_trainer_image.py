"""The image of actors and learners: as whom it runs, where it can write, and what it has."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.docker.engine import docker, docker_log, inspect, size_above_base

pytestmark = pytest.mark.timeout(1200)

HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
PICTURE = """
import os, torch, gymnasium, replayring
from replayring.demo.plot import Evaluation, save_learning_curve
save_learning_curve("/output/curve.png", [Evaluation(0, 0, 0), Evaluation(1, 1, 1)], "a title")
print(os.getuid(), os.access("/", os.W_OK), torch.cuda.is_available(), torch.__version__)
"""


def test_it_trains_and_draws_with_a_read_only_root_and_no_rights(
    trainer_image: str, run_container: Callable[..., str]
) -> None:
    container = run_container(
        *(*HARDENED, "--tmpfs", "/tmp", "--volume", "/output"),
        *("--entrypoint", "python", trainer_image, "-c", PICTURE),
    )
    assert docker("wait", container) == "0", docker_log(container)
    user, root, cuda, version = docker("logs", container).splitlines()[-1].split()
    assert (user, root, cuda) == ("10001", "False", "False")
    assert version.startswith("2.13.0")


def test_without_arguments_it_explains_itself(
    trainer_image: str, run_container: Callable[..., str], measured: Callable[[str], None]
) -> None:
    began = time.monotonic()
    container = run_container(*HARDENED, trainer_image)
    assert docker("wait", container) == "0"
    assert "--role" in docker_log(container)
    measured(f"trainer image {size_above_base(trainer_image)}")
    measured(f"trainer: docker run to the end of --help {time.monotonic() - began:.1f} s")


def test_it_has_the_servers_user_so_that_it_may_read_its_files(
    trainer_image: str, server_image: str
) -> None:
    users = {inspect(image)["Config"]["User"] for image in (trainer_image, server_image)}
    assert users == {"10001:10001"}
