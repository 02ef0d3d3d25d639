"""Channels that are moved and divided: what they lose less, and that the network stays the same."""

from collections.abc import Sequence

import numpy as np
import pytest
from tiny_bert import random_sequences, tiny_checkpoint

from embed_models.arithmetic import Arithmetic
from embed_models.graph import build_graph, serialize
from embed_models.inference import cpu_session, embed_sequences
from embed_models.onnx_builder import OnnxBuilder
from embed_models.quantize.calibration import calibrate, statistics_of
from embed_models.quantize.numerics import S8, U8
from embed_models.quantize.placement import Placement
from embed_models.quantize.plan import choose_site, linear_layers, placed
from embed_models.quantize.windows import fixed_windows, moved_windows

CHECKPOINT = tiny_checkpoint()
CALIBRATION = calibrate(CHECKPOINT, random_sequences(200), threads=1, seed=1, rows=256)
HELD_OUT = random_sequences(60, seed=7)


def normal(rows: int = 4000, channels: int = 6) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, channels)).astype(np.float32)


def test_a_channel_that_is_far_from_zero_is_moved_there() -> None:
    values = normal()
    values[:, 2] = 0.1 * values[:, 2] + 7
    windows = moved_windows(statistics_of(values), U8)
    assert windows.shift[2] == pytest.approx(7, abs=0.05)
    # A normal distribution in 256 steps is best cut off at some four deviations.
    assert 0.3 < windows.half[2] < 0.45
    assert (np.delete(windows.half, 2) > 3).all()
    assert (np.delete(windows.half, 2) < 4.5).all()


def test_a_single_value_far_out_is_cut_off() -> None:
    values = normal(rows=400_000, channels=2)
    values[0, 1] = 6
    windows = moved_windows(statistics_of(values), U8)
    assert windows.half[1] < 5


def test_a_channel_that_is_mostly_below_zero_is_turned_around() -> None:
    values = np.abs(normal())
    values[:, 4] *= -1
    windows = fixed_windows(statistics_of(values), np.ones(6, np.float32), U8)
    assert (windows.half > 0).tolist() == [True, True, True, True, False, True]
    assert windows.below == pytest.approx(0.03)
    # Without a zero point of its own, half of the window is below zero whatever is in it.
    assert fixed_windows(statistics_of(values), np.ones(6, np.float32), S8).below == 1


@pytest.mark.parametrize("fmt", [U8, S8], ids=["u8", "s8"])
def test_the_products_lose_less_of_channels_that_are_moved(fmt: object) -> None:
    assert fmt in (U8, S8)
    chosen = U8 if fmt is U8 else S8
    config, layers = CHECKPOINT.config, linear_layers(CHECKPOINT.config)
    tensors = dict(CHECKPOINT.tensors)
    name = "encoder.layer.0.attention.output.LayerNorm.bias"
    tensors[name] = tensors[name] + np.where(np.arange(config.hidden_size) == 3, 20, 0)
    tensors[name] = tensors[name].astype(np.float32)
    calibration = calibrate(
        type(CHECKPOINT)(**{**vars(CHECKPOINT), "tensors": tensors}),
        random_sequences(200),
        threads=1,
        seed=1,
        rows=256,
    )
    site = "layer0/inner"
    changed, placements = placed(
        config, tensors, calibration, chosen, strength=0.9, excluded=frozenset()
    )
    (key,) = layers[site]
    weight = changed[f"{key}.weight"].T
    here = placements[site]
    statistics = calibration.sites[site]
    moved = choose_site(site, statistics, here, weight, chosen).activation
    low = float((statistics.low / here.factor).min())
    high = float((statistics.high / here.factor).max())
    divided = Placement(np.zeros_like(here.shift), here.factor, low, high)
    only = choose_site(site, statistics, divided, weight, chosen).activation
    assert moved.scale < 0.5 * only.scale


class _Divided(Arithmetic):
    """Multiplies exactly, with what stands in front of a quantization."""

    def __init__(self, tensors: dict[str, np.ndarray], placements: dict[str, Placement]) -> None:
        super().__init__(tensors)
        self._placements = placements

    def _divided(self, b: OnnxBuilder, site: str, value: str) -> str:
        here = self._placements.get(site)
        if here is None or site.endswith("/attention_output"):
            return value
        factor = b.constant(1 / here.factor, np.float32)
        return b.node("Mul", value, factor, name=f"{site}/divided")

    def linear(self, b: OnnxBuilder, name: str, site: str, value: str, key: str) -> str:
        return super().linear(b, name, site, self._divided(b, site, value), key)

    def fused_attention(
        self,
        b: OnnxBuilder,
        name: str,
        site: str,
        hidden: str,
        keys: Sequence[str],
        mask: str,
        heads: int,
    ) -> str:
        hidden = self._divided(b, site, hidden)
        return super().fused_attention(b, name, site, hidden, keys, mask, heads)


@pytest.mark.parametrize(
    "excluded",
    [
        frozenset(),
        frozenset({"layer0/attention_input", "layer1/inner"}),
        frozenset({"layer1/attention_output", "layer0/outer"}),
    ],
    ids=["all", "without inputs", "without outputs"],
)
def test_the_network_stays_the_same(excluded: frozenset[str]) -> None:
    changed, placements = placed(
        CHECKPOINT.config,
        CHECKPOINT.tensors,
        CALIBRATION,
        U8,
        strength=0.9,
        excluded=excluded,
    )
    assert any(np.abs(here.shift).max() > 0.1 for here in placements.values())
    graphs = (
        build_graph(CHECKPOINT.config, Arithmetic(CHECKPOINT.tensors), "mean"),
        build_graph(CHECKPOINT.config, _Divided(changed, placements), "mean"),
    )
    exact, other = (
        embed_sequences(cpu_session(serialize(graph), threads=1), HELD_OUT) for graph in graphs
    )
    np.testing.assert_allclose(other, exact, atol=2e-6)
