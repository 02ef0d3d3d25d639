"""What Prometheus is asked: the expressions of rules and dashboards, and the series they want."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import generate
import pages
import promql_parser
import yaml

PROMETHEUS = Path(__file__).parents[1] / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yaml"))

# What a reader has chosen.
VARIABLES = {
    "__rate_interval": "2m",
    "model": "all-minilm-l6-v2",
    "variant": ".+",
    "baseline": "fp32",
    "candidate": "canary",
}

# What cannot return anything of a stack in CI, and why: another test gives it series by hand. What
# is listed and no query asks for fails as well.
GPU = "there is no GPU in CI"
NOT_BROKEN = "nothing here takes a connection, a stream or a device away"
ABSENT = {
    r"akidb_gpu_\w+": GPU,
    r"akidb_out_of_memory_total|akidb_batch_tokens_limit": GPU,
    r"akidb_provider_in_use\{.*provider!=\"cpu\".*\} == 1": GPU,
    r"akidb_store_retries_total": NOT_BROKEN,
    r"akidb[_:]dead_letters_unwritten": NOT_BROKEN,
    r"akidb_rollout_troubles_total": NOT_BROKEN,
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """An expression, and where it stands."""

    where: str
    expr: str
    is_alert: bool = False


def rules() -> list[dict[str, Any]]:
    """All rules, recording and alerting."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def of_rules() -> list[Asked]:
    return [
        Asked(rule.get("alert") or rule["record"], rule["expr"], "alert" in rule)
        for rule in rules()
    ]


def of_dashboards() -> list[Asked]:
    """All queries of panels, as if a reader had chosen."""
    asked = []
    for path in sorted(generate.BOARDS.glob("*.yaml")):
        board = generate.read(path)
        for row in board.rows:
            for panel in row.panels:
                where = f"{board.uid}: {row.title}: {panel.title}"
                asked += [Asked(where, fill(query.expr, VARIABLES)) for query in panel.queries]
    return asked


def of_pages() -> list[Asked]:
    """All queries of pages."""
    return [
        Asked(f"{page}: {block.section}", " ".join(block.lines))
        for page in pages.pages()
        for block in pages.blocks(page)
        if block.language == "promql"
    ]


def fill(expr: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        expr = expr.replace(f"${name}", value)
    if "$" in re.sub(r'"\$[12]"', "", expr):
        raise ValueError(f"an unknown variable: {expr}")
    return expr


def selectors(expr: str) -> list[promql_parser.VectorSelector]:
    """All series that an expression selects."""
    found: list[promql_parser.VectorSelector] = []

    def walk(node: Any) -> None:
        match node:
            case promql_parser.VectorSelector():
                found.append(node)
            case promql_parser.MatrixSelector():
                walk(node.vector_selector)
            case promql_parser.BinaryExpr():
                walk(node.lhs)
                walk(node.rhs)
            case promql_parser.Call():
                for argument in node.args:
                    walk(argument)
            case promql_parser.AggregateExpr():
                walk(node.expr)
                if node.param is not None:
                    walk(node.param)
            case (
                promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr()
            ):
                walk(node.expr)
            case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
                pass
            case _:
                raise AssertionError(f"an unknown kind of expression: {node!r}")

    walk(promql_parser.parse(expr))
    return found


def names(expr: str) -> set[str]:
    """The names of the metrics that an expression asks for."""
    return {selector.name for selector in selectors(expr) if selector.name}


def why_absent(expr: str) -> str | None:
    """Why a query returns nothing of a stack in CI."""
    return next((why for pattern, why in ABSENT.items() if re.search(pattern, expr)), None)
