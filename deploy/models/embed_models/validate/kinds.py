"""How close a graph comes on kinds of text that it was not calibrated with, by kind and length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed_models.corpus.load import ByKind
from embed_models.validate.agreement import cosines
from embed_models.validate.retrieval import TOP


def by_kind(
    texts: ByKind, vectors: NDArray[np.float32], reference: NDArray[np.float32]
) -> dict[str, Any]:
    """Return what `validation.by_kind` of metadata.json says."""
    values = cosines(vectors, reference)
    return {
        "test_dataset": texts.name,
        "test_sha256": texts.sha256,
        **_figures(values),
        "top10_overlap": round(neighbours_shared(vectors, reference), 4),
        "kinds": _groups(values, [item.kind for item in texts.items]),
        "tokens": _groups(values, [str(item.tokens) for item in texts.items]),
    }


def neighbours_shared(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the mean share of a text's ten nearest others that both agree on."""
    mine, theirs = _nearest(vectors), _nearest(reference)
    shared = [len(np.intersect1d(a, b)) / len(a) for a, b in zip(mine, theirs, strict=True)]
    return float(np.mean(shared))


def _nearest(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, : min(TOP, len(vectors) - 1)]


def _groups(values: NDArray[np.float64], names: Sequence[str]) -> dict[str, Any]:
    labels = np.array(names)
    return {name: _figures(values[labels == name]) for name in dict.fromkeys(labels.tolist())}


def _figures(values: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "texts": len(values),
        "cosine_similarity_vs_fp32": round(float(values.mean()), 6),
        "cosine_min": round(float(values.min()), 6),
    }
