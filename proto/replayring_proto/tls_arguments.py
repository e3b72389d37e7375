"""How to make sure of a server, on the command line: the same options wherever one is named."""

from __future__ import annotations

import argparse

from replayring_proto.tls import TLS

TLS_OPTIONS = ("tls", "tls_ca", "tls_cert", "tls_key", "tls_server_name")
"""Names of the options, as `argparse` has them."""


def add_tls_arguments(group: argparse._ActionsContainer) -> None:
    """Adds the options to a parser, or to a group of one."""
    group.add_argument("--tls", action="store_true", help="use TLS and trust public authorities")
    group.add_argument("--tls-ca", metavar="FILE", help="use TLS and trust these authorities")
    group.add_argument("--tls-cert", metavar="FILE", help="certificate to show the server")
    group.add_argument("--tls-key", metavar="FILE", help="its private key")
    group.add_argument(
        "--tls-server-name", metavar="NAME", help="name in the server's certificate, if not HOST"
    )


def tls_from(arguments: argparse.Namespace) -> TLS | None:
    """Returns what the options say, or None for no TLS.

    Raises:
        InvalidRequestError: they do not go together.
    """
    tls = TLS(
        ca=arguments.tls_ca,
        cert=arguments.tls_cert,
        key=arguments.tls_key,
        server_name=arguments.tls_server_name,
    )
    return tls if arguments.tls or tls != TLS() else None
