"""The rules: promtool takes them, its unit tests pass, and no alert is without one."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import promql
import pytest
import yaml
from conftest import ROOT

TESTS = sorted((promql.PROMETHEUS / "tests").glob("*.yaml"))

# Codes of errors that are ours: they use up the budget. All others have to be callers'.
OURS = {
    "overloaded",
    "deadline_exceeded",
    "shutting_down",
    "model_unavailable",
    "engine_failed",
    "too_many_deliveries",
}


def test_promtool_takes_the_rules(promtool: Path) -> None:
    checked = subprocess.run(  # noqa: S603
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", *promql.RULES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_unit_tests_of_the_rules(promtool: Path, path: Path) -> None:
    tested = subprocess.run(  # noqa: S603
        [promtool, "test", "rules", path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_unit_test_a_severity_and_a_place_in_the_runbook() -> None:
    tested = "".join(path.read_text(encoding="utf-8") for path in TESTS)
    page = (promql.PROMETHEUS / "README.md").read_text(encoding="utf-8")
    headings = {line[4:].lower() for line in page.splitlines() if line.startswith("### ")}
    for rule in promql.rules():
        if "alert" not in rule:
            continue
        name, annotations = rule["alert"], rule["annotations"]
        firing = f'alertname="{name}", alertstate="firing"'
        assert firing in tested, f"{name}: no unit test has it fire"
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert {"summary", "description", "runbook"} == set(annotations), name
        assert annotations["runbook"] in headings, f"{name}: no such heading in README.md"


def test_the_promises_stand_in_one_place() -> None:
    targets = yaml.safe_load((promql.PROMETHEUS / "rules/targets.yaml").read_text(encoding="utf-8"))
    recorded = {rule["record"] for rule in targets["groups"][0]["rules"]}
    used = {name for asked in promql.of_rules() for name in promql.names(asked.expr)}
    assert recorded == {name for name in used if name.endswith(":target")}


def test_every_code_of_an_error_is_ours_or_a_callers() -> None:
    text = (ROOT / "schemas/generated/embed-failure.schema.json").read_text(encoding="utf-8")
    known = json.loads(text)["$defs"]["ErrorCode"]["anyOf"]
    codes = {one["const"] for one in known if "const" in one}
    assert codes >= OURS
    recording = (promql.PROMETHEUS / "rules/recording.yaml").read_text(encoding="utf-8")
    patterns = set(re.findall(r'code!~"([^"]+)"', recording))
    boards = (ROOT / "deploy/grafana/boards/ab.yaml").read_text(encoding="utf-8")
    patterns.add(yaml.safe_load(boards)["macros"]["callers"])
    assert len(patterns) == 1, "rules and dashboards differ in what is a caller's doing"
    pattern = patterns.pop()
    callers = {code for code in codes if re.fullmatch(pattern, code)}
    assert callers == codes - OURS, "decide whose doing a new code is"
