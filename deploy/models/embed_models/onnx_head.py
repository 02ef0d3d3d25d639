"""Writes what follows an encoder into a graph of others, which may lack any part of it."""

import onnx
from onnx import TensorProto, helper

from embed_models import pooling
from embed_models.graph import EMBEDDING
from embed_models.head import Head
from embed_models.onnx_builder import OnnxBuilder
from embed_models.onnx_inputs import rename, value_names
from embed_models.onnx_probe import Output


def finish(model: onnx.ModelProto, output: Output, head: Head, b: OnnxBuilder) -> None:
    """Add what is missing behind an output, and make that the only one.

    Of an output by text, the pooling of `head` is in the graph already.
    """
    # The name of what a worker asks for may be taken.
    source = output.name
    if EMBEDDING in value_names(model.graph):
        rename(model.graph, EMBEDDING, b.name("source"))
        source = b.name("source") if source == EMBEDDING else source
    vector = source
    if output.cast:
        vector = b.node("Cast", vector, name="cast", to=TensorProto.FLOAT)
    if output.by_token:
        vector = pooling.pool(b, head.pooling, vector)
    pooling.finish(b, head, vector, EMBEDDING)
    b.extend(model.graph)
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(
            EMBEDDING, TensorProto.FLOAT, ["batch", head.dimension(output.dimension)]
        )
    )
