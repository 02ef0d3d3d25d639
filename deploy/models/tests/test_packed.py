"""The graphs for GPUs: as fused as ONNX Runtime would have them, packed where its tool does it."""

import importlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from numpy_bert import encode
from numpy_contrib import evaluate
from onnx import numpy_helper
from tiny_bert import BERT_CONFIG, random_tensors

from embed_models.arithmetic import Arithmetic
from embed_models.attention import PackedAttention
from embed_models.batches import pad
from embed_models.errors import ValidationError
from embed_models.fused import build_fused_graph
from embed_models.graph import build_graph, serialize
from embed_models.inference import cpu_session, run_batch
from embed_models.metadata import Pooling
from embed_models.packing import check_packed, unpack

TENSORS = random_tensors()
SEQUENCES = ([2, 4, 5, 6, 7, 8, 9, 3], [2, 3], [2, 40, 41, 42, 43, 3], [2, *range(4, 49), 3])
LAYERS = BERT_CONFIG.num_hidden_layers
ATTENTION = "PackedMultiHeadAttention"


def fused(pooling: Pooling = "mean", dtype: Any = np.float32) -> onnx.ModelProto:
    return build_fused_graph(BERT_CONFIG, Arithmetic(TENSORS, dtype), pooling)


def packed(pooling: Pooling = "mean", dtype: Any = np.float32) -> onnx.ModelProto:
    return build_fused_graph(BERT_CONFIG, Arithmetic(TENSORS, dtype), pooling, PackedAttention)


def exact() -> bytes:
    return serialize(build_graph(BERT_CONFIG, Arithmetic(TENSORS), "mean"))


def assert_matches(content: bytes, pooling: Pooling, tolerance: float) -> None:
    vectors = run_batch(cpu_session(content, threads=1), SEQUENCES)
    for row, sequence in enumerate(SEQUENCES):
        expected = encode(BERT_CONFIG, TENSORS, sequence, pooling)
        np.testing.assert_allclose(vectors[row], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 5e-3)])
def test_fused_matches_the_numpy_reference(pooling: Pooling, dtype: Any, tolerance: float) -> None:
    assert_matches(serialize(fused(pooling, dtype)), pooling, tolerance)


def test_everything_is_fused() -> None:
    counts = Counter(node.op_type for node in fused().graph.node)
    assert counts["EmbedLayerNormalization"] == 1
    assert counts["Attention"] == counts["BiasGelu"] == LAYERS
    assert counts["SkipLayerNormalization"] == 2 * LAYERS
    # Of a layer's six products, attention has three in itself; one more is the pooling.
    assert counts["MatMul"] == 3 * LAYERS + 1
    assert not counts.keys() & {"LayerNormalization", "Erf", "Add"}


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 5e-3)])
def test_unpacked_matches_the_numpy_reference(
    pooling: Pooling, dtype: Any, tolerance: float
) -> None:
    content = serialize(packed(pooling, dtype))
    assert_matches(unpack(content, "packed"), pooling, tolerance)


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_is_what_the_runtimes_own_tool_makes_of_the_fused_graph(
    pooling: Pooling, dtype: Any
) -> None:
    importlib.import_module("onnxruntime.transformers")  # puts its directory on the path
    tool: Any = importlib.import_module("convert_to_packing_mode")
    wrapper: Any = importlib.import_module("onnx_model")
    model = wrapper.OnnxModel(fused(pooling, dtype))
    tool.PackingMode(model).convert(use_symbolic_shape_infer=False)
    assert structure(model.model) == structure(as_the_tool_writes(packed(pooling, dtype)))


def as_the_tool_writes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put PackedAttention, which has the product in itself, in place of each layer's attention."""
    size, heads = BERT_CONFIG.hidden_size, BERT_CONFIG.num_attention_heads
    made_by = {node.output[0]: node for node in model.graph.node}
    for attention in nodes_of(model, ATTENTION):
        by_head, _, _, bias, offsets, cumulated = attention.input
        hidden, weight = made_by[made_by[by_head].input[0]].input
        tensor = next(t for t in model.graph.initializer if t.name == weight)
        columns = numpy_helper.to_array(tensor).reshape(size, heads, 3, -1)
        in_order = columns.swapaxes(1, 2).reshape(size, -1)
        tensor.CopyFrom(numpy_helper.from_array(in_order, weight))
        attention.op_type = "PackedAttention"
        del attention.input[:]
        attention.input.extend([hidden, weight, bias, offsets, cumulated])
    return model


