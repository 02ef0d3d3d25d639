"""Checks a plain graph for what TensorRT requires of it, without TensorRT.

TensorRT refuses what does not fit its rules, and ONNX Runtime then runs it elsewhere. They are
those of its ONNX parser (operators, types) and of explicit quantization (Q/DQ placement).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

from embed_models.attention import ATTENTION_MASK
from embed_models.errors import ValidationError
from embed_models.graph import EMBEDDING, INPUT_IDS

# Operators that compute with the values of their first inputs, and not only move them.
_ARITHMETIC = frozenset(
    {
        *("Add", "Div", "Erf", "Floor", "LayerNormalization", "Less", "MatMul", "Max", "Mul"),
        *("Pow", "ReduceL2", "ReduceMean", "ReduceSum", "Softmax", "Sqrt", "Sub", "Tanh"),
    }
)
# Those of them that its parser takes numbers of 32 bits in.
_IN_INT32 = frozenset({"Add", "Div", "Less", "Mul", "Sub"})
# What BERT needs of what TensorRT's parser takes. Everything else is refused, so that an operator
# is looked up in its documentation before it is added here.
OPERATORS = frozenset(
    {
        *_ARITHMETIC,
        *("Cast", "Concat", "Constant", "Expand", "Gather", "Reshape", "Shape", "Slice"),
        *("Split", "Squeeze", "Transpose", "Unsqueeze", "Where"),
        *("QuantizeLinear", "DequantizeLinear"),
    }
)
# LayerNormalization is an operator since 17, FP8 a type since 19, which is what our graphs are
# written in; what is newer than 20 was not looked at.
OLDEST_OPSET, FP8_OPSET, NEWEST_OPSET = 17, 19, 20

_TYPES = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
}
_EIGHT_BITS = {TensorProto.INT8, TensorProto.FLOAT8E4M3FN}
_INTEGERS = {TensorProto.INT32, TensorProto.INT64}
# Operator -> the input that has to be a constant, since it decides the rank or the layout.
_CONSTANT_INPUTS = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1, "ReduceL2": 1, "ReduceSum": 1}
_STANDARD = ("", "ai.onnx")
_SHOWN = 10

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def tensorrt_problems(graph: Path | bytes | onnx.ModelProto) -> list[str]:
    """Return a sentence for everything in a graph that TensorRT would not take."""
    if isinstance(graph, onnx.ModelProto):
        model = graph
    else:
        model = onnx.load_from_string(graph if isinstance(graph, bytes) else graph.read_bytes())
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx raises several types
        return [f"types and shapes cannot be inferred: {error}"]
    checker = _Checker(inferred)
    problems = [*checker.operators(), *checker.interface()]
    if any(node.domain not in _STANDARD for node in inferred.graph.node):
        return problems  # nothing is known of the values behind them
    return [*problems, *checker.tensors(), *checker.quantization()]


def refuse_for_tensorrt(path: Path) -> None:
    """Raise if TensorRT would not take a graph."""
    problems = tensorrt_problems(path)
    if problems:
        shown = problems[:_SHOWN]
        if len(problems) > _SHOWN:
            shown.append(f"and {len(problems) - _SHOWN} more")
        raise ValidationError(f"TensorRT would not take {path.name}:\n  " + "\n  ".join(shown))


class _Checker:
    """A graph with its values' types and shapes, by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers = {value: node for node in self.graph.node for value in node.output}
        self.infos = {
            info.name: info.type.tensor_type
            for info in (*self.graph.input, *self.graph.output, *self.graph.value_info)
        }

    def type_of(self, value: str) -> int | None:
        if value in self.initializers:
            return int(self.initializers[value].data_type)
        info = self.infos.get(value)
        return None if info is None else int(info.elem_type)

    def operators(self) -> Iterator[str]:
        opset = next((o.version for o in self.model.opset_import if not o.domain), 0)
        if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            yield f"opset {opset} is not within {OLDEST_OPSET} to {NEWEST_OPSET}"
        if opset < FP8_OPSET and any(
            self.type_of(v) == TensorProto.FLOAT8E4M3FN for n in self.graph.node for v in n.output
        ):
            yield f"FP8 needs opset {FP8_OPSET}, this is {opset}"
        for node in self.graph.node:
            if node.domain not in _STANDARD:
                yield f"{node.name}: {node.domain}.{node.op_type} is no standard operator"
            elif node.op_type not in OPERATORS:
                yield f"{node.name}: {node.op_type} is not known to run on TensorRT"
            elif (
                node.op_type in _ARITHMETIC
                and (kind := self.type_of(node.input[0])) in _INTEGERS
                and not (kind == TensorProto.INT32 and node.op_type in _IN_INT32)
            ):
                # Much of it is missing for 64 bits, and what there is falls to slow kernels.
                yield f"{node.name}: {node.op_type} computes with {_name(kind)}"

            index = _CONSTANT_INPUTS.get(node.op_type, len(node.input))
            if index < len(node.input) and node.input[index] not in self.initializers:
                yield f"{node.name}: the axes of {node.op_type} are not a constant"

    def interface(self) -> Iterator[str]:
        inputs = {value.name: value.type.tensor_type for value in self.graph.input}
        if list(inputs) != [INPUT_IDS, ATTENTION_MASK]:
            yield f"the inputs are {', '.join(inputs)}, not {INPUT_IDS} and {ATTENTION_MASK}"
        for name, tensor in inputs.items():
            # A profile has bounds for these two, and for no others.
            if [d.dim_param for d in tensor.shape.dim] != ["batch", "seq"]:
                yield f"{name}: the shape is not [batch, seq]"
        if [value.name for value in self.graph.output] != [EMBEDDING]:
            yield f"the only output has to be {EMBEDDING}"
        else:
            dims = self.graph.output[0].type.tensor_type.shape.dim
            if len(dims) != 2 or not dims[1].dim_value:
                yield f"{EMBEDDING}: the shape is not [batch, a number]"

    def tensors(self) -> Iterator[str]:
        for name, tensor in self.initializers.items():
            yield from self._constant(name, tensor)
        for node in self.graph.node:
            for value in filter(None, node.output):
                kind, info = self.type_of(value), self.infos.get(value)
                if kind is None or info is None or not info.HasField("shape"):
                    yield f"{node.name}: the rank of what it yields is not known"
                    continue
                allowed = _TYPES | (_EIGHT_BITS if node.op_type == _QUANTIZE else set())
                if kind not in allowed and not self._looks_up(node, kind):
                    yield f"{node.name}: {node.op_type} yields {_name(kind)}"

    def _looks_up(self, node: onnx.NodeProto, kind: int) -> bool:
        """Say whether a node reads rows of an INT8 table, which are then cast and scaled."""
        return (
            node.op_type == "Gather"
            and kind == TensorProto.INT8
            and node.input[0] in self.initializers
            and all(n.op_type == "Cast" for n in self.graph.node if node.output[0] in n.input)
        )

    def _constant(self, name: str, tensor: onnx.TensorProto) -> Iterator[str]:
        if tensor.data_type not in _TYPES | _EIGHT_BITS:
            yield f"{name}: a constant of type {_name(tensor.data_type)}"
            return
        values = numpy_helper.to_array(tensor)
        if not values.size:
            yield f"{name}: a constant without elements"
        elif tensor.data_type == TensorProto.INT64 and (
            values.max() > np.iinfo(np.int32).max or values.min() < np.iinfo(np.int32).min
        ):
            yield f"{name}: does not fit into 32 bits"
        elif tensor.data_type not in _INTEGERS and not np.isfinite(values.astype(np.float32)).all():
            yield f"{name}: a constant that is not finite"

    def quantization(self) -> Iterator[str]:
        users = Counter(value for node in self.graph.node for value in node.input)
        for node in self.graph.node:
            if node.op_type in (_QUANTIZE, _DEQUANTIZE):
                yield from self._scales(node)
            if node.op_type == _QUANTIZE:
                readers = [n for n in self.graph.node if node.output[0] in n.input]
                for reader in readers:
                    if reader.op_type != _DEQUANTIZE:
                        yield f"{reader.name}: {reader.op_type} reads 8 bits without {_DEQUANTIZE}"
                    elif list(reader.input[1:]) != list(node.input[1:]):
                        yield f"{reader.name}: other scales than {node.name}, which it undoes"
            if node.op_type == _DEQUANTIZE:
                yield from self._dequantized(node, users)
            if node.op_type == "MatMul":
                quantized = [self._is_dequantized(value) for value in node.input]
                if any(quantized) and not all(quantized):
                    yield f"{node.name}: only one of its inputs is quantized, so it runs in full"
        if len({t.data_type for t in self.graph.initializer} & _EIGHT_BITS) > 1:
            yield "INT8 and FP8 in one graph, which TensorRT does not take"

    def _scales(self, node: onnx.NodeProto) -> Iterator[str]:
        scale = self.initializers.get(node.input[1])
        if scale is None:
            yield f"{node.name}: the scale is not a constant"
            return
        values = numpy_helper.to_array(scale).astype(np.float32)
        if not (values > 0).all():
            yield f"{node.name}: a scale is not positive"
        if node.op_type == _QUANTIZE and values.size != 1:
            yield f"{node.name}: activations have one scale, not {values.size}"
        if node.op_type == _DEQUANTIZE and values.size != 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            reads = {n.op_type for n in self.graph.node if node.output[0] in n.input}
            if "MatMul" in reads and axis not in (1, -1):
                yield f"{node.name}: a weight's scales go by output channel, axis 1, not {axis}"
            if self.type_of(node.input[0]) == TensorProto.FLOAT8E4M3FN:
                yield (
                    f"{node.name}: FP8 has one scale for a tensor, not {values.size}: "
                    "TensorRT would multiply in FP16"
                )
        zero = self.initializers.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None:
            # The default would be uint8.
            yield f"{node.name}: there is no zero point, which says the type"
            return
        if zero.data_type not in _EIGHT_BITS:
            yield f"{node.name}: quantizes to {_name(zero.data_type)}"
        elif numpy_helper.to_array(zero).astype(np.float32).any():
            yield f"{node.name}: the zero point is not zero"

    def _dequantized(self, node: onnx.NodeProto, users: Counter[str]) -> Iterator[str]:
        source = node.input[0]
        if source not in self.initializers and not (
            source in self.producers and self.producers[source].op_type == _QUANTIZE
        ):
            yield f"{node.name}: neither undoes a {_QUANTIZE} nor reads a constant"
        if not users[node.output[0]]:
            yield f"{node.name}: nothing reads it"
        for reader in self.graph.node:
            if node.output[0] not in reader.input or reader.op_type == "MatMul":
                continue
            if reader.op_type == "Gather":
                yield (
                    f"{reader.name}: Gather reads a table of which all is dequantized in every "
                    "run; look up first"
                )
            else:
                yield f"{reader.name}: {reader.op_type} reads quantized values, only products may"

    def _is_dequantized(self, value: str) -> bool:
        return value in self.producers and self.producers[value].op_type == _DEQUANTIZE


def _name(kind: int | None) -> str:
    return "an unknown type" if kind is None else TensorProto.DataType.Name(kind)
