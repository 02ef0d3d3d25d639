"""Weights that are rounded against what their layer yields lose less than rounded numbers do."""

import numpy as np
import pytest
from tiny_bert import random_sequences, tiny_checkpoint

from embed_models.arithmetic import Arithmetic
from embed_models.graph import build_graph, serialize
from embed_models.inference import cpu_session, embed_sequences
from embed_models.kinds import KINDS
from embed_models.quantize import layerwise
from embed_models.quantize.calibration import calibrate
from embed_models.quantize.layerwise import fitted_plan
from embed_models.quantize.numerics import U8, quantize_weight
from embed_models.quantize.plan import Plan, linear_layers, make_plan
from embed_models.quantize.rounding import covariance, made_up, round_weight
from embed_models.quantize.search import quantized_graph
from embed_models.validate.agreement import cosines
from embed_models.validate.invariance import batch_difference


def correlated(seed: int, rows: int = 2000, channels: int = 150) -> np.ndarray:
    random = np.random.default_rng(seed)
    few = random.standard_normal((rows, 12)) @ random.standard_normal((12, channels))
    return np.asarray(few + 0.1 * random.standard_normal((rows, channels)) + 3, np.float32)


def loss(inputs: np.ndarray, exact: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean squared error of the products that a bias cannot take back."""
    return float((inputs @ weight - exact).var(axis=0).mean())


# 150 channels are more than one block of rows.
@pytest.mark.parametrize("seed", range(5))
def test_rounding_against_the_products_loses_less(seed: int) -> None:
    inputs = correlated(seed)
    weight = np.random.default_rng(seed).standard_normal((150, 20)).astype(np.float32)
    exact = inputs @ weight
    nearest = quantize_weight(weight, U8)
    together = round_weight(weight, covariance(inputs), U8)
    assert together.values.dtype == np.int8
    assert np.abs(together.values.astype(int)).max() <= 127
    assert loss(inputs, exact, together.dequantized()) < 0.3 * loss(
        inputs, exact, nearest.dequantized()
    )


def test_inputs_that_never_change_do_no_harm() -> None:
    inputs = correlated(2)
    inputs[:, 7] = 1.5
    weight = np.random.default_rng(2).standard_normal((150, 20)).astype(np.float32)
    rounded = round_weight(weight, covariance(inputs), U8)
    # Nothing is made up for in a row that yields a constant.
    assert np.abs(rounded.dequantized()[7] - weight[7]).max() <= 0.51 * rounded.scales.max()


def test_a_weight_makes_up_for_what_its_inputs_tell_of() -> None:
    inputs = correlated(3)
    random = np.random.default_rng(3)
    told = inputs @ random.standard_normal((150, 20)).astype(np.float32) * np.float32(0.01)
    chance = random.standard_normal(told.shape).astype(np.float32) * np.float32(0.01)
    lost = told + chance + 5
    change = made_up(inputs, lost, covariance(inputs))
    rest = (lost - inputs @ change).var(axis=0).mean()
    # Chance stays, and what only directions tell of in which the inputs hardly vary.
    assert rest < 0.05 * lost.var(axis=0).mean()


def test_a_weight_does_not_follow_chance() -> None:
    inputs = correlated(4, rows=600)
    lost = np.random.default_rng(4).standard_normal((600, 20)).astype(np.float32)
    change = made_up(inputs, lost, covariance(inputs))
    fresh = correlated(4, rows=1200)[600:]
    assert (fresh @ change).var(axis=0).mean() < 0.05


CHECKPOINT = tiny_checkpoint()
CALIBRATION = calibrate(CHECKPOINT, random_sequences(200), threads=1, seed=1, rows=256)
HELD_OUT = random_sequences(80, seed=7)


def embedded(plan: Plan, name: str) -> np.ndarray:
    model = quantized_graph(CHECKPOINT, plan, KINDS[name], np.float32)
    session = cpu_session(serialize(model), threads=1, as_written=name != "int8")
    if name == "int8":
        assert batch_difference(session, HELD_OUT) <= 1e-5
    return embed_sequences(session, HELD_OUT)


def test_the_shortest_text_is_fitted_to_however_few_tokens_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sequences = [*random_sequences(400, seed=5), [2, 3]]
    monkeypatch.setattr(layerwise, "TOKENS", 500)
    for seed in range(5):
        batches = layerwise._batches(sequences, seed)
        shortest = [batch for batch in batches if batch.shape[1] == 2]
        assert sum(len(batch) for batch in shortest) >= 100
        assert len(batches) > len(shortest), "and others"


@pytest.mark.parametrize("name", ["int8", "int8-tensorrt"])
@pytest.mark.parametrize("excluded", [frozenset(), frozenset({"layer0/attention_input"})])
def test_a_plan_that_is_fitted_layer_by_layer(name: str, excluded: frozenset[str]) -> None:
    kind = KINDS[name]
    assert kind.fmt is not None
    exact = build_graph(CHECKPOINT.config, Arithmetic(CHECKPOINT.tensors), "mean")
    reference = embed_sequences(cpu_session(serialize(exact), threads=1), HELD_OUT)
    fitted = fitted_plan(
        CHECKPOINT,
        CALIBRATION,
        random_sequences(400, seed=5),
        kind,
        strength=0.5,
        excluded=excluded,
        threads=1,
    )
    assert set(fitted.sites) == set(linear_layers(CHECKPOINT.config)) - excluded
    each = make_plan(
        CHECKPOINT.config,
        CHECKPOINT.tensors,
        CALIBRATION,
        kind.fmt,
        strength=0.5,
        excluded=excluded,
    )
    together = 1 - cosines(embedded(fitted, name), reference).mean()
    alone = 1 - cosines(embedded(each, name), reference).mean()
    assert together < alone
