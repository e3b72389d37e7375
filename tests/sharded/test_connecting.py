"""Addresses, homes of writers, and disagreements between shards."""

from __future__ import annotations

import pickle
import socket
from collections import Counter
from typing import Any

import pytest

import replayring
from replayring.sharded._names import names_of, ranking
from replayring.sharded._part import Creation
from replayring_proto.spec import BufferSpec
from tests.sharded.conftest import SPEC, Shards


def test_one_address_is_todays_client() -> None:
    for address in ("127.0.0.1:1", ["127.0.0.1:1"], "ipv4:1.2.3.4:5,1.2.3.4:6"):
        client = replayring.connect(address)
        assert type(client) is replayring.Client
        client.close()


@pytest.mark.parametrize(
    "address", ["b:2,a:1", " a:1 , b:2", ["b:2", "a:1"], ("a:1", "b:2")], ids=str
)
def test_several_are_shards_in_the_order_of_their_names(address: Any) -> None:
    with replayring.connect(address) as client:
        assert isinstance(client, replayring.ShardedClient)
        assert client.shards == ["a:1", "b:2"]
        assert client.address == "a:1,b:2"


@pytest.mark.parametrize("address", ["a:1,a:1", "a:1,", "a,b", [], ["a:1", 3], "", None, {"a:1"}])
def test_mistakes_are_told(address: Any) -> None:
    with pytest.raises(replayring.InvalidRequestError, match="address is"):
        replayring.connect(address)


class Dns:
    """A name server in place of the system's."""

    def __init__(self, **records: list[tuple[int, str]]) -> None:
        self.records = records
        self.asked = 0

    def __call__(self, host: str, port: int, family: int, kind: int) -> list[Any]:
        self.asked += 1
        found = [at for of, at in self.records.get(host, []) if of == family]
        if not found:
            raise socket.gaierror("Name or service not known")
        return [(family, kind, 6, "", (at, port)) for at in (*found, found[0])]


V4, V6 = socket.AF_INET, socket.AF_INET6


def test_every_address_of_a_name_is_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [(V4, "10.0.0.2"), (V4, "10.0.0.1"), (V6, "fd::1")]
    monkeypatch.setattr(
        socket, "getaddrinfo", Dns(replay=records, six=[(V6, "fd::2"), (V6, "fd::1")])
    )
    names = ["10.0.0.1:50051", "10.0.0.2:50051"]
    assert names_of("dns:///replay:50051", 1) == (names, "replay")
    assert names_of("dns:///six:1", 1) == (["[fd::1]:1", "[fd::2]:1"], "six")


def test_a_name_with_one_address_is_left_to_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Dns(replay=[(V4, "10.0.0.2")]))
    assert names_of("dns:///replay:50051", 1) == (["dns:///replay:50051"], None)


def test_a_name_that_is_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    dns = Dns()
    monkeypatch.setattr(socket, "getaddrinfo", dns)
    with pytest.raises(replayring.ServerUnavailableError, match="'replay' could not be looked up"):
        replayring.connect("dns:///replay:50051", timeout=0.5)
    assert dns.asked > 2


def test_certificates_of_a_name_are_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Dns(replay=[(V4, "10.0.0.2"), (V4, "10.0.0.1")]))
    with replayring.connect("dns:///replay:1", tls=True) as client:
        for shard in client._shards:
            assert shard.client._channel.credentials.tls.server_name == "replay"


def test_a_token_goes_in_the_clear_to_none_of_them() -> None:
    with pytest.raises(replayring.InvalidRequestError, match=r"10\.0\.0\.1:1 in the clear"):
        replayring.connect("127.0.0.1:1,10.0.0.1:1", token="0123456789abcdef" * 2)


def test_one_name_more_moves_few_writers_and_to_the_new_one_only() -> None:
    names = [f"replay-{i}:50051" for i in range(4)]
    keys = [f"writer-{i}" for i in range(4000)]
    before = {key: names[ranking(key, names)[0]] for key in keys}
    assert all(800 < count < 1200 for count in Counter(before.values()).values())
    more = [*names, "replay-4:50051"]
    after = {key: more[ranking(key, more)[0]] for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert 600 < len(moved) < 1000
    assert {after[key] for key in moved} == {"replay-4:50051"}


def test_a_pickle_has_the_same_shards() -> None:
    with replayring.connect("a:1,b:2", timeout=7) as client:
        copy = pickle.loads(pickle.dumps(client))
        assert (copy.shards, copy.timeout) == (client.shards, 7)
        copy.close()


@pytest.mark.parametrize("same_host", [None, False])
def test_one_server_under_two_names_is_no_two_shards(
    same_host: bool | None, calm_shards: Shards, name: str
) -> None:
    """All its frames counted twice, and had two values of `index` each."""
    host, _, port = calm_shards.addresses[0].rpartition(":")
    names = [f"{host}:{port}", f"localhost:{port}"]
    with replayring.connect(names, timeout=20, same_host=same_host) as client:
        with pytest.raises(
            replayring.InvalidRequestError,
            match=rf"{name!r} is one and the same at {names[0]} and at {names[1]}",
        ):
            client.create_buffer(name, SPEC, 100).info()
        with replayring.connect(names[0], timeout=20) as one:
            one.delete_buffer(name)


def test_shards_that_do_not_agree_are_refused(calm_shards: Shards, name: str) -> None:
    with (
        replayring.connect(calm_shards.addresses[0]) as one,
        replayring.connect(calm_shards.addresses[:2]) as two,
        replayring.connect(calm_shards.addresses) as three,
    ):
        one.create_buffer(name, SPEC, 100)
        with pytest.raises(replayring.NotFoundError, match=calm_shards.addresses[1]):
            two.buffer(name)
        with pytest.raises(replayring.AlreadyExistsError, match=calm_shards.addresses[0]):
            two.create_buffer(name, SPEC, 100)
        one.delete_buffer(name)
        two.delete_buffer(name)
        two.create_buffer(name, SPEC, 200)
        assert three.create_buffer(name, SPEC, 300).spec.capacity == 300, "one share more"
        three.delete_buffer(name)
        one.create_buffer(name, SPEC, 100)
        with replayring.connect(calm_shards.addresses[1]) as other:
            other.create_buffer(name, SPEC, 101)
        with pytest.raises(replayring.InvalidSpecError, match=r"do not agree.*100.*101"):
            two.buffer(name)
        elsewhere = Creation(name, BufferSpec.from_data_spec(SPEC, 101))
        with pytest.raises(
            replayring.InvalidSpecError, match=r"other shards.* capacity 100 \(elsewhere: 101\)$"
        ):
            elsewhere.open(one, None)
        two.delete_buffer(name)
        with pytest.raises(replayring.NotFoundError):
            two.delete_buffer(name)


def test_moving_and_an_identity_do_not_go_together(
    buffer: replayring.ShardedBuffer, tmp_path: Any
) -> None:
    for options in ({"writer_id": "me"}, {"spill_dir": tmp_path}):
        with pytest.raises(replayring.InvalidRequestError, match="belong to one shard"):
            buffer.writer(on_outage="move", **options)
    with pytest.raises(replayring.InvalidRequestError, match="must be 'wait' or 'move'"):
        buffer.writer(on_outage="stop")
