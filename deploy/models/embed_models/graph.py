"""Builds the ONNX graph of a BERT sentence encoder: token ids in, one unit vector per text out.

Two things vary: the form (`attention`), which is a way to write self-attention, and the arithmetic
(`arithmetic`), which is a way to store and multiply weights. What is here is common to all.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from embed_models.arithmetic import Arithmetic
from embed_models.attention import ATTENTION_MASK, AttentionForm, ContribAttention
from embed_models.checkpoint import BertConfig
from embed_models.errors import CheckpointError
from embed_models.metadata import Pooling
from embed_models.onnx_builder import OnnxBuilder

# The first opset in which Q/DQ nodes can carry FP8; the forms for all precisions share it.
OPSET = 19

INPUT_IDS = "input_ids"
EMBEDDING = "embedding"

_PROTOBUF_LIMIT = 2**31


class _BertGraph:
    """The parts that are the same in every form."""

    def __init__(
        self, config: BertConfig, arithmetic: Arithmetic, form: type[AttentionForm]
    ) -> None:
        self.config = config
        self.arithmetic = arithmetic
        self.builder = OnnxBuilder()
        self.form = form(self.builder, config, arithmetic)

    def build(self, pooling: Pooling) -> onnx.ModelProto:
        hidden, positions = self.embeddings()
        mask = self.form.mask()
        for layer in range(self.config.num_hidden_layers):
            hidden = self.layer(layer, hidden, mask)
        hidden = self.arithmetic.to_float32(self.builder, hidden)
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
            value_info=[
                helper.make_tensor_value_info(positions, self.arithmetic.onnx_type, ["seq", size])
            ],
            opsets={"": OPSET} | self.form.extra_opsets,
            producer="embed-models",
        )

    def embeddings(self) -> tuple[str, str]:
        """Return the embedded tokens, and the sliced position table on the way to them."""
        b = self.builder
        words = self.arithmetic.word_table(b)
        # A text is a single segment, so its token type is always 0 and that row is a constant.
        tensors = self.arithmetic.tensors
        table = (
            tensors["embeddings.position_embeddings.weight"]
            + tensors["embeddings.token_type_embeddings.weight"][0]
        ).astype(self.arithmetic.dtype)
        seq = b.node("Shape", INPUT_IDS, name="embeddings/seq", start=1, end=2)
        positions = b.node(
            "Slice",
            b.initializer("embeddings/position.weight", table),
            b.constant([0]),
            seq,
            b.constant([0]),
            name="embeddings/position",
        )
        word = self.arithmetic.words(b, words, INPUT_IDS)
        total = b.node("Add", word, positions, name="embeddings/add")
        return self.layer_norm("embeddings/norm", total, "embeddings.LayerNorm"), positions

    def layer(self, index: int, hidden: str, mask: str) -> str:
        b, name, key = self.builder, f"layer{index}", f"encoder.layer.{index}"
        attended = self.form.attention(index, hidden, mask)
        projected = self.linear(f"{name}/attention_output", attended, f"{key}.attention.output")
        residual = b.node("Add", projected, hidden, name=f"{name}/attention_residual")
        hidden = self.layer_norm(
            f"{name}/attention_norm", residual, f"{key}.attention.output.LayerNorm"
        )
        inner = self.linear(f"{name}/inner", hidden, f"{key}.intermediate")
        inner = self.arithmetic.gelu(b, name, inner)
        outer = self.linear(f"{name}/outer", inner, f"{key}.output")
        residual = b.node("Add", outer, hidden, name=f"{name}/residual")
        return self.layer_norm(f"{name}/norm", residual, f"{key}.output.LayerNorm")

    def linear(self, name: str, value: str, key: str) -> str:
        return self.arithmetic.linear(self.builder, name, name, value, f"{key}.dense")

    def layer_norm(self, name: str, value: str, key: str) -> str:
        b = self.builder
        return b.node(
            "LayerNormalization",
            value,
            b.initializer(f"{name}.weight", self.arithmetic.array(f"{key}.weight")),
            b.initializer(f"{name}.bias", self.arithmetic.array(f"{key}.bias")),
            name=name,
            axis=-1,
            epsilon=self.config.layer_norm_eps,
        )

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
    arithmetic: Arithmetic,
    pooling: Pooling,
    form: type[AttentionForm] = ContribAttention,
) -> onnx.ModelProto:
    """Build the model; the same input always gives the same bytes."""
    return _BertGraph(config, arithmetic, form).build(pooling)


def serialize(model: onnx.ModelProto) -> bytes:
    """Return the bytes of the ONNX file."""
    size = model.ByteSize()
    if size >= _PROTOBUF_LIMIT:
        raise CheckpointError(
            f"the ONNX file would have {size} bytes; models of 2 GiB and more are not supported"
        )
    content: bytes = model.SerializeToString(deterministic=True)
    return content
