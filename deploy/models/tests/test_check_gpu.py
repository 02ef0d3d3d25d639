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
from tiny_bert import tiny_checkpoint

from embed_models.cli import main
from embed_models.errors import ValidationError
from embed_models.graph import serialize
from embed_models.kinds import KINDS
from embed_models.metadata import Artefact, Metadata
from embed_models.model import model_of
from embed_models.registry import METADATA
from embed_models.validate import gpu


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version with all the graphs that CUDA can run."""
    checkpoint = tiny_checkpoint()
    model = model_of(checkpoint, "Tiny", "org/tiny", lambda _: None)
    metadata = model.write(
        tmp_path, version="v1", now="2024-01-01T00:00:00Z", report=lambda _: None
    )
    artefacts = list(metadata.artefacts)
    for name in ("fp16", "fp32-packed", "fp16-packed", "fp16-tensorrt"):
        kind = KINDS[name]
        path = tmp_path / kind.file
        path.write_bytes(serialize(kind.exact_graph(checkpoint)))
        artefacts.append(Artefact.of(path, precision=kind.precision, form=kind.form.name))
    metadata = dataclasses.replace(metadata, artefacts=artefacts)
    (tmp_path / METADATA).write_text(metadata.to_json(), encoding="utf-8")
    return tmp_path


def check(version: Path) -> list[gpu.Outcome]:
    metadata = Metadata.read(version / METADATA)
    found = gpu.check_gpu(version, metadata, lambda _: None, providers=[gpu.CPU], speed=False)
    return [gpu.Outcome(**outcome) for outcome in found["artefacts"]]


def test_graphs_are_compared(version: Path) -> None:
    outcomes = check(version)
    # Not those for TensorRT.
    assert [(outcome.file, outcome.flash_attention) for outcome in outcomes] == [
        ("fp32.onnx", None),
        ("fp16.onnx", None),
        ("fp32-packed.onnx", None),
        ("fp16-packed.onnx", False),
        ("fp16-packed.onnx", True),
    ]
    for outcome in outcomes[:2]:
        assert (outcome.verdict, outcome.reason) == ("pass", None)
        assert outcome.nodes.keys() == {gpu.CPU}
        assert outcome.operators["Attention"] == 2
    # What a provider cannot run fails, with its own words.
    for outcome in outcomes[2:]:
        assert outcome.verdict == "fail"
        assert "NotImplemented" in (outcome.reason or "")


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
        ("fp32-packed.onnx", before),
        ("fp16-packed.onnx", "2147483647"),
        ("fp16-packed.onnx", "0"),
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
    assert {a["verdict"] for a in json.loads(out.read_text())["artefacts"]} == {"pass"}
