"""Writes the dashboards: `python deploy/grafana/generate.py`.

What is asked and shown stands in `boards/*.yaml`; what Grafana reads, in `dashboards/*.json`, is
written from it, with the types of Grafana's own SDK. A test compares both, and another runs every
query against a Prometheus that has scraped a worker under load.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table
from grafana_foundation_sdk.builders import timeseries as lines
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="$datasource")
WIDTH = 24
TAG = "akidb-embed"
HERE = Path(__file__).parent
BOARDS, DASHBOARDS = HERE / "boards", HERE / "dashboards"

Kind = Literal["lines", "stacked", "stat", "table", "heatmap"]
AnyPanel = lines.Panel | stat.Panel | table.Panel | heatmap.Panel


@dataclasses.dataclass(frozen=True)
class Query:
    """What is asked, and the legend of its series."""

    expr: str
    legend: str = ""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel."""

    title: str
    queries: list[Query]
    unit: str = "short"
    kind: Kind = "lines"
    width: int = 0
    description: str = ""
    # A value is shown in red from here on, or below here.
    red: float | None = None
    below: float | None = None

    @property
    def columns(self) -> int:
        return self.width or (4 if self.kind == "stat" else 8)

    @property
    def lines(self) -> int:
        return 4 if self.kind == "stat" else 8


@dataclasses.dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: list[Panel]


@dataclasses.dataclass(frozen=True)
class Variable:
    """What the reader chooses from."""

    name: str
    query: str
    # One value, and not all of them.
    one: bool = False


@dataclasses.dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: list[Row]
    variables: list[Variable]


def read(path: Path) -> Board:
    """A file of `boards/`, with its macros put in. An unknown key is an error that names it."""
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    macros = read.pop("macros", {})

    def query(one: dict[str, str]) -> Query:
        expr = re.sub(r"@([a-z]+)", lambda name: macros[name[1]], one["expr"])
        return Query(**(one | {"expr": expr}))

    def panel(one: dict[str, Any]) -> Panel:
        return Panel(**(one | {"queries": [query(asked) for asked in one["queries"]]}))

    rows = [Row(row["title"], [panel(one) for one in row["panels"]]) for row in read.pop("rows")]
    variables = [Variable(**one) for one in read.pop("variables", [])]
    return Board(rows=rows, variables=variables, **read)


def _target(panel: Panel, number: int, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
    target = target.ref_id(chr(ord("A") + number))
    if panel.kind in ("stat", "table"):
        target = target.instant()
    if panel.kind == "table":
        target = target.format(PromQueryFormat.TABLE)
    if panel.kind == "heatmap":
        target = target.format(PromQueryFormat.HEATMAP)
    return target


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color="green" if panel.below is None else "red")]
    if panel.below is not None:
        steps.append(models.Threshold(value=panel.below, color="green"))
    if panel.red is not None:
        steps.append(models.Threshold(value=panel.red, color="red"))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _styled(panel: Panel) -> AnyPanel:
    if panel.kind == "stat":
        return (
            stat.Panel()
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .graph_mode(shapes.BigValueGraphMode.NONE)
            .no_value("none")
        )
    if panel.kind == "table":
        return table.Panel()
    if panel.kind == "heatmap":
        return heatmap.Panel()
    drawn = lines.Panel().line_width(1).fill_opacity(10).show_points(shapes.VisibilityMode.NEVER)
    drawn = drawn.tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI))
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST)
    drawn = drawn.legend(legend.placement(shapes.LegendPlacement.BOTTOM).show_legend(True))
    if panel.kind == "stacked":
        drawn = drawn.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    return drawn


def _panel(panel: Panel, x: int, y: int, number: int) -> AnyPanel:
    drawn = _styled(panel).id(number).title(panel.title).datasource(SOURCE)
    drawn = drawn.description(panel.description).grid_pos(
        models.GridPos(x=x, y=y, w=panel.columns, h=panel.lines)
    )
    if not isinstance(drawn, heatmap.Panel):
        drawn = drawn.unit(panel.unit).thresholds(_thresholds(panel))
    for i, query in enumerate(panel.queries):
        drawn = drawn.with_target(_target(panel, i, query))
    return drawn


def _variable(variable: Variable) -> dashboard.QueryVariable:
    made = (
        dashboard.QueryVariable(variable.name)
        .datasource(SOURCE)
        .query(variable.query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if variable.one:
        return made
    everything = models.VariableOption(text="All", value="$__all")
    return made.include_all(True).all_value(".+").multi(True).current(everything)


def build(board: Board) -> models.Dashboard:
    """The dashboard as Grafana has it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .link(
            dashboard.DashboardLink(TAG)
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in board.variables:
        made = made.with_variable(_variable(variable))
    number, y = 1, 0
    for row in board.rows:
        heading = models.GridPos(x=0, y=y, w=WIDTH, h=1)
        made = made.with_row(dashboard.Row(row.title).id(number).grid_pos(heading))
        number, y, x, tallest = number + 1, y + 1, 0, 0
        for panel in row.panels:
            if x + panel.columns > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            made = made.with_panel(_panel(panel, x, y, number))
            number, x, tallest = number + 1, x + panel.columns, max(tallest, panel.lines)
        y += tallest
    return made.build()


def encode(board: Board) -> str:
    """The text of its file."""
    return json.dumps(build(board), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main() -> None:
    for path in sorted(BOARDS.glob("*.yaml")):
        board = read(path)
        (DASHBOARDS / f"{board.uid}.json").write_text(encode(board), encoding="utf-8")


if __name__ == "__main__":
    main()
