"""Mixes the channels within each head of the attention, so that rounding them loses less.

A context vector is a weighted mean of value vectors, head by head. A head's channels can be mixed
by any matrix that can be undone: the value projection takes the matrix on and the output projection
its inverse, and nothing is computed at run time that was not before.

Rounding each channel in a window as wide as its values loses the sum over the channels of
`variance * squared weights`. Over all matrices that is least where the channels are the principal
directions of what the head adds to the layer's output, each with the square root of its part in the
values and the other in the weights, and mixed evenly after that. Even mixtures also have fewer
values far out.
"""

import numpy as np
from numpy.typing import NDArray

from embed_models.quantize.numerics import Floats

_Doubles = NDArray[np.float64]

# Directions in which a head hardly varies are taken for this share of the one in which it varies
# most: undoing what was made of less would blow up what is chance in the sample.
_LEAST = 1e-4


def head_mixtures(sample: Floats, weight: Floats, heads: int) -> tuple[Floats, Floats]:
    """Return the matrix of each head, and its inverse: [heads, size, size].

    `sample` is [rows, in], `weight` the output projection's, [out, in].
    """
    mixtures, inverses = [], []
    for values, rows in zip(
        np.split(sample.astype(np.float64), heads, axis=1),
        np.split(weight.astype(np.float64), heads, axis=1),
        strict=True,
    ):
        root, inverse_root = _roots(np.cov(values.T))
        _, strengths, directions = np.linalg.svd(rows @ root, full_matrices=False)
        strengths = np.sqrt(np.maximum(strengths, strengths[0] * _LEAST))
        even = _even(len(root))
        mixtures.append(even @ (strengths[:, None] * directions) @ inverse_root)
        inverses.append(root @ (directions.T / strengths) @ even.T)
    return np.array(mixtures, np.float32), np.array(inverses, np.float32)


def mixed(values: Floats, mixtures: Floats) -> Floats:
    """Mix the channels of each head: [rows, channels]."""
    by_head = values.reshape(len(values), len(mixtures), -1)
    return np.asarray(np.einsum("rhi,hji->rhj", by_head, mixtures).reshape(values.shape))


def _roots(covariance: _Doubles) -> tuple[_Doubles, _Doubles]:
    """Return the square root of a covariance, and the inverse of that."""
    variances, directions = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(variances, max(variances.max(), 1e-12) * _LEAST))
    return directions * deviations @ directions.T, directions / deviations @ directions.T


def _even(size: int) -> _Doubles:
    """Return an orthogonal matrix whose numbers are about equally large (Hartley's)."""
    angles = 2 * np.pi / size * np.outer(np.arange(size), np.arange(size))
    return np.asarray((np.cos(angles) + np.sin(angles)) / np.sqrt(size))
