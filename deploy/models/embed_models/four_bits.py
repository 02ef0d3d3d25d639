"""Tables of embeddings in 4 bits, by row and block: 16 steps over the range of a block.

A student's table is rounded so once, and is its table from then on: the float32 graph has the same
numbers, and those in 8 bits store them as they are. A table that was not rounded is left to other
formats.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Numbers with one scale and one zero point. Blocks of half the size would lose a quarter less, and
# take 0.9 MB more in MiniLM's table.
BLOCK = 32
_TOP = 15
_CLIPS = np.linspace(0.7, 1.0, 7)
# The least scale that float16 holds with all its bits.
_LEAST = np.float32(6.2e-5)
# Blocks that are looked at in one go.
_ROWS = 4096


@dataclass(frozen=True)
class BlockTable:
    """A table [rows, hidden] as `(value - zero point) * scale`; a number in 4 bits in each byte."""

    values: NDArray[np.uint8]
    scales: NDArray[np.float16]  # [rows, blocks]
    zero_points: NDArray[np.uint8]  # [rows, blocks]

    def dequantized(self) -> Floats:
        """Return the table in float32, which holds every number exactly."""
        rows, blocks = self.scales.shape
        steps = self.values.reshape(rows, blocks, BLOCK).astype(np.float32)
        steps -= self.zero_points[..., None]
        return (steps * self.scales[..., None].astype(np.float32)).reshape(rows, -1)


def round_table(table: Floats) -> BlockTable:
    """Round to the steps that have the least squared error."""
    return _joined([_round(table[start : start + _ROWS]) for start in range(0, len(table), _ROWS)])


def exact_table(table: Floats) -> BlockTable | None:
    """Return a table whose numbers are these ones exactly, or None: they were not rounded so."""
    if table.shape[1] % BLOCK:
        return None
    parts = []
    for start in range(0, len(table), _ROWS):
        found = _exact(table[start : start + _ROWS])
        if found is None:
            return None
        parts.append(found)
    return _joined(parts)


def _round(table: Floats) -> BlockTable:
    blocks = table.reshape(len(table), -1, BLOCK)
    low, high = blocks.min(-1, keepdims=True), blocks.max(-1, keepdims=True)
    least = np.full(low.shape, np.inf)
    values = np.zeros(blocks.shape, np.uint8)
    scales, zero_points = np.ones_like(low), np.zeros_like(low)
    for clip in _CLIPS:
        bottom, top = np.minimum(low * clip, 0), np.maximum(high * clip, 0)
        scale = np.maximum((top - bottom) / _TOP, _LEAST).astype(np.float16).astype(np.float32)
        zero = np.clip(np.rint(-bottom / scale), 0, _TOP)
        steps = np.clip(np.rint(blocks / scale) + zero, 0, _TOP)
        error = np.square((steps - zero) * scale - blocks).sum(-1, keepdims=True)
        better = error < least
        least = np.where(better, error, least)
        values = np.where(better, steps.astype(np.uint8), values)
        scales, zero_points = np.where(better, scale, scales), np.where(better, zero, zero_points)
    return BlockTable(
        values.reshape(table.shape),
        scales[..., 0].astype(np.float16),
        zero_points[..., 0].astype(np.uint8),
    )


def _exact(table: Floats) -> BlockTable | None:
    """Find each block's scale: the least distance of two numbers, 0 among them, is a few steps."""
    rows = len(table)
    blocks = table.reshape(-1, BLOCK).astype(np.float64)
    ordered = np.sort(np.concatenate([blocks, np.zeros((len(blocks), 1))], axis=1), axis=1)
    distances = np.diff(ordered, axis=1)
    gaps = np.where(distances > 0, distances, np.inf).min(axis=1)
    # A block of zeros has any scale.
    gaps = np.where(np.isfinite(gaps), gaps, 1.0)
    scales = np.zeros(len(blocks))
    for steps in range(1, _TOP + 1):
        missing = np.flatnonzero(scales == 0)
        if not len(missing):
            break
        tried = (gaps[missing] / steps).astype(np.float16).astype(np.float64)
        tried = np.where(tried > 0, tried, 1.0)
        counts = np.rint(blocks[missing] / tried[:, None])
        fits = (counts * tried[:, None] == blocks[missing]).all(axis=1)
        # Zero is in the range of a block whose numbers all have one sign, too.
        fits &= np.maximum(counts.max(axis=1), 0) - np.minimum(counts.min(axis=1), 0) <= _TOP
        scales[missing[fits]] = tried[fits]
    if (scales == 0).any():
        return None
    counts = np.rint(blocks / scales[:, None])
    zero_points = -np.minimum(counts.min(axis=1), 0)
    values = (counts + zero_points[:, None]).astype(np.uint8)
    return BlockTable(
        values.reshape(table.shape),
        scales.reshape(rows, -1).astype(np.float16),
        zero_points.reshape(rows, -1).astype(np.uint8),
    )


def _joined(parts: list[BlockTable]) -> BlockTable:
    return BlockTable(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.zero_points for part in parts]),
    )
