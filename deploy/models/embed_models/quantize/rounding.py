"""Rounds a weight against what its layer yields, instead of each of its numbers for itself.

Row by row, and the rows that are still to come make up for what each has lost (GPTQ: Frantar et
al., "Accurate post-training quantization for generative pre-trained transformers", 2022). Inputs
are taken without their mean: what that loses is constant, and the bias takes it back.
"""

import numpy as np
from numpy.typing import NDArray

from embed_models.quantize.numerics import Floats, Format, QuantizedWeight, quantize_weight

# Share of the mean variance that every input is given on top: it keeps rows from making up for
# others by what is chance in the sample.
_DAMPING = 1e-2

# Rows whose losses are passed on to all further rows together.
_BLOCK = 128


def covariance(inputs: Floats) -> NDArray[np.float64]:
    """Return the covariance of inputs, [rows, in] -> [in, in]."""
    centred = inputs - inputs.mean(axis=0)
    return np.asarray(centred.T @ centred / len(inputs), np.float64)


# Shares of the mean variance that are tried where a weight is to make up for what was lost before.
_CAUTION = (0.005, 0.03, 0.2)
# Of so many rows one is kept, to see how much of it holds for rows that nothing was fitted to.
_KEPT = 4


def made_up(inputs: Floats, lost: Floats, variance: NDArray[np.float64]) -> Floats:
    """Return what a weight has to change by to make up for losses that its inputs tell of.

    `lost` is what is missing in the layer's output, [rows, out], and `variance` the covariance of
    the inputs. Nothing is changed where it helps only those rows that it was found in.
    """
    centred, missing = inputs - inputs.mean(axis=0), lost - lost.mean(axis=0)
    kept = np.arange(len(inputs)) // 64 % _KEPT == 0
    fit, fit_missing = centred[~kept], missing[~kept]
    gram = np.asarray(fit.T @ fit / len(fit), np.float64)
    cross = np.asarray(fit.T @ fit_missing / len(fit), np.float64)
    best, least = 0.0, float(np.square(missing[kept]).sum())
    for caution in _CAUTION:
        found = _ridge(gram, cross, caution)
        rest = float(np.square(missing[kept] - centred[kept] @ found).sum())
        if rest < least:
            best, least = caution, rest
    if not best:
        return np.zeros((inputs.shape[1], lost.shape[1]), np.float32)
    return _ridge(variance, np.asarray(centred.T @ missing / len(inputs), np.float64), best)


def _ridge(gram: NDArray[np.float64], cross: NDArray[np.float64], caution: float) -> Floats:
    damped = gram + np.eye(len(gram)) * np.diag(gram).mean() * caution
    return np.linalg.solve(damped, cross).astype(np.float32)


def round_weight(weight: Floats, inputs: NDArray[np.float64], fmt: Format) -> QuantizedWeight:
    """Quantize [in, out] with little error of the products with inputs of this covariance."""
    scales = quantize_weight(weight, fmt).scales
    # The inputs that vary most first: their losses have the most rows left to be made up by.
    order = np.argsort(-np.diag(inputs), kind="stable")
    damped = inputs[np.ix_(order, order)].copy()
    damped[np.diag_indices_from(damped)] += np.diag(inputs).mean() * _DAMPING
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    left = weight[order]
    values = np.empty(weight.shape, fmt.weight_dtype)
    for start in range(0, len(left), _BLOCK):
        end = min(start + _BLOCK, len(left))
        losses = np.empty((end - start, left.shape[1]), np.float32)
        for row in range(start, end):
            steps = np.clip(np.rint(left[row] / scales), -fmt.weight_top, fmt.weight_top)
            values[order[row]] = steps.astype(fmt.weight_dtype)
            loss = (left[row] - steps * scales) / upper[row, row]
            left[row + 1 : end] -= upper[row, row + 1 : end, None] * loss
            losses[row - start] = loss
        left[end:] -= upper[start:end, end:].T @ losses
    return QuantizedWeight(values, scales)
