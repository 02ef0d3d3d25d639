"""Turns calibration statistics into everything that a quantized graph is written from.

Smoothing (SmoothQuant): channels of an activation with outliers are divided by a factor with which
the rows of the weight are multiplied, so that the product stays and the range shrinks. The factor
is `largest activation ** strength / largest weight ** (1 - strength)`. For the attention's output
the division is folded into the value projection and costs nothing at run time.

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

# Rows of the sample that the search for a scale looks at.
_SEARCH_ROWS = 384


@dataclass(frozen=True)
class SitePlan:
    """How one activation is quantized."""

    activation: ActivationScale
    # 1 / smoothing factor for each channel; None where nothing has to be multiplied.
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
    changed, factors = smoothed(config, tensors, calibration, strength=strength, excluded=excluded)
    sites: dict[str, SitePlan] = {}
    weights: dict[str, QuantizedWeight] = {}
    for site, keys in linear_layers(config).items():
        if site in excluded:
            continue
        statistics = calibration.sites[site]
        together = np.concatenate([changed[f"{key}.weight"].T for key in keys], axis=1)
        sites[site] = choose_site(site, statistics, factors.get(site), together, fmt)
        sample = statistics.sample / factors.get(site, np.float32(1))
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
    site: str, statistics: SiteStatistics, factor: Floats | None, weight: Floats, fmt: Format
) -> SitePlan:
    """Choose how the activation of a site is quantized; `weight` is smoothed already."""
    divisor = np.float32(1) if factor is None else factor
    low, high = statistics.low / divisor, statistics.high / divisor
    sample = statistics.sample / divisor
    step = max(1, len(sample) // _SEARCH_ROWS)
    activation = choose_activation_scale(
        sample[::step], float(low.min()), float(high.max()), weight, fmt
    )
    folded = site.endswith("/attention_output") or factor is None
    return SitePlan(activation, None if folded else np.asarray(1 / divisor, np.float32))


def smoothed(
    config: BertConfig,
    tensors: Tensors,
    calibration: Calibration,
    *,
    strength: float | None,
    excluded: frozenset[str],
) -> tuple[Tensors, dict[str, Floats]]:
    """Return the tensors with smoothing applied, and the factor of each site that has one."""
    changed = dict(tensors)
    layers = {site: keys for site, keys in linear_layers(config).items() if site not in excluded}
    factors = _smoothing_factors(changed, calibration, layers, strength)
    _apply_smoothing(changed, layers, factors)
    return changed, factors


def _smoothing_factors(
    tensors: Tensors,
    calibration: Calibration,
    layers: Mapping[str, list[str]],
    strength: float | None,
) -> dict[str, Floats]:
    if strength is None:
        return {}
    factors = {}
    for site, keys in layers.items():
        largest = calibration.sites[site].largest
        weight = np.max([np.abs(tensors[f"{key}.weight"]).max(axis=0) for key in keys], axis=0)
        factor = largest**strength / np.maximum(weight, 1e-5) ** (1 - strength)
        factor = np.maximum(factor, 1e-4)
        # Only the ratios between channels matter; around 1 they suit float16.
        factors[site] = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
    return factors


def _apply_smoothing(
    tensors: Tensors, layers: Mapping[str, list[str]], factors: Mapping[str, Floats]
) -> None:
    for site, factor in factors.items():
        for key in layers[site]:
            tensors[f"{key}.weight"] = tensors[f"{key}.weight"] * factor
        if site.endswith("/attention_output"):
            # A context vector is a weighted mean of value vectors, channel by channel.
            value = layers[site][0].replace("attention.output.dense", "attention.self.value")
            tensors[f"{value}.weight"] = tensors[f"{value}.weight"] / factor[:, None]
            tensors[f"{value}.bias"] = tensors[f"{value}.bias"] / factor
