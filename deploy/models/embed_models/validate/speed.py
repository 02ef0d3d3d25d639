"""Measures graphs on the CPU as a worker runs them: one session, one thread a run, a few callers.

Graphs that are to be compared are measured in turns, and compared round by round, so that a change
of the machine's load meets all of them. Ratios are made of CPU time, which other processes disturb
far less than the clock.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embed_models.attention import ATTENTION_MASK
from embed_models.graph import EMBEDDING, INPUT_IDS
from embed_models.inference import cpu_session

# Texts in a run, and tokens of each.
SHAPES = ((1, 32), (8, 32), (4, 128))
# The one that thresholds speak of.
JUDGED = (8, 32)
# Short, so that what is compared ran within a second or two, and an odd number: the median is one.
_ROUNDS = 11
_SECONDS = 0.25
_CALLERS = min(2, os.cpu_count() or 1)


@dataclass(frozen=True)
class Speed:
    """One graph in one shape; the median of the rounds."""

    texts_per_second: float
    texts_per_cpu_second: float
    latency_p50_ms: float
    latency_p95_ms: float
    # Texts per second of CPU time in each round.
    rounds: Sequence[float]

    def ratio_to(self, other: "Speed") -> float:
        """Return how many times as fast this graph is as one that ran in the same rounds."""
        return float(np.median(np.divide(self.rounds, other.rounds)))


def measure(
    graphs: Mapping[str, Path | bytes], *, vocabulary: int, report: Callable[[str], None]
) -> dict[str, dict[tuple[int, int], Speed]]:
    """Measure each graph in each shape."""
    sessions = {name: cpu_session(path, threads=1) for name, path in graphs.items()}
    results: dict[str, dict[tuple[int, int], Speed]] = {name: {} for name in graphs}
    for shape in SHAPES:
        ids = np.random.default_rng(0).integers(0, vocabulary, shape)
        feeds = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids)}
        rounds: dict[str, list[_Round]] = {name: [] for name in graphs}
        for _ in range(_ROUNDS):
            for name, session in sessions.items():
                rounds[name].append(_one_round(session, feeds))
        for name, taken in rounds.items():
            results[name][shape] = _summary(taken, shape[0])
            report(
                f"{name}: {results[name][shape].texts_per_second:.0f} texts/s at "
                f"{shape[0]} x {shape[1]} tokens, {_CALLERS} callers"
            )
    return results


def has_integer_instructions() -> bool:
    """Say whether this CPU multiplies 8-bit integers faster than floats (x86: VNNI or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp"))


def cpu_name() -> str:
    """Return the CPU's model name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return os.uname().machine


def to_json(speeds: Mapping[tuple[int, int], Speed]) -> dict[str, Any]:
    """Return `performance` of metadata.json."""
    judged = speeds[JUDGED]
    return {
        "provider": "cpu",
        "cpu": cpu_name(),
        "callers": _CALLERS,
        "batch_size": JUDGED[0],
        "tokens": JUDGED[1],
        "throughput_qps": round(judged.texts_per_second, 1),
        "latency_p95_ms": round(judged.latency_p95_ms, 2),
        "shapes": [
            {
                "batch_size": shape[0],
                "tokens": shape[1],
                "texts_per_second": round(speed.texts_per_second, 1),
                "texts_per_cpu_second": round(speed.texts_per_cpu_second, 1),
                "latency_p50_ms": round(speed.latency_p50_ms, 2),
                "latency_p95_ms": round(speed.latency_p95_ms, 2),
            }
            for shape, speed in speeds.items()
        ],
    }


@dataclass(frozen=True)
class _Round:
    wall: float
    cpu: float
    latencies: list[float]


def _one_round(session: Any, feeds: dict[str, Any]) -> _Round:
    session.run([EMBEDDING], feeds)  # what the graph before has pushed out of the caches
    latencies: list[float] = []
    cpu: list[float] = []
    end = time.perf_counter() + _SECONDS

    def call() -> None:
        before = time.thread_time()
        while True:
            start = time.perf_counter()
            session.run([EMBEDDING], feeds)
            latencies.append(time.perf_counter() - start)
            if time.perf_counter() >= end:
                break
        cpu.append(time.thread_time() - before)

    start = time.perf_counter()
    callers = [threading.Thread(target=call) for _ in range(_CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return _Round(time.perf_counter() - start, sum(cpu), latencies)


def _summary(rounds: list[_Round], texts: int) -> Speed:
    wall = [len(r.latencies) * texts / r.wall for r in rounds]
    cpu = [len(r.latencies) * texts / r.cpu for r in rounds]
    latencies = np.concatenate([r.latencies for r in rounds]) * 1000
    return Speed(
        texts_per_second=float(np.median(wall)),
        texts_per_cpu_second=float(np.median(cpu)),
        latency_p50_ms=float(np.percentile(latencies, 50)),
        latency_p95_ms=float(np.percentile(latencies, 95)),
        rounds=cpu,
    )
