"""The 8-bit number formats, and the search for the scales that lose least.

Arrays are rounded to a format and back ("fake-quantized"), so that errors can be measured in
float32 before any graph is written.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# A scale below float16's least normal number would lose bits where graphs compute in float16.
LEAST_SCALE = np.float32(6.2e-5)

_INTEGER_WEIGHT_CLIPS = np.linspace(0.6, 1.0, 9)
# FP8 gains nothing by clipping. But where the numbers of a matrix fall between two powers of two
# decides how they round, and a scale that is up to twice as large moves them.
_FLOAT_WEIGHT_CLIPS = np.linspace(1.0, 1.9, 10)


@dataclass(frozen=True)
class Format:
    """An 8-bit format of activations; weights are symmetric in all of them."""

    name: str
    activation_dtype: np.dtype[np.generic]
    weight_dtype: np.dtype[np.generic]
    # Largest magnitude of a weight, and the range of an activation, in steps of the scale.
    weight_top: float
    low: float
    high: float
    asymmetric: bool
    # Shares of the observed range that are tried for activations. Clipping costs the outliers and
    # gains resolution for all others; in a floating-point format it only moves what is rounded.
    clips: tuple[float, ...]

    def fake(self, values: Floats, scale: Floats | np.float32, zero_point: int = 0) -> Floats:
        """Round to the format and back."""
        steps = values / scale
        if self.weight_dtype == ml_dtypes.float8_e4m3fn:
            rounded = np.clip(steps, self.low, self.high).astype(self.weight_dtype)
            return np.asarray(rounded.astype(np.float32) * scale, np.float32)
        clipped = np.clip(np.rint(steps) + zero_point, self.low, self.high)
        return np.asarray((clipped - zero_point) * scale, np.float32)


_INTEGER_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)

U8 = Format(
    name="u8",
    activation_dtype=np.dtype(np.uint8),
    weight_dtype=np.dtype(np.int8),
    weight_top=127,
    low=0,
    high=255,
    asymmetric=True,
    clips=_INTEGER_CLIPS,
)
S8 = Format(
    name="s8",
    activation_dtype=np.dtype(np.int8),
    weight_dtype=np.dtype(np.int8),
    weight_top=127,
    low=-127,
    high=127,
    asymmetric=False,
    clips=_INTEGER_CLIPS,
)
E4M3 = Format(
    name="e4m3",
    activation_dtype=np.dtype(ml_dtypes.float8_e4m3fn),
    weight_dtype=np.dtype(ml_dtypes.float8_e4m3fn),
    weight_top=448,
    low=-448,
    high=448,
    asymmetric=False,
    clips=(1.0, 1.15, 1.3, 1.45, 1.6, 1.75, 1.9),
)


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight matrix [in, out] in 8 bits; one scale for each output channel, or for all of it."""

    values: NDArray[np.generic]
    scales: Floats

    def dequantized(self) -> Floats:
        return np.asarray(self.values.astype(np.float32) * self.scales, np.float32)


def quantize_weight(weight: Floats, fmt: Format) -> QuantizedWeight:
    """Quantize [in, out] with the scales that have the least squared error.

    Integers have one for each output channel. FP8 has one for the matrix, since that is what
    TensorRT multiplies in FP8: with a scale for each channel it multiplies in FP16. FP8 loses
    little by it, as small numbers have as many bits of mantissa as large ones.
    """
    integers = fmt.weight_dtype == np.int8
    rows = 0 if integers else None
    largest: Any = np.abs(weight).max(axis=rows)
    clips = _INTEGER_WEIGHT_CLIPS if integers else _FLOAT_WEIGHT_CLIPS
    best = _scale(largest / fmt.weight_top)
    least = np.full(largest.shape, np.inf)
    for clip in clips:
        scales = _scale(largest * clip / fmt.weight_top)
        error = np.square(_round_weight(weight, scales, fmt) - weight).sum(axis=rows)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    steps = np.clip(weight / best, -fmt.weight_top, fmt.weight_top)
    values = np.rint(steps) if integers else steps
    return QuantizedWeight(values.astype(fmt.weight_dtype), best.astype(np.float32))


def quantize_rows(table: Floats) -> QuantizedWeight:
    """Quantize an embedding table [rows, hidden] to int8 with a scale for each row."""
    scales = _scale(np.abs(table).max(axis=1, keepdims=True) / 127)
    return QuantizedWeight(np.rint(table / scales).astype(np.int8), scales)


@dataclass(frozen=True)
class ActivationScale:
    """How a site is quantized, and the relative squared error of its products on the sample."""

    scale: np.float32
    zero_point: int
    clip: float
    relative_error: float


def choose_activation_scale(
    sample: Floats, low: float, high: float, weight: Floats, fmt: Format
) -> ActivationScale:
    """Choose the clipping of the range [low, high] that changes the products with `weight` least.

    `sample` is [rows, in], `weight` is [in, out] in full precision.
    """
    exact = sample @ weight
    power = float(np.square(exact).mean()) or 1.0
    best: ActivationScale | None = None
    for clip in fmt.clips:
        if fmt.asymmetric:
            bottom, top = min(low, 0.0) * clip, max(high, 0.0) * clip
            scale = _scale(np.float32((top - bottom) / (fmt.high - fmt.low)))
            zero_point = int(np.clip(np.rint(-bottom / scale), fmt.low, fmt.high))
        else:
            scale = _scale(np.float32(max(abs(low), abs(high)) * clip / fmt.high))
            zero_point = 0
        rounded = fmt.fake(sample, np.float32(scale), zero_point)
        error = float(np.square(rounded @ weight - exact).mean()) / power
        if best is None or error < best.relative_error:
            best = ActivationScale(np.float32(scale), zero_point, clip, error)
    assert best is not None  # noqa: S101 - every format has at least one clip
    return best


def _round_weight(weight: Floats, scales: Floats, fmt: Format) -> Floats:
    if fmt.weight_dtype == np.int8:
        top = fmt.weight_top
        return np.asarray(np.clip(np.rint(weight / scales), -top, top) * scales, np.float32)
    return fmt.fake(weight, scales)


def _scale(values: Floats | np.float32) -> Floats:
    """Return scales that float16 holds exactly, so that graphs of both types round alike."""
    least = np.maximum(values, LEAST_SCALE)
    return np.asarray(np.asarray(least).astype(np.float16).astype(np.float32))
