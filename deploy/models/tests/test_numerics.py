"""Rounding to 8 bits: errors of half a step, and scales no worse than naive ones."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from embed_models.quantize.numerics import (
    E4M3,
    S8,
    U8,
    Format,
    choose_activation_scale,
    quantize_rows,
    quantize_weight,
)

FORMATS = [U8, S8, E4M3]


def sample(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape) * random.lognormal(0, 1, shape[-1:])
    return np.asarray(values, np.float32)


@pytest.mark.parametrize("fmt", [U8, S8], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("seed", range(20))
def test_integers_are_off_by_half_a_step_at_most(fmt: Format, seed: int) -> None:
    values = sample(seed, (50, 8))
    weight = sample(seed + 100, (8, 4))
    low, high = float(values.min()), float(values.max())
    chosen = choose_activation_scale(values, low, high, weight, fmt)
    rounded = fmt.fake(values, chosen.scale, chosen.zero_point)
    bottom = (fmt.low - chosen.zero_point) * chosen.scale
    top = (fmt.high - chosen.zero_point) * chosen.scale
    clipped = np.clip(values, bottom, top)
    assert np.abs(rounded - clipped).max() <= chosen.scale * 0.501


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("seed", range(10))
def test_weights_are_symmetric_and_no_worse_than_naive(fmt: Format, seed: int) -> None:
    weight = sample(seed, (64, 16))
    quantized = quantize_weight(weight, fmt)
    assert quantized.values.shape == weight.shape
    # TensorRT multiplies in FP8 only where a tensor has one scale.
    assert quantized.scales.shape == (() if fmt is E4M3 else (16,))
    assert quantized.values.dtype == fmt.weight_dtype
    # Scales survive float16, so that graphs in both types mean the same.
    assert np.array_equal(quantized.scales, quantized.scales.astype(np.float16).astype(np.float32))
    naive_scale = np.abs(weight).max(axis=0) / fmt.weight_top
    if fmt.weight_dtype == np.int8:
        naive = np.clip(np.rint(weight / naive_scale), -127, 127) * naive_scale
        naive_error = np.square(naive - weight).sum()
        assert np.square(quantized.dequantized() - weight).sum() <= naive_error * 1.01


def test_rows_of_an_embedding_table() -> None:
    table = sample(1, (100, 32)) * np.linspace(0.01, 3, 100, dtype=np.float32)[:, None]
    quantized = quantize_rows(table)
    assert quantized.scales.shape == (100, 1)
    assert (np.abs(quantized.dequantized() - table) <= quantized.scales * 0.6).all()


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_fake_quantization_is_what_the_runtime_does(fmt: Format) -> None:
    values, weight = sample(3, (40, 16)), sample(4, (16, 4))
    chosen = choose_activation_scale(values, float(values.min()), float(values.max()), weight, fmt)
    initializers = [
        numpy_helper.from_array(np.asarray(chosen.scale), "scale"),
        numpy_helper.from_array(np.asarray(chosen.zero_point, fmt.activation_dtype), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "round",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 16])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": values})
    np.testing.assert_allclose(fmt.fake(values, chosen.scale, chosen.zero_point), expected, 1e-6)
