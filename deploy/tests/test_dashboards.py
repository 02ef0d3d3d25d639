"""The dashboards: written from their source, laid out well, and asking for what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import generate
import promql
import pytest
import yaml
from conftest import ROOT
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

FILES = sorted(generate.DASHBOARDS.glob("*.json"))
BOARDS = sorted(generate.BOARDS.glob("*.yaml"))

# Metrics of others: the exporter of NATS, the library that tells of the process, Prometheus itself.
OTHERS = re.compile(r"(nats_(varz|server|stream|consumer)_|process_).+|ALERTS|up")


def test_the_files_are_those_that_the_source_makes() -> None:
    made = {f"{board.uid}.json": generate.encode(board) for board in map(generate.read, BOARDS)}
    there = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    assert there == made, "run `make dashboards`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grafana_reads_them(path: Path) -> None:
    """As far as its SDK knows: what is not in the schema of Grafana 11.6 would be lost here."""
    there = json.loads(path.read_text(encoding="utf-8"))
    again = json.loads(json.dumps(Dashboard.from_json(there), cls=JSONEncoder))
    assert again == there
    panels = there["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns = range(place.get("x", 0), place.get("x", 0) + place["w"])
        lines = range(place.get("y", 0), place.get("y", 0) + place["h"])
        cells = {(x, y) for x in columns for y in lines}
        assert not cells & covered, f"{panel['title']} lies on another panel"
        assert max(columns) < generate.WIDTH, panel["title"]
        covered |= cells
        assert panel["type"] == "row" or panel["targets"], panel["title"]
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "$datasource"


def variables(board: generate.Board) -> dict[str, str]:
    chosen = {variable.name: ".+" for variable in board.variables}
    return chosen | {"__rate_interval": "1m"}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_no_query_asks_for_what_there_is_not(path: Path) -> None:
    source = (ROOT / "schemas/src/metrics.rs").read_text(encoding="utf-8")
    ours = set(re.findall(r'= "(akidb_[a-z_]+)"', source))
    recorded = {rule["record"] for rule in promql.rules() if "record" in rule}
    board = generate.read(path)
    queries = [query for row in board.rows for panel in row.panels for query in panel.queries]
    for query in queries:
        for name in promql.names(promql.fill(query.expr, variables(board))):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            known = {name, base} & (ours | recorded) or OTHERS.fullmatch(name)
            assert known, f"{name} in {query.expr}"


def test_every_metric_of_a_rule_or_page_exists() -> None:
    source = (ROOT / "schemas/src/metrics.rs").read_text(encoding="utf-8")
    ours = set(re.findall(r'= "(akidb_[a-z_]+)"', source))
    recorded = {rule["record"] for rule in promql.rules() if "record" in rule}
    assert len(promql.of_pages()) > 15
    for asked in [*promql.of_rules(), *promql.of_pages()]:
        for name in promql.names(asked.expr):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert {name, base} & (ours | recorded) or OTHERS.fullmatch(name), (asked.where, name)


def provisioned(name: str) -> dict[str, Any]:
    text = (generate.HERE / "provisioning" / name).read_text(encoding="utf-8")
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def test_grafana_is_told_where_they_are() -> None:
    source = provisioned("datasources/prometheus.yaml")["datasources"][0]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    provider = provisioned("dashboards/akidb.yaml")["providers"][0]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