def structure(model: onnx.ModelProto) -> tuple[Any, ...]:
    """Describe what the output is computed from, whatever values are called and nodes' order."""
    producers = {
        output: (node, index)
        for node in model.graph.node
        for index, output in enumerate(node.output)
    }
    # By value, since constants are numbered.
    weights = {t.name: (t.data_type, *t.dims, t.raw_data) for t in model.graph.initializer}
    known: dict[str, Any] = {}

    def describe(value: str) -> Any:
        if value not in producers:
            return weights.get(value, value)
        if value not in known:
            node, index = producers[value]
            attributes = sorted(a.SerializeToString() for a in node.attribute)
            inputs = list(node.input)
            while inputs and not inputs[-1]:  # the tool spells the inputs that are left out
                inputs.pop()
            parts = tuple(describe(name) for name in inputs)
            known[value] = (node.domain, node.op_type, index, tuple(attributes), hash(parts))
        return known[value]

    return tuple(describe(output.name) for output in model.graph.output)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_packed_matches_the_numpy_reference(pooling: Pooling) -> None:
    ids, mask = pad(SEQUENCES)
    vectors = evaluate(packed(pooling), {"input_ids": ids, "attention_mask": mask})
    for row, sequence in enumerate(SEQUENCES):
        expected = encode(BERT_CONFIG, TENSORS, sequence, pooling)
        np.testing.assert_allclose(vectors[row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_sound_packed_graph_is_accepted(dtype: Any) -> None:
    check_packed(serialize(packed(dtype=dtype)), exact(), "packed.onnx")


def nodes_of(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == operator]


def node_of(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return nodes_of(model, operator)[0]


def not_packed(model: onnx.ModelProto) -> None:
    model.ParseFromString(unpack(serialize(model), "packed.onnx"))


def other_weights(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "layer1/outer.weight")
    values = numpy_helper.to_array(tensor) * np.float32(1.001)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def columns_in_order(model: onnx.ModelProto) -> None:
    # As the float32 graph has them: [3, heads, head size].
    weights = {tensor.name: tensor for tensor in fused().graph.initializer}
    tensor = next(t for t in model.graph.initializer if t.name == "layer1/qkv.weight")
    tensor.CopyFrom(weights[tensor.name])


def a_layer_less(model: onnx.ModelProto) -> None:
    kept = [t for t in model.graph.initializer if not t.name.startswith("layer1/inner.bias")]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32


def padded_bias(model: onnx.ModelProto) -> None:
    # A third output of RemovePadding is counted in int32, which no norm takes.
    node_of(model, "SkipLayerNormalization").input[1] = "packing/cumulated"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (not_packed, "runs on a CPU, so it is not packed"),
        (other_weights, "layer1/outer.weight is not the rounded weight"),
        (columns_in_order, "layer1/qkv.weight is not the rounded weight"),
        (a_layer_less, "the weights differ from those of the float32 graph: layer1/inner.bias"),
        (other_input, "inputs and outputs have to be input_ids"),
        (padded_bias, "is no valid graph"),
    ],
)
def test_an_unsound_packed_graph_is_refused(
    damage: Callable[[onnx.ModelProto], None], words: str
) -> None:
    model = packed()
    damage(model)
    with pytest.raises(ValidationError, match=re.escape(words)):
        check_packed(serialize(model), exact(), "packed.onnx")


def pools_without_padding(model: onnx.ModelProto) -> None:
    # In front of RestorePadding, where tokens of all texts follow each other.
    pool = next(node for node in model.graph.node if node.name == "pool/mean")
    pool.input[1] = node_of(model, "RestorePadding").input[0]


def takes_padded_states(model: onnx.ModelProto) -> None:
    node_of(model, "SkipLayerNormalization").input[1] = "embeddings/norm_out"


def keeps_one_attention(model: onnx.ModelProto) -> None:
    node_of(model, ATTENTION).op_type = "MultiHeadAttention"


def loses_the_end(model: onnx.ModelProto) -> None:
    model.graph.node.remove(node_of(model, "RestorePadding"))


def other_offsets(model: onnx.ModelProto) -> None:
    node_of(model, ATTENTION).input[4] = "packing/longest"


def other_lengths(model: onnx.ModelProto) -> None:
    node_of(model, ATTENTION).input[5] = "packing/longest"


def adds_to_scores(model: onnx.ModelProto) -> None:
    node_of(model, ATTENTION).input.append("layer0/qkv.bias")


def takes_keys_apart(model: onnx.ModelProto) -> None:
    node_of(model, ATTENTION).input[1] = "layer0/qkv_out"


def takes_values_apart(model: onnx.ModelProto) -> None:
    node_of(model, ATTENTION).input[2] = "layer0/qkv_out"


def is_not_by_head(model: onnx.ModelProto) -> None:
    node_of(model, ATTENTION).input[0] = "layer0/qkv_out"


def has_other_heads(model: onnx.ModelProto) -> None:
    node_of(model, ATTENTION).attribute[0].i = 2


def takes_heads_of_another_layer(model: onnx.ModelProto) -> None:
    first, second = nodes_of(model, ATTENTION)
    second.input[0] = first.input[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (not_packed, "is attention that is not packed"),
        (pools_without_padding, "pool/mean mixes packed and padded values"),
        (takes_padded_states, "mixes packed and padded values"),
        (keeps_one_attention, "is attention that is not packed"),
        (loses_the_end, "it has to have one RemovePadding, one RestorePadding"),
        (other_offsets, "does not take what RemovePadding yields"),
        (other_lengths, "does not take what RemovePadding yields"),
        (adds_to_scores, "does not take what RemovePadding yields"),
        (takes_keys_apart, "does not take queries, keys and values as one"),
        (takes_values_apart, "does not take queries, keys and values as one"),
        (is_not_by_head, "does not take queries, keys and values as one"),
        (has_other_heads, "does not take queries, keys and values as one"),
        (takes_heads_of_another_layer, "does not take queries, keys and values as one"),
    ],
)
def test_what_is_packed_wrongly_is_not_unpacked(
    damage: Callable[[onnx.ModelProto], None], words: str
) -> None:
    model = packed()
    damage(model)
    with pytest.raises(ValidationError, match=re.escape(words)):
        unpack(serialize(model), "packed.onnx")


def test_the_first_token_is_not_taken_in_front_of_restore_padding() -> None:
    model = packed("cls")
    node_of(model, "Gather").input[0] = node_of(model, "RestorePadding").input[0]
    with pytest.raises(ValidationError, match="the layers do not lie between"):
        unpack(serialize(model), "packed.onnx")
