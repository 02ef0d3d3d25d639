"""Turns calibration statistics into everything that a quantized graph is written from.

Bias correction: rounding shifts the mean of a product. The shift is known from the sample, and is
taken off the bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from embed_models.checkpoint import BertConfig, Tensors
from embed_models.quantize.calibration import Calibration, SiteStatistics
from embed_models.quantize.numerics import (
    ActivationScale,
    Floats,
    Format,
    QuantizedWeight,
    choose_activation_scale,
    quantize_weight,
)
from embed_models.quantize.placement import Placement, as_it_is, choose_placements, place

# Rows of the sample that the search for a scale looks at.
_SEARCH_ROWS = 384


@dataclass(frozen=True)
class SitePlan:
    """How one activation is quantized."""

    activation: ActivationScale
    # 1 / factor of each channel; None where nothing has to be multiplied.
    multiplier: Floats | None


@dataclass(frozen=True)
class Plan:
    """What a quantized graph is written from; `tensors` are smoothed and bias-corrected."""

    fmt: Format
    strength: float | None
    excluded: frozenset[str]
    tensors: Tensors
    sites: Mapping[str, SitePlan]
    # By the prefix of the tensors, [in, out].
    weights: Mapping[str, QuantizedWeight]
    # Whether it was rounded layer by layer (`layerwise`), and not each number to the nearest.
    fitted: bool = False


def linear_layers(config: BertConfig) -> dict[str, list[str]]:
    """Return the sites with the prefixes of the linear layers that read them."""
    sites = {}
    for layer in range(config.num_hidden_layers):
        key = f"encoder.layer.{layer}"
        sites[f"layer{layer}/attention_input"] = [
            f"{key}.attention.self.{name}" for name in ("query", "key", "value")
        ]
        sites[f"layer{layer}/attention_output"] = [f"{key}.attention.output.dense"]
        sites[f"layer{layer}/inner"] = [f"{key}.intermediate.dense"]
        sites[f"layer{layer}/outer"] = [f"{key}.output.dense"]
    return sites


def make_plan(
    config: BertConfig,
    tensors: Tensors,
    calibration: Calibration,
    fmt: Format,
    *,
    strength: float | None,
    excluded: frozenset[str] = frozenset(),
    one_scale: bool = False,
) -> Plan:
    """Choose all scales for one smoothing strength (None: no smoothing), and round each number.

    `one_scale`: weights that are multiplied with the same site are rounded as one matrix.
    """
    changed, placements = placed(
        config, tensors, calibration, fmt, strength=strength, excluded=excluded
    )
    sites: dict[str, SitePlan] = {}
    weights: dict[str, QuantizedWeight] = {}
    for site, keys in linear_layers(config).items():
        if site in excluded:
            continue
        statistics = calibration.sites[site]
        together = np.concatenate([changed[f"{key}.weight"].T for key in keys], axis=1)
        sites[site] = choose_site(site, statistics, placements[site], together, fmt)
        sample = placements[site].apply(statistics.sample)
        activation = sites[site].activation
        rounded = fmt.fake(sample, activation.scale, activation.zero_point).mean(axis=0)
        all_rounded = quantize_weight(together, fmt) if one_scale else None
        for index, key in enumerate(keys):
            weight = np.ascontiguousarray(changed[f"{key}.weight"].T)
            weights[key] = quantize_weight(weight, fmt)
            if all_rounded is not None:
                columns = np.split(all_rounded.values, len(keys), axis=1)[index]
                weights[key] = QuantizedWeight(columns, all_rounded.scales)
            shift = sample.mean(axis=0) @ weight - rounded @ weights[key].dequantized()
            changed[f"{key}.bias"] = (changed[f"{key}.bias"] + shift).astype(np.float32)
    return Plan(
        fmt=fmt,
        strength=strength,
        excluded=excluded,
        tensors=changed,
        sites=sites,
        weights=weights,
    )


def choose_site(
    site: str, statistics: SiteStatistics, place: Placement, weight: Floats, fmt: Format
) -> SitePlan:
    """Choose how the activation of a site is quantized; `weight` is smoothed already."""
    sample = place.apply(statistics.sample)
    step = max(1, len(sample) // _SEARCH_ROWS)
    activation = choose_activation_scale(sample[::step], place.low, place.high, weight, fmt)
    folded = site.endswith("/attention_output") or not place.divides
    return SitePlan(activation, None if folded else np.asarray(1 / place.factor, np.float32))


def placed(
    config: BertConfig,
    tensors: Tensors,
    calibration: Calibration,
    fmt: Format,
    *,
    strength: float | None,
    excluded: frozenset[str],
) -> tuple[Tensors, dict[str, Placement]]:
    """Return the tensors of the same network with its channels placed, and where each site is."""
    changed = dict(tensors)
    layers = {site: keys for site, keys in linear_layers(config).items() if site not in excluded}
    if strength is None:
        return changed, {site: as_it_is(calibration.sites[site]) for site in layers}
    placements = choose_placements(
        changed, calibration, layers, config.num_attention_heads, strength, fmt
    )
    place(changed, layers, placements)
    return changed, placements
