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
from onnx import numpy_helper

from embed_models.arithmetic import MICROSOFT_DOMAIN
from embed_models.attention import ATTENTION_MASK, PROJECTIONS
from embed_models.errors import ValidationError
from embed_models.graph import EMBEDDING, INPUT_IDS, serialize

STRUCTURE_ONLY = "structure only; run `embed-models check-gpu` on a GPU machine"

_REMOVE, _RESTORE = "RemovePadding", "RestorePadding"
# Packed attention, the same with padding, and where the packed one takes what RemovePadding yields.
_ATTENTIONS = {
    "PackedAttention": ("Attention", 3),
    "PackedMultiHeadAttention": ("MultiHeadAttention", 4),
}
_ERRORS_ONLY = 3


def unpack(content: bytes, name: str) -> bytes:
    """Take the packing out of a graph, so that a CPU can run what is left.

    Refuses a graph that is not packed as it should be; `name` is what errors call it.
    """
    model = onnx.load_from_string(content)
    remove, restore, attentions = _packing_nodes(model, name)
    _check_order(model, remove, restore, name)
    tokens, offsets, cumulated = remove.output[:3]
    lengths = remove.input[1]
    renamed = {tokens: remove.input[0], restore.output[0]: restore.input[0]}
    nodes = []
    for node in model.graph.node:
        if node is remove or node is restore:
            continue
        if node.op_type in _ATTENTIONS:
            padded, place = _ATTENTIONS[node.op_type]
            if list(node.input[place : place + 2]) != [offsets, cumulated]:
                raise ValidationError(f"{name}: {node.name} does not take what {_REMOVE} yields")
            node.op_type = padded
            del node.input[place:]
            node.input.append(lengths)
        for index, value in enumerate(node.input):
            node.input[index] = renamed.get(value, value)
        nodes.append(node)
    if len(nodes) != len(model.graph.node) - 2 or not attentions:
        raise ValidationError(f"{name} could not be unpacked")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # A second use of what only the removed operators yielded is found here.
    unpacked = serialize(model)
    try:
        ort.InferenceSession(unpacked, _quiet(), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValidationError(f"{name} does not hold together: {error}") from error
    return unpacked


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
    by_type: dict[str, list[onnx.NodeProto]] = {_REMOVE: [], _RESTORE: [], "attention": []}
    for node in model.graph.node:
        kind = "attention" if node.op_type in _ATTENTIONS else node.op_type
        if kind in by_type:
            if node.domain != MICROSOFT_DOMAIN:
                raise ValidationError(f"{name}: {node.op_type} is not of {MICROSOFT_DOMAIN}")
            by_type[kind].append(node)
        elif node.op_type in ("Attention", "MultiHeadAttention", "Softmax"):
            raise ValidationError(f"{name}: {node.name} is attention that is not packed")
    counts = {kind: len(nodes) for kind, nodes in by_type.items()}
    if counts[_REMOVE] != 1 or counts[_RESTORE] != 1 or not counts["attention"]:
        raise ValidationError(
            f"{name} has {counts}; it has to have one {_REMOVE}, one {_RESTORE} and a "
            f"{' or '.join(_ATTENTIONS)} for each layer"
        )
    return by_type[_REMOVE][0], by_type[_RESTORE][0], by_type["attention"]


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
    """Weights are those of the float32 graph by name and, rounded to the graph's type, by value."""
    wanted, found = _weights(exact), _weights(model)
    apart = [node for node in model.graph.node if node.op_type == "PackedMultiHeadAttention"]
    for node in apart:
        _take_apart(wanted, node.name.removesuffix("/attention"))
    if set(wanted) != set(found):
        odd = sorted(set(wanted) ^ set(found))[0]
        raise ValidationError(f"{name}: the weights differ from those of the float32 graph: {odd}")
    for key, values in found.items():
        exact_values = wanted[key].astype(values.dtype)
        if wanted[key].dtype == np.float32:
            same = values.tobytes() == exact_values.tobytes()
        else:
            # A sum may have been added up in another order.
            step = np.finfo(values.dtype).eps
            same = values.shape == exact_values.shape and np.allclose(
                values, exact_values, step, step
            )
        if values.shape != exact_values.shape or not same:
            raise ValidationError(f"{name}: {key} is not the rounded weight of the float32 graph")


def _take_apart(weights: dict[str, NDArray[Any]], layer: str) -> None:
    """Turn a layer's projections into what `PackedFlashAttention` stores instead."""
    weight, bias = weights.pop(f"{layer}/qkv.weight"), weights.pop(f"{layer}/qkv.bias")
    for part, columns in zip(PROJECTIONS, np.split(weight, 3, axis=1), strict=True):
        weights[f"{layer}/{part}.weight"] = columns
    weights[f"{layer}/query.bias"], _, values = np.split(bias, 3)
    output = f"{layer}/attention_output"
    projected = values.astype(np.float64) @ weights[f"{output}.weight"]
    weights[f"{output}.bias"] = weights[f"{output}.bias"] + projected


def _weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    tensors = (tensor for tensor in model.graph.initializer if _is_weight(tensor))
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return tensor.name.endswith((".weight", ".bias"))


def _quiet() -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    return options
