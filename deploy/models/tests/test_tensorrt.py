"""What TensorRT would refuse is found without it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bert import random_sequences, tiny_checkpoint

from embed_models.cli import main
from embed_models.graph import serialize
from embed_models.kinds import KINDS
from embed_models.quantize.calibration import calibrate
from embed_models.quantize.plan import make_plan
from embed_models.quantize.search import quantized_graph
from embed_models.validate.tensorrt import tensorrt_problems

CHECKPOINT = tiny_checkpoint()


def build(name: str) -> onnx.ModelProto:
    kind = KINDS[name]
    if kind.fmt is None:
        return kind.exact_graph(CHECKPOINT)
    calibration = calibrate(CHECKPOINT, random_sequences(40), threads=1, seed=1, rows=64)
    plan = make_plan(CHECKPOINT.config, CHECKPOINT.tensors, calibration, kind.fmt, strength=0.5)
    return quantized_graph(CHECKPOINT, plan, kind, kind.dtype)


@pytest.fixture(scope="module")
def int8() -> bytes:
    return serialize(build("int8-tensorrt"))


@pytest.mark.parametrize("name", [name for name in KINDS if name.endswith("-tensorrt")])
def test_our_plain_graphs_are_taken(name: str) -> None:
    assert tensorrt_problems(build(name)) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fp32", "com.microsoft.Attention is no standard operator"),
        ("fp16-packed", "com.microsoft.RemovePadding is no standard operator"),
        ("int8", "is no standard operator"),
    ],
)
def test_graphs_for_other_providers_are_not(name: str, words: str) -> None:
    assert any(words in problem for problem in tensorrt_problems(build(name)))


def node(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    found: list[onnx.NodeProto] = [n for n in model.graph.node if n.op_type == operator]
    return found[0]


def replace(model: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = change(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))


def insert(model: onnx.ModelProto, operator: str, before: str, **attributes: Any) -> None:
    """Put an operator between a node and its first input."""
    reader = node(model, before)
    added = helper.make_node(operator, [reader.input[0]], ["added"], name="added", **attributes)
    index = list(model.graph.node).index(reader)
    reader.input[0] = "added"
    model.graph.node.insert(index, added)


def double(model: onnx.ModelProto) -> None:
    insert(model, "Cast", "ReduceL2", to=TensorProto.DOUBLE)
    index = next(i for i, n in enumerate(model.graph.node) if n.name == "added")
    back = helper.make_node("Cast", ["doubled"], ["added"], name="back", to=TensorProto.FLOAT)
    model.graph.node[index].output[0] = "doubled"
    model.graph.node.insert(index + 1, back)


def odd_operator(model: onnx.ModelProto) -> None:
    insert(model, "Softsign", "ReduceL2")


def integer_arithmetic(model: onnx.ModelProto) -> None:
    gather = node(model, "Gather")
    added = helper.make_node("Add", ["input_ids", "input_ids"], ["sum"], name="twice")
    gather.input[1] = "sum"
    model.graph.node.insert(0, added)


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 16


def new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 23


def other_inputs(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"


def other_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "vector"


def not_finite(model: onnx.ModelProto) -> None:
    replace(model, "layer0/inner.bias", lambda v: np.full_like(v, np.inf))


def beyond_32_bits(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**40]), "large"))


def broken(model: onnx.ModelProto) -> None:
    replace(model, "layer0/inner.weight", lambda v: v[:-1])


def asymmetric(model: onnx.ModelProto) -> None:
    replace(model, node(model, "QuantizeLinear").input[2], lambda v: v + np.int8(3))


def unsigned(model: onnx.ModelProto) -> None:
    name = node(model, "QuantizeLinear").input[2]
    replace(model, name, lambda v: v.astype(np.uint8))


def negative_scale(model: onnx.ModelProto) -> None:
    replace(model, node(model, "QuantizeLinear").input[1], lambda v: -v)


def no_zero_point(model: onnx.ModelProto) -> None:
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        del node(model, operator).input[2]


def computed_scale(model: onnx.ModelProto) -> None:
    quantize = node(model, "QuantizeLinear")
    added = helper.make_node("Sqrt", [quantize.input[1]], ["computed"], name="computed")
    quantize.input[1] = "computed"
    model.graph.node.insert(0, added)


def other_scale(model: onnx.ModelProto) -> None:
    undone = next(
        n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.name.endswith("ze")
    )
    undone.input[1] = next(
        n.input[1] for n in reversed(model.graph.node) if n.op_type == "QuantizeLinear"
    )


def half_a_product(model: onnx.ModelProto) -> None:
    product = next(n for n in model.graph.node if n.name == "layer0/inner/matmul")
    undone = next(n for n in model.graph.node if product.input[0] in n.output)
    quantize = next(n for n in model.graph.node if undone.input[0] in n.output)
    product.input[0] = quantize.input[0]


def quantized_norm(model: onnx.ModelProto) -> None:
    product = next(n for n in model.graph.node if n.name == "layer0/inner/matmul")
    residual = next(n for n in model.graph.node if n.name == "layer0/residual")
    residual.input[1] = product.input[0]


def weights_by_row(model: onnx.ModelProto) -> None:
    weight = next(n for n in model.graph.node if n.name == "layer0/query/weight")
    weight.attribute[0].i = 0


def computed_axes(model: onnx.ModelProto) -> None:
    unsqueeze = node(model, "Unsqueeze")
    added = helper.make_node("Cast", [unsqueeze.input[1]], ["axes"], name="axes", to=7)
    unsqueeze.input[1] = "axes"
    model.graph.node.insert(0, added)


def mixed(model: onnx.ModelProto) -> None:
    other = next(
        t for t in build("fp8-tensorrt").graph.initializer if t.name.endswith("zero_point")
    )
    model.graph.initializer.add().CopyFrom(other)
    model.graph.initializer[-1].name = "other"


def cast_to_sum(model: onnx.ModelProto) -> None:
    """Read rows of the INT8 table with something else than what turns them into numbers."""
    node(model, "Gather").output[0] = "rows"
    added = helper.make_node("Identity", ["rows"], ["embeddings/word_steps"], name="copy")
    index = list(model.graph.node).index(node(model, "Gather"))
    model.graph.node.insert(index + 1, added)


def whole_table(model: onnx.ModelProto) -> None:
    table = numpy_helper.from_array(np.ones((4, 4), np.int8), "table")
    scale = numpy_helper.from_array(np.asarray(1, np.float16), "table/scale")
    zero = numpy_helper.from_array(np.asarray(0, np.int8), "table/zero")
    model.graph.initializer.extend([table, scale, zero])
    inputs = ["table", "table/scale", "table/zero"]
    model.graph.node.insert(0, helper.make_node("Gather", ["all", "input_ids"], ["one"], name="up"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, ["all"], name="table"))


def test_fp8_has_one_scale_for_a_tensor() -> None:
    model = build("fp8-tensorrt")
    weight = next(n for n in model.graph.node if n.name == "layer0/inner/weight")
    tensors = {t.name: t for t in model.graph.initializer}
    channels = tensors[weight.input[0]].dims[1]
    for name in weight.input[1:]:
        replace(model, name, lambda v: np.repeat(v, channels))
    weight.attribute.append(helper.make_attribute("axis", 1))
    problems = tensorrt_problems(model)
    assert problems == [
        f"layer0/inner/weight: FP8 has one scale for a tensor, not {channels}: "
        "TensorRT would multiply in FP16"
    ]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (double, "Cast yields DOUBLE"),
        (odd_operator, "Softsign is not known to run on TensorRT"),
        (integer_arithmetic, "twice: Add computes with INT64"),
        (old_opset, "opset 16"),
        (new_opset, "opset 23 is not within 17 to 20"),
        (other_inputs, "input_ids: the shape is not [batch, seq]"),
        (other_output, "the only output has to be embedding"),
        (not_finite, "layer0/inner.bias: a constant that is not finite"),
        (beyond_32_bits, "large: does not fit into 32 bits"),
        (broken, "types and shapes cannot be inferred"),
        (asymmetric, "the zero point is not zero"),
        (unsigned, "quantizes to UINT8"),
        (negative_scale, "a scale is not positive"),
        (no_zero_point, "there is no zero point"),
        (computed_scale, "the scale is not a constant"),
        (other_scale, "other scales than"),
        (half_a_product, "only one of its inputs is quantized"),
        (quantized_norm, "layer0/residual: Add reads quantized values"),
        (weights_by_row, "layer0/query/weight: a weight's scales go by output channel"),
        (computed_axes, "the axes of Unsqueeze are not a constant"),
        (mixed, "INT8 and FP8 in one graph"),
        (cast_to_sum, "embeddings/word_steps: Gather yields INT8"),
        (whole_table, "up: Gather reads a table of which all is dequantized"),
    ],
)
def test_what_it_would_refuse(
    int8: bytes, damage: Callable[[onnx.ModelProto], None], words: str
) -> None:
    model = onnx.load_from_string(int8)
    damage(model)
    problems = tensorrt_problems(model)
    assert any(words in problem for problem in problems), problems


def test_the_command(
    tmp_path: Path, checkpoint_dir: Path, int8: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_bytes(int8)
    bad.write_bytes(serialize(build("fp32")))
    assert main(["check-tensorrt", str(good)]) == 0
    assert main(["check-tensorrt", str(bad)]) == 1
    error = capsys.readouterr().err
    assert "TensorRT would not take bad.onnx:\n  " in error
    assert "layer1/attention: com.microsoft.Attention is no standard operator" in error
    assert main(["import", str(checkpoint_dir), "--registry", str(tmp_path / "registry")]) == 0
    version = tmp_path / "registry" / "models" / "tiny-bert" / "v1.0.0"
    assert main(["check-tensorrt", str(version)]) == 1
    assert "has no graph for TensorRT" in capsys.readouterr().err
