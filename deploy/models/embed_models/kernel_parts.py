"""Takes a graph of the worker's own operators apart, so that a CPU can run what is left.

Each operator becomes what it is described as in `worker/kernels`, of operators that ONNX Runtime
has for CPUs. Values get back their padding: [batch, seq, hidden] instead of [tokens, hidden]. So
scales, weights and what is connected to what are checked; the kernels themselves are not, which is
left to `embed-models check-gpu`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from embed_models.arithmetic import MICROSOFT_DOMAIN
from embed_models.attention import ATTENTION_MASK, PROJECTIONS
from embed_models.errors import ValidationError
from embed_models.graph import EMBEDDING, serialize
from embed_models.kernels import DOMAIN
from embed_models.onnx_builder import OnnxBuilder

_ERRORS_ONLY = 3


class _Parts:
    """Writes the parts of one graph."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self._name = name
        self.builder = OnnxBuilder("parts/")
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        # What is written once, of weights that have to be in another order.
        self._writers: dict[str, Callable[[onnx.NodeProto, dict[str, Any]], None]] = {
            "Embed": self._embed,
            "EmbedQuantize": self._embed,
            "AddNorm": self._add_norm,
            "AddNormQuantize": self._add_norm,
            "Attend": self._attention,
            "AttendQuantize": self._attention,
            "Linear": self._linear,
            "LinearFromQuantized": self._linear,
            "LinearQuantized": self._linear,
            "Pool": self._pool,
        }

    def write(self, node: onnx.NodeProto) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        writer = self._writers.get(node.op_type)
        if writer is None:
            raise ValidationError(f"{self._name}: {DOMAIN} has no operator {node.op_type}")
        writer(node, attributes)

    def _quantize(self, name: str, value: str, output: str, scale: float) -> None:
        b = self.builder
        step = b.constant(1 / scale, np.float32)
        zero = b.initializer(f"parts/{name}/zero", numpy_helper.to_array(_FP8_ZERO))
        exact = b.node("Cast", value, name=f"{name}/unrounded", to=TensorProto.FLOAT)
        b.node("QuantizeLinear", exact, step, zero, name=f"{name}/quantize", output=output)

    def _embed(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        b = self.builder
        ids, mask, words, places, gamma, beta = node.input
        word = b.node("Gather", words, ids, name="words")
        seq = b.node("Shape", ids, name="seq", start=1, end=2)
        place = b.node("Slice", places, b.constant([0]), seq, b.constant([0]), name="places")
        total = b.node("Add", word, place, name="sum")
        self._norm("embedded", total, (gamma, beta), node.output[0], attributes["epsilon"])
        valid = b.node("Cast", mask, name="mask", to=TensorProto.INT32)
        # Of where texts are, a padded run needs their lengths.
        for output in node.output[1:3]:
            b.node(
                "ReduceSum",
                valid,
                b.constant([1]),
                name=f"{output}/lengths",
                output=output,
                keepdims=0,
            )
        if node.op_type.endswith("Quantize"):
            self._quantize("embedded", node.output[0], node.output[3], attributes["scale"])

    def _norm(
        self, name: str, value: str, weights: tuple[str, str], output: str, epsilon: float
    ) -> None:
        self.builder.node(
            "LayerNormalization",
            value,
            *weights,
            name=f"{name}/norm",
            output=output,
            axis=-1,
            epsilon=epsilon,
        )

    def _add_norm(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        product, skipped, gamma, beta = node.input
        total = self.builder.node("Add", product, skipped, name=f"{node.name}/sum")
        self._norm(node.name, total, (gamma, beta), node.output[0], attributes["epsilon"])
        if node.op_type.endswith("Quantize"):
            self._quantize(node.name, node.output[0], node.output[1], attributes["scale"])

    def _attention(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        b, name = self.builder, node.name
        projected, lengths = node.input
        parts = [b.name(f"{name}/{part}") for part in PROJECTIONS]
        b.node_with_outputs(
            "Split", projected, name=f"{name}/split", outputs=parts, axis=2, num_outputs=3
        )
        quantizes = node.op_type.endswith("Quantize")
        attended = b.node(
            "MultiHeadAttention",
            *parts,
            "",  # the biases are added
            lengths,
            name=name,
            domain=MICROSOFT_DOMAIN,
            num_heads=attributes["heads"],
            output=None if quantizes else node.output[0],
        )
        if quantizes:
            self._quantize(name, attended, node.output[0], attributes["scale"])

    def _linear(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        b, name = self.builder, node.name
        states, weight, bias = node.input[:3]
        values = numpy_helper.to_array(self._tensors[weight])
        if node.op_type == "Linear":
            weight = b.initializer(f"parts/{weight}", values.T)
            product = b.node("MatMul", states, weight, name=f"{name}/matmul")
        else:
            # In FP8 both are numbers whose products are exact, added up in float32.
            weight = b.initializer(f"parts/{weight}", values.T.astype(np.float32))
            exact = b.node("Cast", states, name=f"{name}/exact", to=TensorProto.FLOAT)
            product = b.node("MatMul", exact, weight, name=f"{name}/matmul")
            factor = b.constant(attributes["factor"], np.float32)
            product = b.node("Mul", product, factor, name=f"{name}/scaled")
            bias = b.node("Cast", bias, name=f"{name}/bias", to=TensorProto.FLOAT)
        value = b.node("Add", product, bias, name=f"{name}/add")
        if attributes["gelu"]:
            value = b.node("FastGelu", value, name=f"{name}/gelu", domain=MICROSOFT_DOMAIN)
        if node.op_type == "LinearQuantized":
            scale = float(numpy_helper.to_array(self._tensors[node.input[3]])[0])
            self._quantize(name, value, node.output[0], scale)
        else:
            b.node("Cast", value, name=f"{name}/out", output=node.output[0], to=TensorProto.FLOAT16)

    def _pool(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        b = self.builder
        exact = b.node("Cast", node.input[0], name="pool/exact", to=TensorProto.FLOAT)
        if attributes["mean"]:
            valid = b.node("Cast", ATTENTION_MASK, name="pool/valid", to=TensorProto.FLOAT)
            lengths = b.node("Cast", node.input[1], name="pool/lengths", to=TensorProto.FLOAT)
            rows = b.node("Unsqueeze", valid, b.constant([-1]), name="pool/rows")
            kept = b.node("Mul", exact, rows, name="pool/kept")
            total = b.node("ReduceSum", kept, b.constant([1]), name="pool/total", keepdims=0)
            count = b.node("Unsqueeze", lengths, b.constant([-1]), name="pool/count")
            vector = b.node("Div", total, count, name="pool/mean")
        else:
            vector = b.node("Gather", exact, b.constant(0), name="pool/first", axis=1)
        if attributes["normalize"]:
            norm = b.node("ReduceL2", vector, b.constant([-1]), name="pool/norm", keepdims=1)
            b.node("Div", vector, norm, name="pool/unit", output=node.output[0])
        else:
            b.node("Identity", vector, name="pool/vector", output=node.output[0])


_FP8_ZERO = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0])


def take_apart(content: bytes, name: str) -> bytes:
    """Return a graph of the same values for a CPU; `name` is what errors call it."""
    model = onnx.load_from_string(content)
    parts = _Parts(model, name)
    others = []
    for node in model.graph.node:
        if node.domain != DOMAIN:
            others.append(node)
            continue
        try:
            parts.write(node)
        except (KeyError, ValueError, IndexError) as error:
            raise ValidationError(
                f"{name}: {node.name} is not as it has to be ({error})"
            ) from error
    del model.graph.node[:]
    kept = {value for node in [*others] for value in node.input}
    parts.builder.extend(model.graph)
    model.graph.node.extend(others)
    read = kept | {value for node in model.graph.node for value in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    del model.opset_import[:]
    model.opset_import.extend(
        [helper.make_opsetid("", 19), helper.make_opsetid(MICROSOFT_DOMAIN, 1)]
    )
    apart = serialize(model)
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        ort.InferenceSession(apart, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValidationError(f"{name} does not hold together: {error}") from error
    return apart


def check_kernels(content: bytes, exact: bytes, name: str) -> None:
    """Refuse a graph whose float16 weights are not those of `exact`, the float32 graph."""
    model, reference = onnx.load_from_string(content), onnx.load_from_string(exact)
    ours, theirs = ([*m.graph.input, *m.graph.output] for m in (model, reference))
    if ours != theirs:
        raise ValidationError(
            f"{name}: inputs and outputs have to be those of the float32 graph, with {EMBEDDING}"
        )
    wanted = {t.name: numpy_helper.to_array(t) for t in reference.graph.initializer}
    products = {
        n.input[1] for n in model.graph.node if n.domain == DOMAIN and n.op_type == "Linear"
    }
    quantized = any(node.op_type.startswith("LinearFrom") for node in model.graph.node)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        # Weights of quantized graphs are corrected; their vectors say whether they are right.
        if quantized and not tensor.name.startswith("embeddings/"):
            continue
        expected = wanted.get(tensor.name)
        if expected is None:
            raise ValidationError(f"{name}: the float32 graph has no {tensor.name}")
        expected = (expected.T if tensor.name in products else expected).astype(values.dtype)
        if expected.shape != values.shape or expected.tobytes() != values.tobytes():
            raise ValidationError(
                f"{name}: {tensor.name} is not the rounded weight of the float32 graph"
            )
