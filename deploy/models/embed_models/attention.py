"""The graph forms: ways to write self-attention.

`contrib` uses the fused Attention of ONNX Runtime (domain com.microsoft), which its CPU and CUDA
providers run. `packed` takes the padding out before the first layer and puts it back behind the
last, with operators that only the CUDA provider has. `plain` has standard operators only, for
TensorRT.

Every form expects sequences that are padded on the right.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from embed_models.arithmetic import MICROSOFT_DOMAIN, Arithmetic
from embed_models.checkpoint import RELATIVE_BIAS, BertConfig
from embed_models.errors import CheckpointError
from embed_models.onnx_builder import OnnxBuilder

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"

PROJECTIONS = ("query", "key", "value")


class AttentionForm(ABC):
    """Writes self-attention into the graph; the output projection is not part of it."""

    name: ClassVar[str]
    # MPNet's.
    takes_distance_bias: ClassVar[bool] = False
    extra_opsets: ClassVar[dict[str, int]]

    def __init__(self, builder: OnnxBuilder, config: BertConfig, arithmetic: Arithmetic) -> None:
        if config.relative_attention_num_buckets and not self.takes_distance_bias:
            raise CheckpointError(
                f"the {self.name} form has no bias of the attention by distance, which the model "
                "has; it can be imported, in float32, and not be built in other precisions"
            )
        self.builder = builder
        self.config = config
        self.arithmetic = arithmetic

    @abstractmethod
    def mask(self) -> str:
        """Turn `attention_mask` into what `attention` needs; called once per graph."""

    @abstractmethod
    def attention(self, layer: int, hidden: str, mask: str) -> str:
        """Add the attention of one layer, from [batch, seq, hidden] to the same shape."""

    def enter(self, hidden: str, mask: str) -> str:
        """Bring the embedded tokens into the shape that the layers work on."""
        del mask
        return hidden

    def leave(self, hidden: str) -> str:
        """Bring what the last layer yields back to [batch, seq, hidden]."""
        return hidden

    def keys(self, layer: int) -> list[str]:
        return [f"encoder.layer.{layer}.attention.self.{name}" for name in PROJECTIONS]


class ContribAttention(AttentionForm):
    """One com.microsoft Attention per layer, with the three projections packed into one matrix."""

    name = "contrib"
    takes_distance_bias = True
    extra_opsets: ClassVar[dict[str, int]] = {MICROSOFT_DOMAIN: 1}

    def mask(self) -> str:
        # The operator takes the number of valid tokens of each row instead of a mask.
        as_int32 = self.builder.node(
            "Cast", ATTENTION_MASK, name="mask/int32", to=TensorProto.INT32
        )
        return self.builder.node(
            "ReduceSum", as_int32, self.builder.constant([1]), name="mask/length", keepdims=0
        )

    def __init__(self, builder: OnnxBuilder, config: BertConfig, arithmetic: Arithmetic) -> None:
        super().__init__(builder, config, arithmetic)
        self._bias = ""

    def attention(self, layer: int, hidden: str, mask: str) -> str:
        if self.config.relative_attention_num_buckets:
            return self._biased(layer, hidden, mask)
        return self.arithmetic.fused_attention(
            self.builder,
            f"layer{layer}",
            f"layer{layer}/attention_input",
            hidden,
            self.keys(layer),
            mask,
            self.config.num_attention_heads,
        )

    def _biased(self, layer: int, hidden: str, mask: str) -> str:
        """Add the attention of MPNet, whose scores depend on the distance of two tokens as well."""
        b, name = self.builder, f"layer{layer}"
        self._bias = self._bias or self._distance_bias()
        weight, bias = self.arithmetic.fused_projections(b, name, self.keys(layer))
        return b.node(
            "Attention",
            hidden,
            weight,
            bias,
            mask,
            "",  # nothing from before
            self._bias,
            name=f"{name}/attention",
            domain=MICROSOFT_DOMAIN,
            num_heads=self.config.num_attention_heads,
        )

    def _distance_bias(self) -> str:
        """Return what is added to the scores: [1, heads, seq, seq]; all layers share it."""
        b, longest = self.builder, self.config.max_position_embeddings
        table = self.arithmetic.array(RELATIVE_BIAS)
        buckets = relative_buckets(
            np.arange(1 - longest, longest), self.config.relative_attention_num_buckets
        )
        by_distance = b.initializer("distance/bias.weight", table[buckets].T)
        shape = b.node("Shape", INPUT_IDS, name="distance/shape", start=1, end=2)
        seq = b.node("Squeeze", shape, name="distance/seq")
        places = b.node("Range", b.constant(0), seq, b.constant(1), name="distance/places")
        rows = b.node("Unsqueeze", places, b.constant([1]), name="distance/rows")
        apart = b.node("Sub", places, rows, name="distance/apart")
        index = b.node("Add", apart, b.constant(longest - 1), name="distance/index")
        bias = b.node("Gather", by_distance, index, name="distance/scores", axis=1)
        return b.node("Unsqueeze", bias, b.constant([0]), name="distance/bias")


class PackedAttention(ContribAttention):
    """No padding is computed: the layers work on [tokens, hidden], texts one after the other.

    One product gives queries, keys and values by head, which PackedMultiHeadAttention takes as they
    are. ONNX Runtime chooses its kernel by the longest text of a batch. From a number of tokens on,
    ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV, that is FlashAttention. Below it takes TensorRT's
    fused kernels where the device has them, which end at compute capability 8.9, and
    memory-efficient ones elsewhere. On an H100 whole runs take 1 to 16 % less with FlashAttention
    for texts of 80 to 256 tokens, and 4 to 33 % longer for texts of 16 to 64; the worker sets the
    variable accordingly. The operator PackedAttention, which has the product in itself, has no
    FlashAttention.
    """

    name = "packed"
    takes_distance_bias = False

    def __init__(self, builder: OnnxBuilder, config: BertConfig, arithmetic: Arithmetic) -> None:
        super().__init__(builder, config, arithmetic)
        self._offsets = self._cumulated = ""

    def enter(self, hidden: str, mask: str) -> str:
        # Where each token came from, and where in the row of tokens each text begins.
        packed, self._offsets, self._cumulated, _ = self.builder.node_with_outputs(
            "RemovePadding",
            hidden,
            mask,
            name="packing/remove",
            outputs=[f"packing/{part}" for part in ("tokens", "offsets", "cumulated", "longest")],
            domain=MICROSOFT_DOMAIN,
        )
        return packed

    def leave(self, hidden: str) -> str:
        return self.builder.node(
            "RestorePadding", hidden, self._offsets, name="packing/restore", domain=MICROSOFT_DOMAIN
        )

    def attention(self, layer: int, hidden: str, mask: str) -> str:
        del mask
        b, name = self.builder, f"layer{layer}"
        size, heads = self.config.hidden_size, self.config.num_attention_heads
        weight, bias = self.arithmetic.projections_by_head(b, name, self.keys(layer), heads)
        product = b.node("MatMul", hidden, weight, name=f"{name}/qkv")
        split = b.constant([-1, heads, 3, size // heads])
        return b.node(
            "PackedMultiHeadAttention",
            b.node("Reshape", product, split, name=f"{name}/qkv/heads"),
            "",  # neither keys nor values: they are in the first
            "",
            bias,
            self._offsets,
            self._cumulated,
            name=f"{name}/attention",
            domain=MICROSOFT_DOMAIN,
            num_heads=heads,
        )


class PlainAttention(AttentionForm):
    """Attention of standard operators, in the order in which TensorRT looks for it."""

    name = "plain"
    extra_opsets: ClassVar[dict[str, int]] = {}

    def mask(self) -> str:
        b, dtype = self.builder, self.arithmetic.dtype
        valid = b.node("Cast", ATTENTION_MASK, name="mask/cast", to=self.arithmetic.onnx_type)
        padding = b.node("Sub", b.constant(1.0, dtype), valid, name="mask/padding")
        # Far below any score, and within the range of float16.
        bias = b.node("Mul", padding, b.constant(-10000.0, dtype), name="mask/scores")
        return b.node("Unsqueeze", bias, b.constant([1, 2]), name="mask/bias")

    def attention(self, layer: int, hidden: str, mask: str) -> str:
        b, dtype = self.builder, self.arithmetic.dtype
        size, heads = self.config.hidden_size, self.config.num_attention_heads
        name = f"layer{layer}"
        split = b.constant([0, 0, heads, size // heads])

        def project(part: str, key: str, order: list[int]) -> str:
            linear = self.arithmetic.linear(
                b, f"{name}/{part}", f"{name}/attention_input", hidden, key
            )
            by_head = b.node("Reshape", linear, split, name=f"{name}/{part}/heads")
            return b.node("Transpose", by_head, name=f"{name}/{part}/transpose", perm=order)

        query, key, value = self.keys(layer)
        q = project("query", query, [0, 2, 1, 3])
        k = project("key", key, [0, 2, 3, 1])
        v = project("value", value, [0, 2, 1, 3])
        scores = b.node("MatMul", q, k, name=f"{name}/scores")
        root = b.constant(np.sqrt(size // heads), dtype)
        scores = b.node("Div", scores, root, name=f"{name}/scaled")
        scores = b.node("Add", scores, mask, name=f"{name}/masked")
        weights = b.node("Softmax", scores, name=f"{name}/softmax", axis=-1)
        context = b.node("MatMul", weights, v, name=f"{name}/context")
        context = b.node("Transpose", context, name=f"{name}/merge", perm=[0, 2, 1, 3])
        return b.node("Reshape", context, b.constant([0, 0, size]), name=f"{name}/attention")


def relative_buckets(distance: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """Return the row of MPNet's table for each distance from a query to a key.

    A quarter of the rows is for each distance below that number, a quarter for those up to 128 on a
    logarithmic scale; the other half is the same for keys that stand behind the query.
    """
    half = buckets // 2
    exact, furthest = half // 2, 128
    steps = np.abs(distance)
    # In the precision of the library: at some distances the logarithm is close to a whole number.
    scaled = np.log(np.maximum(steps, 1).astype(np.float32) / np.float32(exact))
    scaled = scaled / np.float32(np.log(furthest / exact)) * np.float32(half - exact)
    coarse = np.minimum(exact + scaled.astype(np.int64), half - 1)
    rows: NDArray[np.int64] = np.where(steps < exact, steps, coarse) + half * (distance > 0)
    return rows
