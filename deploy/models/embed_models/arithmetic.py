"""How the weights of a graph are stored and its linear algebra is written.

`Arithmetic` is the exact one, in float32 or float16; the subclasses in `quantize` write the same
layers in 8 bits. The shape of the network is not decided here but in `graph`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper

from embed_models.checkpoint import Tensors
from embed_models.onnx_builder import OnnxBuilder

MICROSOFT_DOMAIN = "com.microsoft"
WORD_EMBEDDINGS = "embeddings.word_embeddings"


def by_head(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Order columns by head: from [3, heads, head size] to [heads, 3, head size]."""
    rows = len(weight)
    return weight.reshape(rows, 3, heads, -1).swapaxes(1, 2).reshape(rows, -1)


class Arithmetic:
    """Floating-point arithmetic in one type, weights and activations alike.

    Linear layers are named by the prefix of their tensors, such as `encoder.layer.0.output.dense`,
    and read a *site*: an activation that one or more linear layers take as input.
    """

    def __init__(self, tensors: Tensors, dtype: DTypeLike = np.float32) -> None:
        self.tensors = tensors
        self.dtype = np.dtype(dtype)
        # The value of the graph that each site is, for those that want to see it.
        self.sites: dict[str, str] = {}

    @property
    def onnx_type(self) -> int:
        """The ONNX element type of activations."""
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    def array(self, key: str) -> NDArray[np.floating]:
        return self.tensors[key].astype(self.dtype)

    def word_table(self, b: OnnxBuilder) -> str:
        """Store the word embeddings, [vocabulary, hidden]."""
        return b.initializer("embeddings/word.weight", self.array(f"{WORD_EMBEDDINGS}.weight"))

    def words(self, b: OnnxBuilder, table: str, ids: str) -> str:
        """Look the word embeddings up: [batch, seq] -> [batch, seq, hidden]."""
        return b.node("Gather", table, ids, name="embeddings/word")

    def position_table(self, b: OnnxBuilder, table: NDArray[np.floating]) -> str:
        """Store what is added to a word for its place, [positions, hidden]."""
        return b.initializer("embeddings/position.weight", table)

    def linear(self, b: OnnxBuilder, name: str, site: str, value: str, key: str) -> str:
        """Multiply by a weight matrix and add its bias: [batch, seq, in] -> [batch, seq, out]."""
        self.sites[site] = value
        return self.add_bias(b, name, self.product(b, name, value, key), key)

    def product(self, b: OnnxBuilder, name: str, value: str, key: str) -> str:
        """Multiply by a weight matrix: [..., in] -> [..., out]."""
        weight = b.initializer(f"{name}.weight", self.array(f"{key}.weight").T)
        return b.node("MatMul", value, weight, name=f"{name}/matmul")

    def add_bias(self, b: OnnxBuilder, name: str, product: str, key: str) -> str:
        bias = b.initializer(f"{name}.bias", self.array(f"{key}.bias"))
        return b.node("Add", product, bias, name=f"{name}/add")

    def fused_attention(
        self,
        b: OnnxBuilder,
        name: str,
        site: str,
        hidden: str,
        keys: Sequence[str],
        mask: str,
        heads: int,
    ) -> str:
        """Write com.microsoft Attention; `keys` name the query, key and value projections."""
        self.sites[site] = hidden
        weight, bias = self.fused_projections(b, name, keys)
        return b.node(
            "Attention",
            hidden,
            weight,
            bias,
            mask,
            name=f"{name}/attention",
            domain=MICROSOFT_DOMAIN,
            num_heads=heads,
        )

    def fused_projections(self, b: OnnxBuilder, name: str, keys: Sequence[str]) -> tuple[str, str]:
        """Store the projections that `keys` name as one: weight, [hidden, 3 hidden], and bias."""
        weight = b.initializer(f"{name}/qkv.weight", self._fused_weight(keys))
        return weight, self.fused_bias(b, name, keys)

    def projections_by_head(
        self, b: OnnxBuilder, name: str, keys: Sequence[str], heads: int
    ) -> tuple[str, str]:
        """Store the same with the columns of the weight, but not the bias, ordered by head."""
        weight = b.initializer(f"{name}/qkv.weight", by_head(self._fused_weight(keys), heads))
        return weight, self.fused_bias(b, name, keys)

    def _fused_weight(self, keys: Sequence[str]) -> NDArray[np.floating]:
        return np.concatenate([self.array(f"{key}.weight").T for key in keys], axis=1)

    def fused_bias(self, b: OnnxBuilder, name: str, keys: Sequence[str]) -> str:
        bias = np.concatenate([self.array(f"{key}.bias") for key in keys])
        return b.initializer(f"{name}/qkv.bias", bias)

    def gelu(self, b: OnnxBuilder, name: str, value: str) -> str:
        # Spelled out, because Gelu is an operator only from opset 20 on; runtimes fuse it.
        def constant(number: float) -> str:
            return b.constant(number, self.dtype)

        scaled = b.node("Div", value, constant(np.sqrt(2.0)), name=f"{name}/gelu/scale")
        erf = b.node("Erf", scaled, name=f"{name}/gelu/erf")
        shifted = b.node("Add", erf, constant(1.0), name=f"{name}/gelu/shift")
        product = b.node("Mul", value, shifted, name=f"{name}/gelu/product")
        return b.node("Mul", product, constant(0.5), name=f"{name}/gelu/half")

    def to_float32(self, b: OnnxBuilder, value: str) -> str:
        """Cast what the encoder yields, so that pooling never adds up halves."""
        if self.dtype == np.float32:
            return value
        return b.node("Cast", value, name="pool/float32", to=TensorProto.FLOAT)
