"""The texts are as long as they should be, and the summary says what was measured and no more."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from results import LARGE, SMALL, Results
from second_version import copy
from steady import is_steady, until_steady
from texts import FULL, LONGEST, SHORTEST, SPECIAL, distinct, lengths, text_of

HERE = Path(__file__).parent


def test_lengths_have_the_mean_and_the_bounds() -> None:
    chosen = lengths(20_000, random.Random(1))
    assert 40 < sum(chosen) / len(chosen) < 43
    assert (min(chosen), max(chosen)) == (SHORTEST, LONGEST)
    assert chosen == lengths(20_000, random.Random(1))


def test_rounds_go_on_until_two_agree() -> None:
    rising = iter([100.0, 101.0, 130.0, 150.0, 152.0, 153.0])
    assert until_steady(lambda: next(rising)) == [100.0, 101.0, 130.0, 150.0, 152.0]
    never = iter(range(1, 100))
    rates = until_steady(lambda: float(2 ** next(never)), most=7)
    assert len(rates) == 7
    assert not is_steady(rates)
    # The first two may agree by chance, before anything is warm.
    assert not is_steady([100.0, 101.0])


def test_no_text_comes_twice_even_if_there_are_more_than_words() -> None:
    words = [(f"word{number}", 1 + number % 2) for number in range(200)]
    texts = list(distinct(words, [FULL] * 800, random.Random(1)))
    assert len(set(texts)) == 800
    # Of one word each there are only so many.
    assert len(list(distinct(words, [SHORTEST] * 300, random.Random(1)))) == 300


@pytest.mark.parametrize("tokens", [SHORTEST, 17, FULL, LONGEST])
def test_texts_have_their_length(tokens: int) -> None:
    words = [("antidisestablishment", 6), ("a", 1), ("heron", 2)]
    sizes = dict(words)
    for start in range(3):
        text = text_of(words, tokens, start)
        assert SPECIAL + sum(sizes[word] for word in text.split()) == tokens


def test_a_second_version_has_the_same_graph_in_other_bytes(tmp_path: Path) -> None:
    graph = helper.make_model(helper.make_graph([], "empty", [], []), producer_version="1")
    artefact = {"file": "a.onnx", "bytes": 0, "sha256": ""}
    write(tmp_path / "v1" / "metadata.json", {"version": "v1", "artefacts": [artefact]})
    (tmp_path / "v1" / "a.onnx").write_bytes(graph.SerializeToString())
    (tmp_path / "v1" / "tokenizer.json").write_text("{}")
    copy(tmp_path / "v1", tmp_path / "v2")
    found = json.loads((tmp_path / "v2" / "metadata.json").read_text())
    content = (tmp_path / "v2" / "a.onnx").read_bytes()
    assert found["version"] == "v2"
    assert found["artefacts"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert found["artefacts"][0]["bytes"] == len(content)
    copied = onnx.load_from_string(content)
    assert copied.producer_version == "v2"
    copied.producer_version = "1"
    assert copied == graph
    assert (tmp_path / "v2" / "tokenizer.json").read_text() == "{}"


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def engine_row(model: str, rate: float, **more: Any) -> dict[str, Any]:
    row = {"model": model, "precision": "fp16", "form": "contrib", "texts_per_second": rate}
    return row | {"batch": 256, "length": 128, "p50_ms": 3.0, "p95_ms": 4.0} | more


def loadtest(**more: Any) -> dict[str, Any]:
    latency = {"p50": 1.0, "p95": 2.0, "p99": 4.5}
    report = {"due": 10, "answered": 10, "generator_late_ms": latency, "latency_ms": latency}
    return report | {"parameters": {"rate, calls/s": 250.0}, "figures": [], "notes": []} | more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    arms = [
        {"order": order, "texts_per_second": rate, "real_share": 0.9, "packed_share": 0.5}
        for order, rate in (("sorted", 150_000.0), ("planner", 140_000.0), ("arrival", 40_000.0))
    ]
    matrix = [engine_row(SMALL, 83_000.0), engine_row(f"{LARGE}-twin", 5_000.0)]
    mixes = [engine_row(SMALL, 0.0, texts=9, arms=arms)]
    write(
        tmp_path / "engine-a" / "bench.json",
        {"machine": {"cpu": "some"}, "matrix": matrix, "mixes": mixes},
    )
    bulk = [{"name": "bulk", "figures": [{"name": "stored", "value": 75_000.0}]}]
    for repeat, rate in enumerate((70_000.0, 75_000.0, 76_000.0)):
        figures = [{"name": "bulk", "figures": [{"name": "stored", "value": rate}]}]
        write(
            tmp_path / f"bulk-{SMALL}-mixed" / str(repeat) / "report.json",
            loadtest(figures=figures),
        )
    gpu = "".join(f"{use}, 1000, 300.5\n" for use in (0, 50, 90, 94, 0))
    (tmp_path / f"bulk-{SMALL}-mixed" / "1" / "gpu.csv").write_text(gpu)
    cores = {"seconds": 10, "worker_ticks": 9_000, "nats_ticks": 500}
    write(tmp_path / f"bulk-{SMALL}-mixed" / "1" / "cores.json", cores)
    write(tmp_path / "rpc-250" / "report.json", loadtest())
    write(tmp_path / f"bulk-{LARGE}-mixed" / "report.json", loadtest(figures=bulk))
    kept = [{"name": "bulk", "figures": [{"name": "stored", "value": 60_000.0}]}]
    write(tmp_path / f"beside-{SMALL}-mixed" / "report.json", loadtest(figures=kept))
    write(tmp_path / f"beside-{LARGE}-mixed" / "report.json", loadtest(figures=kept, answered=9))
    live = {"name": "from promotion to live", "value": 1.25, "unit": "s"}
    write(tmp_path / "swap" / "report.json", {"figures": [{"name": "swaps", "figures": [live]}]})
    failed = loadtest(parameters={"rate, calls/s": 5000.0}, answered=9)
    write(tmp_path / "rpc-5000" / "report.json", failed)
    peer = {"recipe": SMALL, "texts": 9, "texts_per_second": 30_000.0, "compiled": False}
    best = {"batch_size": 512, "attention": "sdpa", "texts_per_second": 37_500.0}
    write(tmp_path / f"peer-{SMALL}.json", peer | {"best": best, "rounds": [20_000.0, 30_000.0]})
    steady = {"tokens": 65_536, "steady": True}
    packed = {"recipe": SMALL, "file": "full.jsonl", "texts": 9, "texts_per_second": 100_000.0}
    write(tmp_path / f"packed-{SMALL}-full.json", packed | {"best": steady, "cosine_min": 1.0})
    artefact = {"file": "a.onnx", "cosine_min": 1.0, "verdict": "pass", "reason": None}
    kinds = [artefact | {"flash_attention": flash} for flash in (None, True)]
    write(tmp_path / "check-a.json", {"model": "A", "artefacts": kinds})
    (tmp_path / "device.csv").write_text("NVIDIA Something\n")
    return tmp_path


def test_targets_are_ratios_of_what_was_measured(folder: Path) -> None:
    targets = {target.name: target for target in Results(folder).targets()}
    values = {name: target.value for name, target in targets.items()}
    assert values["engine alone, MiniLM, 128 tokens"] == 83_000
    assert values["engine alone, MiniLM, mixed lengths"] == 150_000
    assert values["through JetStream / engine alone, MiniLM, mixed"] == 0.5
    # To the best that it showed, in a round or in its sweep.
    assert values["through JetStream / sentence-transformers, MiniLM, mixed"] == 2.0
    assert targets["through JetStream / sentence-transformers, MiniLM, mixed"].met is False
    assert values["engine alone / compiled PyTorch, MiniLM, 128 tokens"] == 0.83
    assert targets["engine alone / compiled PyTorch, MiniLM, 128 tokens"].met is False
    assert targets["engine alone / compiled PyTorch, MiniLM, mixed"].met is None
    assert targets["calls, 250/s, p99"].met is True
    assert values["calls, 250/s beside bulk, MiniLM, p99"] == 4.5
    assert values["bulk kept beside 250 calls/s, MiniLM"] == 0.8
    # Not all calls of the large model were answered.
    assert values["calls, 250/s beside bulk, BERT-large (UAE-Large's shape), p99"] is None
    assert values["bulk kept beside 250 calls/s, BERT-large (UAE-Large's shape)"] is None
    # Of what was not measured, and of calls that were not all answered, nothing is said.
    assert targets["engine alone, BERT-large (UAE-Large's shape), mixed lengths"].met is None
    assert targets["calls, 5,000/s, p99"].met is None
    # Without the first third and the last sample.
    busy = values["utilisation of the GPU under bulk, MiniLM, mixed"]
    assert busy == pytest.approx((50 + 90 + 94) / 3, abs=0.1)
    # That of another model is none of this one.
    assert values["utilisation of the GPU under bulk, MiniLM, full"] is None


def test_summary(folder: Path) -> None:
    subprocess.run([sys.executable, HERE / "summarize.py", folder], check=True, capture_output=True)  # noqa: S603
    found = json.loads((folder / "results.json").read_text())
    assert found["bulk"][0]["worker_cores"] == 9.0
    assert found["device"] == ["NVIDIA Something"]
    table = (folder / "results.md").read_text()
    assert not (folder / "README.md").exists(), "notes are written by hand"
    assert f"| {SMALL} | mixed | 75,000 (70,000 to 76,000) | 9 |" in table
    assert "| engine alone, MiniLM, 128 tokens | 83,000 texts/s | at least 82,000 | met |" in table
    assert "| calls, 5,000/s, p99 | not measured | at most 10 | - |" in table
    assert "| A | a.onnx | 1 | pass |" in table
    assert "| A | a.onnx, FlashAttention | 1 | pass |" in table
    assert "| swaps, from promotion to live | 1.25 s |" in table
    beside = "| 1 | 2 | 4.5 | 4.5 | 60,000 | - | - | - |".replace("-", "not measured")
    assert f"| {SMALL} | 10 of 10 {beside}" in table
    assert f"| {LARGE} | 9 of 10 {beside}" in table
    report = json.loads((folder / "report.json").read_text())
    plots = {plot["title"]: plot for plot in report["plots"]}
    peers = plots["MiniLM: texts a second, beside the peers (mixed: 41 tokens on average)"]
    rates = {series["name"]: series["points"] for series in peers["series"]}
    assert rates["through JetStream"] == [[41.0, 75_000.0]]
    assert rates["sentence-transformers"] == [[41.0, 37_500.0]]
    assert rates["the engine alone"] == [[41.0, 150_000.0], [128.0, 83_000.0]]
    assert any(row[0] == "uae-large-v1-twin" for row in report["tables"][1]["rows"])
    wanted = {one["name"]: one for one in report["verdicts"]}
    assert wanted["calls, 5,000/s, p99"]["value"] == "not measured"
    # What is written down gives the same again, without what it was made of.
    again = folder / "again"
    again.mkdir()
    (again / "results.json").write_text((folder / "results.json").read_text())
    assert Results(again).to_json() == found


def test_an_empty_folder_has_nothing_measured(tmp_path: Path) -> None:
    assert {target.met for target in Results(tmp_path).targets()} == {None}
