"""Queries that return nothing of a stack in CI, as there is no GPU and nothing breaks: they return
data of series that are made by hand, with the labels that a worker on two GPUs gives them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import promql
import yaml

WORKER = 'instance="a", job="worker"'
VARIANT = f'model="all-minilm-l6-v2", model_version="fp32", {WORKER}'
DEVICES = [f'device="{number}", {WORKER}' for number in (0, 1)]
SERIES = {
    **{f'akidb_gpu_info{{{one}, product="H200", uuid="GPU-1"}}': "1x20" for one in DEVICES},
    **{f"akidb_gpu_utilization_ratio{{{one}}}": "0.5x20" for one in DEVICES},
    **{f"akidb_gpu_memory_used_bytes{{{one}}}": "5x20" for one in DEVICES},
    **{f"akidb_gpu_memory_total_bytes{{{one}}}": "10x20" for one in DEVICES},
    **{f"akidb_gpu_power_watts{{{one}}}": "300x20" for one in DEVICES},
    **{f"akidb_gpu_temperature_celsius{{{one}}}": "60x20" for one in DEVICES},
    **{f'akidb_gpu_throttled{{{one}, reason="thermal"}}': "1x20" for one in DEVICES},
    f"akidb_gpu_cost_per_million_texts{{{WORKER}}}": "2x20",
    f'akidb_provider_in_use{{{VARIANT}, provider="cuda"}}': "1x20",
    f'akidb_provider_in_use{{{VARIANT}, provider="cpu"}}': "0x20",
    f'akidb_provider_in_use{{{VARIANT.replace("fp32", "fp16")}, provider="cuda"}}': "1x20",
    f"akidb_out_of_memory_total{{{VARIANT}}}": "0+1x20",
    f"akidb_batch_tokens_limit{{{VARIANT}}}": "1024x20",
    f'akidb_store_retries_total{{{WORKER}, stream="results"}}': "0+1x20",
    f'akidb_dead_letters_unwritten_total{{{VARIANT}, code="engine_failed"}}': "0+1x20",
    f"akidb_rollout_troubles_total{{{WORKER}}}": "0+1x20",
}


def test_they_return_data_of_series_made_by_hand(promtool: Path, tmp_path: Path) -> None:
    asked = [one for one in promql.of_dashboards() if promql.why_absent(one.expr)]
    asked += [one for one in promql.of_rules() if promql.why_absent(one.expr)]
    assert len(asked) >= 14
    checks = [
        {
            "expr": f"count({one.expr}) > bool 0",
            "eval_time": "20m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for one in asked
    ]
    test = {
        "rule_files": [str(path) for path in promql.RULES],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": one, "values": given} for one, given in SERIES.items()],
                "promql_expr_test": checks,
            }
        ],
    }
    file = tmp_path / "absent.yaml"
    file.write_text(yaml.safe_dump(test), encoding="utf-8")
    tested = subprocess.run(  # noqa: S603
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
