"""Every setting of `replayring serve`: the one place where it is named, typed and described.

A new setting is one more field. Its flag is `--` and its name, with dashes; its variable
REPLAYRING_SERVE_ and its name, in capitals; its key in the file is its name. Its type says what it
takes: str, int, float, bool, Address, or a Literal of words; with `| None` it may be unset.
Numbers are never negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from replayring_proto.limits import ServerLimits
from replayring_server.configuration.address import Address
from replayring_server.configuration.declaring import LIMITS, declared, setting

GROUPS = {"security": "needed to listen on anything but this machine's own 127.0.0.1"}
"""Settings that help lists apart, and what it says of them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `replayring serve` is told, apart from limits; valid one by one.

    Each attribute is described where it is declared, for users and for whoever reads this.
    """

    data_dir: str = setting("DIR", "folder that keeps the buffers")
    listen: Address = setting(
        "HOST:PORT",
        "address to listen on; port 0 takes a free one",
        default=Address("127.0.0.1", 50051),
    )
    health_listen: Address | None = setting(
        "HOST:PORT",
        "another address, without TLS, that answers the health service and nothing else",
        default=None,
    )
    metrics_listen: Address | None = setting(
        "HOST:PORT",
        "another address, for Prometheus: it answers GET /metrics, over TLS and for a token where "
        "--listen does; needs the extra `metrics`",
        default=None,
    )
    otel: bool = setting(
        None,
        "export metrics and traces to OpenTelemetry over OTLP, as the OTEL_* variables say; needs "
        "the extra `otel`",
        default=False,
    )
    drain_delay: float = setting(
        "SECONDS",
        "how long calls are still taken after SIGTERM, when health says NOT_SERVING already: for "
        "balancers to notice",
        default=0.0,
    )
    grace: float = setting(
        "SECONDS",
        "how long calls in flight may finish after SIGTERM and --drain-delay",
        default=5.0,
    )
    log_format: Literal["text", "json"] = setting(
        None, "how the log is written; json is one object a line", default="text"
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        None, "the least severe level that is logged", default="info"
    )
    reflection: bool = setting(
        None,
        "answer gRPC's reflection service; needs the extra `reflection`",
        default=False,
    )
    channelz: bool = setting(
        None,
        "answer gRPC's channelz service; needs the extra `channelz`",
        default=False,
    )

    tls_cert: str | None = setting(
        "FILE", "PEM file: this server's certificate and its chain", default=None, group="security"
    )
    tls_key: str | None = setting(
        "FILE", "PEM file: its private key", default=None, group="security"
    )
    tls_client_ca: str | None = setting(
        "FILE",
        "PEM file: take only clients that have a certificate of these authorities",
        default=None,
        group="security",
    )
    token_file: str | None = setting(
        "FILE",
        "take only calls with one of these tokens: a line each, `write TOKEN` or `read TOKEN`; "
        "read again at SIGHUP",
        default=None,
        group="security",
    )
    insecure: bool = setting(
        None, "listen on any address without TLS and tokens", default=False, group="security"
    )


DECLARED = {each.key: each for each in (*declared(Settings), *declared(ServerLimits, LIMITS))}
"""All settings and limits, by their key in the file."""
