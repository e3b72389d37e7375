"""What a Prometheus does that finds servers by a name: it asks every address of it for metrics.

    python -m tests.docker.scraper CERTS NAME PORT SERVER_NAME

prints each address, and how many bytes its server says that it has received.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import sys
from pathlib import Path

TIMEOUT = 10.0


def addresses(name: str) -> list[str]:
    """Returns the addresses that a name has now; Swarm gives it those of healthy tasks."""
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return sorted({str(address[0]) for *_, address in found})


def scrape(address: str, port: int, certs: Path, server_name: str) -> str:
    """Returns what a server answers, whose certificate is for another name than its address."""
    context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    with socket.create_connection((address, port), TIMEOUT) as plain:
        connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
        connection.sock = context.wrap_socket(plain, server_hostname=server_name)
        token = (certs / "token").read_text().strip()
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, f"{address}: {answer.status} {text}"
        return text


def main() -> None:
    """Asks all of them."""
    certs, name, port, server_name = sys.argv[1:]
    for address in addresses(name):
        text = scrape(address, int(port), Path(certs), server_name)
        (received,) = re.findall(r"^replayring_received_bytes_total (\S+)$", text, re.MULTILINE)
        print(address, int(float(received)), flush=True)


if __name__ == "__main__":
    main()
