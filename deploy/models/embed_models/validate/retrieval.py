"""Known-item retrieval: each query asks for one document, and finds it at some rank."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP = 10


@dataclass(frozen=True)
class Retrieval:
    """Shares over all queries, and the indices of the ten nearest documents of each."""

    recall_at_1: float
    recall_at_10: float
    mrr_at_10: float
    nearest: NDArray[np.intp]

    def overlap(self, other: "Retrieval") -> float:
        """Return the mean share of the nearest documents that both have in common."""
        shared = [
            len(np.intersect1d(mine, theirs)) / len(mine)
            for mine, theirs in zip(self.nearest, other.nearest, strict=True)
        ]
        return float(np.mean(shared))


def retrieve(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Retrieval:
    """Search [n, dimension] in [n, dimension]; the n-th query asks for the n-th document."""
    scores = queries @ documents.T
    wanted = np.diagonal(scores)[:, None]
    # A tie is counted against the query: vectors that are all the same must not score.
    ranks = (scores >= wanted).sum(axis=1)
    top = min(TOP, len(documents))
    return Retrieval(
        recall_at_1=float((ranks <= 1).mean()),
        recall_at_10=float((ranks <= TOP).mean()),
        mrr_at_10=float(np.where(ranks <= TOP, 1 / ranks, 0).mean()),
        nearest=np.argsort(-scores, axis=1, kind="stable")[:, :top],
    )
