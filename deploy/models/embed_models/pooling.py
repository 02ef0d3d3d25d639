"""Writes the head of a model into a graph that yields a state for each token.

Values are float32 from here on. Texts are padded on the right.
"""

import numpy as np
from onnx import TensorProto

from embed_models.attention import ATTENTION_MASK
from embed_models.head import Activation, Head
from embed_models.metadata import Pooling
from embed_models.onnx_builder import OnnxBuilder

_OPERATORS: dict[Activation, str] = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}
# Below everything that a state can be: the maximum of a column is never that of the padding.
_LOWEST = float(np.finfo(np.float32).min)


def pool(b: OnnxBuilder, pooling: Pooling, hidden: str) -> str:
    """Pool float32 states: [batch, seq, hidden] -> [batch, hidden]."""
    if pooling == "cls":
        return b.node("Gather", hidden, b.constant(0), name="pool/cls", axis=1)
    if pooling == "last":
        return _last(b, hidden)
    weights = b.node("Cast", ATTENTION_MASK, name="pool/mask", to=TensorProto.FLOAT)
    if pooling == "weightedmean":
        # The n-th token counts n times.
        places = b.node("CumSum", weights, b.constant(1), name="pool/places")
        weights = b.node("Mul", weights, places, name="pool/place_weights")
    weights = b.node("Unsqueeze", weights, b.constant([-1]), name="pool/weights")
    if pooling == "max":
        valid = b.node("Cast", weights, name="pool/valid", to=TensorProto.BOOL)
        lowest = b.constant(_LOWEST, np.float32)
        masked = b.node("Where", valid, hidden, lowest, name="pool/masked")
        return b.node("ReduceMax", masked, b.constant([1]), name="pool/max", keepdims=0)
    masked = b.node("Mul", hidden, weights, name="pool/masked")
    total = b.node("ReduceSum", masked, b.constant([1]), name="pool/sum", keepdims=0)
    count = b.node("ReduceSum", weights, b.constant([1]), name="pool/count", keepdims=0)
    # A row of nothing but padding gives a zero vector instead of NaN.
    count = b.node("Max", count, b.constant(1e-9, np.float32), name="pool/count_floor")
    return b.node("Div", total, count, name="pool/mean")


def _last(b: OnnxBuilder, hidden: str) -> str:
    count = b.node("ReduceSum", ATTENTION_MASK, b.constant([1]), name="pool/count", keepdims=1)
    place = b.node("Sub", count, b.constant(1), name="pool/before_end")
    # A row of nothing but padding has no last token.
    place = b.node("Max", place, b.constant(0), name="pool/place")
    return b.node("GatherND", hidden, place, name="pool/last", batch_dims=1)


def finish(b: OnnxBuilder, head: Head, vector: str, output: str) -> None:
    """Write what follows the pooling; the result is called `output`."""
    for index, dense in enumerate(head.dense):
        name = f"dense{index}"
        weight = b.initializer(f"{name}.weight", dense.weight.T)
        vector = b.node("MatMul", vector, weight, name=f"{name}/matmul")
        if dense.bias is not None:
            bias = b.initializer(f"{name}.bias", dense.bias)
            vector = b.node("Add", vector, bias, name=f"{name}/add")
        if dense.activation != "identity":
            operator = _OPERATORS[dense.activation]
            vector = b.node(operator, vector, name=f"{name}/activation")
    if not head.normalize:
        b.node("Identity", vector, name="vector", output=output)
        return
    norm = b.node("ReduceL2", vector, b.constant([-1]), name="normalise/norm", keepdims=1)
    norm = b.node("Max", norm, b.constant(1e-12, np.float32), name="normalise/floor")
    b.node("Div", vector, norm, name="normalise/div", output=output)
