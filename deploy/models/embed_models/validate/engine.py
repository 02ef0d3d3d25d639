"""Reads what TensorRT says of an engine, and holds it to the graph that the engine was built from.

That a graph runs on TensorRT does not say in which precision its products are computed: what does
not fuse is multiplied in 16 bits. The engine inspector tells for each layer which nodes of the
graph it does, and the types that it reads
(`trtexec --profilingVerbosity=detailed --exportLayerInfo=FILE`).

Written from NVIDIA's documentation; it has not met the output of a real TensorRT yet.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from embed_models.errors import ValidationError

# How the inspector writes a type, as part of the format, such as `Row major Int8 format`.
_TYPES: dict[int, tuple[str, ...]] = {
    TensorProto.INT8: ("Int8",),
    TensorProto.FLOAT8E4M3FN: ("FP8", "E4M3"),
    TensorProto.FLOAT16: ("Half", "FP16"),
    TensorProto.FLOAT: ("Float", "FP32"),
}
_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SHOWN = 10


def weight_products(model: onnx.ModelProto) -> dict[str, int]:
    """Return the products with weights, by the names of their nodes, with the weight's type."""
    constants = {tensor.name: int(tensor.data_type) for tensor in model.graph.initializer}
    undone = {
        node.output[0]: constants[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input and node.input[0] in constants
    }
    weights = constants | undone
    return {
        node.name: weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and len(node.input) == 2 and node.input[1] in weights
    }


def _constants(model: onnx.ModelProto, layers: list[dict[str, Any]]) -> set[str]:
    """Return the names of what no text changes: weights, and what is made of them alone."""
    names = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" or (node.input and names.issuperset(node.input)):
            names.update(node.output)
    for layer in layers:
        if str(layer.get("LayerType")).lower() == "constant":
            names.update(str(value.get("Name")) for value in _values(layer, "Outputs"))
    return names


def _activations(model: onnx.ModelProto) -> dict[str, set[str]]:
    """Return by each product's name what its activation is called, quantized and not."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    names: dict[str, set[str]] = {}
    for product in model.graph.node:
        if product.op_type == "MatMul" and product.input:
            value = product.input[0]
            names[product.name] = {value}
            node = made_by.get(value)
            if node is not None and node.op_type == "DequantizeLinear" and node.input:
                names[product.name] = {value, node.input[0]}
    return names


def _values(layer: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return a layer's inputs or outputs, as far as they are described."""
    values = layer.get(key)
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def engine_problems(engine: dict[str, Any], model: onnx.ModelProto) -> Iterator[str]:
    """Yield a sentence for each product that is not computed in its weight's type.

    What counts is the type of its activation: a weight may be stored in 8 bits, and multiplied in
    16. TensorRT may call values otherwise than the graph does; then any of a layer's inputs that is
    no constant may be the activation.
    """
    layers = engine.get("Layers")
    if not isinstance(layers, list) or not layers:
        yield "it has no `Layers`; it has to be what --exportLayerInfo writes"
        return
    if any(not isinstance(layer, dict) for layer in layers):
        yield "it has nothing but names of layers; build with --profilingVerbosity=detailed"
        return
    by_product: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        for name in _LAYER.findall(str(layer.get("Metadata", ""))):
            by_product.setdefault(name, []).append(layer)
    products = weight_products(model)
    constants, activations = _constants(model, layers), _activations(model)
    if not products:
        yield "the graph has no products with weights"
    for name, kind in products.items():
        wanted = _TYPES.get(kind)
        if wanted is None:
            yield f"{name}: its weight is of a type that is not known here"
            continue
        found = by_product.get(name, [])
        changing = [
            value
            for layer in found
            for value in _values(layer, "Inputs")
            if str(value.get("Name")) not in constants
        ]
        named = [value for value in changing if value.get("Name") in activations[name]]
        read = {str(value.get("Format/Datatype")) for value in named or changing}
        if not found:
            yield f"{name}: no layer of the engine does it"
        elif not any(word in type_ for word in wanted for type_ in read):
            yield f"{name}: computed from {', '.join(sorted(read)) or 'nothing'}, not {wanted[0]}"


def check_engine(graph: Path, layers: Path) -> str:
    """Return in a sentence what an engine computes, or raise if it is not what the graph says."""
    try:
        engine = json.loads(layers.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValidationError(f"{layers} does not exist") from None
    except OSError as error:
        raise ValidationError(f"{layers} cannot be read ({error})") from error
    except ValueError as error:
        raise ValidationError(f"{layers} is no JSON ({error})") from error
    if not isinstance(engine, dict):
        raise ValidationError(f"{layers} is not what --exportLayerInfo writes")
    try:
        model = onnx.load(graph)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ValidationError(f"{graph} cannot be read as an ONNX file ({error})") from error
    problems = list(engine_problems(engine, model))
    if problems:
        shown = problems[:_SHOWN]
        if len(problems) > _SHOWN:
            shown.append(f"and {len(problems) - _SHOWN} more")
        raise ValidationError(f"{layers.name}: " + "; ".join(shown))
    kinds = weight_products(model)
    counts = {_TYPES[kind][0]: list(kinds.values()).count(kind) for kind in set(kinds.values())}
    return ", ".join(f"{count} products in {name}" for name, count in sorted(counts.items()))
