"""OpenTelemetry: spans of calls and metrics, in memory and to a receiver that speaks OTLP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from replayring_proto.v1 import replay_pb2
from replayring_server.telemetry import from_other_threads
from replayring_server.telemetry.families import Kind, families_of
from replayring_server.telemetry.otlp import OpenTelemetry
from tests.observability import made
from tests.service.frames import SPEC, episode
from tests.support import LocalServer, ServerProcess, eventually, refusal_of
from tests.wire import SERVICE, Wire

TRACE = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


class Kept(MetricExporter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.data: list[MetricsData] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 0, **_: Any
    ) -> MetricExportResult:
        self.data.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        pass


class Observed:
    """A server in this process whose telemetry is kept in memory."""

    def __init__(self, data_dir: Path) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = Kept()
        self._telemetry = OpenTelemetry(self._spans, self._metrics)
        self._server = LocalServer(data_dir, interceptors=self._telemetry.interceptors)

        async def watch() -> None:
            self._telemetry.watch(from_other_threads(self._server.server.status))

        self._server.run(watch())
        self.wire = Wire(self._server.address, metadata=[TRACE])

    def end(self) -> tuple[dict[str, ReadableSpan], MetricsData]:
        """Ends it and returns its spans by their method, and its last metrics."""
        self.wire.close()
        self._telemetry.close()
        spans = {span.attributes["rpc.method"]: span for span in self._spans.get_finished_spans()}
        return spans, self._metrics.data[-1]

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    observed = Observed(tmp_path / "data")
    yield observed
    observed.close()


def test_every_kind_of_call_is_a_span_of_its_callers_trace(observed: Observed) -> None:
    wire = observed.wire
    wire.create("b", SPEC)
    wire.add("b", episode(4))
    wire.sample("b", 3)
    wire.publish("p", {})
    wire.refusal("DeleteBuffer", replay_pb2.DeleteBufferRequest(name="none"))
    waiting = wire.stream("WatchParameters")
    waiting.send(replay_pb2.WatchParametersRequest(name="none", follow=True))
    eventually(lambda: in_flight(wire, "WatchParameters"), "the call has begun")
    waiting.cancel()
    eventually(lambda: not in_flight(wire, "WatchParameters"), "the call has ended")
    wire.health()
    spans, _ = observed.end()
    codes = {method: span.attributes["rpc.grpc.status_code"] for method, span in spans.items()}
    assert codes == {
        **dict.fromkeys(("CreateBuffer", "AddEpisodes", "SampleBatch", "PublishParameters"), 0),
        "GetServerStatus": 0,
        "DeleteBuffer": grpc.StatusCode.NOT_FOUND.value[0],
        "WatchParameters": grpc.StatusCode.CANCELLED.value[0],
    }
    for method, span in spans.items():
        assert span.name == f"{SERVICE}/{method}"
        assert span.kind is SpanKind.SERVER
        assert f"{span.context.trace_id:032x}" == TRACE[1].split("-")[1]
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == TRACE[1].split("-")[2]
        assert span.status.status_code is StatusCode.UNSET  # none was the server's fault
        assert span.end_time >= span.start_time


def in_flight(wire: Wire, method: str) -> int:
    methods = wire.ask("GetServerStatus", b"").status.methods
    return next(each.in_flight for each in methods if each.name == method)


def test_a_defect_is_an_error(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    from replayring_server.engine import Store

    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Store, "buffers", broken)
    assert observed.wire.refusal("ListBuffers", b"").code == "INTERNAL"
    monkeypatch.undo()
    spans, _ = observed.end()
    assert spans["ListBuffers"].status.status_code is StatusCode.ERROR


def test_metrics_are_those_of_prometheus(observed: Observed) -> None:
    wire = observed.wire
    wire.create("b", SPEC)
    wire.add("b", episode(4))
    wire.sample("b", 3)
    status = observed._server.run(asyncio.wait_for(ask(observed._server), 10))
    expected = {each.name: each for each in families_of(status)}
    _, data = observed.end()
    (resource,) = data.resource_metrics
    assert resource.resource.attributes["service.name"] == "replayring"
    assert resource.resource.attributes["service.instance.id"], "or shards would be one series"
    metrics = {each.name: each for each in resource.scope_metrics[0].metrics}
    distributions = {n for n, each in expected.items() if each.kind is Kind.DISTRIBUTION}
    assert metrics.keys() == expected.keys() - distributions
    assert metrics["replayring_uptime_seconds"].unit == "s"
    (frames,) = metrics["replayring_buffer_frames_added"].data.data_points
    assert (frames.value, frames.attributes) == (4, {"buffer": "b"})
    (draws,) = (
        each
        for each in metrics["replayring_work_seconds"].data.data_points
        if each.attributes == {"method": "SampleBatch"}
    )
    assert draws.count == sum(draws.bucket_counts) == 1
    assert len(draws.bucket_counts) == len(draws.explicit_bounds) + 1
    assert draws.sum > 0


async def ask(server: LocalServer) -> Any:
    return server.server.status()


class Receiver:
    """An OTLP receiver in this process."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.metrics: dict[str, Any] = {}
        self.services: set[str] = set()

    def Export(self, request: Any, _: grpc.ServicerContext) -> Any:
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            for resource in request.resource_spans:
                self.spans += [span.name for each in resource.scope_spans for span in each.spans]
            return trace_service_pb2.ExportTraceServiceResponse()
        for resource in request.resource_metrics:
            self.services |= {
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.name"
            }
            for scope in resource.scope_metrics:
                self.metrics.update((metric.name, metric) for metric in scope.metrics)
        return metrics_service_pb2.ExportMetricsServiceResponse()


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(receiver, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield receiver, f"http://127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_a_server_exports_as_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as (receiver, endpoint):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "replay-7")
        with ServerProcess(tmp_path / "data", "--otel") as server, Wire(server.address) as wire:
            wire.create("b", SPEC)
            wire.add("b", episode(4))
            eventually(lambda: "replayring_buffer_frames" in receiver.metrics, "metrics came")
            assert server.stop() == 0
            assert "Traceback" not in server.log_text()
        assert receiver.spans == [f"{SERVICE}/CreateBuffer", f"{SERVICE}/AddEpisodes"]
        (added,) = receiver.metrics["replayring_buffer_frames_added"].sum.data_points
        assert added.as_double == 4 or added.as_int == 4
        (sampled,) = receiver.metrics["replayring_buffer_frames_sampled"].sum.data_points
        for each in (added, sampled):
            assert 0 < each.start_time_unix_nano < each.time_unix_nano
        work = receiver.metrics["replayring_work_seconds"].histogram.data_points[0]
        assert not work.HasField("min")
        assert receiver.services == {"replay-7"}


def test_a_receiver_that_is_away_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    with ServerProcess(tmp_path / "data", "--otel") as server, Wire(server.address) as wire:
        wire.create("b", SPEC)
        wire.add("b", episode(4))
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 8  # its exporters alone would go on for 10 s


@pytest.mark.parametrize("interval", ["soon", "0", "-5", "nan", "inf", ""])
def test_an_interval_that_is_none_leaves_the_default(
    interval: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", interval)
    kept, telemetry = Kept(), None
    try:
        telemetry = OpenTelemetry(InMemorySpanExporter(), kept)
        telemetry.watch(made.server)
        time.sleep(0.2)
        assert not kept.data  # which a wait of no time would have filled
        assert f"OTEL_METRIC_EXPORT_INTERVAL is {interval!r}; it must be" in caplog.text or (
            not interval and not caplog.text
        )
    finally:
        if telemetry is not None:
            telemetry.close()


EMPTY = ["METRIC_EXPORT_INTERVAL", "EXPORTER_OTLP_TIMEOUT", "EXPORTER_OTLP_COMPRESSION"]


def test_empty_variables_count_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EMPTY:
        monkeypatch.setenv(f"OTEL_{name}", "")
    with receiving() as (receiver, endpoint):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with ServerProcess(tmp_path / "data", "--otel") as server:
            assert server.stop() == 0
        assert "replayring_uptime_seconds" in receiver.metrics  # of the last export, at the end


def test_what_the_variables_say_and_the_sdk_cannot_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zip")
    said = refusal_of("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--otel")
    assert "--otel: OpenTelemetry cannot do what the variables say" in said
    assert "look at OTEL_EXPORTER_OTLP_COMPRESSION" in said


def test_a_disabled_sdk_exports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with receiving() as (receiver, endpoint):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with ServerProcess(tmp_path / "data", "--otel") as server, Wire(server.address) as wire:
            wire.create("b", SPEC)
            assert server.stop() == 0
        assert not receiver.metrics
        assert not receiver.spans


def test_without_the_libraries_it_says_how_to_install_them(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['opentelemetry'] = None; sys.argv = ['replayring', 'serve', "
        f"'--data-dir', {str(tmp_path / 'data')!r}, '--listen', '127.0.0.1:0', '--otel']; "
        "from replayring_proto.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert 'pip install "replayring[otel]"' in done.stderr
    assert "Traceback" not in done.stderr
