"""A network that loses every twentieth packet gives no wrong answer."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import replayring
from tests.network.frames import SPEC, check, episode
from tests.network.hosts import Hosts
from tests.support import ServerProcess

EPISODES = 300


@pytest.mark.timeout(240)
def test_five_percent_loss_gives_no_wrong_answer(hosts: Hosts, server: ServerProcess) -> None:
    with hosts.losing(0.05):
        hosts.on_client(use_everything, server.address)
        assert min(hosts.lost()) > 20, "the control: packets were lost both ways"


def use_everything(hosts: Hosts, address: str) -> None:
    with replayring.connect(address, timeout=60) as client:
        buffer = client.create_buffer("b", SPEC, 100_000, fps=10)
        versions: list[int] = []
        watcher = threading.Thread(target=watch, args=(client, versions))
        watcher.start()
        with buffer.writer() as writer, buffer.sample_stream(64) as batches:
            for number in range(EPISODES):
                writer.add_episode(episode(number))
                if number % 10 == 0:
                    buffer.add_episodes([episode(1000 + number), episode(1001 + number)])
                    client.publish("policy", {"number": np.full(50_000, number)})
                check(next(batches))
            writer.flush()
            assert (writer.acknowledged, writer.pending) == (EPISODES, [])
        check(buffer.sample(500))
        check(buffer.get(range(0, len_of(buffer), 7)))
        client.publish("policy", {"number": np.full(50_000, EPISODES)})
        watcher.join(60)
        assert not watcher.is_alive()
        assert versions == sorted(set(versions)), "none twice, none older"
        columns = buffer.read_columns(["number", "row", "values", "frame_index"])
        check(columns)
        numbers = columns["number"][columns["row"] == 0].tolist()
        assert [number for number in numbers if number < 1000] == list(range(EPISODES))
        added = [1000 + number + i for number in range(0, EPISODES, 10) for i in (0, 1)]
        assert [number for number in numbers if number >= 1000] == added
        assert len(columns["row"]) == 50 * len(numbers)


def watch(client: replayring.Client, versions: list[int]) -> None:
    for version, tensors in client.watch("policy"):
        assert len(set(tensors["number"].tolist())) == 1, "a policy of two versions"
        versions.append(version)
        if tensors["number"][0] == EPISODES:
            return


def len_of(buffer: replayring.Buffer) -> int:
    return buffer.info().num_frames
