"""How close vectors come to those of the float32 graph, in numbers and in a verdict."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["pass", "caution", "fail"]

PASS_ABOVE = 0.99
CAUTION_ABOVE = 0.98

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Agreement:
    """Cosines of pairs of vectors of the same texts."""

    mean: float
    minimum: float
    # Cosine by share of the texts that lie below it.
    quantiles: dict[str, float]

    @property
    def verdict(self) -> Verdict:
        """The mean above 0.99: pass; above 0.98: caution; otherwise fail."""
        if self.mean > PASS_ABOVE:
            return "pass"
        return "caution" if self.mean > CAUTION_ABOVE else "fail"

    def to_json(self) -> dict[str, Any]:
        return {
            "cosine_similarity_vs_fp32": round(self.mean, 6),
            "cosine_min": round(self.minimum, 6),
            "cosine_p1": round(self.quantiles["p1"], 6),
            "cosine_quantiles": {key: round(value, 6) for key, value in self.quantiles.items()},
            "verdict": self.verdict,
        }


def cosines(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row with its counterpart; NaN counts as the opposite, -1."""
    left, right = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    values = np.einsum("ij,ij->i", left, right) / np.maximum(norms, 1e-300)
    return np.where(np.isfinite(values), values, -1.0)


def agreement(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """Compare [texts, dimension] with [texts, dimension]."""
    values = cosines(vectors, reference)
    quantiles = np.quantile(values, _QUANTILES)
    return Agreement(
        mean=float(values.mean()),
        minimum=float(values.min()),
        quantiles={
            f"p{share * 100:g}": float(value)
            for share, value in zip(_QUANTILES, quantiles, strict=True)
        },
    )
