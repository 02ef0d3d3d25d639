"""Dynamic quantization inside of a file of others: found, told, and written down."""

from pathlib import Path

import pytest
from exported_onnx import POOLED, exported, write
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from tiny_bert import random_sequences

from embed_models.batch_dependence import batch_dependent_operators
from embed_models.cli import main
from embed_models.inference import cpu_session
from embed_models.metadata import Metadata
from embed_models.validate.invariance import batch_difference


def difference(path: Path, registry: Path) -> tuple[object, float]:
    """Import a file; return what is said of its quantization, and how far batches differ."""
    assert main(["import", str(path), "--registry", str(registry), "--name", "tiny"]) == 0
    version = registry / "models" / "tiny" / "v1.0.0"
    (artefact,) = Metadata.read(version / "metadata.json").artefacts
    session = cpu_session(version / artefact.file, threads=1)
    said = (artefact.quantization or {}).get("batch_dependent")
    return said, batch_difference(session, random_sequences(24))


def test_dynamic_quantization_in_the_file_is_found_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(tmp_path / "source", exported(POOLED))
    dynamic = plain.with_name("dynamic.onnx")
    quantize_dynamic(plain, dynamic, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    capsys.readouterr()
    said, differs = difference(dynamic, tmp_path / "registry")
    told = capsys.readouterr().err
    assert "quantized dynamically" in told
    assert said is True
    assert differs > 1e-4
    said, differs = difference(plain, tmp_path / "other")
    assert said is None
    assert differs < 1e-6


def test_dynamic_quantization_is_found_in_branches_and_functions() -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"])
    inner = helper.make_graph([node], "inner", [], [])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function(
        "ours", "f", ["x"], ["a"], [node], [helper.make_opsetid("", 17)]
    )
    model = helper.make_model(helper.make_graph([branch], "g", [], []), functions=[function])
    assert batch_dependent_operators(model) == {"DynamicQuantizeLinear": 3}
    integers = helper.make_node("MatMulInteger", ["x", "y"], ["z"])
    assert (
        batch_dependent_operators(helper.make_model(helper.make_graph([integers], "g", [], [])))
        == {}
    )
