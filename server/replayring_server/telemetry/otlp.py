"""Metrics and traces for OpenTelemetry, exported over OTLP as the standard OTEL_* variables say.

The SDK does the work. Ours are two translations: a server's status to metrics, so that there is one
source of numbers, and a call to a span. For the latter there is a library, whose interceptor cannot
be used: it iterates over what a streaming handler returns, and ours write to the call instead, as
grpc.aio offers (https://github.com/open-telemetry/opentelemetry-python-contrib/issues/3066).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL, OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from replayring_proto.errors import InvalidRequestError
from replayring_proto.server_status import Durations, ServerStatus
from replayring_server.service.boundary import SERVICE
from replayring_server.telemetry.families import Family, Kind, families_of

logger = logging.getLogger(__name__)

_PATIENCE_S = 2.0
_INTERVAL_MS = 60_000.0

_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1"}
_UNKNOWN: Any = None  # OTLP's exporter then leaves a field out, which the SDK's types do not know

# Codes that are the server's fault, as OpenTelemetry's conventions for gRPC have it.
_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
_CUMULATIVE = AggregationTemporality.CUMULATIVE


class OpenTelemetry:
    """Exports what a server does. Whoever made it closes it.

    Attributes:
        interceptors: what a gRPC server is given to have its calls traced.
    """

    def __init__(
        self, spans: SpanExporter | None = None, metrics: MetricExporter | None = None
    ) -> None:
        """Prepares to export.

        Args:
            spans: where to; None for what the environment says.
            metrics: where to; None for what the environment says.
        """
        if spans is None and _wanted("OTEL_TRACES_EXPORTER"):
            spans = OTLPSpanExporter()
        if metrics is None and _wanted("OTEL_METRICS_EXPORTER"):
            metrics = OTLPMetricExporter()
        own = {
            "service.name": "replayring",
            "service.version": version("replayring"),
            "service.instance.id": str(uuid.uuid4()),  # tells shards apart; older SDKs give none
        }
        self._resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._metrics = metrics
        self._exporting: _Exporting | None = None
        # It is closed by hand: at the interpreter's exit there may be nobody to export to.
        self._tracers = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        self.interceptors: list[grpc.aio.ServerInterceptor] = []
        if spans is not None:
            self._tracers.add_span_processor(BatchSpanProcessor(spans))
            self.interceptors.append(_Tracing(self._tracers.get_tracer("replayring")))

    @classmethod
    def from_environment(cls) -> OpenTelemetry:
        """Prepares to export as the variables say. One that is empty counts as unset.

        Raises:
            InvalidRequestError: they say what the SDK cannot do.
        """
        named = [name for name in os.environ if name.startswith("OTEL_")]
        for name in named:
            if not os.environ[name]:
                del os.environ[name]  # the SDK takes some of them for numbers
        try:
            return cls()
        except Exception as error:  # of the SDK's own, and it does not say which variable it is
            raise InvalidRequestError(
                f"--otel: OpenTelemetry cannot do what the variables say ({error}); look at "
                f"{', '.join(sorted(name for name in named if name in os.environ))}"
            ) from error

    def watch(self, status: Callable[[], ServerStatus]) -> None:
        """Begins to export metrics of what `status` returns, from any thread, at that moment."""
        if self._metrics is not None:
            self._exporting = _Exporting(self._metrics, status, self._resource)

    def close(self) -> None:
        """Exports what is left, if that can be done soon. What `watch` was given must still answer.

        Where nobody takes it, the exporters would go on trying for longer than the server is given
        to stop.
        """
        ending = threading.Thread(target=self._end, name="replayring-otel-end", daemon=True)
        ending.start()
        ending.join(_PATIENCE_S)

    def _end(self) -> None:
        if self._exporting is not None:
            self._exporting.close()
        self._tracers.shutdown()


def _wanted(exporter: str) -> bool:
    """Whether what a variable chooses the exporter of is to be exported."""
    disabled = os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"
    return not disabled and os.environ.get(exporter) != "none"


def _interval_s() -> float:
    """Returns how often metrics are exported: as in the SDK, what makes no sense is not obeyed."""
    given = os.environ.get(OTEL_METRIC_EXPORT_INTERVAL) or _INTERVAL_MS
    try:
        interval_ms = float(given)
    except ValueError:
        interval_ms = 0
    if not 0 < interval_ms < math.inf:
        logger.warning(
            "%s is %r; it must be milliseconds, above zero: taking %d",
            *(OTEL_METRIC_EXPORT_INTERVAL, given, _INTERVAL_MS),
        )
        interval_ms = _INTERVAL_MS
    return interval_ms / 1000


class _Exporting:
    """A thread that exports a server's status now and then, and once more at the end."""

    def __init__(
        self, exporter: MetricExporter, status: Callable[[], ServerStatus], resource: Resource
    ) -> None:
        self._exporter = exporter
        self._status = status
        self._resource = resource
        self._begun_ns = time.time_ns()
        self._interval_s = _interval_s()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replayring-otel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._export()
        self._export()

    def _export(self) -> None:
        try:
            self._exporter.export(metrics_data(self._status(), self._resource, self._begun_ns))
        except Exception:  # the server is to go on, whatever becomes of its metrics
            logger.exception("metrics could not be exported")


