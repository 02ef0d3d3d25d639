"""Builds the ONNX graph of a BERT sentence encoder: token ids in, one unit vector per text out.

A graph form is a way to write self-attention; everything else is common to all forms. `contrib`
uses the fused Attention of ONNX Runtime (domain com.microsoft), which its CPU and CUDA providers
run. Further forms are further subclasses of `AttentionForm`.

Every form expects sequences that are padded on the right.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper

from embed_models.checkpoint import BertConfig, Tensors
from embed_models.errors import CheckpointError
from embed_models.metadata import Pooling
from embed_models.onnx_builder import OnnxBuilder

# The first opset in which Q/DQ nodes can carry FP8; the forms for all precisions share it.
OPSET = 19
MICROSOFT_DOMAIN = "com.microsoft"

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
EMBEDDING = "embedding"

_PROTOBUF_LIMIT = 2**31


class AttentionForm(ABC):
    """Writes self-attention into the graph; the output projection is not part of it."""

    name: ClassVar[str]
    extra_opsets: ClassVar[dict[str, int]]

    def __init__(self, builder: OnnxBuilder, config: BertConfig, tensors: Tensors) -> None:
        self.builder = builder
        self.config = config
        self.tensors = tensors

    @abstractmethod
    def mask(self) -> str:
        """Turn `attention_mask` into what `attention` needs; called once per graph."""

    @abstractmethod
    def attention(self, layer: int, hidden: str, mask: str) -> str:
        """Add the attention of one layer, from [batch, seq, hidden] to the same shape."""


class ContribAttention(AttentionForm):
    """One com.microsoft Attention per layer, with the three projections packed into one matrix."""

    name = "contrib"
    extra_opsets: ClassVar[dict[str, int]] = {MICROSOFT_DOMAIN: 1}

    def mask(self) -> str:
        # The operator takes the number of valid tokens of each row instead of a mask.
        as_int32 = self.builder.node(
            "Cast", ATTENTION_MASK, name="mask/int32", to=TensorProto.INT32
        )
        return self.builder.node(
            "ReduceSum", as_int32, self.builder.constant([1]), name="mask/length", keepdims=0
        )

    def attention(self, layer: int, hidden: str, mask: str) -> str:
        prefix = f"encoder.layer.{layer}.attention.self."
        projections = [prefix + name for name in ("query", "key", "value")]
        weight = np.concatenate([self.tensors[f"{p}.weight"].T for p in projections], axis=1)
        bias = np.concatenate([self.tensors[f"{p}.bias"] for p in projections])
        return self.builder.node(
            "Attention",
            hidden,
            self.builder.initializer(f"layer{layer}/qkv.weight", weight),
            self.builder.initializer(f"layer{layer}/qkv.bias", bias),
            mask,
            name=f"layer{layer}/attention",
            domain=MICROSOFT_DOMAIN,
            num_heads=self.config.num_attention_heads,
        )


class _BertGraph:
    """The parts that are the same in every form."""

    def __init__(self, config: BertConfig, tensors: Tensors, form: type[AttentionForm]) -> None:
        self.config = config
        self.tensors = tensors
        self.builder = OnnxBuilder()
        self.form = form(self.builder, config, tensors)

    def build(self, pooling: Pooling) -> onnx.ModelProto:
        hidden, positions = self.embeddings()
        mask = self.form.mask()
        for layer in range(self.config.num_hidden_layers):
            hidden = self.layer(layer, hidden, mask)
        self.normalise(self.mean_pool(hidden) if pooling == "mean" else self.cls_pool(hidden))
        size = self.config.hidden_size
        tokens = ["batch", "seq"]
        return self.builder.model(
            name="bert_sentence_encoder",
            inputs=[
                helper.make_tensor_value_info(INPUT_IDS, TensorProto.INT64, tokens),
                helper.make_tensor_value_info(ATTENTION_MASK, TensorProto.INT64, tokens),
            ],
            outputs=[helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", size])],
            # Shape inference cannot see through a slice whose end is computed, and ONNX Runtime
            # then leaves out the fusions that need the shapes behind it.
            value_info=[helper.make_tensor_value_info(positions, TensorProto.FLOAT, ["seq", size])],
            opsets={"": OPSET} | self.form.extra_opsets,
            producer="embed-models",
        )

    def embeddings(self) -> tuple[str, str]:
        """Return the embedded tokens, and the sliced position table on the way to them."""
        b = self.builder
        words = b.initializer(
            "embeddings/word.weight", self.tensors["embeddings.word_embeddings.weight"]
        )
        # A text is a single segment, so its token type is always 0 and that row is a constant.
        table = (
            self.tensors["embeddings.position_embeddings.weight"]
            + self.tensors["embeddings.token_type_embeddings.weight"][0]
        )
        seq = b.node("Shape", INPUT_IDS, name="embeddings/seq", start=1, end=2)
        positions = b.node(
            "Slice",
            b.initializer("embeddings/position.weight", table),
            b.constant([0]),
            seq,
            b.constant([0]),
            name="embeddings/position",
        )
        word = b.node("Gather", words, INPUT_IDS, name="embeddings/word")
        total = b.node("Add", word, positions, name="embeddings/add")
        return self.layer_norm("embeddings/norm", total, "embeddings.LayerNorm"), positions

    def layer(self, index: int, hidden: str, mask: str) -> str:
        b, name, key = self.builder, f"layer{index}", f"encoder.layer.{index}"
        attended = self.form.attention(index, hidden, mask)
        projected = self.linear(
            f"{name}/attention_output", attended, f"{key}.attention.output.dense"
        )
        residual = b.node("Add", projected, hidden, name=f"{name}/attention_residual")
        hidden = self.layer_norm(
            f"{name}/attention_norm", residual, f"{key}.attention.output.LayerNorm"
        )
        inner = self.gelu(name, self.linear(f"{name}/inner", hidden, f"{key}.intermediate.dense"))
        outer = self.linear(f"{name}/outer", inner, f"{key}.output.dense")
        residual = b.node("Add", outer, hidden, name=f"{name}/residual")
        return self.layer_norm(f"{name}/norm", residual, f"{key}.output.LayerNorm")

    def linear(self, name: str, value: str, key: str) -> str:
        b = self.builder
        weight = b.initializer(f"{name}.weight", self.tensors[f"{key}.weight"].T)
        bias = b.initializer(f"{name}.bias", self.tensors[f"{key}.bias"])
        product = b.node("MatMul", value, weight, name=f"{name}/matmul")
        return b.node("Add", product, bias, name=f"{name}/add")

    def layer_norm(self, name: str, value: str, key: str) -> str:
        b = self.builder
        return b.node(
            "LayerNormalization",
            value,
            b.initializer(f"{name}.weight", self.tensors[f"{key}.weight"]),
            b.initializer(f"{name}.bias", self.tensors[f"{key}.bias"]),
            name=name,
            axis=-1,
            epsilon=self.config.layer_norm_eps,
        )

    def gelu(self, name: str, value: str) -> str:
        # Spelled out, because Gelu is an operator only from opset 20 on; runtimes fuse it.
        b = self.builder
        scaled = b.node(
            "Div", value, b.constant(np.sqrt(2.0), np.float32), name=f"{name}/gelu/scale"
        )
        erf = b.node("Erf", scaled, name=f"{name}/gelu/erf")
        shifted = b.node("Add", erf, b.constant(1.0, np.float32), name=f"{name}/gelu/shift")
        product = b.node("Mul", value, shifted, name=f"{name}/gelu/product")
        return b.node("Mul", product, b.constant(0.5, np.float32), name=f"{name}/gelu/half")

    def mean_pool(self, hidden: str) -> str:
        b = self.builder
        weights = b.node("Cast", ATTENTION_MASK, name="pool/mask", to=TensorProto.FLOAT)
        weights = b.node("Unsqueeze", weights, b.constant([-1]), name="pool/weights")
        masked = b.node("Mul", hidden, weights, name="pool/masked")
        total = b.node("ReduceSum", masked, b.constant([1]), name="pool/sum", keepdims=0)
        count = b.node("ReduceSum", weights, b.constant([1]), name="pool/count", keepdims=0)
        # A row of nothing but padding gives a zero vector instead of NaN.
        count = b.node("Max", count, b.constant(1e-9, np.float32), name="pool/count_floor")
        return b.node("Div", total, count, name="pool/mean")

    def cls_pool(self, hidden: str) -> str:
        return self.builder.node(
            "Gather", hidden, self.builder.constant(0), name="pool/cls", axis=1
        )

    def normalise(self, vector: str) -> None:
        b = self.builder
        norm = b.node("ReduceL2", vector, b.constant([-1]), name="normalise/norm", keepdims=1)
        norm = b.node("Max", norm, b.constant(1e-12, np.float32), name="normalise/floor")
        b.node("Div", vector, norm, name="normalise/div", output=EMBEDDING)


def build_graph(
    config: BertConfig,
    tensors: Tensors,
    pooling: Pooling,
    form: type[AttentionForm] = ContribAttention,
) -> onnx.ModelProto:
    """Build the model; the same input always gives the same bytes."""
    return _BertGraph(config, tensors, form).build(pooling)


def serialize(model: onnx.ModelProto) -> bytes:
    """Return the bytes of the ONNX file."""
    size = model.ByteSize()
    if size >= _PROTOBUF_LIMIT:
        raise CheckpointError(
            f"the ONNX file would have {size} bytes; models of 2 GiB and more are not supported"
        )
    content: bytes = model.SerializeToString(deterministic=True)
    return content
