"""Reads what `run.sh` measured, and holds it against what is wanted.

Nothing is measured here, and nothing is filled in: what was not measured is not there, and ratios
are of two figures of the same run.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

SMALL, LARGE = "all-minilm-l6-v2", "uae-large-v1"

Row = dict[str, Any]

QUANTILES = ("p50", "p75", "p95", "p99", "p99.9")
# Counts of repeats, not medians.
ADDED_UP = ("due", "answered")
# What `results.json` holds of a run.
MEASURED = {
    *("device", "versions", "machine", "checks", "engine", "mixes", "bulk", "calls", "cudnn"),
    *("calls_beside_bulk", "launches", "launched_calls", "swaps", "peers", "packed"),
}


@dataclass(frozen=True)
class Target:
    """A figure with what it has to reach; `value` is None where it was not measured."""

    name: str
    value: float | None
    unit: str
    bound: float
    # Otherwise at most.
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None if it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


class Results:
    """What lies in the folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        saved = folder / "results.json"
        self.saved: Row = self.read(saved) if saved.is_file() else {}
        self.engine: list[Row] = []
        self.mixes: list[Row] = []
        self.machine: Row = {}
        for path in sorted(folder.glob("engine-*/bench.json")):
            bench = self.read(path)
            self.machine = bench.get("machine", {})
            # Where texts of a file were run, the one cell of the matrix only fills a place.
            if not path.parent.name.endswith("-mixed"):
                self.engine += bench["matrix"]
            self.mixes += bench["mixes"]
        # The same with attention by cuDNN; and without CUDA graphs, so with single launches.
        self.cudnn, self.launches = (
            [
                row
                for path in folder.glob(f"{name}-engine/bench.json")
                for row in self.read(path)["matrix"]
            ]
            for name in ("cudnn", "launches")
        )
        self.calls = self.at_rates("rpc-*")
        self.launched_calls = self.at_rates("launches-*")
        self.calls_beside_bulk = [
            row
            for place in sorted(folder.glob("beside-*"))
            if (row := self.repeated(place, lambda path: self.call(path) | self.stored(path)))
        ]
        self.bulk = [
            row
            for place in sorted(folder.glob("bulk-*"))
            if (row := self.repeated(place, self.stored))
        ]
        self.swaps = [row for path in folder.glob("swap/report.json") for row in self.figures(path)]
        self.peers = [self.read(path) for path in sorted(folder.glob("peer-*.json"))]
        self.packed = [self.read(path) for path in sorted(folder.glob("packed-*.json"))]
        self.checks = [self.read(path) for path in sorted(folder.glob("check-*.json"))]
        self.device = self.lines("device.csv")
        self.versions = self.lines("versions.txt")
        if not any(getattr(self, name) for name in MEASURED):
            # What was measured elsewhere, or is tidied up: as it was written down.
            for name in MEASURED & self.saved.keys():
                setattr(self, name, self.saved[name])

    def at_rates(self, folders: str) -> list[Row]:
        """Return the latencies of online calls, by their rate."""
        places = [place for place in self.folder.glob(folders) if place.is_dir()]
        rows = [self.repeated(place, self.call) for place in places if "engine" not in place.name]
        return sorted((row for row in rows if row), key=lambda row: row["rate"])

    @staticmethod
    def repeated(place: Path, take: Callable[[Path], Row]) -> Row:
        """Return the medians of a measurement's repeats, and the range of each."""
        rows = [take(path) for path in sorted(place.glob("**/report.json"))]
        if not rows:
            return {}
        found: Row = {"repeats": len(rows)}
        ranges: Row = {}
        for key in rows[0].keys() | {key for row in rows for key in row}:
            values = [row[key] for row in rows if row.get(key) is not None]
            if key in ADDED_UP:
                found[key] = sum(values)
            elif key == "notes":
                found[key] = [note for notes in values for note in notes]
            elif key == "curve":
                found[key] = values[len(values) // 2]
            elif values and isinstance(values[0], int | float):
                found[key] = median(values)
                if len(values) > 1:
                    ranges[key] = [min(values), max(values)]
            else:
                found[key] = values[0] if values else None
        return found | ({"range": ranges} if ranges else {})

    @staticmethod
    def read(path: Path) -> Row:
        """Read a file of JSON."""
        value: Row = json.loads(path.read_text(encoding="utf-8"))
        return value

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file of text, none if it is not there."""
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []

    def call(self, path: Path) -> Row:
        """Take the latencies of online calls out of a report."""
        report = self.read(path)
        return {
            "rate": report["parameters"]["rate, calls/s"],
            "due": report["due"],
            "answered": report["answered"],
            "generator_late_ms": report["generator_late_ms"]["p99"],
            **{key: report["latency_ms"].get(key) for key in QUANTILES},
            "curve": self.curve(report),
            **self.beside(path.parent),
        }

    @staticmethod
    def curve(report: Row) -> list[list[float]]:
        """Take the latencies by the share of calls out of a report."""
        plots = [p for p in report.get("plots", []) if p["title"] == "Latency by share of calls"]
        return [point for plot in plots for point in plot["series"][0]["points"]]

    def stored(self, path: Path) -> Row:
        """Take the throughput of bulk jobs out of a report."""
        report = self.read(path)
        place = path.relative_to(self.folder).parts[0]
        _, *model, texts = place.split("-")
        stored = [
            figure["value"]
            for figure in self.figures(path)
            if figure["name"].endswith("bulk, stored")
        ]
        return {
            "model": "-".join(model),
            "texts": texts,
            "texts_per_second": stored[0] if stored else None,
            "notes": report["notes"],
            **self.beside(path.parent),
        }

    def figures(self, path: Path) -> list[Row]:
        """Return all figures of a report, by the names of their groups and their own."""
        return [
            {
                "name": f"{group['name']}, {figure['name']}",
                "value": figure["value"],
                "unit": figure.get("unit", ""),
            }
            for group in self.read(path)["figures"]
            for figure in group["figures"]
        ]

    @staticmethod
    def beside(folder: Path) -> Row:
        """Return what GPU and cores did meanwhile, as far as it is known."""
        found: Row = {}
        path = folder / "gpu.csv"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows = list(csv.reader(text.splitlines()))
        samples = [[float(value) for value in row] for row in rows if len(row) == 3]
        if samples:
            # The first and the last belong to starting and stopping.
            inner = samples[len(samples) // 3 : -1] or samples
            found["gpu_utilisation_percent"] = round(mean(row[0] for row in inner), 1)
            found["gpu_memory_mb"] = max(row[1] for row in samples)
            found["gpu_power_watts"] = round(mean(row[2] for row in inner), 1)
        path = folder / "cores.json"
        if path.is_file():
            cores = json.loads(path.read_text(encoding="utf-8"))
            for name in ("worker", "nats"):
                taken = cores[f"{name}_ticks"] / 100 / max(cores["seconds"], 1)
                found[f"{name}_cores"] = round(taken, 2)
        return found

    def alone(self, model: str, *, length: int | None = None) -> float | None:
        """Return the engine's best throughput alone: at one length, or on the mixed texts."""
        if length is not None:
            rates = [
                row["texts_per_second"]
                for row in self.engine + self.cudnn
                if base(row["model"]) == model
                and row["precision"] == "fp16"
                and row["length"] == length
            ]
        else:
            rates = [
                arm["texts_per_second"]
                for row in self.mixes
                if base(row["model"]) == model
                for arm in row["arms"]
            ]
        return max(rates, default=None)

    def through_nats(self, model: str, texts: str) -> float | None:
        """Return the bulk throughput of a model."""
        rates = [r for r in self.bulk if (r["model"], r["texts"]) == (model, texts)]
        return rates[0]["texts_per_second"] if rates else None

    def peer(self, model: str) -> float | None:
        """Return the throughput of the peer."""
        rows = [row for row in self.peers if row["recipe"] == model]
        # Its best, wherever it was found: no doubt shall fall on what it is compared with.
        rates = [
            rate
            for row in rows
            for rate in (
                row["texts_per_second"],
                row["best"].get("texts_per_second"),
                *row.get("rounds", []),
            )
            if rate is not None
        ]
        return max(rates, default=None)

    def packed_torch(self, model: str, texts: str) -> float | None:
        """Return the throughput of compiled PyTorch without padding."""
        rows = [r for r in self.packed if r["recipe"] == model and texts in r["file"]]
        return rows[0]["texts_per_second"] if rows else None

    def latency(self, rate: float, quantile: str) -> float | None:
        """Return a latency at a rate of calls, if all of them were answered."""
        rows = [row for row in self.calls if row["rate"] == rate and row["due"] == row["answered"]]
        return rows[0][quantile] if rows else None

    def beside_bulk(self, model: str, figure: str) -> float | None:
        """Return a figure of calls beside bulk jobs, if all calls were answered."""
        rows = [r for r in self.calls_beside_bulk if r["model"] == model]
        return next((row[figure] for row in rows if row["due"] == row["answered"]), None)

    def utilisation(self, model: str, texts: str) -> float | None:
        """Return the utilisation of the GPU under a model's bulk: the mean over the time."""
        rows = [r for r in self.bulk if (r["model"], r["texts"]) == (model, texts)]
        return rows[0].get("gpu_utilisation_percent") if rows else None

    def targets(self) -> list[Target]:
        """Return what is wanted of an H100 or H200, with what was measured."""
        alone, bulk = self.alone, self.through_nats
        small, large = "MiniLM", "BERT-large (UAE-Large's shape)"
        return [
            Target(
                f"engine alone, {small}, 128 tokens", alone(SMALL, length=128), "texts/s", 82_000
            ),
            Target(f"engine alone, {small}, mixed lengths", alone(SMALL), "texts/s", 145_000),
            Target(f"engine alone, {large}, mixed lengths", alone(LARGE), "texts/s", 16_000),
            *(
                Target(f"engine alone / compiled PyTorch, {name}, {texts}", value, "x", 1.0)
                for name, texts, value in (
                    (
                        small,
                        "128 tokens",
                        ratio(alone(SMALL, length=128), self.packed_torch(SMALL, "full")),
                    ),
                    (small, "mixed", ratio(alone(SMALL), self.packed_torch(SMALL, "mixed"))),
                    (large, "mixed", ratio(alone(LARGE), self.packed_torch(LARGE, "mixed"))),
                )
            ),
            Target(
                f"through JetStream / engine alone, {large}, mixed",
                ratio(bulk(LARGE, "mixed"), alone(LARGE)),
                "",
                0.95,
            ),
            Target(
                f"through JetStream / engine alone, {small}, 128 tokens",
                ratio(bulk(SMALL, "full"), alone(SMALL, length=128)),
                "",
                0.60,
            ),
            Target(
                f"through JetStream / engine alone, {small}, mixed",
                ratio(bulk(SMALL, "mixed"), alone(SMALL)),
                "",
                0.60,
            ),
            Target(
                f"through JetStream / sentence-transformers, {small}, mixed",
                ratio(bulk(SMALL, "mixed"), self.peer(SMALL)),
                "x",
                3.0,
            ),
            Target(
                f"through JetStream / sentence-transformers, {large}, mixed",
                ratio(bulk(LARGE, "mixed"), self.peer(LARGE)),
                "x",
                1.3,
            ),
            Target("calls, 250/s, p95", self.latency(250, "p95"), "ms", 3, at_least=False),
            Target("calls, 250/s, p99", self.latency(250, "p99"), "ms", 5, at_least=False),
            Target("calls, 5,000/s, p99", self.latency(5000, "p99"), "ms", 10, at_least=False),
            *(
                Target(
                    f"calls, 250/s beside bulk, {name}, {quantile}",
                    self.beside_bulk(model, quantile),
                    "ms",
                    bound,
                    at_least=False,
                )
                for name, model in ((small, SMALL), (large, LARGE))
                for quantile, bound in (("p95", 5), ("p99", 10))
            ),
            *(
                Target(
                    f"bulk kept beside 250 calls/s, {name}",
                    ratio(self.beside_bulk(model, "texts_per_second"), bulk(model, "mixed")),
                    "",
                    0.75,
                )
                for name, model in ((small, SMALL), (large, LARGE))
            ),
            *(
                Target(
                    f"utilisation of the GPU under bulk, {name}, {texts}",
                    self.utilisation(model, texts),
                    "%",
                    80,
                )
                for name, model, texts in (
                    (small, SMALL, "mixed"),
                    (small, SMALL, "full"),
                    (large, LARGE, "mixed"),
                )
            ),
        ]

    def to_json(self) -> Row:
        """Return everything."""
        targets = [asdict(target) | {"met": target.met} for target in self.targets()]
        return {
            "schema": "akidb-embed/gpu/1",
            "device": self.device,
            "versions": self.versions,
            "machine": self.machine,
            "targets": targets,
            "checks": self.checks,
            "engine": self.engine,
            "mixes": self.mixes,
            "bulk": self.bulk,
            "calls": self.calls,
            "calls_beside_bulk": self.calls_beside_bulk,
            "cudnn": self.cudnn,
            "launches": self.launches,
            "launched_calls": self.launched_calls,
            "swaps": self.swaps,
            "peers": self.peers,
            "packed": self.packed,
        }


def base(slug: str) -> str:
    """Return the model that a twin has the shape of."""
    return slug.removesuffix("-twin")


def ratio(value: float | None, by: float | None) -> float | None:
    """Return a quotient, None where one of the two was not measured."""
    return value / by if value is not None and by else None
