"""Writes what follows an encoder into a graph of others: pooling, and unit vectors.

In the way of the graph's opset: axes have been attributes before they were inputs.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from embed_models.attention import ATTENTION_MASK
from embed_models.errors import UsageError
from embed_models.graph import EMBEDDING
from embed_models.onnx_builder import OnnxBuilder
from embed_models.onnx_inputs import rename, value_names
from embed_models.onnx_probe import Output

# Below everything that a state can be: the maximum of a column is never that of the padding.
_LOWEST = float(np.finfo(np.float32).min)


def finish(model: onnx.ModelProto, output: Output, pooling: str | None, b: OnnxBuilder) -> None:
    """Add pooling and normalisation behind an output, and make that the only one."""
    # The name of what a worker asks for may be taken.
    source = output.name
    if EMBEDDING in value_names(model.graph):
        rename(model.graph, EMBEDDING, b.name("source"))
        source = b.name("source") if source == EMBEDDING else source
    vector = source
    if output.cast:
        vector = b.node("Cast", vector, name="cast", to=TensorProto.FLOAT)
    if pooling is not None:
        vector = pool(b, pooling, vector)
    squares = b.node("Mul", vector, vector, name="normalise/squares")
    norm = b.over_axes("ReduceSum", squares, [-1], name="normalise/sum", keepdims=1)
    norm = b.node("Sqrt", norm, name="normalise/norm")
    norm = b.node("Max", norm, b.constant(1e-12, np.float32), name="normalise/floor")
    b.node("Div", vector, norm, name="normalise/div", output=EMBEDDING)
    b.extend(model.graph)
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", output.dimension])
    )


def pool(b: OnnxBuilder, pooling: str, tokens: str) -> str:
    """Pool float32 states of texts that are padded on the right: to [batch, hidden]."""
    if pooling == "cls":
        return b.node("Gather", tokens, b.constant(0), name="pool/cls", axis=1)
    if pooling not in ("mean", "max", "weightedmean", "last"):
        raise UsageError(f"the pooling {pooling!r} cannot be added to an ONNX file")
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
    weights = b.over_axes("Unsqueeze", weights, [2], name="pool/weights")
    if pooling == "max":
        valid = b.node("Cast", weights, name="pool/valid", to=TensorProto.BOOL)
        lowest = b.constant(_LOWEST, np.float32)
        masked = b.node("Where", valid, tokens, lowest, name="pool/masked")
        return b.over_axes("ReduceMax", masked, [1], name="pool/max", keepdims=0)
    masked = b.node("Mul", tokens, weights, name="pool/masked")
    total = b.over_axes("ReduceSum", masked, [1], name="pool/sum", keepdims=0)
    count = b.over_axes("ReduceSum", weights, [1], name="pool/count", keepdims=0)
    # A row of nothing but padding gives a zero vector instead of NaN.
    count = b.node("Max", count, b.constant(1e-9, np.float32), name="pool/floor")
    return b.node("Div", total, count, name="pool/mean")
