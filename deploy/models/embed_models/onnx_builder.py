"""Collects the nodes and initializers of an ONNX graph; knows nothing about BERT."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import helper, numpy_helper

from embed_models.errors import CheckpointError

# Old enough for every runtime in use, and independent of the installed onnx package.
IR_VERSION = 10
# From then on these operators take their axes as an input, before as an attribute.
_AXES_ARE_INPUTS = {"Unsqueeze": 13, "ReduceSum": 13, "ReduceL2": 18, "ReduceMax": 18}
_NEWEST = 99
# What protobuf can write into one file.
_LARGEST = 2**31 - 1
# Bytes of a number, of the types that weights come in; any other is left to protobuf to measure.
_BYTES: dict[int, int] = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.UINT8: 1,
}


def check_size(tensors: Iterable[onnx.TensorProto]) -> None:
    """Refuse weights that no single ONNX file can hold.

    Asked before protobuf is, which fails to copy, to measure and to write such a graph.
    """
    size = sum(math.prod(tensor.dims) * _BYTES.get(tensor.data_type, 0) for tensor in tensors)
    if size > _LARGEST:
        raise too_large(f"the weights have {size} bytes")


def too_large(found: str) -> CheckpointError:
    """Return the error for a graph that does not fit into one file."""
    return CheckpointError(
        f"{found}, and an ONNX file holds less than 2 GiB; import an ONNX file of the model "
        "in float16 instead, or a smaller model"
    )


class OnnxBuilder:
    """Builds a graph node by node; every method returns the name of the value it adds."""

    def __init__(self, prefix: str = "", opset: int = _NEWEST) -> None:
        # Keeps the names of what is added to a graph of others apart from theirs.
        self._prefix = prefix
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def name(self, name: str) -> str:
        """Return the name of a value that is to be added."""
        return f"{self._prefix}{name}"

    def initializer(self, name: str, values: NDArray[Any]) -> str:
        # Not `ascontiguousarray`, which would turn a scalar into a vector of one.
        contiguous = np.asarray(values, order="C")
        self._initializers.append(numpy_helper.from_array(contiguous, name))
        return name

    def constant(self, values: Any, dtype: DTypeLike = np.int64) -> str:
        """Add a small constant; equal constants are stored once."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self._prefix}const_{len(self._constants)}"
            self._constants[key] = self.initializer(name, array)
        return self._constants[key]

    def node(
        self,
        op_type: str,
        *inputs: str,
        name: str,
        output: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node with one output, which is named after the node unless `output` is given."""
        outputs = [output or f"{self._prefix}{name}_out"]
        return self.node_with_outputs(
            op_type, *inputs, name=name, outputs=outputs, domain=domain, **attributes
        )[0]

    def over_axes(
        self, op_type: str, value: str, axes: list[int], *, name: str, **attributes: Any
    ) -> str:
        """Add a node that works over axes, in the way of the graph's opset."""
        if self._opset >= _AXES_ARE_INPUTS[op_type]:
            return self.node(op_type, value, self.constant(axes), name=name, **attributes)
        return self.node(op_type, value, name=name, axes=axes, **attributes)

    def node_with_outputs(
        self,
        op_type: str,
        *inputs: str,
        name: str,
        outputs: list[str],
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node whose outputs have the names that are given."""
        node = helper.make_node(
            op_type, list(inputs), outputs, name=self._prefix + name, domain=domain, **attributes
        )
        self._nodes.append(node)
        return outputs

    def extend(self, graph: onnx.GraphProto) -> None:
        """Append everything to a graph that exists."""
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._initializers)

    def prepend(self, graph: onnx.GraphProto) -> None:
        """Put everything in front of a graph that exists."""
        behind = list(graph.node)
        del graph.node[:]
        graph.node.extend([*self._nodes, *behind])
        graph.initializer.extend(self._initializers)

    def model(
        self,
        *,
        name: str,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        value_info: list[onnx.ValueInfoProto],
        opsets: dict[str, int],
        producer: str,
    ) -> onnx.ModelProto:
        check_size(self._initializers)
        graph = helper.make_graph(
            self._nodes, name, inputs, outputs, self._initializers, value_info=value_info
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=IR_VERSION, producer_name=producer
        )
