"""Finds the window of values that each channel of an activation is worth being rounded in.

A site has one scale, so all its channels are brought into one window: moved, where what is in
front of the site can take that on for nothing, and divided. A window that cuts off the rarest
values is narrower, and what is inside is rounded finer. Where the two losses add up to least
follows from a sample, for each channel by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed_models.quantize.calibration import SiteStatistics
from embed_models.quantize.numerics import Floats, Format

_Doubles = NDArray[np.float64]

# Shares of the way from the centre to the outermost value that are tried. Less would suit most
# texts and cost those that are unlike them, in other scripts, say.
_SHARES = np.linspace(0.8, 1.0, 14)
# How far a window may reach below zero, in parts of how far it reaches above.
_BELOW = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03)


@dataclass(frozen=True)
class Windows:
    """Of each channel: `(value - shift) / half` is within [-below, 1], but for what is cut off."""

    shift: Floats
    # Negative where the channel is turned around.
    half: Floats
    below: float


def moved_windows(statistics: SiteStatistics, fmt: Format) -> Windows:
    """Choose windows of channels that can be moved: each is as wide as it has to be."""
    centre = statistics.mean
    above, beneath = _Tail(statistics, centre, 1), _Tail(statistics, centre, -1)
    least = np.full(centre.shape, np.inf)
    top, bottom = np.zeros_like(centre), np.zeros_like(centre)
    for high, cut_above in above:
        for low, cut_beneath in beneath:
            error = _rounding(high + low, fmt) + cut_above + cut_beneath
            better = error < least
            least = np.where(better, error, least)
            top, bottom = np.where(better, high, top), np.where(better, low, bottom)
    return Windows(
        np.asarray(centre + (top - bottom) / 2, np.float32),
        np.asarray(np.maximum((top + bottom) / 2, 1e-6), np.float32),
        1.0,
    )


def fixed_windows(statistics: SiteStatistics, importance: Floats, fmt: Format) -> Windows:
    """Choose windows of channels that cannot be moved, which reach equally far below zero.

    `importance` says how much an error of each channel weighs.
    """
    centre = np.zeros_like(statistics.mean)
    above, beneath = _Tail(statistics, centre, 1), _Tail(statistics, centre, -1)
    best: tuple[float, Windows] | None = None
    for below in _BELOW if fmt.asymmetric else (1.0,):
        halves, errors = [], []
        for first, second in ((above, beneath), (beneath, above)):
            least, half = np.full(centre.shape, np.inf), np.ones_like(centre)
            outermost = np.maximum(first.length, second.length / below)
            for share in _SHARES:
                high = outermost * share
                error = _rounding(high * (1 + below), fmt)
                error = error + first.cut(high) + second.cut(high * below)
                half = np.where(error < least, high, half)
                least = np.minimum(error, least)
            halves.append(half)
            errors.append(least)
        turned = errors[1] < errors[0]
        total = float((np.where(turned, errors[1], errors[0]) * importance).sum())
        if best is None or total < best[0]:
            half = np.maximum(np.where(turned, halves[1], halves[0]), 1e-6)
            signed = np.asarray(np.where(turned, -half, half), np.float32)
            best = total, Windows(np.zeros_like(statistics.mean), signed, below)
    assert best is not None  # noqa: S101 - there is at least one
    return best[1]


def _rounding(width: Floats, fmt: Format) -> _Doubles:
    """Return the mean squared error of rounding to steps of which so many make up the width."""
    return np.asarray(np.square(width / (fmt.high - fmt.low), dtype=np.float64) / 12)


class _Tail:
    """One side of each channel: what it costs to cut off what is beyond a distance."""

    def __init__(self, statistics: SiteStatistics, centre: Floats, sign: int) -> None:
        outermost = statistics.high if sign > 0 else statistics.low
        self.length = np.maximum((outermost - centre) * sign, 1e-6)
        distances = (statistics.sample - centre) * np.float32(sign)
        costs = []
        for share in (0.0, *_SHARES):
            limit = self.length * np.float32(share)
            beyond = np.maximum(distances - limit, 0)
            cost = np.square(beyond).mean(axis=0, dtype=np.float64)
            # The outermost value of all texts is hardly in the sample.
            costs.append(cost + np.square(self.length - limit) / statistics.count)
        self._costs = np.array(costs)
        self._shares = np.array([0.0, *_SHARES])

    def __iter__(self) -> Iterator[tuple[Floats, _Doubles]]:
        for share, cost in zip(self._shares[1:], self._costs[1:], strict=True):
            yield np.asarray(self.length * share, np.float32), cost

    def cut(self, limit: Floats) -> _Doubles:
        """Return the cost of a limit for each channel, between those that are known."""
        share = np.minimum(limit / self.length, 1.0)
        upper = np.clip(np.searchsorted(self._shares, share), 1, len(self._shares) - 1)
        channels = np.arange(len(share))
        start, end = self._shares[upper - 1], self._shares[upper]
        part = (share - start) / (end - start)
        low, high = self._costs[upper - 1, channels], self._costs[upper, channels]
        return np.asarray(low + (high - low) * part)
