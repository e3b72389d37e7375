"""The address for Prometheus: what it answers, and that it keeps the house's rules."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from replayring_server.security.certificates import Certificates
from replayring_server.telemetry import prometheus
from replayring_server.telemetry.prometheus import MetricsServer
from tests.certificates import READ, UNKNOWN, Authority, Pair, replace, token_file
from tests.observability import made
from tests.observability.conftest import metrics_address
from tests.service.frames import SPEC, episode
from tests.support import PATIENCE, ServerProcess, eventually, refusal_of
from tests.wire import Wire, episode_messages, start_message


def scrape(
    address: str,
    path: str = "/metrics",
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> str:
    url = f"http{'s' if tls else ''}://{address}{path}"
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE, context=tls) as reply:
        text: str = reply.read().decode()
        return text


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(text: str) -> dict[tuple[str, ...], float]:
    """Returns each value by its name and what its labels say, sorted by the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_was_done_is_exported(server: ServerProcess, wire: Wire) -> None:
    wire.create("b", SPEC)
    wire.add("b", episode(4), episode(3), writer_id="robot")
    wire.add("b", episode(4), writer_id="robot")
    wire.sample("b", 5, batches=2)
    wire.publish("policy", {})
    wire.refusal("DeleteBuffer", b"")
    stream = wire.stream("AddEpisodes")
    stream.send(start_message("b", "other"), *episode_messages(1, episode(1)))
    stream.receive()
    found = values(scrape(metrics_address(server)))
    assert (
        found.items()
        >= {
            ("replayring_buffer_frames", "b"): 8,
            ("replayring_buffer_capacity_frames", "b"): 10,
            ("replayring_buffer_episodes", "b"): 3,
            ("replayring_buffer_frames_added_total", "b"): 8,
            ("replayring_buffer_episodes_added_total", "b"): 3,
            ("replayring_buffer_duplicate_episodes_total", "b"): 1,
            ("replayring_buffer_frames_sampled_total", "b"): 10,
            ("replayring_buffer_batches_sampled_total", "b"): 2,
            ("replayring_buffer_writers", "b"): 2,
            ("replayring_buffer_writers_quiet_seconds_bucket", "b", "+Inf"): 2,
            ("replayring_writer_sequence", "b", "robot"): 2,
            ("replayring_writer_connected", "b", "robot"): 0,
            ("replayring_writer_connected", "b", "other"): 1,
            ("replayring_parameters_version", "policy"): 1,
            ("replayring_calls_in_flight", "AddEpisodes"): 1,
            ("replayring_calls_finished_total", "OK", "AddEpisodes"): 2,
            ("replayring_calls_finished_total", "NOT_FOUND", "DeleteBuffer"): 1,
            ("replayring_work_seconds_count", "AddEpisodes"): 4,
            ("replayring_work_seconds_bucket", "+Inf", "SampleBatch"): 2,
            ("replayring_memory_waiting_calls", "staging"): 0,
            ("replayring_memory_limit_bytes", "sending"): 2 << 30,
            ("replayring_limit_used_ratio", "max_buffers"): 1 / 256,
            ("replayring_warnings",): 0,
            ("replayring_peers",): 1,
        }.items()
    )
    assert found["process_open_fds",] > 10
    assert found["process_resident_memory_bytes",] > 1 << 20
    eventually(
        lambda: (
            values(scrape(metrics_address(server)))["replayring_buffer_durable_index", "b"] == 8
        ),
        "the sync has come",
    )


def test_names_follow_the_practice(server: ServerProcess, wire: Wire) -> None:
    """https://prometheus.io/docs/practices/naming: base units, `_total`, a text for each."""
    wire.create("b", SPEC)
    for name, family in families(scrape(metrics_address(server))).items():
        assert re.fullmatch(r"(replayring|process)(_[a-z]+)+", name), name
        assert family.documentation, name
        assert not re.search(r"_(ms|us|mib|minutes|percent)(_|$)", name), name
        assert not name.endswith(("_count", "_sum", "_bucket", "_total")) or name.endswith(
            "_gcount"
        ), name
        if family.type == "histogram" and family.samples:
            assert name.endswith("_seconds")


def test_what_does_not_pass_through_the_server_is_said_to_be_missing(server: ServerProcess) -> None:
    found = families(scrape(metrics_address(server)))
    for name in ("replayring_buffer_frames_sampled", "replayring_buffer_batches_sampled"):
        assert "read frames from its files" in found[name].documentation


