"""Every query of rules and dashboards returns data of a real stack, and an alert fires."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from typing import Any

import promql
from live import Prometheus
from processes import MODEL, get, wait_for


def test_all_rules_are_loaded_and_can_be_evaluated(loaded: Prometheus) -> None:
    seen: list[Any] = []

    # An evaluation that was held up can come at the same moment as the next, and one of both fails.
    def well_evaluated() -> bool | None:
        groups = json.loads(get(f"{loaded.url}/api/v1/rules") or b'{"data": {"groups": []}}')
        seen[:] = [rule for group in groups["data"]["groups"] for rule in group["rules"]]
        return (len(seen) == 2 * len(promql.rules()) and not faults()) or None

    def faults() -> list[str]:
        return [
            f"{rule['name']}: {rule.get('lastError')}" for rule in seen if rule["health"] != "ok"
        ]

    with contextlib.suppress(TimeoutError):
        wait_for("all rules to be well", well_evaluated)
    assert not faults()
    assert len(seen) == 2 * len(promql.rules())


def test_every_query_returns_data(loaded: Prometheus) -> None:
    queries = promql.of_dashboards() + promql.of_pages()
    queries += [asked for asked in promql.of_rules() if not asked.is_alert]
    assert len(queries) > 100
    empty = queries

    # A scrape that took too long leaves a gap, and no data at that moment.
    def silent() -> list[str]:
        nonlocal empty
        empty = [asked for asked in empty if not loaded.query(asked.expr)]
        unexplained = [asked for asked in empty if promql.why_absent(asked.expr) is None]
        return [f"{asked.where}: {asked.expr}" for asked in unexplained]

    with contextlib.suppress(TimeoutError):
        wait_for("all of them to", lambda: None if silent() else True)
    assert not silent()
    for pattern, why in promql.ABSENT.items():
        # A connection may have been slow all the same.
        if why != promql.GPU:
            assert any(re.search(pattern, asked.expr) for asked in queries), pattern
    print(f"{len(queries) - len(empty)} of {len(queries)} queries return data; of the others:")
    for asked in empty:
        print(f"  {asked.where}: {promql.why_absent(asked.expr)}")


def test_every_series_that_an_alert_compares_is_there(loaded: Prometheus) -> None:
    for asked in promql.of_rules():
        if not asked.is_alert:
            continue
        for selector in promql.selectors(asked.expr):
            expr = str(selector)
            if promql.why_absent(expr) is None:
                loaded.returns(expr)


def test_an_alert_fires_when_a_worker_hangs_with_work_waiting(
    loaded: Prometheus, stack: dict[str, Any]
) -> None:
    wait_for("progress", lambda: None if loaded.firing("FastNoProgress") else True)
    os.kill(stack["pids"]["worker"], signal.SIGSTOP)
    try:
        waiting = loaded.fires("FastNoProgress")
        assert {(one["model"], one["lane"]) for one in waiting} >= {(MODEL, "bulk")}
        loaded.fires("FastWorkerDown")
    finally:
        os.kill(stack["pids"]["worker"], signal.SIGCONT)
    wait_for("its end", lambda: None if loaded.firing("FastNoProgress") else True)
