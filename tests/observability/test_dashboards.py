"""What Prometheus and Grafana are given: it parses, and names only what a server exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from replayring.top import screen
from tests.observability.conftest import metrics_address
from tests.observability.test_prometheus import scrape
from tests.service.frames import SPEC, episode
from tests.support import ServerProcess
from tests.wire import Wire

FILES = Path(__file__).parents[2] / "docker" / "observability"
DASHBOARD = json.loads((FILES / "grafana/dashboards/replayring.json").read_text())
PROMETHEUS = yaml.safe_load((FILES / "prometheus.yaml").read_text())
ALERTS = yaml.safe_load((FILES / "alerts.yaml").read_text())

# Of Prometheus itself, for each server.
NOT_OURS = {"up"}
# What Grafana puts in.
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$buffer": ".*"}


def expressions() -> Iterator[tuple[str, str]]:
    """Yields every expression there is, and where it stands."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert query, variable
        yield variable["name"], query[1]
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def parsed(expression: str) -> Any:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return promql_parser.parse(expression)


def selectors(expression: str) -> list[Any]:
    found = []

    def look(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(parsed(expression), look)
    return found


@pytest.fixture
def exported(server: ServerProcess, wire: Wire) -> dict[str, set[str]]:
    """Every name that a server exports, with its labels' names."""
    wire.create("b", SPEC)
    wire.add("b", episode(4))
    wire.publish("policy", {})
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scrape(metrics_address(server))):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def test_every_metric_and_label_that_is_named_is_exported(exported: dict[str, set[str]]) -> None:
    for place, expression in expressions():
        for selector in selectors(expression):
            if selector.name in NOT_OURS:
                continue
            assert selector.name in exported, f"{place}: {selector.name}"
            used = {matcher.name for matcher in selector.matchers.matchers}
            assert used <= exported[selector.name] | {"instance", "job"}, f"{place}: {used}"


def test_labels_in_legends_and_texts_are_there(exported: dict[str, set[str]]) -> None:
    known = set().union(*exported.values()) | {"instance"}
    legends = [t["legendFormat"] for panel in DASHBOARD["panels"] for t in panel["targets"]]
    texts = [rule["annotations"]["summary"] for g in ALERTS["groups"] for rule in g["rules"]]
    found = re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", " ".join(legends + texts))
    assert found
    assert set(found) <= known


@pytest.mark.parametrize(("place", "expression"), [*expressions()])
def test_counters_are_used_as_rates_and_nothing_else_is(place: str, expression: str) -> None:
    """Of a counter the total tells nothing."""
    for rate, name in re.findall(r"(rate\()?(replayring_\w+)", expression):
        counter = name.endswith("_total") or (name.endswith("_bucket") and "quiet" not in name)
        assert bool(rate) == counter, f"{place}: {name}"


def test_servers_of_one_buffer_make_no_lines_of_one_name() -> None:
    """Over shards a legend without the server would stand at one line for each of them."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            legend = target["legendFormat"]
            if "{{instance}}" not in legend and "{{writer}}" not in legend:
                outermost = re.sub(r"^histogram_quantile\([\d.]+, ", "", target["expr"])
                assert re.match(r"(sum|max)( by \([^)]*\) | ?\()", outermost), panel["title"]
                assert "instance" not in re.findall(r"by \(([^)]*)\)", outermost), panel["title"]


def test_how_fast_learners_are_is_told_in_frames() -> None:
    """Over shards servers count as batches the blocks that they send ahead."""
    figures = [panel for panel in DASHBOARD["panels"] if panel["type"] == "stat"]
    told = " ".join(target["expr"] for panel in figures for target in panel["targets"])
    assert "frames_sampled" in told
    assert "batches_sampled" not in told


def test_an_expression_that_is_none_would_be_found() -> None:
    with pytest.raises(ValueError, match="paren"):
        parsed("sum(rate(x[5m])")


def test_alerts_are_raised_where_top_warns() -> None:
    rules = {rule["alert"]: rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]}
    assert rules["ReplayringDiskFillsUp"].endswith(f"< {screen.LITTLE_DISK}")
    assert rules["ReplayringLimitNear"].endswith(f"> {screen.NEAR}")


def test_prometheus_is_told_what_the_compose_file_agrees_to() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "replayring"
    assert job["metrics_path"] == "/metrics"
    assert [target for each in job["static_configs"] for target in each["targets"]] == [
        "server:9464"
    ]
    assert PROMETHEUS["rule_files"] == ["/etc/prometheus/alerts.yaml"]


def test_grafana_is_given_the_source_and_the_folder_that_the_dashboard_needs() -> None:
    provisioning = FILES / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    uids = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert uids == {source["uid"]}
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/replayring.yaml").read_text())[
        "providers"
    ]
    assert provider["type"] == "file"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
