"""Brings the channels of each activation into one window, without changing what the network yields.

Dividing (SmoothQuant): a channel is divided by a factor with which the rows of the weight are
multiplied. The factor is `width of the window ** strength / largest weight ** (1 - strength)`. For
the attention's output the division is folded into the value projection and costs nothing at run
time; elsewhere it is a product in front of the quantization, which may turn a channel around too.

Moving: the bias of what is in front takes off what the bias of what follows adds. A norm's output
is also added to what the next product but one, or the next, yields; that bias gives it back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embed_models.checkpoint import Tensors
from embed_models.quantize.calibration import Calibration, SiteStatistics, statistics_of
from embed_models.quantize.mixing import head_mixtures, mixed
from embed_models.quantize.numerics import Floats, Format
from embed_models.quantize.windows import fixed_windows, moved_windows


@dataclass(frozen=True)
class Placement:
    """What becomes of an activation in front of its quantization: `(value - shift) / factor`."""

    shift: Floats
    factor: Floats
    # The range to choose a scale for, in these units.
    low: float
    high: float
    divides: bool = True
    # What the channels of each head are mixed by before, and its inverse.
    mixtures: tuple[Floats, Floats] | None = None

    def apply(self, values: Floats) -> Floats:
        if self.mixtures is not None:
            values = mixed(values, self.mixtures[0])
        return np.asarray((values - self.shift) / self.factor, np.float32)


def as_it_is(statistics: SiteStatistics) -> Placement:
    """Return the placement that changes nothing."""
    return Placement(
        np.zeros_like(statistics.mean),
        np.ones_like(statistics.mean),
        float(statistics.low.min()),
        float(statistics.high.max()),
        divides=False,
    )


def choose_placements(
    tensors: Tensors,
    calibration: Calibration,
    layers: Mapping[str, Sequence[str]],
    heads: int,
    strength: float,
    fmt: Format,
) -> dict[str, Placement]:
    """Choose where the channels of each site go."""
    found = {}
    for site, keys in layers.items():
        statistics = calibration.sites[site]
        weight = np.concatenate([tensors[f"{key}.weight"] for key in keys])
        if fmt.weight_dtype != np.int8:
            # Each number of FP8 has a range of its own.
            found[site] = _by_largest(statistics, weight, strength)
            continue
        mixtures = None
        if site.endswith("/attention_output"):
            mixtures = head_mixtures(statistics.sample, weight, heads)
            statistics = _mixed_statistics(statistics, mixtures[0])
            weight = mixed(weight, mixtures[1].swapaxes(1, 2))
        if site.endswith("/outer"):
            windows = fixed_windows(statistics, np.square(weight).sum(axis=0), fmt)
        else:
            windows = moved_windows(statistics, fmt)
        factor = _factor(np.abs(windows.half), weight, strength)
        furthest = float((np.abs(windows.half) / factor).max())
        factor = np.asarray(np.copysign(factor, windows.half), np.float32)
        low, high = -windows.below * furthest, furthest
        found[site] = Placement(windows.shift, factor, low, high, mixtures=mixtures)
    return found


def place(
    tensors: Tensors, layers: Mapping[str, Sequence[str]], placements: Mapping[str, Placement]
) -> None:
    """Change weights and biases so that the sites have what is placed there."""
    for site, chosen in placements.items():
        keys = layers[site]
        for key in keys:
            weight = tensors[f"{key}.weight"]
            if chosen.mixtures is not None:
                weight = mixed(weight, chosen.mixtures[1].swapaxes(1, 2))
            tensors[f"{key}.bias"] = tensors[f"{key}.bias"] + weight @ chosen.shift
            tensors[f"{key}.weight"] = weight * chosen.factor
        in_front, behind = neighbours(site, keys[0])
        if in_front is None:
            continue
        if site.endswith("/attention_output"):
            # A context vector is a weighted mean of value vectors.
            both = [tensors[f"{in_front}.weight"].T, tensors[f"{in_front}.bias"][None]]
            if chosen.mixtures is not None:
                both = [mixed(part, chosen.mixtures[0]) for part in both]
            tensors[f"{in_front}.weight"] = np.ascontiguousarray((both[0] / chosen.factor).T)
            tensors[f"{in_front}.bias"] = (both[1][0] - chosen.shift) / chosen.factor
        else:
            tensors[f"{in_front}.bias"] = tensors[f"{in_front}.bias"] - chosen.shift
        if behind is not None:
            tensors[f"{behind}.bias"] = tensors[f"{behind}.bias"] + chosen.shift


def neighbours(site: str, key: str) -> tuple[str | None, str | None]:
    """Name what moves a site by its bias, and the product whose sum with the site is normalised."""
    name = site.partition("/")[2]
    layer = key.removeprefix("encoder.layer.").partition(".")[0]
    prefix = f"encoder.layer.{layer}"
    if name == "attention_input":
        before = f"encoder.layer.{int(layer) - 1}.output.LayerNorm"
        norm = before if int(layer) else "embeddings.LayerNorm"
        return norm, f"{prefix}.attention.output.dense"
    if name == "inner":
        return f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.dense"
    if name == "attention_output":
        return f"{prefix}.attention.self.value", None
    return None, None


def _mixed_statistics(statistics: SiteStatistics, mixtures: Floats) -> SiteStatistics:
    """Return the statistics of mixed channels, whose range is known of the sample alone.

    It is stretched by as much as that of the channels of the head is larger in all texts.
    """
    sample = statistics.sample
    share = (statistics.high - statistics.low) / np.maximum(np.ptp(sample, axis=0), 1e-6)
    stretch = np.repeat(share.reshape(len(mixtures), -1).mean(axis=1), mixtures.shape[1])
    found = statistics_of(mixed(sample, mixtures))
    centre, ranges = found.mean, found.ranges
    ranges.low = np.asarray(centre + (ranges.low - centre) * stretch, np.float32)
    ranges.high = np.asarray(centre + (ranges.high - centre) * stretch, np.float32)
    return found


def _by_largest(statistics: SiteStatistics, weight: Floats, strength: float) -> Placement:
    factor = _factor(statistics.largest, weight, strength)
    low, high = statistics.low / factor, statistics.high / factor
    return Placement(np.zeros_like(factor), factor, float(low.min()), float(high.max()))


def _factor(width: Floats, weight: Floats, strength: float) -> Floats:
    largest = np.maximum(np.abs(weight).max(axis=0), 1e-5)
    factor = np.maximum(width**strength / largest ** (1 - strength), 1e-4)
    # Only the ratios between channels matter; around 1 they suit float16.
    return np.asarray(factor / np.exp(np.log(factor).mean()), np.float32)
