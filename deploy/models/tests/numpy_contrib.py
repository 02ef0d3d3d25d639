"""Operators of com.microsoft in NumPy, written from ONNX Runtime's documentation of them.

No CPU kernel exists for the packing operators; with these a packed graph can be evaluated anyway.
"""

import itertools
import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = NDArray[Any]

_erf = np.vectorize(math.erf)


def layer_norm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return scaled * gamma + beta


def attend(query: Array, key: Array, value: Array, cumulated: Array) -> Array:
    """Attend within each of the texts that follow each other, each part [tokens, heads, size]."""
    context = []
    for start, end in itertools.pairwise(cumulated):
        q, k, v = (part[start:end].transpose(1, 0, 2) for part in (query, key, value))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        context.append((weights @ v).transpose(1, 0, 2).reshape(end - start, -1))
    return np.concatenate(context)


class RemovePadding(OpRun):
    op_domain = "com.microsoft"

    def _run(self, hidden: Array, lengths: Array) -> tuple[Array, ...]:
        batch, seq, size = hidden.shape
        places = np.arange(batch * seq).reshape(batch, seq)
        kept = [places[row, : lengths[row]] for row in range(batch)]
        rest = [places[row, lengths[row] :] for row in range(batch)]
        tokens = hidden.reshape(-1, size)[np.concatenate(kept)]
        offsets = np.concatenate(kept + rest).reshape(batch, seq).astype(np.int32)
        cumulated = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return tokens, offsets, cumulated, np.array([lengths.max()], np.int32)


class RestorePadding(OpRun):
    op_domain = "com.microsoft"

    def _run(self, tokens: Array, offsets: Array) -> tuple[Array]:
        hidden = np.zeros((offsets.size, tokens.shape[1]), tokens.dtype)
        hidden[offsets.reshape(-1)[: len(tokens)]] = tokens
        return (hidden.reshape(*offsets.shape, -1),)


class PackedMultiHeadAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        query: Array,
        key: None,
        value: None,
        bias: Array,
        offsets: Array,
        cumulated: Array,
        num_heads: int = 1,
    ) -> tuple[Array]:
        assert key is None
        assert value is None
        # All three in one, [tokens, heads, 3, head size]; the bias is [3, heads, head size].
        assert query.shape[1:3] == (num_heads, 3)
        assert offsets.shape[0] == len(cumulated) - 1
        q, k, v = query.transpose(2, 0, 1, 3) + bias.reshape(3, 1, num_heads, -1)
        return (attend(q, k, v, cumulated).astype(query.dtype),)


class EmbedLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        ids: Array,
        segments: None,
        words: Array,
        positions: Array,
        segment_table: None,
        gamma: Array,
        beta: Array,
        mask: Array,
        epsilon: float = 1e-12,
    ) -> tuple[Array, ...]:
        assert segments is None
        assert segment_table is None
        hidden = layer_norm(words[ids] + positions[: ids.shape[1]], gamma, beta, epsilon)
        return hidden.astype(words.dtype), mask.sum(axis=1).astype(np.int32)


class SkipLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        x: Array,
        skipped: Array,
        gamma: Array,
        beta: Array,
        bias: Array,
        epsilon: float = 1e-12,
    ) -> tuple[Array]:
        return (layer_norm(x + skipped + bias, gamma, beta, epsilon).astype(x.dtype),)


class BiasGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array) -> tuple[Array]:
        total = x + bias
        return ((total * 0.5 * (1 + _erf(total / math.sqrt(2)))).astype(x.dtype),)


def evaluate(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    """Run a graph, packed or fused or neither, and return its only output."""
    operators = [
        RemovePadding,
        RestorePadding,
        PackedMultiHeadAttention,
        EmbedLayerNormalization,
        SkipLayerNormalization,
        BiasGelu,
    ]
    (output,) = ReferenceEvaluator(model, new_ops=operators).run(None, feeds)
    return np.asarray(output)
