"""Reads ONNX files of others: as one message, with nothing in it that leads elsewhere.

A worker takes graphs of one file, whose SHA-256 covers all of it. So tensors that lie in other
files are brought in here, and what no worker would load is refused.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from embed_models.errors import CheckpointError

# Of a protobuf message, and so of an ONNX file.
LIMIT = 2**31

# As `worker/engine/src/engine/onnx_file/walk.rs` has them: nodes that read files or run code, and
# the property that may hold options for sessions.
_REFUSED_NODES = ("EPContext", "PythonOp", "PythonOpGrad", "ATen")
_SESSION_OPTIONS = "ort_config"


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the model with all its tensors inside, or raise `CheckpointError`."""
    if not path.is_file():
        reason = "is no file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {reason}")
    size = path.stat().st_size
    _refuse_large(path, size)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise CheckpointError(f"{path} is no ONNX file ({error})") from error
    if not _is_text(model):
        raise CheckpointError(f"{path} is no ONNX file: names in it are not in UTF-8")
    if not model.graph.node:
        raise CheckpointError(f"{path} is no ONNX file: there are no nodes in it")
    for node in nodes(model):
        if node.op_type in _REFUSED_NODES:
            raise CheckpointError(
                f"{path} has a node {node.op_type!r}, which can read files or run code; export it "
                "again from its source, with ONNX's operators"
            )
    external = [tensor for tensor in tensors(model) if uses_external_data(tensor)]
    if external:
        _refuse_large(path, size + sum(_length(path, tensor) for tensor in external))
        try:
            load_external_data_for_model(model, str(path.parent))
        except Exception as error:  # several kinds, the checker's among them
            raise CheckpointError(
                f"{path}: tensors of it are in another file, which cannot be read ({error})"
            ) from error
    for tensor in tensors(model):
        if uses_external_data(tensor):
            raise CheckpointError(
                f"{path}: the tensor {tensor.name!r} is in another file, and cannot be brought in "
                "from where it stands; save the graph as one file"
            )
    for entry in list(model.metadata_props):
        if entry.key == _SESSION_OPTIONS:
            model.metadata_props.remove(entry)
    return model


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a model, those of graphs in graphs and of functions included."""
    yield from _nodes(model.graph.node)
    for function in model.functions:
        yield from _nodes(function.node)


def _nodes(some: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for node in some:
        yield node
        for graph in subgraphs(node):
            yield from _nodes(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node has as attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model, wherever they stand."""
    yield from _initializers(model.graph)
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for tensor in (*sparse, *attribute.sparse_tensors):
                yield from (tensor.values, tensor.indices)
        for graph in subgraphs(node):
            yield from _initializers(graph)


def _initializers(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _is_text(message: Message) -> bool:
    """Say whether all that is to be text is text; protobuf gives other bytes as they are."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.type == FieldDescriptor.TYPE_STRING:
            if any(isinstance(one, bytes) for one in values):
                return False
        elif field.type == FieldDescriptor.TYPE_MESSAGE and not all(map(_is_text, values)):
            return False
    return True


def _length(path: Path, tensor: TensorProto) -> int:
    """Bytes that a tensor takes in its other file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = path.parent / location
    if not file.is_file():
        raise CheckpointError(
            f"{path}: the tensor {tensor.name!r} is in the file {location!r}, which is not "
            "beside it; copy that file there"
        )
    try:
        return int(entries.get("length") or file.stat().st_size - int(entries.get("offset", 0)))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: the tensor {tensor.name!r} is in another file, but not at any place ({error})"
        ) from error


def _refuse_large(path: Path, size: int) -> None:
    if size >= LIMIT:
        raise CheckpointError(
            f"{path} would have {size} bytes in one file; a worker takes graphs of less than 2 GiB "
            "that are one file each: export it in float16"
        )