def test_there_is_nothing_elsewhere(server: ServerProcess) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        scrape(metrics_address(server), "/")
    assert caught.value.code == 404
    assert "/metrics" in caught.value.read().decode()


def test_a_deleted_buffer_is_gone(server: ServerProcess, wire: Wire) -> None:
    wire.create("b", SPEC)
    wire.add("b", episode(4))
    wire.delete("b")
    assert '"b"' not in scrape(metrics_address(server))


def test_it_speaks_tls_and_asks_for_a_token_where_the_service_does(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    flags = [*pair.flags, "--token-file", str(token_file(tmp_path / "tokens"))]
    flags += ["--metrics-listen", "0.0.0.0:0"]
    trusting = ssl.create_default_context(cafile=str(authority.cert))
    with ServerProcess(tmp_path / "data", *flags) as server:
        address = metrics_address(server).replace("0.0.0.0", "127.0.0.1")
        assert "replayring_build_info" in scrape(address, token=READ, tls=trusting)
        for token in (None, UNKNOWN):
            with pytest.raises(urllib.error.HTTPError) as caught:
                scrape(address, token=token, tls=trusting)
            assert caught.value.code == 401
            assert caught.value.headers["WWW-Authenticate"] == "Bearer"
            assert "replayring_" not in caught.value.read().decode()
        with pytest.raises(OSError, match=r"Remote end closed|reset|disconnected"):
            scrape(address, token=READ)
        token_file(tmp_path / "tokens", f"read {UNKNOWN}")
        server.signal(1)
        eventually(lambda: "tokens to read: 1, to write: 0" in server.log_text(), "reloaded")
        assert "replayring_build_info" in scrape(address, token=UNKNOWN, tls=trusting)
        assert server.stop() == 0


def test_it_takes_up_renewed_certificates_and_asks_for_those_of_clients(
    tmp_path: Path, authority: Authority
) -> None:
    own, client = authority.issue(), authority.issue("DNS:prometheus")
    flags = [*own.flags, "--tls-client-ca", str(authority.cert)]
    with ServerProcess(tmp_path / "data", *flags, "--metrics-listen", "127.0.0.1:0") as server:
        known = ssl.create_default_context(cafile=str(authority.cert))
        with pytest.raises(OSError, match=r"(?i)certificate|closed|reset|eof"):
            scrape(metrics_address(server), tls=known)
        known.load_cert_chain(client.cert, client.key)
        assert "replayring_build_info" in scrape(metrics_address(server), tls=known)
        own.replace_with(authority.issue("DNS:elsewhere"))
        with pytest.raises(OSError, match=r"doesn't match|not valid for|mismatch"):
            scrape(metrics_address(server), tls=known)


def test_it_goes_on_with_its_certificate_while_new_files_do_not_fit(
    tmp_path: Path, authority: Authority
) -> None:
    """As the service does: half of a renewal makes nobody blind."""
    own, new = authority.issue(), authority.issue()
    flags = [*own.flags, "--metrics-listen", "127.0.0.1:0"]
    with ServerProcess(tmp_path / "data", *flags) as server:
        known = ssl.create_default_context(cafile=str(authority.cert))
        replace(own.key, new.key.read_text())
        assert "replayring_build_info" in scrape(metrics_address(server), tls=known)
        assert "the certificate in use stays" in server.log_text()
        replace(own.cert, new.cert.read_text())
        assert "replayring_build_info" in scrape(metrics_address(server), tls=known)
        assert "took up the renewed certificate" in server.log_text()


def test_a_peer_that_speaks_no_tls_in_a_loop_does_not_fill_the_log(
    tmp_path: Path, pair: Pair
) -> None:
    flags = [*pair.flags, "--metrics-listen", "127.0.0.1:0"]
    with ServerProcess(tmp_path / "data", *flags) as server:
        for _ in range(5):
            with pytest.raises(OSError, match=r"Remote end closed|reset|disconnected"):
                scrape(metrics_address(server))
        assert server.stop() == 0
        first, last = (line for line in server.log_text().splitlines() if "metrics from" in line)
    assert re.search(r"metrics from 127.0.0.1:\d+: UNAVAILABLE: .*http request", first)
    assert re.search(r"metrics from 127.0.0.1: UNAVAILABLE: \d more within 60 s", last)


def test_it_is_opened_to_a_network_no_sooner_than_the_service(tmp_path: Path) -> None:
    flags = ["--data-dir", str(tmp_path / "data"), "--metrics-listen", "0.0.0.0:0"]
    assert "0.0.0.0:0 can be reached from other machines" in refusal_of(*flags)
    assert not (tmp_path / "data").exists()
    insecure = ("--insecure", "--metrics-listen", "0.0.0.0:0")
    with ServerProcess(tmp_path / "data", *insecure) as server:
        address = metrics_address(server).replace("0.0.0.0", "127.0.0.1")
        assert "replayring_build_info" in scrape(address)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--data-dir", str(tmp_path / "data"), "--health-listen", "127.0.0.1:0"]
        said = refusal_of(*flags, "--metrics-listen", address)
    assert f"cannot listen on {address}" in said
    assert "--metrics-listen another port" in said


def test_it_is_off_by_default(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        assert "metrics" not in server.log_text()
        assert len([c for c in server.stats.net_connections() if c.status == "LISTEN"]) == 1


def test_without_the_library_it_says_how_to_install_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None; sys.argv = ['replayring', 'serve', "
        f"'--data-dir', {str(tmp_path / 'data')!r}, '--listen', '127.0.0.1:0', "
        "'--metrics-listen', '127.0.0.1:0']; from replayring_proto.cli import main; "
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert 'pip install "replayring[metrics]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("said", [b"", b"x"], ids=["silent", "trickling"])
def test_peers_that_stall_take_few_threads_and_keep_nobody_out(
    said: bytes,
    encrypted: bool,
    pair: Pair,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prometheus, "_PATIENCE_S", 1.0)
    certificates = Certificates(pair.cert, pair.key, None) if encrypted else None
    tls = ssl.create_default_context(cafile=str(authority.cert)) if encrypted else None
    before = threading.active_count()
    with (
        closing(MetricsServer("127.0.0.1", 0, made.server, certificates, lambda _: None)) as server,
        ExitStack() as peers,
    ):

        def connect() -> socket.socket:
            bare = socket.create_connection(server.server_address[:2], timeout=PATIENCE)
            return peers.enter_context(
                tls.wrap_socket(bare, server_hostname="127.0.0.1") if tls else bare
            )

        def answered() -> bool:
            for peer in stalling:
                with suppress(OSError):
                    peer.sendall(said)
            assert threading.active_count() <= before + 1 + prometheus.MAX_SCRAPES
            return answers(f"127.0.0.1:{server.server_port}", tls)

        stalling = [connect() for _ in range(prometheus.MAX_SCRAPES)]
        assert not answered()
        eventually(answered, "the stalling ones are given up")


def test_a_thread_that_cannot_start_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if "process_request_thread" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    with closing(MetricsServer("127.0.0.1", 0, made.server, None, lambda _: None)) as server:
        address = f"127.0.0.1:{server.server_port}"
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(2 * prometheus.MAX_SCRAPES):
                assert not answers(address)
        assert answers(address)


def test_metrics_that_cannot_be_collected_are_in_the_log_and_nowhere_else(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise KeyError("a defect")

    with closing(MetricsServer("127.0.0.1", 0, broken, None, lambda _: None)) as server:
        with pytest.raises(urllib.error.HTTPError, match="500") as refused:
            scrape(f"127.0.0.1:{server.server_port}")
        with refused.value as answer:
            assert b"the server's log says why" in answer.read()
    assert "the metrics could not be collected" in caplog.text
    assert "a defect" in caplog.text
    assert capfd.readouterr().err == ""


def answers(address: str, tls: ssl.SSLContext | None = None) -> bool:
    try:
        return "replayring_build_info" in scrape(address, tls=tls)
    except OSError:
        return False


def test_junk_is_no_error_of_the_server(server: ServerProcess, wire: Wire) -> None:
    host, _, port = metrics_address(server).rpartition(":")
    for junk in (
        b"\x16\x03\x01\x02\x00",
        b"\xff" * 70_000,
        b"GET\r\n\r\n",
        b"POST / HTTP/9\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as peer:
            peer.sendall(junk)
            peer.shutdown(socket.SHUT_WR)
    assert answers(metrics_address(server))
    assert wire.health() == 1
    assert server.stop() == 0