def metrics_data(status: ServerStatus, resource: Resource, begun_ns: int) -> MetricsData:
    """Returns a status as OpenTelemetry's metrics.

    What goes up and down as a whole distribution is left out: it has no form for that.

    Args:
        status: the status.
        resource: what it is of.
        begun_ns: since when counters count that begin with the server, by the wall clock.
    """
    now_ns = time.time_ns()
    metrics = [
        _metric(family, begun_ns, now_ns)
        for family in families_of(status)
        if family.kind is not Kind.DISTRIBUTION
    ]
    scope = InstrumentationScope("replayring", status.version)
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(scope, metrics, "")], "")])


def _metric(family: Family, begun_ns: int, now_ns: int) -> Metric:
    numbers: list[NumberDataPoint] = []
    histograms: list[HistogramDataPoint] = []
    for labels, value in family.values:
        attributes = dict(zip(family.labels, labels, strict=True))
        if isinstance(value, Durations):
            histograms.append(_histogram(attributes, value, begun_ns, now_ns))
        else:
            numbers.append(NumberDataPoint(attributes, begun_ns, now_ns, value))
    data: Histogram | Sum | Gauge = Gauge(numbers)
    if family.kind is Kind.HISTOGRAM:
        data = Histogram(histograms, _CUMULATIVE)
    elif family.kind is Kind.COUNTER:
        data = Sum(numbers, _CUMULATIVE, is_monotonic=True)
    unit = _UNITS.get(family.name.rpartition("_")[2], "")
    return Metric(family.name, family.help, unit, data)


def _histogram(
    attributes: dict[str, str], durations: Durations, begun_ns: int, now_ns: int
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=begun_ns,
        time_unix_nano=now_ns,
        count=durations.count,
        sum=durations.sum_s,
        bucket_counts=durations.counts,
        explicit_bounds=durations.bounds_s,
        min=_UNKNOWN,
        max=_UNKNOWN,
    )


class _Tracing(grpc.aio.ServerInterceptor):
    """Makes a span of each call of the service, within the caller's trace if it came with one."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Returns the method's handler, traced."""
        handler = await continuation(handler_call_details)
        service, _, method = str(handler_call_details.method).strip("/").partition("/")
        if handler is None or service != SERVICE:
            return handler  # probes of its health are nobody's trace
        if handler.response_streaming:
            traced = self._traced(handler.stream_stream, method)
            return grpc.stream_stream_rpc_method_handler(traced)
        return grpc.stream_unary_rpc_method_handler(self._traced(handler.stream_unary, method))

    def _traced(self, handler: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Any]:
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method}

        async def traced(requests: Any, context: Any) -> Any:
            code = grpc.StatusCode.OK
            with self._tracer.start_as_current_span(
                f"{SERVICE}/{method}",
                extract(dict(context.invocation_metadata() or ())),
                SpanKind.SERVER,
                attributes,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    return await handler(requests, context)
                except asyncio.CancelledError:
                    code = grpc.StatusCode.CANCELLED
                    raise
                except grpc.aio.AbortError:
                    code = context.code()
                    raise
                finally:
                    span.set_attribute("rpc.grpc.status_code", code.value[0])
                    if code in _FAULTS:
                        span.set_status(Status(StatusCode.ERROR, code.name))

        return traced
