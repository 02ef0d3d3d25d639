"""The comparison on a GPU, with the CPU in its place; and what it says without one."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from tiny_bert import random_sequences, tiny_checkpoint

from embed_models.cli import main
from embed_models.errors import ValidationError
from embed_models.graph import serialize
from embed_models.kinds import KINDS
from embed_models.metadata import Artefact, Metadata
from embed_models.model import model_of
from embed_models.quantize.calibration import calibrate
from embed_models.quantize.plan import make_plan
from embed_models.quantize.search import quantized_graph
from embed_models.registry import METADATA
from embed_models.validate import gpu


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version with a graph of every kind."""
    checkpoint = tiny_checkpoint()
    model = model_of(checkpoint, "Tiny", "org/tiny", lambda _: None)
    metadata = model.write(
        tmp_path, version="v1", now="2024-01-01T00:00:00Z", report=lambda _: None
    )
    artefacts = list(metadata.artefacts)
    calibration = calibrate(checkpoint, random_sequences(40), threads=1, seed=1, rows=64)
    kinds = ("fp16", "int8", "fp32-packed", "fp16-packed", "fp16-tensorrt", "int8-tensorrt")
    for name in kinds:
        kind = KINDS[name]
        path = tmp_path / kind.file
        if kind.fmt:
            config, tensors = checkpoint.config, checkpoint.tensors
            plan = make_plan(config, tensors, calibration, kind.fmt, strength=0.5)
            path.write_bytes(serialize(quantized_graph(checkpoint, plan, kind, kind.dtype)))
        else:
            path.write_bytes(serialize(kind.exact_graph(checkpoint)))
        artefact = Artefact.of(path, precision=kind.precision, form=kind.form.name)
        quantization = {"method": "static"} if kind.fmt else None
        artefacts.append(dataclasses.replace(artefact, quantization=quantization))
    metadata = dataclasses.replace(metadata, artefacts=artefacts)
    (tmp_path / METADATA).write_text(metadata.to_json(), encoding="utf-8")
    return tmp_path


def check(version: Path) -> list[gpu.Outcome]:
    metadata = Metadata.read(version / METADATA)
    found = gpu.check_gpu(version, metadata, lambda _: None, providers=[gpu.CPU], speed=False)
    return [gpu.Outcome(**outcome) for outcome in found["artefacts"]]


def test_graphs_are_compared(version: Path) -> None:
    outcomes = check(version)
    assert [(outcome.file, outcome.flash_attention) for outcome in outcomes] == [
        ("fp32.onnx", None),
        ("fp16.onnx", None),
        ("int8.onnx", None),
        ("fp32-packed.onnx", None),
        ("fp16-packed.onnx", False),
        ("fp16-packed.onnx", True),
        ("fp16-tensorrt.onnx", None),
        ("int8-tensorrt.onnx", None),
    ]
    packed = [outcome for outcome in outcomes if outcome.form == "packed"]
    for outcome in outcomes:
        if outcome not in packed:
            assert (outcome.verdict, outcome.reason) == ("pass", None), outcome
            assert outcome.nodes.keys() == {gpu.CPU}
            assert outcome.products_elsewhere == 0
    for outcome in outcomes[:2]:
        assert outcome.operators["Attention"] == 2
    # What a provider cannot run fails, with its own words.
    for outcome in packed:
        assert outcome.verdict == "fail"
        assert "NotImplemented" in (outcome.reason or "")


def only(version: Path, *files: str) -> Metadata:
    """Return the metadata with these artefacts alone, behind the reference."""
    metadata = Metadata.read(version / METADATA)
    kept = [a for a in metadata.artefacts if a.file in ("fp32.onnx", *files)]
    return dataclasses.replace(metadata, artefacts=kept)


