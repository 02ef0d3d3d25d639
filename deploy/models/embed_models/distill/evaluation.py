"""Measures the student's vectors against the teacher's; what the training and `compare` report."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed_models.distill.corpus import Row
from embed_models.distill.texts import RETRIEVAL_PAIRS
from embed_models.tested import unknown_texts

Vectors = NDArray[np.float32]

# Left out of what is measured: they only repeat other kinds, or are of little interest.
_UNMEASURED = {"question", "wordnet-entry"}
# What begins so is of collections that nothing was trained on.
_TESTED = "tested-"


@dataclass(frozen=True)
class HeldOut:
    """Held-out texts of one kind, with the numbers of their groups."""

    texts: list[str]
    groups: list[int]


def choose(rows: list[Row], count: int) -> dict[str, HeldOut]:
    """Return about `count` of the rows by kind, in whole groups spread over all of them."""
    rows = [row for row in rows if row.kind not in _UNMEASURED]
    every = -(-len(rows) // count)
    kinds: dict[str, HeldOut] = {}
    for row in rows:
        if row.group % every == 0:
            kind = kinds.setdefault(row.kind, HeldOut([], []))
            kind.texts.append(row.text)
            kind.groups.append(row.group)
    return kinds


def tested() -> dict[str, HeldOut]:
    """Return the frozen texts of collections that nothing is trained on, by kind."""
    kinds: dict[str, HeldOut] = {}
    for name, number, text in unknown_texts():
        kind = kinds.setdefault(f"{_TESTED}{name}", HeldOut([], []))
        kind.texts.append(text)
        kind.groups.append(number)
    return kinds


def compare(
    student: Mapping[str, Vectors], teacher: Mapping[str, Vectors], texts: Mapping[str, HeldOut]
) -> dict[str, float]:
    """Return cosines and recalls for unit vectors by kind, [texts, dimension].

    `cosine_mean`, `cosine_p01` (1st percentile) and `cosine_min` are over all texts,
    `cosine_tested` is the mean over those of collections that nothing was trained on,
    `cosine_<kind>` that of a kind. `recall1_<kind>` is the student's recall@1, and
    `..._of_teacher` that figure over the teacher's own.
    """
    of_kind = {kind: (student[kind] * teacher[kind]).sum(-1) for kind in teacher}
    everything = np.concatenate(list(of_kind.values()))
    measured = {
        "cosine_mean": everything.mean(),
        "cosine_p01": np.quantile(everything, 0.01),
        "cosine_min": everything.min(),
        **_mean_of_tested(of_kind),
        **{f"cosine_{kind}": cosine.mean() for kind, cosine in of_kind.items()},
    }
    reference = recalls(teacher, texts)
    for kind, recall in recalls(student, texts).items():
        measured[f"recall1_{kind}"] = recall
        if reference[kind] > 0:
            measured[f"recall1_{kind}_of_teacher"] = recall / reference[kind]
    return {name: round(float(value), 5) for name, value in measured.items()}


def _mean_of_tested(of_kind: Mapping[str, Vectors]) -> dict[str, float]:
    cosines = [cosine for kind, cosine in of_kind.items() if kind.startswith(_TESTED)]
    return {"cosine_tested": float(np.concatenate(cosines).mean())} if cosines else {}


def recalls(vectors: Mapping[str, Vectors], texts: Mapping[str, HeldOut]) -> dict[str, float]:
    """Return recall@1 by kind of query, which has to find the document of its own group."""
    result = {}
    for query_kind, document_kind in RETRIEVAL_PAIRS:
        if query_kind not in texts or document_kind not in texts:
            continue
        queries, documents = texts[query_kind], texts[document_kind]
        # The first of a group, which is what the query sums up; others say more of the same thing.
        row_of_group: dict[int, int] = {}
        for row, group in enumerate(documents.groups):
            row_of_group.setdefault(group, row)
        asked = [row for row, group in enumerate(queries.groups) if group in row_of_group]
        if asked:
            wanted = np.array([row_of_group[queries.groups[row]] for row in asked])
            found = (vectors[query_kind][asked] @ vectors[document_kind].T).argmax(-1)
            result[query_kind] = float((found == wanted).mean())
    return result
