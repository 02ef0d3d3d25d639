"""What was measured on a GPU as a report of `embed-loadtest`, which makes the page: plots first."""

import math
from typing import Any

from results import LARGE, SMALL, Results, Row, base

Points = list[tuple[float, float]]

NAMES = {SMALL: "MiniLM", LARGE: "BERT-large (UAE-Large's shape)"}
# Mean tokens of the texts, which tell them apart on an axis.
TOKENS = {"mixed": 41.0, "full": 128.0}


def axis(label: str, *, log: bool = False) -> Row:
    """Return an axis."""
    return {"label": label, "log": log}


def plot(title: str, x: Row, y: Row, series: dict[str, Points], kind: str = "line") -> Row:
    """Return a plot; series without points are left out."""
    lines = [{"name": name, "points": points} for name, points in series.items() if points]
    return {"title": title, "x": x, "y": y, "series": lines, "kind": kind}


def by_batch(results: Results, model: str) -> list[Row]:
    """Return the engine's throughput and latency by texts in a batch, a line for each length."""
    rows = [row for row in results.engine if base(row["model"]) == model]
    speed: dict[str, Points] = {}
    took: dict[str, Points] = {}
    for row in sorted(rows, key=lambda row: (row["length"], row["batch"])):
        name = f"{row['precision']} {row['form']}, {row['length']} tokens"
        speed.setdefault(name, []).append((row["batch"], row["texts_per_second"]))
        took.setdefault(name, []).append((row["batch"], row["p50_ms"]))
    x, title = axis("texts in a batch", log=True), f"{NAMES.get(model, model)}, the engine alone"
    return [
        plot(f"{title}: texts a second", x, axis("texts/s", log=True), speed),
        plot(f"{title}: a batch, p50", x, axis("ms", log=True), took),
    ]


def by_length(results: Results) -> Row:
    """Return the engine's throughput in tokens by length, each at its best batch."""
    best: dict[str, dict[float, float]] = {}
    for row in results.engine:
        if row["precision"] != "fp32":
            lengths = best.setdefault(base(row["model"]), {})
            rate = row["texts_per_second"] * row["length"]
            lengths[row["length"]] = max(rate, lengths.get(row["length"], 0.0))
    series = {name: sorted(lengths.items()) for name, lengths in best.items()}
    title = "The engine alone, not FP32: tokens a second, the best batch and form of each length"
    return plot(title, axis("tokens in a text", log=True), axis("tokens/s", log=True), series)


def beside_peers(results: Results, model: str) -> Row:
    """Return throughput beside that of the peers, by the texts' mean length."""
    ours = {texts: results.through_nats(model, texts) for texts in TOKENS}
    alone = {"mixed": results.alone(model), "full": results.alone(model, length=128)}
    packed = {texts: results.packed_torch(model, texts) for texts in TOKENS}
    everybody: dict[str, dict[str, float | None]] = {
        "the engine alone": alone,
        "through JetStream": ours,
        "compiled PyTorch, no padding, alone": packed,
        "sentence-transformers": {"mixed": results.peer(model)},
    }
    series = {
        name: [(TOKENS[texts], rate) for texts, rate in rates.items() if rate is not None]
        for name, rates in everybody.items()
    }
    title = f"{NAMES[model]}: texts a second, beside the peers (mixed: 41 tokens on average)"
    return plot(title, axis("tokens in a text, mean"), axis("texts/s"), series, "bars")


def latencies(rows: list[Row], title: str) -> list[Row]:
    """Return the latencies of calls by their rate, and by the share of calls."""
    quantiles: dict[str, Points] = {
        name: [(row["rate"], row[name]) for row in rows if row.get(name) is not None]
        for name in ("p50", "p75", "p95", "p99")
    }
    curves = {f"{row['rate']:,.0f} calls/s": row.get("curve") or [] for row in rows}
    x = axis("one call in … takes longer (100: p99)", log=True)
    plots = [plot(f"{title}: latency by rate", axis("calls/s", log=True), axis("ms"), quantiles)]
    if any(curves.values()):
        plots.append(plot(f"{title}: latency by share of calls", x, axis("ms", log=True), curves))
    return plots


def utilisation(results: Results) -> Row:
    """Return what bulk made of the GPU, by throughput: each model and text by itself."""
    series = {
        f"{NAMES.get(row['model'], row['model'])}, {row['texts']}": [
            (TOKENS.get(row["texts"], 0.0), row["gpu_utilisation_percent"])
        ]
        for row in results.bulk
        if row.get("gpu_utilisation_percent") is not None
    }
    title = "Utilisation of the GPU under bulk, the mean over the time"
    return plot(title, axis("tokens in a text, mean"), axis("%"), series, "bars")


def document(results: Results, tables: list[tuple[str, list[str], list[list[str]]]]) -> Row:
    """Return the report: targets, plots, and every row below."""
    served = [m for m in (SMALL, LARGE) if any(base(r["model"]) == m for r in results.engine)]
    plots = [
        *(beside_peers(results, model) for model in (SMALL, LARGE)),
        *(one for model in served for one in by_batch(results, model)),
        by_length(results),
        *latencies(results.calls, "Online calls"),
        utilisation(results),
    ]
    number = results.machine.get("cores", 0)
    return {
        "schema": "embed-loadtest/1",
        "command": "gpu",
        "title": "Measured on a GPU",
        "started": "",
        "parameters": {
            "devices": "; ".join(results.device) or None,
            "versions": "; ".join(results.versions) or None,
            "ONNX Runtime": results.machine.get("onnxruntime"),
            "models that end in -twin": "random weights in the shape of the real one",
        },
        "machine": {
            "cpu": results.machine.get("cpu", ""),
            "cores": number if isinstance(number, int) else 0,
            "memory_mb": 0,
            "kernel": results.machine.get("kernel", ""),
        },
        "verdicts": [verdict(target) for target in results.targets()],
        "figures": [],
        "plots": [one for one in plots if one["series"]],
        "tables": [
            {"title": title, "head": head, "rows": rows}
            for title, head, rows in tables
            if title != "What is wanted"
        ],
        "notes": [],
    }


def verdict(target: Any) -> Row:
    """Return a target as reports have them."""
    value = "not measured"
    if target.value is not None:
        digits = max(0, 2 - math.floor(math.log10(abs(target.value)))) if target.value else 0
        value = f"{target.value:,.{digits}f} {target.unit}".strip()
    bound = f"{'at least' if target.at_least else 'at most'} {target.bound:,}"
    return {"name": target.name, "value": value, "target": bound, "passed": target.met}
