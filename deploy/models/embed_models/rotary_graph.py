"""Builds the ONNX graph of an encoder with rotary positions: token ids in, one vector per text out.

Attention and the turning of queries and keys are operators of ONNX Runtime (domain com.microsoft),
which its CPU and CUDA providers have.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from embed_models.arithmetic import MICROSOFT_DOMAIN, Arithmetic
from embed_models.attention import ATTENTION_MASK, PROJECTIONS
from embed_models.graph import EMBEDDING, INPUT_IDS, OPSET
from embed_models.head import Head
from embed_models.onnx_builder import OnnxBuilder
from embed_models.pooling import finish, pool
from embed_models.rotary import (
    ATTENTION_NORM,
    DOWN,
    EMBEDDING_NORM,
    FINAL_NORM,
    GATE,
    MLP_NORM,
    OUTPUT,
    QKV,
    UP,
    RotaryConfig,
    RotaryLayer,
)
from embed_models.weights import Tensors

# Far below any score, and within the range of float16.
_UNSEEN = -10000.0


class _RotaryGraph:
    def __init__(self, config: RotaryConfig, tensors: Tensors) -> None:
        self.config = config
        self.tensors = tensors
        self.arithmetic = Arithmetic(tensors)
        self.builder = OnnxBuilder()
        self._tables: dict[tuple[float, ...], tuple[str, str]] = {}
        self._windows: dict[int, str] = {}
        self._lengths = ""

    def build(self, head: Head) -> onnx.ModelProto:
        b = self.builder
        words = self.arithmetic.word_table(b)
        hidden = self.arithmetic.words(b, words, INPUT_IDS)
        hidden = self.norm("embeddings/norm", hidden, EMBEDDING_NORM)
        # The operator takes the number of valid tokens of each row instead of a mask.
        valid = b.node("Cast", ATTENTION_MASK, name="mask/int32", to=TensorProto.INT32)
        self._lengths = b.node("ReduceSum", valid, b.constant([1]), name="mask/length", keepdims=0)
        for index, layer in enumerate(self.config.layers):
            hidden = self.layer(index, layer, hidden)
        if self.config.pre_norm:
            hidden = self.norm("final/norm", hidden, FINAL_NORM)
        finish(b, head, pool(b, head.pooling, hidden), EMBEDDING)
        tokens, size = ["batch", "seq"], head.dimension(self.config.hidden_size)
        return b.model(
            name="rotary_sentence_encoder",
            inputs=[
                helper.make_tensor_value_info(INPUT_IDS, TensorProto.INT64, tokens),
                helper.make_tensor_value_info(ATTENTION_MASK, TensorProto.INT64, tokens),
            ],
            outputs=[helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", size])],
            value_info=[],
            opsets={"": OPSET, MICROSOFT_DOMAIN: 1},
            producer="embed-models",
        )

    def layer(self, index: int, layer: RotaryLayer, hidden: str) -> str:
        name, key = f"layer{index}", f"layer.{index}."
        before = self.config.pre_norm
        # The norm of the embeddings is that of the first layer too, where norms stand before.
        first = f"{key}{ATTENTION_NORM}.weight" not in self.tensors
        value = hidden if first or not before else self.attention_norm(index, hidden)
        attended = self.attention(index, layer, value)
        hidden = self.add(f"{name}/attention_residual", attended, hidden)
        if not before:
            hidden = self.attention_norm(index, hidden)
        value = self.norm(f"{name}/norm", hidden, key + MLP_NORM) if before else hidden
        hidden = self.add(f"{name}/residual", self.feed_forward(name, key, value), hidden)
        return hidden if before else self.norm(f"{name}/norm", hidden, key + MLP_NORM)

    def attention_norm(self, index: int, value: str) -> str:
        return self.norm(f"layer{index}/attention_norm", value, f"layer.{index}.{ATTENTION_NORM}")

    def attention(self, index: int, layer: RotaryLayer, hidden: str) -> str:
        b, name, key = self.builder, f"layer{index}", f"layer.{index}."
        together = self.linear(f"{name}/qkv", hidden, key + QKV)
        query, keys, value = b.node_with_outputs(
            "Split",
            together,
            name=f"{name}/split",
            outputs=[f"{name}/{part}" for part in PROJECTIONS],
            axis=-1,
            num_outputs=len(PROJECTIONS),
        )
        window = "" if layer.window is None else self.window(layer.window)
        attended = b.node(
            "MultiHeadAttention",
            self.turned(f"{name}/query_turned", layer, query),
            self.turned(f"{name}/key_turned", layer, keys),
            value,
            "",  # no bias: it is added to the product
            self._lengths,
            *([window] if window else []),
            name=f"{name}/attention",
            domain=MICROSOFT_DOMAIN,
            num_heads=self.config.num_attention_heads,
        )
        return self.linear(f"{name}/attention_output", attended, key + OUTPUT)

    def turned(self, name: str, layer: RotaryLayer, value: str) -> str:
        """Turn the pairs of components of each head by the positions of their tokens."""
        cosines, sines = self.tables(layer.frequencies)
        return self.builder.node(
            "RotaryEmbedding",
            value,
            self.builder.constant([0]),  # the position of the first token
            cosines,
            sines,
            name=name,
            domain=MICROSOFT_DOMAIN,
        )

    def tables(self, frequencies: tuple[float, ...]) -> tuple[str, str]:
        """Store cosines and sines of all positions; layers with the same angles share them."""
        if frequencies not in self._tables:
            places = np.arange(self.config.max_position_embeddings, dtype=np.float32)
            angles = np.outer(places, np.array(frequencies, np.float32))
            name = f"rotary{len(self._tables)}"
            self._tables[frequencies] = (
                self.builder.initializer(f"{name}/cos", np.cos(angles)),
                self.builder.initializer(f"{name}/sin", np.sin(angles)),
            )
        return self._tables[frequencies]

    def window(self, most: int) -> str:
        """Return what is added to the scores: [1, 1, seq, seq], far below zero out of reach."""
        if most not in self._windows:
            b, name = self.builder, f"window{most}"
            shape = b.node("Shape", INPUT_IDS, name=f"{name}/shape", start=1, end=2)
            seq = b.node("Squeeze", shape, name=f"{name}/seq")
            places = b.node("Range", b.constant(0), seq, b.constant(1), name=f"{name}/places")
            rows = b.node("Unsqueeze", places, b.constant([1]), name=f"{name}/rows")
            apart = b.node("Sub", places, rows, name=f"{name}/apart")
            apart = b.node("Abs", apart, name=f"{name}/distance")
            far = b.node("Greater", apart, b.constant(most), name=f"{name}/far")
            scores = b.node(
                "Where",
                far,
                b.constant(_UNSEEN, np.float32),
                b.constant(0.0, np.float32),
                name=f"{name}/scores",
            )
            self._windows[most] = b.node(
                "Unsqueeze", scores, b.constant([0, 1]), name=f"{name}/bias"
            )
        return self._windows[most]

    def feed_forward(self, name: str, key: str, value: str) -> str:
        b = self.builder
        gate = self.linear(f"{name}/gate", value, key + GATE)
        if self.config.gate == "gelu":
            gate = self.arithmetic.gelu(b, name, gate)
        else:
            share = b.node("Sigmoid", gate, name=f"{name}/sigmoid")
            gate = b.node("Mul", gate, share, name=f"{name}/silu")
        inner = self.linear(f"{name}/up", value, key + UP)
        gated = b.node("Mul", gate, inner, name=f"{name}/gated")
        return self.linear(f"{name}/down", gated, key + DOWN)

    def linear(self, name: str, value: str, key: str) -> str:
        product = self.arithmetic.product(self.builder, name, value, key)
        if f"{key}.bias" not in self.tensors:
            return product
        return self.arithmetic.add_bias(self.builder, name, product, key)

    def norm(self, name: str, value: str, key: str) -> str:
        weights = [
            self.builder.initializer(f"{name}.{part}", self.tensors[f"{key}.{part}"])
            for part in ("weight", "bias")
            if f"{key}.{part}" in self.tensors
        ]
        epsilon = self.config.layer_norm_eps
        return self.builder.node(
            "LayerNormalization", value, *weights, name=name, axis=-1, epsilon=epsilon
        )

    def add(self, name: str, left: str, right: str) -> str:
        return self.builder.node("Add", left, right, name=name)


def build_rotary_graph(config: RotaryConfig, tensors: Tensors, head: Head) -> onnx.ModelProto:
    """Build the model in float32; the same input always gives the same bytes."""
    return _RotaryGraph(config, tensors).build(head)
