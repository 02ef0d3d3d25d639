"""What can be known of a packed graph without a GPU.

No other provider than CUDA has its operators, so a packed graph cannot run here. What can be
checked is that it is sound by ONNX Runtime's own rules, that its weights are those of the graph
that it was made from, and that with its packing taken out it computes the same vectors. What
remains is left to `embed-models check-gpu`.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from embed_models.arithmetic import MICROSOFT_DOMAIN, by_head
from embed_models.attention import ATTENTION_MASK, PROJECTIONS
from embed_models.errors import ValidationError
from embed_models.graph import EMBEDDING, INPUT_IDS, serialize

STRUCTURE_ONLY = "structure only; run `embed-models check-gpu` on a GPU machine"

_REMOVE, _RESTORE, _ATTENTION = "RemovePadding", "RestorePadding", "PackedMultiHeadAttention"
_ERRORS_ONLY = 3


def unpack(content: bytes, name: str) -> bytes:
    """Take the packing out of a graph, so that a CPU can run what is left.

    Refuses a graph that is not packed as it should be; `name` is what errors call it.
    """
    model = onnx.load_from_string(content)
    remove, restore, attentions = _packing_nodes(model, name)
    _check_order(model, remove, restore, name)
    for attention in attentions:
        if list(attention.input[4:]) != list(remove.output[1:3]):
            raise ValidationError(f"{name}: {attention.name} does not take what {_REMOVE} yields")
    renamed = {remove.output[0]: remove.input[0], restore.output[0]: restore.input[0]}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == _ATTENTION:
            nodes += _padded(model, node, remove.input[1], name)
        elif node.op_type not in (_REMOVE, _RESTORE):
            nodes.append(node)
    for node in nodes:
        for index, value in enumerate(node.input):
            node.input[index] = renamed.get(value, value)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # A second use of what only the removed operators yielded is found here.
    unpacked = serialize(model)
    try:
        ort.InferenceSession(unpacked, _quiet(), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValidationError(f"{name} does not hold together: {error}") from error
    return unpacked


def _padded(
    model: onnx.ModelProto, attention: onnx.NodeProto, lengths: str, name: str
) -> list[onnx.NodeProto]:
    """Make an attention one of padded texts; returns it behind the nodes that it then needs.

    On a CPU, MultiHeadAttention takes queries, keys and values apart only.
    """
    reshape, shape = _reshape(model, attention, name)
    place, packed, bias = attention.name, reshape.output[0], attention.input[3]
    heads = [f"{place}/{part}/heads" for part in PROJECTIONS]
    parts = [f"{place}/{part}" for part in PROJECTIONS]
    # 0 is the length of the input: of the batch, and of its longest text.
    reshape.input[1] = _store(model, f"{place}/by_head", [0, 0, *shape[1:]])
    together = _store(model, f"{place}/together", [0, 0, -1])
    nodes = [helper.make_node("Split", [packed], heads, axis=3, num_outputs=len(heads))]
    for part, part_heads in zip(parts, heads, strict=True):
        nodes.append(helper.make_node("Reshape", [part_heads, together], [part]))
    attention.op_type = "MultiHeadAttention"
    del attention.input[:]
    attention.input.extend([*parts, bias, lengths])
    return [*nodes, attention]


def _reshape(
    model: onnx.ModelProto, attention: onnx.NodeProto, name: str
) -> tuple[onnx.NodeProto, list[int]]:
    """Find the node that splits queries, keys and values by head, and the shape that it gives."""
    packed, *apart = attention.input[:3]
    reshapes = [n for n in model.graph.node if n.op_type == "Reshape" and packed in n.output]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = [constants[n.input[1]] for n in reshapes if n.input[1] in constants]
    shape = numpy_helper.to_array(shapes[0]).tolist() if shapes and not any(apart) else []
    if shape[:-1] != [-1, _heads(attention), len(PROJECTIONS)]:
        raise ValidationError(
            f"{name}: {attention.name} does not take queries, keys and values as one, by head"
        )
    return reshapes[0], shape


def _heads(attention: onnx.NodeProto) -> int:
    return next((a.i for a in attention.attribute if a.name == "num_heads"), 0)


def _store(model: onnx.ModelProto, name: str, shape: list[int]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    return name


def check_packed(content: bytes, exact: bytes, name: str) -> None:
    """Refuse a packed graph that does not hold the weights of `exact`, or is not sound."""
    model, reference = onnx.load_from_string(content), onnx.load_from_string(exact)
    _check_interface(model, reference, name)
    _check_weights(model, reference, name)
    try:
        ort.InferenceSession(content, _quiet(), providers=["CPUExecutionProvider"])
    except Exception as error:
        # Types and shapes are checked first, and kernels looked for only then.
        if type(error).__name__ != "NotImplemented" or _REMOVE not in str(error):
            raise ValidationError(f"{name} is no valid graph: {error}") from error
    else:
        raise ValidationError(f"{name} runs on a CPU, so it is not packed")


def _packing_nodes(
    model: onnx.ModelProto, name: str
) -> tuple[onnx.NodeProto, onnx.NodeProto, list[onnx.NodeProto]]:
    by_type: dict[str, list[onnx.NodeProto]] = {_REMOVE: [], _RESTORE: [], _ATTENTION: []}
    for node in model.graph.node:
        if node.op_type in by_type:
            if node.domain != MICROSOFT_DOMAIN:
                raise ValidationError(f"{name}: {node.op_type} is not of {MICROSOFT_DOMAIN}")
            by_type[node.op_type].append(node)
        elif node.op_type in ("Attention", "MultiHeadAttention", "Softmax"):
            raise ValidationError(f"{name}: {node.name} is attention that is not packed")
    counts = {kind: len(nodes) for kind, nodes in by_type.items()}
    if counts[_REMOVE] != 1 or counts[_RESTORE] != 1 or not counts[_ATTENTION]:
        raise ValidationError(
            f"{name} has {counts}; it has to have one {_REMOVE}, one {_RESTORE} and a "
            f"{_ATTENTION} for each layer"
        )
    return by_type[_REMOVE][0], by_type[_RESTORE][0], by_type[_ATTENTION]


def _check_order(
    model: onnx.ModelProto, remove: onnx.NodeProto, restore: onnx.NodeProto, name: str
) -> None:
    """Everything between removing and restoring depends on the tokens; pooling comes behind."""
    if list(restore.input)[1] != remove.output[1]:
        raise ValidationError(f"{name}: {_RESTORE} does not take the offsets of {_REMOVE}")
    # What goes into RemovePadding is padded too, and so is whatever the mask is made into.
    packed, padded = {remove.output[0]}, {restore.output[0], remove.input[0], ATTENTION_MASK}
    for node in model.graph.node:
        if node is remove or node is restore:
            continue
        takes_packed = bool(packed & set(node.input))
        if takes_packed and padded & set(node.input):
            raise ValidationError(f"{name}: {node.name} mixes packed and padded values")
        if takes_packed:
            packed |= set(node.output)
        if padded & set(node.input):
            padded |= set(node.output)
    if restore.input[0] not in packed or EMBEDDING in packed:
        raise ValidationError(f"{name}: the layers do not lie between {_REMOVE} and {_RESTORE}")
    if EMBEDDING not in padded:
        raise ValidationError(f"{name}: the vectors do not come from behind {_RESTORE}")


def _check_interface(model: onnx.ModelProto, exact: onnx.ModelProto, name: str) -> None:
    ours, theirs = ([*m.graph.input, *m.graph.output] for m in (model, exact))
    if ours != theirs:
        raise ValidationError(
            f"{name}: inputs and outputs have to be {INPUT_IDS}, {ATTENTION_MASK} and {EMBEDDING} "
            "as in the float32 graph"
        )


def _check_weights(model: onnx.ModelProto, exact: onnx.ModelProto, name: str) -> None:
    """Weights are those of the float32 graph by name and, rounded to the graph's type, by value.

    Only those of the projections have their columns in another order.
    """
    wanted, found = _weights(exact), _weights(model)
    for node in exact.graph.node:
        if node.op_type == "Attention":
            wanted[node.input[1]] = by_head(wanted[node.input[1]], _heads(node))
    if set(wanted) != set(found):
        odd = sorted(set(wanted) ^ set(found))[0]
        raise ValidationError(f"{name}: the weights differ from those of the float32 graph: {odd}")
    for key, values in found.items():
        exact_values = wanted[key].astype(values.dtype)
        if values.shape != exact_values.shape or values.tobytes() != exact_values.tobytes():
            raise ValidationError(f"{name}: {key} is not the rounded weight of the float32 graph")


def _weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    tensors = (tensor for tensor in model.graph.initializer if _is_weight(tensor))
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return tensor.name.endswith((".weight", ".bias"))


def _quiet() -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    return options
