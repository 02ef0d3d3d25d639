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
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    weights = constants | undone
    return {
        node.name: weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    }


def engine_problems(engine: dict[str, Any], model: onnx.ModelProto) -> Iterator[str]:
    """Yield a sentence for each product that is not computed in its weight's type."""
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
    if not products:
        yield "the graph has no products with weights"
    for name, kind in products.items():
        wanted = _TYPES.get(kind)
        if wanted is None:
            yield f"{name}: its weight is of a type that is not known here"
            continue
        found = by_product.get(name, [])
        read = {str(i.get("Format/Datatype")) for layer in found for i in layer.get("Inputs", [])}
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
    except ValueError as error:
        raise ValidationError(f"{layers} is no JSON ({error})") from error
    if not isinstance(engine, dict):
        raise ValidationError(f"{layers} is not what --exportLayerInfo writes")
    model = onnx.load(graph)
    problems = list(engine_problems(engine, model))
    if problems:
        shown = problems[:_SHOWN]
        if len(problems) > _SHOWN:
            shown.append(f"and {len(problems) - _SHOWN} more")
        raise ValidationError(f"{layers.name}: " + "; ".join(shown))
    kinds = weight_products(model)
    counts = {_TYPES[kind][0]: list(kinds.values()).count(kind) for kind in set(kinds.values())}
    return ", ".join(f"{count} products in {name}" for name, count in sorted(counts.items()))
