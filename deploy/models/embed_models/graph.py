"""Builds the ONNX graph of a BERT sentence encoder: token ids in, one unit vector per text out.

Two things vary: the form (`attention`), which is a way to write self-attention, and the arithmetic
(`arithmetic`), which is a way to store and multiply weights. What is here is common to all;
`fused` writes the same network with fewer and larger operators.
"""

import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper

from embed_models.arithmetic import Arithmetic
from embed_models.attention import ATTENTION_MASK, AttentionForm, ContribAttention
from embed_models.attention import INPUT_IDS as INPUT_IDS
from embed_models.checkpoint import BertConfig
from embed_models.head import Head
from embed_models.metadata import Pooling
from embed_models.onnx_builder import OnnxBuilder, check_size, too_large
from embed_models.pooling import finish, pool

# The first opset in which Q/DQ nodes can carry FP8; the forms for all precisions share it.
OPSET = 19

EMBEDDING = "embedding"


class BertGraph:
    """The parts that are the same in every form."""

    def __init__(
        self, config: BertConfig, arithmetic: Arithmetic, form: type[AttentionForm]
    ) -> None:
        self.config = config
        self.arithmetic = arithmetic
        self.builder = OnnxBuilder()
        # Shapes to declare, of values whose shape cannot be inferred.
        self.value_info: list[onnx.ValueInfoProto] = []
        self.form = form(self.builder, config, arithmetic)

    def build(self, head: Head) -> onnx.ModelProto:
        hidden = self.embeddings()
        mask = self.mask()
        hidden = self.form.enter(hidden, mask)
        for layer in range(self.config.num_hidden_layers):
            hidden = self.layer(layer, hidden, mask)
        hidden = self.form.leave(hidden)
        finish(self.builder, head, self.pool(head.pooling, hidden), EMBEDDING)
        return self.model(head)

    def model(self, head: Head) -> onnx.ModelProto:
        """Return what has been built: token ids and mask in, vectors out."""
        size = head.dimension(self.config.hidden_size)
        tokens = ["batch", "seq"]
        return self.builder.model(
            name="bert_sentence_encoder",
            inputs=[
                helper.make_tensor_value_info(INPUT_IDS, TensorProto.INT64, tokens),
                helper.make_tensor_value_info(ATTENTION_MASK, TensorProto.INT64, tokens),
            ],
            outputs=[helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", size])],
            value_info=self.value_info,
            opsets={"": OPSET} | self.form.extra_opsets,
            producer="embed-models",
        )

    def embeddings(self) -> str:
        """Embed the tokens: [batch, seq, hidden]."""
        b = self.builder
        words = self.arithmetic.word_table(b)
        seq = b.node("Shape", INPUT_IDS, name="embeddings/seq", start=1, end=2)
        positions = b.node(
            "Slice",
            self.position_table(),
            b.constant([0]),
            seq,
            b.constant([0]),
            name="embeddings/position",
        )
        # Shape inference cannot see through a slice whose end is computed, and ONNX Runtime then
        # leaves out the fusions that need the shapes behind it.
        shape: list[str | int] = ["seq", self.config.hidden_size]
        self.value_info.append(
            helper.make_tensor_value_info(positions, self.arithmetic.onnx_type, shape)
        )
        word = self.arithmetic.words(b, words, INPUT_IDS)
        total = b.node("Add", word, positions, name="embeddings/add")
        return self.layer_norm("embeddings/norm", total, "embeddings.LayerNorm")

    def position_table(self) -> str:
        """Store what is added to a word for its place: [positions, hidden]."""
        # A text is a single segment, so its token type is always 0 and that row is a constant.
        tensors = self.arithmetic.tensors
        table = (
            tensors["embeddings.position_embeddings.weight"]
            + tensors["embeddings.token_type_embeddings.weight"][0]
        ).astype(self.arithmetic.dtype)
        return self.arithmetic.position_table(self.builder, table)

    def mask(self) -> str:
        """Return what the form's attention needs to know of the padding."""
        return self.form.mask()

    def layer(self, index: int, hidden: str, mask: str) -> str:
        name, key = f"layer{index}", f"encoder.layer.{index}"
        attended = self.form.attention(index, hidden, mask)
        hidden = self.linear_norm(f"{name}/attention_", attended, hidden, f"{key}.attention.output")
        inner = self.linear_gelu(name, hidden, f"{key}.intermediate")
        return self.linear_norm(f"{name}/", inner, hidden, f"{key}.output")

    def linear_norm(self, prefix: str, value: str, skipped: str, key: str) -> str:
        """Multiply, add what skipped the product, and normalise the sum."""
        projected = self.linear(self.output_name(prefix), value, key)
        residual = self.builder.node("Add", projected, skipped, name=f"{prefix}residual")
        return self.layer_norm(f"{prefix}norm", residual, f"{key}.LayerNorm")

    def output_name(self, prefix: str) -> str:
        """Name the product in front of a norm, `layer0/attention_output` or `layer0/outer`."""
        return prefix + ("output" if prefix.endswith("_") else "outer")

    def linear_gelu(self, name: str, value: str, key: str) -> str:
        """Multiply, and apply the activation function."""
        return self.arithmetic.gelu(self.builder, name, self.linear(f"{name}/inner", value, key))

    def linear(self, name: str, value: str, key: str) -> str:
        return self.arithmetic.linear(self.builder, name, name, value, f"{key}.dense")

    def layer_norm(self, name: str, value: str, key: str) -> str:
        return self.builder.node(
            "LayerNormalization",
            value,
            *self.norm_weights(name, key),
            name=name,
            axis=-1,
            epsilon=self.config.layer_norm_eps,
        )

    def norm_weights(self, name: str, key: str) -> list[str]:
        """Store the scale and the shift of a norm."""
        return [
            self.builder.initializer(f"{name}.{part}", self.arithmetic.array(f"{key}.{part}"))
            for part in ("weight", "bias")
        ]

    def pool(self, pooling: Pooling, hidden: str) -> str:
        """Pool the states of the tokens: [batch, hidden], in float32."""
        b = self.builder
        if pooling == "cls":
            return self.arithmetic.to_float32(b, pool(b, pooling, hidden))
        return pool(b, pooling, self.arithmetic.to_float32(b, hidden))


def build_graph(
    config: BertConfig,
    arithmetic: Arithmetic,
    head: Head | Pooling,
    form: type[AttentionForm] = ContribAttention,
) -> onnx.ModelProto:
    """Build the model; the same input always gives the same bytes.

    A pooling alone is a head without Dense layers, whose vectors have unit length.
    """
    return BertGraph(config, arithmetic, form).build(as_head(head))


def as_head(head: Head | Pooling) -> Head:
    return head if isinstance(head, Head) else Head(head)


def serialize(model: onnx.ModelProto) -> bytes:
    """Return the bytes of the ONNX file."""
    check_size(model.graph.initializer)
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    # Weights that just fit, with the rest of the graph, or in other places than initializers.
    except EncodeError as error:
        raise too_large(f"the graph cannot be written ({error})") from error
    return content
