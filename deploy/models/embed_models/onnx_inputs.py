"""Brings the inputs of an ONNX file into the worker's form: ids and mask, int64, [batch, seq]."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from embed_models.attention import ATTENTION_MASK
from embed_models.errors import CheckpointError
from embed_models.graph import INPUT_IDS
from embed_models.onnx_builder import OnnxBuilder
from embed_models.onnx_file import subgraphs

TOKEN_TYPES = "token_type_ids"  # noqa: S105 - the name of an input

_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
# What a mask of ones and zeros, or zeros alone, can be cast to.
_NUMBERS = (*_INTEGERS, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL)


def adapt_inputs(model: onnx.ModelProto, path: Path, b: OnnxBuilder, padding: int) -> None:
    """Replace the inputs, with what `b` puts in front of the graph.

    `padding` is the id that a graph without a mask knows padding by.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    if INPUT_IDS not in inputs:
        raise CheckpointError(
            f"{path} has the inputs {', '.join(inputs) or '(none)'}; it needs {INPUT_IDS}"
        )
    extra = sorted(set(inputs) - {INPUT_IDS, ATTENTION_MASK, TOKEN_TYPES})
    if extra:
        raise CheckpointError(f"{path} has the input {extra[0]}, which no worker can fill")
    types = {name: _checked(value, path) for name, value in inputs.items()}
    kept = [value for value in graph.input if value.name in weights]
    del graph.input[:]
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in (INPUT_IDS, ATTENTION_MASK)
    )
    graph.input.extend(kept)
    if ATTENTION_MASK in inputs:
        _cast(graph, b, ATTENTION_MASK, types[ATTENTION_MASK])
    ids = INPUT_IDS
    if ATTENTION_MASK not in inputs:
        name = b.name(INPUT_IDS)
        rename(graph, INPUT_IDS, name)
        valid = b.node("Cast", ATTENTION_MASK, name="valid", to=TensorProto.BOOL)
        pad = b.constant(padding)
        cast = types[INPUT_IDS] != TensorProto.INT64
        ids = b.node("Where", valid, INPUT_IDS, pad, name="ids", output="" if cast else name)
        if cast:
            b.node("Cast", ids, name="ids/cast", output=name, to=types[INPUT_IDS])
    else:
        _cast(graph, b, INPUT_IDS, types[INPUT_IDS])
    if TOKEN_TYPES in inputs:
        # A text is a single segment: all zeros, in the shape of the ids.
        cast = types[TOKEN_TYPES] != TensorProto.INT64
        zeros = b.node(
            "Mul", INPUT_IDS, b.constant(0), name="types", output="" if cast else TOKEN_TYPES
        )
        if cast:
            b.node("Cast", zeros, name="types/cast", output=TOKEN_TYPES, to=types[TOKEN_TYPES])
    b.prepend(graph)


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a value of a graph another name, in graphs inside it as well."""
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
        for inner in subgraphs(node):
            rename(inner, old, new)
    for named in (*graph.initializer, *graph.value_info, *graph.output):
        if named.name == old:
            named.name = new


def value_names(graph: onnx.GraphProto) -> set[str]:
    """Return all names of values in a graph and in the graphs inside it."""
    found = {value.name for value in (*graph.input, *graph.initializer, *graph.output)}
    for node in graph.node:
        found.update(node.input, node.output)
        for inner in subgraphs(node):
            found |= value_names(inner)
    return found


def _cast(graph: onnx.GraphProto, b: OnnxBuilder, name: str, wanted: int) -> None:
    """Let a graph have an int64 input in the type that it wants."""
    if wanted != TensorProto.INT64:
        rename(graph, name, b.name(name))
        b.node("Cast", name, name=f"{name}/cast", output=b.name(name), to=wanted)


def _checked(value: onnx.ValueInfoProto, path: Path) -> int:
    """Return the element type of an input, if it can be filled."""
    kind = value.type.tensor_type
    allowed = _INTEGERS if value.name == INPUT_IDS else _NUMBERS
    if kind.elem_type not in allowed:
        found = TensorProto.DataType.Name(kind.elem_type)
        raise CheckpointError(
            f"{path}: the input {value.name} is of {found}; it has to be "
            f"{' or '.join(map(TensorProto.DataType.Name, allowed))}"
        )
    dims = kind.shape.dim
    if kind.HasField("shape") and (len(dims) != 2 or any(dim.dim_value for dim in dims)):
        shape = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in dims)
        raise CheckpointError(
            f"{path}: the input {value.name} has the shape [{shape}]; export it again with dynamic "
            "axes [batch, seq]"
        )
    return int(kind.elem_type)
