"""The worker's own operators in NumPy, written from what `worker/kernels` says of them."""

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from numpy_contrib import attend, layer_norm
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = NDArray[Any]

_E4M3 = ml_dtypes.float8_e4m3fn
_QUERIES = 64


def quantized(value: Array, scale: float) -> Array:
    steps = np.clip(value.astype(np.float32) * np.float32(scale), -448, 448)
    return np.asarray(steps.astype(_E4M3))


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


class _Embed(OpRun):
    op_domain = "ai.akidb"

    def states(self, ids: Array, mask: Array, *tables: Array, epsilon: float) -> tuple[Array, ...]:
        words, places, gamma, beta = (table.astype(np.float32) for table in tables)
        lengths = mask.sum(axis=1)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        rows = [words[row[:n]] + places[:n] for row, n in zip(ids, lengths, strict=True)]
        states = layer_norm(np.concatenate(rows), gamma, beta, epsilon).astype(np.float16)
        tiles = [
            (start, length, first, 0)
            for start, length in zip(starts, lengths, strict=False)
            for first in range(0, length, _QUERIES)
        ]
        return states, starts, np.array(tiles, np.int32)


class Embed(_Embed):
    def _run(self, *inputs: Array, epsilon: float, heads: int) -> tuple[Array, ...]:
        del heads
        return self.states(*inputs, epsilon=epsilon)


class EmbedQuantize(_Embed):
    def _run(self, *inputs: Array, epsilon: float, heads: int, scale: float) -> tuple[Array, ...]:
        del heads
        states, starts, tiles = self.states(*inputs, epsilon=epsilon)
        return states, starts, tiles, quantized(states, scale)


def _add_norm(inputs: tuple[Array, ...], epsilon: float) -> Array:
    product, skipped, gamma, beta = inputs
    total = product.astype(np.float32) + skipped.astype(np.float32)
    return layer_norm(total, gamma, beta, epsilon).astype(np.float16)


class AddNorm(OpRun):
    op_domain = "ai.akidb"

    def _run(self, *inputs: Array, epsilon: float, heads: int) -> tuple[Array]:
        del heads
        return (_add_norm(inputs, epsilon),)


class AddNormQuantize(OpRun):
    op_domain = "ai.akidb"

    def _run(self, *inputs: Array, epsilon: float, heads: int, scale: float) -> tuple[Array, Array]:
        del heads
        states = _add_norm(inputs, epsilon)
        return states, quantized(states, scale)


def _attention(projected: Array, tiles: Array, heads: int) -> Array:
    starts = [start for start, _, first, _ in tiles if first == 0] + [len(projected)]
    parts = projected.astype(np.float32).reshape(len(projected), 3, heads, -1)
    return attend(parts[:, 0], parts[:, 1], parts[:, 2], np.array(starts))


class Attend(OpRun):
    op_domain = "ai.akidb"

    def _run(self, projected: Array, tiles: Array, heads: int) -> tuple[Array]:
        return (_attention(projected, tiles, heads).astype(np.float16),)


class AttendQuantize(OpRun):
    op_domain = "ai.akidb"

    def _run(self, projected: Array, tiles: Array, heads: int, scale: float) -> tuple[Array]:
        return (quantized(_attention(projected, tiles, heads), scale),)


def _linear(states: Array, weight: Array, bias: Array, factor: float, wants_gelu: int) -> Array:
    product = states.astype(np.float32) @ weight.astype(np.float32).T
    value = product * np.float32(factor) + bias.astype(np.float32)
    return gelu(value) if wants_gelu else value


class Linear(OpRun):
    op_domain = "ai.akidb"

    def _run(self, states: Array, weight: Array, bias: Array, gelu: int) -> tuple[Array]:
        return (_linear(states, weight, bias, 1, gelu).astype(np.float16),)


class LinearFromQuantized(OpRun):
    op_domain = "ai.akidb"

    def _run(
        self, states: Array, weight: Array, bias: Array, factor: float, gelu: int
    ) -> tuple[Array]:
        return (_linear(states, weight, bias, factor, gelu).astype(np.float16),)


class LinearQuantized(OpRun):
    op_domain = "ai.akidb"

    def _run(
        self, states: Array, weight: Array, bias: Array, scale: Array, factor: float, gelu: int
    ) -> tuple[Array]:
        return (quantized(_linear(states, weight, bias, factor, gelu), float(scale[0])),)


class Pool(OpRun):
    op_domain = "ai.akidb"

    def _run(
        self, states: Array, starts: Array, heads: int, mean: int, normalize: int
    ) -> tuple[Array]:
        del heads
        texts = [states[a:b].astype(np.float32) for a, b in itertools.pairwise(starts)]
        vectors = np.array([text.mean(axis=0) if mean else text[0] for text in texts])
        if normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors,)


_OPERATORS = [
    Embed,
    EmbedQuantize,
    AddNorm,
    AddNormQuantize,
    Attend,
    AttendQuantize,
    Linear,
    LinearFromQuantized,
    LinearQuantized,
    Pool,
]


def evaluate(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    """Run a graph of these operators, and return its only output."""
    (output,) = ReferenceEvaluator(model, new_ops=_OPERATORS).run(None, feeds)
    return np.asarray(output)
