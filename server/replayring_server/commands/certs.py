"""`replayring certs`: makes certificates and tokens for a server on a network, for development.

One folder for each who needs them: the server, those who write, those who only read, and the
authority itself. Running it again makes what is missing and changes nothing else.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from replayring_proto.errors import ReplayRingError
from replayring_server.security.development import DEFAULT_HOSTS, hosts_of, make_folders

HELP = "make certificates and tokens for a server on a network"

_USES = """\
{0}/authority signs certificates. Keep it here: whoever has ca.key can be the server.
{0}/server is for the server:
  replayring serve --data-dir ./replay --listen 0.0.0.0:50051 --tls-cert {0}/server/server.pem \
--tls-key {0}/server/server.key --token-file {0}/server/tokens
{0}/client is for actors and learners; copy it to their machines:
  replayring.connect("HOST:50051", tls=replayring.TLS(ca="{0}/client/ca.pem"), \
token_file="{0}/client/token")
{0}/reader is for those who may only read.
To let in only those who have a certificate as well, give serve --tls-client-ca {0}/server/ca.pem,
  and TLS(cert=..., key=...) the client.pem and client.key of a folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("directory", metavar="DIR", help="folder to make them in")
    parser.add_argument(
        "--host",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="names or addresses under which clients reach the server, beside "
        f"{', '.join(DEFAULT_HOSTS)}",
    )
    parser.add_argument(
        "--days",
        type=int,
        default=365,
        help="how long certificates are valid (default: %(default)s)",
    )
    parser.add_argument(
        "--renew",
        action="store_true",
        help="issue certificates anew, for other hosts or more days; keys and tokens stay, and a "
        "running server takes them up",
    )


def run(arguments: argparse.Namespace) -> int:
    """Makes what is missing and says what it is for; returns 1 if something there does not fit."""
    folder, hosts = Path(arguments.directory), (*DEFAULT_HOSTS, *arguments.host)
    try:
        authority = make_folders(folder, hosts, days=arguments.days, renew=arguments.renew)
    except (ReplayRingError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in authority.made:
        print(f"wrote {path}")
    if not authority.made:
        print(f"{folder} has all it needs; nothing was changed")
    print(f"{folder}/server/server.pem holds for {', '.join(hosts_of(folder))}")
    print(_USES.format(shlex.quote(str(folder))))
    return 0
