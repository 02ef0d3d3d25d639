"""Writes the head of a model into a graph that yields a state for each token.

Values are float32 from here on. Texts are padded on the right. The graph may be one of others, of
an older opset.
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
    weights = b.node("Cast", ATTENTION_MASK, name="pool/mask", to=TensorProto.FLOAT)
    if pooling in ("weightedmean", "last"):
        places = b.node("CumSum", weights, b.constant(1), name="pool/places")
    if pooling == "weightedmean":
        # The n-th token counts n times.
        weights = b.node("Mul", weights, places, name="pool/place_weights")
    if pooling == "last":
        # Of the places, only the last is the number of tokens, and it is no padding.
        count = b.over_axes("ReduceSum", weights, [1], name="pool/tokens", keepdims=1)
        last = b.node("Equal", places, count, name="pool/is_last")
        last = b.node("Cast", last, name="pool/last", to=TensorProto.FLOAT)
        weights = b.node("Mul", last, weights, name="pool/last_weights")
    weights = b.over_axes("Unsqueeze", weights, [-1], name="pool/weights")
    if pooling == "max":
        valid = b.node("Cast", weights, name="pool/valid", to=TensorProto.BOOL)
        lowest = b.constant(_LOWEST, np.float32)
        masked = b.node("Where", valid, hidden, lowest, name="pool/masked")
        return b.over_axes("ReduceMax", masked, [1], name="pool/max", keepdims=0)
    masked = b.node("Mul", hidden, weights, name="pool/masked")
    total = b.over_axes("ReduceSum", masked, [1], name="pool/sum", keepdims=0)
    count = b.over_axes("ReduceSum", weights, [1], name="pool/count", keepdims=0)
    # A row of nothing but padding gives a zero vector instead of NaN.
    count = b.node("Max", count, b.constant(1e-9, np.float32), name="pool/count_floor")
    return b.node("Div", total, count, name="pool/mean")


def finish(b: OnnxBuilder, head: Head, vector: str, output: str) -> None:
    """Write what follows the pooling; the result is called `output`."""
    for index, dense in enumerate(head.dense):
        name = f"dense{index}"
        weight = b.initializer(b.name(f"{name}.weight"), dense.weight.T)
        vector = b.node("MatMul", vector, weight, name=f"{name}/matmul")
        if dense.bias is not None:
            bias = b.initializer(b.name(f"{name}.bias"), dense.bias)
            vector = b.node("Add", vector, bias, name=f"{name}/add")
        if dense.activation != "identity":
            operator = _OPERATORS[dense.activation]
            vector = b.node(operator, vector, name=f"{name}/activation")
    if not head.normalize:
        b.node("Identity", vector, name="vector", output=output)
        return
    norm = b.over_axes("ReduceL2", vector, [-1], name="normalise/norm", keepdims=1)
    norm = b.node("Max", norm, b.constant(1e-12, np.float32), name="normalise/floor")
    b.node("Div", vector, norm, name="normalise/div", output=output)
