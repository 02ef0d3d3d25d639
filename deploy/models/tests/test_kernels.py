"""Graphs of the worker's own operators: what they compute, and what is refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy_bert import encode
from numpy_kernels import evaluate
from onnx import numpy_helper
from tiny_bert import BERT_CONFIG, random_sequences, random_tensors, tiny_checkpoint

from embed_models.arithmetic import Arithmetic
from embed_models.batches import pad
from embed_models.errors import CheckpointError, ValidationError
from embed_models.graph import build_graph, serialize
from embed_models.head import Head
from embed_models.inference import cpu_session, run_batch
from embed_models.kernel_parts import check_kernels, take_apart
from embed_models.kernels import DOMAIN, KernelGraph, build_kernel_graph, why_not
from embed_models.kinds import KINDS
from embed_models.metadata import Pooling
from embed_models.quantize.calibration import calibrate
from embed_models.quantize.numerics import E4M3
from embed_models.quantize.plan import Plan, make_plan

TENSORS = random_tensors()
SEQUENCES = ([2, 4, 5, 6, 7, 8, 9, 3], [2, 3], [2, 40, 41, 42, 43, 3], [2, *range(4, 49), 3])
LAYERS = BERT_CONFIG.num_hidden_layers


def in_fp16(pooling: Pooling = "mean") -> onnx.ModelProto:
    arithmetic = Arithmetic(TENSORS, np.float16)
    return KernelGraph(BERT_CONFIG, arithmetic, None).build(Head(pooling))


@pytest.fixture(scope="module", name="calibration")
def calibration_fixture() -> Any:
    return calibrate(tiny_checkpoint(), random_sequences(64), threads=1, seed=0)


def plan_of(calibration: Any, excluded: frozenset[str] = frozenset()) -> Plan:
    return make_plan(
        BERT_CONFIG, TENSORS, calibration, E4M3, strength=None, excluded=excluded, one_scale=True
    )


def in_fp8(plan: Plan, pooling: Pooling = "mean") -> onnx.ModelProto:
    arithmetic = Arithmetic(plan.tensors, np.float16)
    return KernelGraph(BERT_CONFIG, arithmetic, plan).build(Head(pooling))


def exact(pooling: Pooling = "mean") -> bytes:
    return serialize(build_graph(BERT_CONFIG, Arithmetic(TENSORS), pooling))


def cosines(vectors: Any, pooling: Pooling) -> list[float]:
    wanted = [encode(BERT_CONFIG, TENSORS, sequence, pooling) for sequence in SEQUENCES]
    return [float(a @ b) for a, b in zip(vectors, wanted, strict=True)]


def as_described(model: onnx.ModelProto) -> Any:
    """Run a graph by the operators as `worker/kernels` describes them, without padding."""
    ids, mask = pad(SEQUENCES)
    return evaluate(model, {"input_ids": ids, "attention_mask": mask})


def taken_apart(model: onnx.ModelProto) -> Any:
    return run_batch(cpu_session(take_apart(serialize(model), "it"), threads=1), SEQUENCES)


@pytest.mark.parametrize("run", [as_described, taken_apart])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_fp16_matches_the_numpy_reference(run: Callable[..., Any], pooling: Pooling) -> None:
    # GELU is the approximation by tanh.
    assert min(cosines(run(in_fp16(pooling)), pooling)) > 0.99999


@pytest.mark.parametrize("run", [as_described, taken_apart])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_fp8_is_near_the_numpy_reference(
    run: Callable[..., Any], pooling: Pooling, calibration: Any
) -> None:
    near = cosines(run(in_fp8(plan_of(calibration), pooling)), pooling)
    # The tiny model has few numbers to average over; a scale in the wrong place is far below this.
    assert min(near) > 0.98
    # It would be nearer if nothing were in 8 bits.
    assert min(near) < 0.99999


def test_both_ways_to_run_fp8_round_alike(calibration: Any) -> None:
    model = in_fp8(plan_of(calibration))
    np.testing.assert_allclose(as_described(model), taken_apart(model), rtol=0, atol=5e-2)


def test_there_is_no_node_but_these() -> None:
    names = [node.op_type for node in in_fp16().graph.node]
    layer = ["Linear", "Attend", "Linear", "AddNorm", "Linear", "Linear", "AddNorm"]
    assert names == ["Embed", *layer * LAYERS, "Pool"]
    assert {node.domain for node in in_fp16().graph.node} == {DOMAIN}


def test_what_reads_fp8_has_it_from_the_operator_in_front(calibration: Any) -> None:
    model = in_fp8(plan_of(calibration))
    makers = {value: node for node in model.graph.node for value in node.output}
    for node in model.graph.node:
        if node.op_type in ("LinearFromQuantized", "LinearQuantized"):
            maker = makers[node.input[0]].op_type
            assert maker.endswith("Quantize") or maker == "LinearQuantized"


def test_layers_that_are_left_out_stay_in_fp16(calibration: Any) -> None:
    excluded = frozenset({"layer0/attention_input", "layer1/inner", "layer1/outer"})
    model = in_fp8(plan_of(calibration, excluded))
    by_name = {node.name: node.op_type for node in model.graph.node}
    assert by_name["embeddings"] == "Embed"
    assert by_name["layer0/qkv/linear"] == by_name["layer1/outer/linear"] == "Linear"
    assert by_name["layer0/attention"] == "AttendQuantize"
    assert by_name["layer0/inner/linear"] == "LinearQuantized"
    near = cosines(as_described(model), "mean")
    assert min(near) > 0.98


def test_one_product_has_one_scale(calibration: Any) -> None:
    plan = make_plan(BERT_CONFIG, TENSORS, calibration, E4M3, strength=None)
    with pytest.raises(CheckpointError, match="one product has one scale, and not 3"):
        in_fp8(plan)


def test_smoothing_is_refused(calibration: Any) -> None:
    plan = make_plan(BERT_CONFIG, TENSORS, calibration, E4M3, strength=0.5, one_scale=True)
    with pytest.raises(CheckpointError, match="would take a pass over memory"):
        in_fp8(plan)


def test_models_that_no_kernels_are_for_are_said_to_be() -> None:
    checkpoint = tiny_checkpoint()
    assert "heads have to have 32 or 64" in (why_not(BERT_CONFIG, "mean") or "")
    assert KINDS["fp16-kernels"].why_not(BERT_CONFIG, "mean")
    assert not KINDS["fp16"].why_not(BERT_CONFIG, "mean")
    with pytest.raises(CheckpointError, match="no kernels are written for this model"):
        build_kernel_graph(checkpoint)
    fits = replace(BERT_CONFIG, hidden_size=384, num_attention_heads=12)
    assert why_not(fits, "mean") is None
    assert "pooled as max" in (why_not(fits, "max") or "")
    biased = replace(fits, relative_attention_num_buckets=32)
    assert "bias by distance" in (why_not(biased, "mean") or "")


def test_a_sound_graph_is_accepted(calibration: Any) -> None:
    check_kernels(serialize(in_fp16()), exact(), "it")
    check_kernels(serialize(in_fp8(plan_of(calibration))), exact(), "it")


def other_weights(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "layer1/outer.weight")
    values = numpy_helper.to_array(tensor) * np.float16(1.01)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32


def unknown_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].name = "nobody/knows.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (other_weights, "layer1/outer.weight is not the rounded weight"),
        (other_input, "inputs and outputs have to be those of the float32 graph"),
        (unknown_weight, "the float32 graph has no nobody/knows.weight"),
    ],
)
def test_an_unsound_graph_is_refused(damage: Callable[..., None], words: str) -> None:
    model = in_fp16()
    damage(model)
    with pytest.raises(ValidationError, match=re.escape(words)):
        check_kernels(serialize(model), exact(), "it")


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Nonlinear"


def lost_attribute(model: onnx.ModelProto) -> None:
    del model.graph.node[0].attribute[:]


def lost_value(model: onnx.ModelProto) -> None:
    del model.graph.node[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (unknown_operator, f"{DOMAIN} has no operator Nonlinear"),
        (lost_attribute, "embeddings is not as it has to be"),
        (lost_value, "does not hold together"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(damage: Callable[..., None], words: str) -> None:
    model = in_fp16()
    damage(model)
    with pytest.raises(ValidationError, match=re.escape(words)):
        take_apart(serialize(model), "it")
