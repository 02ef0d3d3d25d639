"""Makes one result out of what `run.sh` measured.

`results.json` has every figure, `results.md` the tables, and `report.json` is the report that
`embed-loadtest page` makes a page of. Notes are written by hand, into a README.md beside them,
which nothing here touches. A folder that has only `results.json` is summarized anew from it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from document import document
from results import Results


def number(value: Any) -> str:
    """Write a figure for people."""
    if value is None:
        return "not measured"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def ranged(row: dict[str, Any], key: str) -> Any:
    """Write a median with the range of its repeats, if there are several."""
    if key not in row.get("range", {}):
        return row.get(key)
    least, most = row["range"][key]
    return f"{number(row[key])} ({number(least)} to {number(most)})"


def tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, head and rows of each table that has rows."""
    words = {True: "met", False: "MISSED", None: "-"}
    targets = [
        [
            target.name,
            f"{number(target.value)} {target.unit if target.value is not None else ''}".strip(),
            f"{'at least' if target.at_least else 'at most'} {number(target.bound)}",
            words[target.met],
        ]
        for target in results.targets()
    ]
    kernels = {None: "", True: ", FlashAttention", False: ", no FlashAttention"}
    checks = [
        [
            check["model"],
            a["file"] + kernels[a["flash_attention"]],
            *(number(a["cosine_min"]), a["verdict"], a["reason"] or ""),
        ]
        for check in results.checks
        for a in check["artefacts"]
    ]
    cell_keys = ("model", "precision", "form", "batch", "length", "texts_per_second")
    cells, cudnn, launches = (
        [[*(row[key] for key in cell_keys), row["p50_ms"], row["p95_ms"]] for row in rows]
        for rows in (results.engine, results.cudnn, results.launches)
    )
    arm_keys = ("order", "texts_per_second", "real_share", "packed_share")
    mixes = [
        [*(row[key] for key in ("model", "precision", "texts")), *(arm[key] for key in arm_keys)]
        for row in results.mixes
        for arm in row["arms"]
    ]
    load = ("worker_cores", "nats_cores", "gpu_utilisation_percent")
    bulk = [
        [row["model"], row["texts"], *(ranged(row, key) for key in ("texts_per_second", *load))]
        for row in results.bulk
    ]
    calls, launched_calls = (
        [
            [
                row["rate"],
                f"{row['answered']} of {row['due']}",
                *(ranged(row, key) for key in ("p50", "p95", "p99", "generator_late_ms", *load)),
            ]
            for row in rows
        ]
        for rows in (results.calls, results.launched_calls)
    )
    beside_bulk = [
        [
            row["model"],
            f"{row['answered']} of {row['due']}",
            *(ranged(row, key) for key in ("p50", "p95", "p99", "generator_late_ms")),
            *(ranged(row, key) for key in ("texts_per_second", *load)),
        ]
        for row in results.calls_beside_bulk
    ]
    peers = [
        [
            *(row[key] for key in ("recipe", "texts", "texts_per_second")),
            *(row["best"][key] for key in ("batch_size", "attention")),
            "yes" if row["compiled"] else "no",
        ]
        for row in results.peers
    ]
    packed = [
        [
            *(row[key] for key in ("recipe", "file", "texts", "texts_per_second")),
            *(row["best"]["tokens"], row["cosine_min"], "yes" if row["best"]["steady"] else "no"),
        ]
        for row in results.packed
    ]
    swaps = [[row["name"], f"{number(row['value'])} {row['unit']}"] for row in results.swaps]
    under_load = ["worker, cores", "nats-server, cores", "GPU, %"]
    cell_head = ["model", "precision", "form", "batch", "tokens", "texts/s", "p50 ms", "p95 ms"]
    late = "generator late, p99 ms"
    call_head = ["calls/s", "answered", "p50 ms", "p95 ms", "p99 ms", late, *under_load]
    all_tables: list[tuple[str, list[str], list[list[Any]]]] = [
        ("What is wanted", ["figure", "measured", "wanted", ""], targets),
        (
            "Graphs on this GPU against float32 on the CPU",
            ["model", "graph", "cosine, min", "verdict", ""],
            checks,
        ),
        ("The engine alone, all texts of one length", cell_head, cells),
        ("The engine alone, attention by cuDNN (`cudnn_attention = true`)", cell_head, cudnn),
        ("The engine alone, without CUDA graphs", cell_head, launches),
        (
            "The engine alone, mixed lengths",
            ["model", "precision", "texts", "order", "texts/s", "real tokens", "packed runs"],
            mixes,
        ),
        ("Bulk through JetStream", ["model", "texts", "texts/s", *under_load], bulk),
        ("Online calls through NATS", call_head, calls),
        (
            "Online calls at 250 a second beside bulk of mixed lengths",
            ["model", *call_head[1:6], "bulk, texts/s", *under_load],
            beside_bulk,
        ),
        ("Online calls through NATS, without CUDA graphs", call_head, launched_calls),
        ("Versions swapped under 250 calls a second and bulk jobs", ["figure", "measured"], swaps),
        (
            "sentence-transformers, FP16",
            ["model", "texts", "texts/s", "batch", "attention", "compiled"],
            peers,
        ),
        (
            "PyTorch compiled, without padding, the engine alone (FP16)",
            ["model", "file", "texts", "texts/s", "tokens a run", "cosine, min", "steady"],
            packed,
        ),
    ]
    return [
        (title, head, [[number(value) for value in row] for row in rows])
        for title, head, rows in all_tables
        if rows
    ]


def markdown(results: Results) -> str:
    """Write everything as Markdown."""
    parts = ["# Measured on a GPU", ""]
    parts += [f"- {line}" for line in (*results.device, *results.versions)]
    parts += [f"- {key}: {value}" for key, value in results.machine.items()]
    parts += [
        "",
        "Models whose name ends in `-twin` have random weights in the shape of the real one: their "
        "speed counts, their vectors mean nothing. Made by `loadtest/gpu/run.sh` and "
        "`summarize.py`; all ratios are of this run. Figures through NATS are medians of their "
        "repeats, with the range where there are several; those of the engine alone are of one "
        "measurement, of many runs.",
        "",
    ]
    for title, head, rows in tables(results):
        parts += [f"## {title}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        parts += ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Summarize one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `run.sh --out` wrote to")
    folder: Path = parser.parse_args().folder
    results = Results(folder)
    text = json.dumps(results.to_json(), indent=1) + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")
    report = json.dumps(document(results, tables(results)))
    (folder / "report.json").write_text(report, encoding="utf-8")
    print(markdown(results).split("\n## ", 2)[1])


if __name__ == "__main__":
    main()
