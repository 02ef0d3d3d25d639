"""The graph computes what BERT is defined to compute, whatever else is in the batch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from numpy_bert import encode
from tiny_bert import BERT_CONFIG, random_tensors, tiny_checkpoint

from embed_models.arithmetic import Arithmetic
from embed_models.attention import AttentionForm, ContribAttention, PlainAttention
from embed_models.errors import CheckpointError
from embed_models.graph import build_graph, serialize
from embed_models.metadata import Pooling
from embed_models.model import model_of

TENSORS = random_tensors()
SEQUENCES = ([2, 4, 5, 6, 7, 8, 9, 3], [2, 3], [2, 40, 41, 42, 43, 3], [2, *range(4, 49), 3])


def run(content: bytes, sequences: tuple[list[int], ...]) -> NDArray[np.float32]:
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (vectors,) = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})
    return np.asarray(vectors, np.float32)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_matches_the_numpy_reference(pooling: Pooling) -> None:
    content = serialize(build_graph(BERT_CONFIG, Arithmetic(TENSORS), pooling))
    for sequence in SEQUENCES:
        expected = encode(BERT_CONFIG, TENSORS, sequence, pooling)
        np.testing.assert_allclose(run(content, (sequence,))[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_padding_changes_no_vector(pooling: Pooling) -> None:
    content = serialize(build_graph(BERT_CONFIG, Arithmetic(TENSORS), pooling))
    together = run(content, SEQUENCES)
    for row, sequence in enumerate(SEQUENCES):
        np.testing.assert_allclose(together[row], run(content, (sequence,))[0], rtol=0, atol=1e-6)


def test_is_reproducible() -> None:
    first = serialize(build_graph(BERT_CONFIG, Arithmetic(TENSORS), "mean"))
    assert first == serialize(build_graph(BERT_CONFIG, Arithmetic(random_tensors()), "mean"))


def tensor_of(name: str, *dims: int) -> onnx.TensorProto:
    """Return a tensor that says how large it is, without its numbers."""
    return onnx.TensorProto(name=name, dims=dims, data_type=onnx.TensorProto.FLOAT)


def test_weights_that_no_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As bge-m3 has them in float32; each tensor would fit."""
    large = [tensor_of("words", 250_002, 1024), tensor_of("rest", 24, 12 * 1024 * 1024 + 13_312)]
    model = build_graph(BERT_CONFIG, Arithmetic(TENSORS), "mean")
    model.graph.initializer.append(large[0])
    serialize(model)
    model.graph.initializer.append(large[1])
    with pytest.raises(CheckpointError, match=r"weights have 2\d{9} bytes.*less than 2 GiB"):
        serialize(model)
    # The builder does not even put them together; and the model is named.
    monkeypatch.setattr("embed_models.onnx_builder._LARGEST", 10_000)
    with pytest.raises(CheckpointError, match=r"Tiny in float32: the weights have \d+ bytes"):
        model_of(tiny_checkpoint(), "Tiny", "org/Tiny", lambda _line: None)


def test_a_graph_that_protobuf_cannot_write() -> None:
    def refuse(**_options: object) -> bytes:
        raise EncodeError("Failed to serialize proto")

    model: Any = SimpleNamespace(
        graph=SimpleNamespace(initializer=[]), SerializeToString=refuse, ByteSize=refuse
    )
    with pytest.raises(CheckpointError, match=r"Failed to serialize proto.*less than 2 GiB"):
        serialize(model)


def test_interface() -> None:
    model = build_graph(BERT_CONFIG, Arithmetic(TENSORS), "mean")
    onnx.checker.check_model(model)

    def describe(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]

    graph = model.graph
    tokens = ["batch", "seq"]
    assert [describe(value) for value in graph.input] == [
        ("input_ids", onnx.TensorProto.INT64, tokens),
        ("attention_mask", onnx.TensorProto.INT64, tokens),
    ]
    assert [describe(value) for value in graph.output] == [
        ("embedding", onnx.TensorProto.FLOAT, ["batch", 32])
    ]
    assert [describe(value) for value in graph.value_info] == [
        ("embeddings/position_out", onnx.TensorProto.FLOAT, ["seq", 32])
    ]


def test_only_attention_is_no_standard_operator() -> None:
    model = build_graph(BERT_CONFIG, Arithmetic(TENSORS), "mean")
    special = [node.op_type for node in model.graph.node if node.domain]
    assert special == ["Attention"] * BERT_CONFIG.num_hidden_layers


def test_runtime_still_applies_its_fusions(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    content = serialize(build_graph(BERT_CONFIG, Arithmetic(TENSORS), "mean"))
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("BiasGelu") == BERT_CONFIG.num_hidden_layers
    # This one stops when the sliced position table has no declared shape.
    assert operators.count("SkipLayerNormalization") == 2 * BERT_CONFIG.num_hidden_layers


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_plain_form_matches_the_numpy_reference(pooling: Pooling) -> None:
    model = build_graph(BERT_CONFIG, Arithmetic(TENSORS), pooling, PlainAttention)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""}
    together = run(serialize(model), SEQUENCES)
    for row, sequence in enumerate(SEQUENCES):
        expected = encode(BERT_CONFIG, TENSORS, sequence, pooling)
        np.testing.assert_allclose(together[row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", [ContribAttention, PlainAttention])
def test_half_precision(form: type[AttentionForm]) -> None:
    model = build_graph(BERT_CONFIG, Arithmetic(TENSORS, np.float16), "mean", form)
    stored = {tensor.data_type for tensor in model.graph.initializer if tensor.dims}
    assert onnx.TensorProto.FLOAT not in stored
    vectors = run(serialize(model), SEQUENCES)
    for row, sequence in enumerate(SEQUENCES):
        expected = encode(BERT_CONFIG, TENSORS, sequence, "mean")
        assert float(vectors[row] @ expected) > 0.9999