def test_graphs_of_the_workers_own_operators_need_their_library(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: dict[str, Path | None] = {}

    def run(outcome: gpu.Outcome, *rest: Any) -> None:
        loaded[outcome.file] = rest[-1]
        outcome.verdict = gpu.PASS

    monkeypatch.setattr(gpu, "_run", run)
    metadata = only(version, "fp16.onnx")
    reference, own = metadata.artefacts
    own = dataclasses.replace(own, form="kernels")
    metadata = dataclasses.replace(metadata, artefacts=[reference, own])

    def reason(provider: str, operators: Path | None) -> Any:
        loaded.clear()
        found = gpu.check_gpu(
            version,
            metadata,
            lambda _: None,
            providers=[provider],
            speed=False,
            operators=operators,
        )
        return found["not_run"].get("fp16.onnx")

    library = Path("libembed_kernels.so")
    assert "give --operators" in reason(gpu.CUDA, None)
    assert f"made for {gpu.CUDA}" in reason(gpu.CPU, library)
    assert loaded == {"fp32.onnx": None}
    assert reason(gpu.CUDA, library) is None
    assert loaded == {"fp32.onnx": None, "fp16.onnx": library}


def test_what_is_not_for_the_device_is_not_run_and_not_passed(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(outcome: gpu.Outcome, *_rest: Any) -> None:
        ran.append(outcome.file)
        outcome.verdict = gpu.PASS

    monkeypatch.setattr(gpu, "_run", run)
    metadata = only(version, "int8.onnx", "fp16-tensorrt.onnx", "int8-tensorrt.onnx")
    found = gpu.check_gpu(version, metadata, lambda _: None, providers=[gpu.CUDA], speed=False)
    # CUDA has the standard operators as well; 8 bits are for the CPU and for TensorRT.
    assert ran == ["fp32.onnx", "fp16-tensorrt.onnx"]
    assert found["not_run"].keys() == {"int8.onnx", "int8-tensorrt.onnx"}
    assert "integer instructions of CPUs" in found["not_run"]["int8.onnx"]
    assert "TensorRT, which is not here" in found["not_run"]["int8-tensorrt.onnx"]
    assert found["verdict"] == "pass"
    assert [a["verdict"] for a in found["artefacts"]] == ["pass", "not run", "pass", "not run"]
    # With TensorRT it runs the graphs that are made for it, and CUDA the others.
    both: list[Any] = [(gpu.TENSORRT, {}), (gpu.CUDA, {})]
    found = gpu.check_gpu(version, metadata, lambda _: None, providers=both, speed=False)
    assert {a["file"]: a["provider"] for a in found["artefacts"]} == {
        "fp32.onnx": gpu.CUDA,
        "int8.onnx": gpu.CUDA,
        "fp16-tensorrt.onnx": gpu.TENSORRT,
        "int8-tensorrt.onnx": gpu.TENSORRT,
    }
    # Where nothing runs, nothing passes.
    quantized = dataclasses.replace(metadata, artefacts=metadata.artefacts[1:2])
    found = gpu.check_gpu(version, quantized, lambda _: None, providers=[gpu.CUDA], speed=False)
    assert (found["verdict"], len(found["not_run"])) == ("fail", 1)


def test_products_that_another_provider_ran_do_not_pass(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = only(version)
    for ran, reason in (
        ([(gpu.CPU, "Gather"), (gpu.CPU, "Shape")], None),
        ([(gpu.CPU, "Gather"), (gpu.CUDA, "MatMul"), (gpu.CUDA, "Shape")], "ran 1 of its products"),
        ([(gpu.CUDA, "Shape")], "CPUExecutionProvider ran nothing of it"),
    ):
        monkeypatch.setattr(gpu, "_nodes", lambda _profile, ran=ran: ran)
        found = gpu.check_gpu(version, metadata, lambda _: None, providers=[gpu.CPU], speed=False)
        (outcome,) = found["artefacts"]
        assert (outcome["verdict"] == "pass") == (reason is None)
        assert reason is None or reason in outcome["reason"]


def test_a_text_that_its_batch_mates_change_fails(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that attends to padding."""
    path = version / "fp16.onnx"
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.input[3] = ""
    path.write_bytes(serialize(model))
    metadata = only(version, "fp16.onnx")
    changed = Artefact.of(path, precision="fp16", form="contrib")
    metadata = dataclasses.replace(metadata, artefacts=[metadata.artefacts[0], changed])
    # Were its vectors near enough.
    monkeypatch.setitem(gpu._LEAST_COSINE, "fp16", -1.0)
    found = gpu.check_gpu(version, metadata, lambda _: None, providers=[gpu.CPU], speed=False)
    assert found["artefacts"][1]["verdict"] == "fail"
    assert "batch-mates change a component" in found["artefacts"][1]["reason"]


@pytest.mark.parametrize("before", [None, "65"])
def test_packed_attention_is_checked_with_both_kernels(
    version: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gpu.FLASH_ATTENTION_FROM, raising=False)
    if before is not None:
        monkeypatch.setenv(gpu.FLASH_ATTENTION_FROM, before)
    seen: list[tuple[str, str | None]] = []
    session = gpu._session

    def look(graph: Path, *args: Any, **options: Any) -> Any:
        seen.append((graph.name, os.environ.get(gpu.FLASH_ATTENTION_FROM)))
        return session(graph, *args, **options)

    monkeypatch.setattr(gpu, "_session", look)
    check(version)
    assert seen == [
        ("fp32.onnx", before),
        ("fp16.onnx", before),
        ("int8.onnx", before),
        ("fp32-packed.onnx", before),
        ("fp16-packed.onnx", "2147483647"),
        ("fp16-packed.onnx", "0"),
        ("fp16-tensorrt.onnx", before),
        ("int8-tensorrt.onnx", before),
    ]
    assert os.environ.get(gpu.FLASH_ATTENTION_FROM) == before


def test_another_vector_fails(version: Path) -> None:
    path = version / "fp16.onnx"
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "layer1/outer.weight")
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(-values, tensor.name))
    path.write_bytes(serialize(model))
    metadata = Metadata.read(version / METADATA)
    with pytest.raises(ValidationError, match="is not the file that"):
        check(version)
    artefacts = [
        Artefact.of(path, precision="fp16", form="contrib") if a.file == path.name else a
        for a in metadata.artefacts
    ]
    changed = dataclasses.replace(metadata, artefacts=artefacts)
    (version / METADATA).write_text(changed.to_json(), encoding="utf-8")
    outcome = check(version)[1]
    assert outcome.verdict == "fail"
    assert "below 0.999" in (outcome.reason or "")


def test_speed_is_of_the_whole_run(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_median", lambda _session, batch, _seconds: len(batch) / 100)
    speeds = gpu._speed(version / "fp32.onnx", [gpu.CPU])
    assert list(speeds) == ["1x16", "64x128", "256x128", "512x64", "mixed, sorted into 256s"]
    assert np.allclose(list(speeds.values()), 100)


@pytest.mark.skipif(gpu.CUDA in ort.get_available_providers(), reason="there is CUDA here")
def test_without_cuda(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-gpu", str(version)]) == 1
    assert "install onnxruntime-gpu instead of onnxruntime" in capsys.readouterr().err


@pytest.mark.skipif(gpu.CUDA not in ort.get_available_providers(), reason="no CUDA here")
def test_with_cuda(version: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert main(["check-gpu", str(version), "--out", str(out)]) == 0
    assert {a["verdict"] for a in json.loads(out.read_text())["artefacts"]} == {"pass", "not run"}
