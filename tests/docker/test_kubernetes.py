"""docker/kubernetes.yaml: valid by the published schemas, and it fits itself and the server."""

from __future__ import annotations

import argparse
from typing import Any

import kubernetes_validate
import pytest
import yaml

from replayring_server.commands import serve
from tests.docker.engine import ROOT

DOCUMENTS: dict[str, Any] = {
    document["kind"]: document
    for document in yaml.safe_load_all((ROOT / "docker" / "kubernetes.yaml").read_text())
}
SET = DOCUMENTS["StatefulSet"]["spec"]
POD = SET["template"]["spec"]
(SERVER,) = POD["containers"]


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "StatefulSet"])
@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_every_document_is_valid(kind: str, version: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[kind], version, strict=True)


def test_a_mistake_is_found() -> None:
    mistaken = {**DOCUMENTS["Service"], "spec": {"clusterIp": "None"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(mistaken, "1.29", strict=True)


def test_they_belong_together() -> None:
    labels = SET["template"]["metadata"]["labels"]
    assert SET["selector"]["matchLabels"] == labels
    assert DOCUMENTS["Service"]["spec"]["selector"] == labels
    assert DOCUMENTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert SET["serviceName"] == DOCUMENTS["Service"]["metadata"]["name"]
    volumes = {volume["name"] for volume in POD["volumes"]}
    claims = {claim["metadata"]["name"] for claim in SET["volumeClaimTemplates"]}
    assert {mount["name"] for mount in SERVER["volumeMounts"]} == volumes | claims


def test_the_server_understands_its_arguments_and_probes_ask_where_it_answers() -> None:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    arguments = parser.parse_args(["--data-dir", "/data", *SERVER["args"]])
    port = int(arguments.health_listen.rpartition(":")[2])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert SERVER[probe]["grpc"]["port"] == port
    certs = next(m["mountPath"] for m in SERVER["volumeMounts"] if m["name"] == "certs")
    for path in (arguments.tls_cert, arguments.tls_key, arguments.token_file):
        assert path.startswith(f"{certs}/")
    assert POD["terminationGracePeriodSeconds"] > 2 * float(arguments.grace)
    assert POD["securityContext"]["runAsUser"] == 10001  # as docker/server.Dockerfile has it
