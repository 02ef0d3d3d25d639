"""Tables in 4 bits: what they lose, and that what was rounded is found again, in every graph."""

import dataclasses
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from tiny_bert import BERT_CONFIG, random_sequences, tiny_checkpoint

from embed_models.arithmetic import WORD_EMBEDDINGS, Arithmetic
from embed_models.checkpoint import Checkpoint
from embed_models.four_bits import BLOCK, exact_table, round_table
from embed_models.graph import build_graph, serialize
from embed_models.inference import cpu_session, embed_sequences
from embed_models.kinds import KINDS
from embed_models.quantize.calibration import calibrate
from embed_models.quantize.plan import linear_layers, make_plan
from embed_models.quantize.search import quantized_graph
from embed_models.validate.tensorrt import tensorrt_problems

TABLE = f"{WORD_EMBEDDINGS}.weight"
# The first table has two blocks in each row, and two rows more than are looked at in one go.
ROWS, HIDDEN = 4098, 2 * BLOCK


def random_table(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, (ROWS, HIDDEN)).astype(np.float32)


def test_rounding_loses_little_and_is_found_again() -> None:
    table = random_table()
    table[0], table[1], table[2, :BLOCK] = 0, np.abs(table[1]), 0.25
    rounded = round_table(table)
    values = rounded.dequantized()
    assert rounded.values.max() <= 15
    assert rounded.zero_points.max() <= 15
    # 4 bits of normal numbers lose about a hundredth of their power, by block of 32 less.
    assert np.square(values - table)[3:].mean() < 0.01 * np.square(table[3:]).mean()
    assert not values[0].any()
    found = exact_table(values)
    assert found is not None
    np.testing.assert_array_equal(found.dequantized(), values)


@pytest.mark.parametrize("sign", [1, -1])
def test_zero_is_in_the_range_of_numbers_of_one_sign(sign: int) -> None:
    steps = np.arange(BLOCK, dtype=np.float32) % 4
    near = (sign * (steps + 12) * 0.25).reshape(1, BLOCK)
    found = exact_table(near)
    assert found is not None
    assert max(found.values.max(), found.zero_points.max()) <= 15
    np.testing.assert_array_equal(found.dequantized(), near)
    # From 20 to 23 steps away from zero: 4 bits do not reach there.
    assert exact_table(near + sign * 8 * np.float32(0.25)) is None


@pytest.mark.parametrize("change", ["one number", "another block size", "not rounded"])
def test_other_tables_are_not_found(change: str) -> None:
    values = round_table(random_table()).dequantized()
    if change == "one number":
        values[ROWS - 1, 3] *= np.float32(1.01)
    elif change == "another block size":
        values = values[:, : BLOCK + 1]
    else:
        values = random_table()
    assert exact_table(values) is None


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Return a tiny one, whose blocks and their zero points fill what holds them."""
    config = dataclasses.replace(BERT_CONFIG, hidden_size=6 * BLOCK)
    generator = np.random.default_rng(1)
    tensors = {
        name: generator.normal(float("Norm.weight" in name), 0.1, shape).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }
    tensors[TABLE] = round_table(tensors[TABLE]).dequantized()
    return dataclasses.replace(tiny_checkpoint(), config=config, tensors=tensors)


def graph_without_products_in_8_bits(checkpoint: Checkpoint, name: str) -> onnx.ModelProto:
    """Leave all layers in floating point, so that what differs is the embeddings alone."""
    kind = KINDS[name]
    assert kind.fmt is not None
    calibration = calibrate(checkpoint, random_sequences(40), threads=1, seed=1, rows=64)
    excluded = frozenset(linear_layers(checkpoint.config))
    plan = make_plan(
        checkpoint.config,
        checkpoint.tensors,
        calibration,
        kind.fmt,
        strength=None,
        excluded=excluded,
    )
    return quantized_graph(checkpoint, plan, kind, np.float32)


@pytest.mark.parametrize("name", ["int8", "int8-tensorrt", "fp8-tensorrt"])
def test_graphs_store_the_words_in_4_bits_and_lose_nothing(
    checkpoint: Checkpoint, name: str
) -> None:
    model = graph_without_products_in_8_bits(checkpoint, name)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    table = stored["embeddings/word.weight"]
    vocabulary, hidden = checkpoint.tensors[TABLE].shape
    kind, shape = {
        "int8": (TensorProto.UINT8, [vocabulary, hidden // 2]),
        "int8-tensorrt": (TensorProto.INT8, [vocabulary, hidden // 2]),
        "fp8-tensorrt": (TensorProto.INT32, [vocabulary, hidden // 8]),
    }[name]
    assert (table.data_type, list(table.dims)) == (kind, shape)
    sequences = random_sequences(60, seed=7)
    exact = build_graph(checkpoint.config, Arithmetic(checkpoint.tensors), "mean")
    found, wanted = (
        embed_sequences(cpu_session(serialize(graph), threads=1, as_written=True), sequences)
        for graph in (model, exact)
    )
    # FastGelu and positions in float16, of the graph for the CPU; nothing of the others.
    np.testing.assert_allclose(found, wanted, atol=2e-3 if name == "int8" else 2e-6)


def test_no_more_than_a_few_tables_in_float32_are_in_memory_while_a_graph_is_loaded(
    checkpoint: Checkpoint,
) -> None:
    """What is computed of constants alone stays there until the graph is loaded."""
    model = graph_without_products_in_8_bits(checkpoint, "int8")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    vocabulary, hidden = checkpoint.tensors[TABLE].shape
    known, tables = set(stored), 0
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    kinds = {value.name: value.type.tensor_type for value in graph.value_info}
    for node in graph.node:
        if not known.issuperset(node.input):
            continue
        known.update(node.output)
        kind = kinds[node.output[0]]
        sizes = [dimension.dim_value for dimension in kind.shape.dim]
        tables += kind.elem_type == TensorProto.FLOAT and math.prod(sizes) == vocabulary * hidden
    assert tables == 3


def test_tensorrt_would_take_them(checkpoint: Checkpoint) -> None:
    for name in ("int8-tensorrt", "fp8-tensorrt"):
        kind = KINDS[name]
        assert kind.fmt is not None
        calibration = calibrate(checkpoint, random_sequences(40), threads=1, seed=1, rows=64)
        plan = make_plan(checkpoint.config, checkpoint.tensors, calibration, kind.fmt, strength=0.5)
        model = quantized_graph(checkpoint, plan, kind, kind.dtype)
        assert tensorrt_problems(model) == []
        scale = next(t for t in model.graph.initializer if t.name == "embeddings/word.scale")
        assert numpy_helper.to_array(scale).dtype == np.float16
