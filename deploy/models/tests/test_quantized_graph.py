"""Quantized graphs: close to the exact one, and made of what each runtime looks for."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tiny_bert import BERT_CONFIG, random_sequences, tiny_checkpoint

from embed_models.arithmetic import Arithmetic
from embed_models.errors import RecipeError
from embed_models.graph import build_graph, serialize
from embed_models.inference import cpu_session, embed_sequences
from embed_models.kinds import KINDS
from embed_models.quantize.calibration import Calibration, calibrate
from embed_models.quantize.plan import linear_layers, make_plan
from embed_models.quantize.search import Found, Search, quantized_graph
from embed_models.validate.agreement import cosines
from embed_models.validate.invariance import batch_difference

CHECKPOINT = tiny_checkpoint()
HELD_OUT = random_sequences(80, seed=7)
QUANTIZED = ("int8", "int8-tensorrt", "fp8-tensorrt")


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(CHECKPOINT, random_sequences(200), threads=1, seed=1, rows=256)


def graph_of(
    name: str,
    calibration: Calibration,
    *,
    strength: float | None = 0.5,
    excluded: frozenset[str] = frozenset(),
) -> onnx.ModelProto:
    kind = KINDS[name]
    assert kind.fmt is not None
    plan = make_plan(
        CHECKPOINT.config,
        CHECKPOINT.tensors,
        calibration,
        kind.fmt,
        strength=strength,
        excluded=excluded,
    )
    return quantized_graph(CHECKPOINT, plan, kind, kind.dtype)


def cosines_of(model: onnx.ModelProto) -> NDArray[np.float64]:
    exact = build_graph(CHECKPOINT.config, Arithmetic(CHECKPOINT.tensors), "mean")
    vectors = [
        embed_sequences(cpu_session(serialize(graph), threads=1), HELD_OUT)
        for graph in (model, exact)
    ]
    return cosines(*vectors)


@pytest.mark.parametrize("strength", [None, 0.5, 0.85])
@pytest.mark.parametrize("name", QUANTIZED)
def test_close_to_the_exact_graph(
    name: str, strength: float | None, calibration: Calibration
) -> None:
    found = cosines_of(graph_of(name, calibration, strength=strength))
    if name == "fp8-tensorrt":
        # FP8 has three bits of mantissa, and this network no redundancy to make up for it.
        assert found.mean() > 0.99
    else:
        assert found.min() > 0.99


def test_bias_correction_removes_the_mean_error(calibration: Calibration) -> None:
    fmt = KINDS["int8"].fmt
    assert fmt is not None
    plan = make_plan(CHECKPOINT.config, CHECKPOINT.tensors, calibration, fmt, strength=None)
    for site, (key, *_) in linear_layers(CHECKPOINT.config).items():
        sample = calibration.sites[site].sample
        scale = plan.sites[site].activation
        exact = sample @ CHECKPOINT.tensors[f"{key}.weight"].T + CHECKPOINT.tensors[f"{key}.bias"]
        rounded = fmt.fake(sample, scale.scale, scale.zero_point)
        product = rounded @ plan.weights[key].dequantized() + plan.tensors[f"{key}.bias"]
        assert np.abs((product - exact).mean(axis=0)).max() < 1e-4


def test_layers_left_out_stay_exact(calibration: Calibration) -> None:
    everything = frozenset(linear_layers(CHECKPOINT.config))
    model = graph_of("int8", calibration, excluded=everything)
    assert not {"QuantizeLinear", "QAttention"} & {node.op_type for node in model.graph.node}
    assert cosines_of(model).min() > 0.9999
    one = graph_of("int8", calibration, excluded=frozenset({"layer0/attention_input"}))
    assert [n.op_type for n in one.graph.node if n.domain].count("Attention") == 1
    assert cosines_of(one).min() > 0.99


@pytest.mark.parametrize("name", ["int8-tensorrt", "fp8-tensorrt"])
def test_tensorrt_finds_every_weight_product_between_q_and_dq(
    name: str, calibration: Calibration
) -> None:
    model = graph_of(name, calibration)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""}
    producers = {output: node for node in model.graph.node for output in node.output}
    initializers = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    wanted = np.dtype(np.int8 if name == "int8-tensorrt" else ml_dtypes.float8_e4m3fn)
    products = [n for n in model.graph.node if n.op_type == "MatMul" and n.name.endswith("/matmul")]
    assert len(products) == 6 * BERT_CONFIG.num_hidden_layers
    for product in products:
        activation, weight = (producers[value] for value in product.input)
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert producers[activation.input[0]].op_type == "QuantizeLinear"
        for node in (activation, weight):
            zero = initializers[node.input[2]]
            assert zero.dtype == wanted
            assert not zero.astype(np.float32).any()
        values, scales = (initializers[value] for value in weight.input[:2])
        assert values.dtype == wanted
        by_channel = name == "int8-tensorrt"
        attributes = {a.name: helper.get_attribute_value(a) for a in weight.attribute}
        assert scales.shape == ((values.shape[1],) if by_channel else ())
        assert attributes == ({"axis": 1} if by_channel else {})
        # Per tensor, and in the type of what is around.
        assert initializers[activation.input[1]].shape == ()
        assert initializers[activation.input[1]].dtype == np.float16
    # What multiplies two activations stays in floating point.
    others = [n for n in model.graph.node if n.op_type == "MatMul" and n not in products]
    assert len(others) == 2 * BERT_CONFIG.num_hidden_layers


def test_cpu_runs_integer_kernels(calibration: Calibration, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    content = serialize(graph_of("int8", calibration))
    ort.InferenceSession(
        content,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    layers = BERT_CONFIG.num_hidden_layers
    assert operators.count("QAttention") == layers
    assert operators.count("MatMulIntegerToFloat") == 3 * layers
    assert operators.count("FastGelu") == layers
    assert operators.count("DequantizeLinear") == 0
    # One for each site, however many layers read it.
    assert operators.count("QuantizeLinear") == 4 * layers


def test_batch_mates_change_nothing(calibration: Calibration) -> None:
    session = cpu_session(serialize(graph_of("int8", calibration)), threads=1)
    assert batch_difference(session, HELD_OUT) <= 1e-5


def test_is_reproducible(calibration: Calibration) -> None:
    assert serialize(graph_of("int8", calibration)) == serialize(graph_of("int8", calibration))


def test_search_tries_leaving_layers_out_only_below_the_target(calibration: Calibration) -> None:
    search = Search(CHECKPOINT, calibration, random_sequences(50, seed=3), threads=1)
    said: list[str] = []
    easy = search.run(
        KINDS["int8"], [0.0, 0.5], target=0.5, least=None, most_excluded=4, report=said.append
    )
    assert not easy.plan.excluded
    assert [trial.strength for trial in easy.trials] == [0.0, 0.5]
    best = max(trial.mean_cosine for trial in easy.trials)
    hard = search.run(
        KINDS["int8"], [0.0, 0.5], target=1.0, least=None, most_excluded=2, report=said.append
    )
    assert 1 <= len(hard.plan.excluded) <= 2
    assert max(trial.mean_cosine for trial in hard.trials) > best
    assert "stayed in floating point" in hard.reason
    # TensorRT gets every layer in 8 bits.
    whole = search.run(
        KINDS["int8-tensorrt"], [0.5], target=1.0, least=None, most_excluded=2, report=said.append
    )
    assert not whole.plan.excluded


def test_what_the_recipe_excludes_stays_in_floating_point(calibration: Calibration) -> None:
    search = Search(CHECKPOINT, calibration, random_sequences(50, seed=3), threads=1)

    def run(site: str) -> Found:
        return search.run(
            KINDS["int8"],
            [0.0, 0.5],
            target=0.5,
            least=None,
            most_excluded=0,
            report=lambda _line: None,
            excluded=frozenset({site}),
        )

    found = run("layer0/attention_output")
    assert found.plan.excluded == {"layer0/attention_output"}
    assert all(trial.excluded == ("layer0/attention_output",) for trial in found.trials)
    assert "by the recipe, layer0/attention_output stayed in floating point" in found.reason
    with pytest.raises(RecipeError, match="int8 names layer9/inner; there are layer0/attention_in"):
        run("layer9/inner")


def test_search_prefers_settings_without_a_very_bad_text(calibration: Calibration) -> None:
    search = Search(CHECKPOINT, calibration, random_sequences(50, seed=3), threads=1)
    kind, strengths = KINDS["int8"], [0.0, 0.3, 0.5, 0.7, 0.9]
    everything = search.run(
        kind, strengths, target=None, least=None, most_excluded=0, report=lambda _line: None
    )
    least = sorted(trial.min_cosine for trial in everything.trials)[-1]
    picky = search.run(
        kind, strengths, target=None, least=least, most_excluded=0, report=lambda _line: None
    )
    chosen = next(t for t in picky.trials if t.strength == (picky.plan.strength or 0.0))
    assert chosen.min_cosine == least
    assert "1 of 5 tried whose worst text has at least" in picky.reason
