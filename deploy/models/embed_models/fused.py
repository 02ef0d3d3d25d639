"""The same network in the large operators that ONNX Runtime has for GPUs.

On a GPU each operator costs a launch and a pass over memory, so ONNX Runtime replaces groups of
them by one when it loads a graph. Here they are written as such: its replacements need values of
three dimensions, which the packed form does not have, and they need not be trusted to find
everything. On a CPU these operators are the slower way.
"""

import onnx
from onnx import TensorProto

from embed_models.arithmetic import MICROSOFT_DOMAIN, Arithmetic
from embed_models.attention import ATTENTION_MASK, AttentionForm, ContribAttention
from embed_models.checkpoint import BertConfig
from embed_models.graph import INPUT_IDS, BertGraph, as_head
from embed_models.head import Head
from embed_models.metadata import Pooling


class _FusedGraph(BertGraph):
    """EmbedLayerNormalization, SkipLayerNormalization and BiasGelu instead of their parts."""

    _lengths = ""

    def embeddings(self) -> str:
        b = self.builder
        ids = b.node("Cast", INPUT_IDS, name="embeddings/ids", to=TensorProto.INT32)
        valid = b.node("Cast", ATTENTION_MASK, name="mask/int32", to=TensorProto.INT32)
        hidden, self._lengths = b.node_with_outputs(
            "EmbedLayerNormalization",
            ids,
            "",  # no segments: the only one is in the position table
            self.arithmetic.word_table(b),
            self.position_table(),
            "",
            *self.norm_weights("embeddings/norm", "embeddings.LayerNorm"),
            valid,
            name="embeddings/norm",
            outputs=["embeddings/norm_out", "mask/length_out"],
            domain=MICROSOFT_DOMAIN,
            epsilon=self.config.layer_norm_eps,
        )
        return hidden

    def mask(self) -> str:
        return self._lengths

    def linear_norm(self, prefix: str, value: str, skipped: str, key: str) -> str:
        product, bias = self.product(self.output_name(prefix), value, key)
        return self.builder.node(
            "SkipLayerNormalization",
            product,
            skipped,
            *self.norm_weights(f"{prefix}norm", f"{key}.LayerNorm"),
            bias,
            name=f"{prefix}norm",
            domain=MICROSOFT_DOMAIN,
            epsilon=self.config.layer_norm_eps,
        )

    def linear_gelu(self, name: str, value: str, key: str) -> str:
        product, bias = self.product(f"{name}/inner", value, key)
        return self.builder.node(
            "BiasGelu", product, bias, name=f"{name}/gelu", domain=MICROSOFT_DOMAIN
        )

    def product(self, name: str, value: str, key: str) -> tuple[str, str]:
        """Multiply by a weight matrix, and store its bias for the operator behind."""
        b, arithmetic = self.builder, self.arithmetic
        product = arithmetic.product(b, name, value, f"{key}.dense")
        return product, b.initializer(f"{name}.bias", arithmetic.array(f"{key}.dense.bias"))

    def pool(self, pooling: Pooling, hidden: str) -> str:
        if pooling != "mean":
            return super().pool(pooling, hidden)
        # As a product, [1, seq] by [seq, hidden] for each text: it adds up in float32 on a GPU
        # and reads the states once, where the sum of masked float32 copies writes them twice.
        b = self.builder
        valid = b.node("Cast", ATTENTION_MASK, name="pool/mask", to=TensorProto.FLOAT)
        count = b.node("ReduceSum", valid, b.constant([1]), name="pool/count", keepdims=1)
        # A row of nothing but padding gives a zero vector instead of NaN.
        count = b.node("Max", count, b.constant(1.0, "float32"), name="pool/count_floor")
        share = b.node("Div", valid, count, name="pool/share")
        share = b.node("Cast", share, name="pool/share_cast", to=self.arithmetic.onnx_type)
        share = b.node("Unsqueeze", share, b.constant([1]), name="pool/weights")
        mean = b.node("MatMul", share, hidden, name="pool/mean")
        mean = b.node("Squeeze", mean, b.constant([1]), name="pool/vector")
        return self.arithmetic.to_float32(b, mean)


def build_fused_graph(
    config: BertConfig,
    arithmetic: Arithmetic,
    head: Head | Pooling,
    form: type[AttentionForm] = ContribAttention,
) -> onnx.ModelProto:
    """Build the model for the CUDA provider; its weights have the names of `build_graph`'s."""
    return _FusedGraph(config, arithmetic, form).build(as_head(head))
