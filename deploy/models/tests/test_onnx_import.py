"""ONNX files of others: what they lack is added, and what cannot be served is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy_bert import encode
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from tiny_bert import BERT_CONFIG, random_sequences, random_tensors, tokenizer_json, write_json

from embed_models.arithmetic import Arithmetic
from embed_models.attention import PlainAttention
from embed_models.batch_dependence import batch_dependent_operators
from embed_models.cli import main
from embed_models.graph import build_graph
from embed_models.inference import TextEncoder, cpu_session
from embed_models.metadata import Metadata
from embed_models.validate.invariance import batch_difference

TENSORS = random_tensors()


def exported(*, pooled: bool, token_types: bool = True) -> onnx.ModelProto:
    """Return a graph as exporters write it: a vector per token, or one that is not normalised."""
    model = build_graph(BERT_CONFIG, Arithmetic(TENSORS), "mean", PlainAttention)
    graph = model.graph
    del graph.output[:]
    names = {node.name: node for node in graph.node}
    inner = names["pool/mean" if pooled else "layer1/norm"].output[0]
    shape: list[str | int] = ["batch", 32] if pooled else ["batch", "seq", 32]
    graph.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, shape))
    keep = [
        n
        for n in graph.node
        if not n.name.startswith("normalise") and (pooled or not n.name.startswith("pool"))
    ]
    del graph.node[:]
    graph.node.extend(keep)
    if token_types:
        graph.input.append(
            helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["batch", "seq"])
        )
    return model


def write(directory: Path, model: onnx.ModelProto) -> Path:
    write_json(directory / "tokenizer.json", tokenizer_json())
    path = directory / "model.onnx"
    onnx.save(model, path)
    return path


def import_onnx(path: Path, registry: Path, *more: str) -> int:
    options = ["--registry", str(registry), "--name", "tiny", "--max-seq-length", "24"]
    return main(["import", str(path), *options, *more])


def test_dynamic_quantization_in_the_file_is_found_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(tmp_path / "source", exported(pooled=True))
    dynamic = plain.with_name("dynamic.onnx")
    quantize_dynamic(plain, dynamic, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    capsys.readouterr()
    assert import_onnx(dynamic, tmp_path / "registry") == 0
    said = capsys.readouterr().err
    assert "is quantized dynamically" in said
    assert "DynamicQuantizeLinear" in said
    version = tmp_path / "registry" / "models" / "tiny" / "v1.0.0"
    (artefact,) = Metadata.read(version / "metadata.json").artefacts
    assert artefact.quantization is not None
    assert artefact.quantization["batch_dependent"] is True
    assert batch_difference(cpu_session(version / "fp32.onnx", threads=1), sequences()) > 1e-4
    assert import_onnx(plain, tmp_path / "other") == 0
    version = tmp_path / "other" / "models" / "tiny" / "v1.0.0"
    (artefact,) = Metadata.read(version / "metadata.json").artefacts
    assert artefact.quantization is None
    assert batch_difference(cpu_session(version / "fp32.onnx", threads=1), sequences()) < 1e-6


def sequences() -> list[list[int]]:
    return random_sequences(24)


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


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_and_normalisation_are_added(tmp_path: Path, pooling: str) -> None:
    path = write(tmp_path / "source", exported(pooled=False))
    assert import_onnx(path, tmp_path, "--pooling", pooling) == 0
    version = tmp_path / "models" / "tiny" / "v1.0.0"
    metadata = Metadata.read(version / "metadata.json")
    assert (metadata.dimension, metadata.pooling) == (32, pooling)
    encoder = TextEncoder(version / "fp32.onnx", version / "tokenizer.json", 24)
    embedded = encoder.embed("hello world, the quick fox")
    ids = [2, 4, 5, 1, 6, 8, 7, 3]
    expected = encode(BERT_CONFIG, TENSORS, ids, pooling)
    np.testing.assert_allclose(embedded.vector, expected, atol=1e-5)


def test_a_pooled_output_is_only_normalised(tmp_path: Path) -> None:
    path = write(tmp_path / "source", exported(pooled=True, token_types=False))
    assert import_onnx(path, tmp_path) == 0
    version = tmp_path / "models" / "tiny" / "v1.0.0"
    vector = TextEncoder(version / "fp32.onnx", version / "tokenizer.json", 24).embed("a").vector
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(model: onnx.ModelProto, words: str, code: int, *more: str) -> None:
        path = write(tmp_path / "source", model)
        assert import_onnx(path, tmp_path / "registry", *more) == code
        assert words in capsys.readouterr().err

    refused(exported(pooled=False), "say how to pool them with --pooling", 2)
    refused(exported(pooled=True), "has no output 'x'; it has pool/mean_out", 2, "--output", "x")
    two = exported(pooled=True)
    two.graph.output.append(helper.make_tensor_value_info("layer1/norm_out", 1, ["b", "s", 32]))
    refused(two, "has the outputs pool/mean_out, layer1/norm_out; choose one", 2)
    old = exported(pooled=True)
    old.opset_import[0].version = 11
    refused(old, "is of opset 11; export it again with opset 13", 1)
    strange = exported(pooled=True)
    strange.graph.input.append(helper.make_tensor_value_info("pixels", 1, [1]))
    refused(strange, "has the input pixels, which no worker can fill", 1)
    unnamed = exported(pooled=True)
    unnamed.graph.input[0].name = "ids"
    refused(unnamed, "it needs input_ids and attention_mask", 1)
    loose = exported(pooled=True)
    loose.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "any"
    refused(loose, "neither [batch, seq, hidden] nor [batch, hidden] with a known size", 1)


def test_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    assert import_onnx(path, tmp_path) == 2
    assert "name the tokenizer with --tokenizer FILE" in capsys.readouterr().err
    write_json(tmp_path / "tokenizer.json", tokenizer_json())
    assert import_onnx(path, tmp_path) == 1
    assert "model.onnx does not exist" in capsys.readouterr().err
    path.write_bytes(b"nothing of the kind")
    assert import_onnx(path, tmp_path) == 1
    assert "is no ONNX file" in capsys.readouterr().err
