"""What is measured on held-out texts."""

import numpy as np

from embed_models.distill.corpus import Row
from embed_models.distill.evaluation import HeldOut, choose, compare, recalls

QUERY, DOCUMENT = "tested-query", "tested-document"


def test_choose_takes_whole_groups() -> None:
    rows = [Row(kind, f"{kind} {n}", n) for n in range(100) for kind in (QUERY, DOCUMENT)]
    rows += [Row("question", "not measured", 0)]
    chosen = choose(rows, 50)
    assert chosen[QUERY].groups == chosen[DOCUMENT].groups
    assert len(chosen[QUERY].texts) == 25
    assert set(chosen) == {QUERY, DOCUMENT}


def test_recall_counts_a_groups_own_document() -> None:
    texts = {
        QUERY: HeldOut(["a", "b", "c"], [1, 2, 9]),
        DOCUMENT: HeldOut(["B", "A", "more of B"], [2, 1, 2]),
    }
    vectors = {
        # The first query finds its document, the second what else there is of its own: that is
        # none. The third has none.
        QUERY: np.array([[1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32),
        DOCUMENT: np.array([[0, 1], [1, 0], [0.6, 0.8]], dtype=np.float32),
    }
    assert recalls(vectors, texts) == {QUERY: 0.5}


def test_compare() -> None:
    texts = {QUERY: HeldOut(["a", "b"], [1, 2]), DOCUMENT: HeldOut(["A", "B"], [1, 2])}
    teacher = {kind: np.eye(2, dtype=np.float32) for kind in texts}
    turned = {
        QUERY: np.eye(2, dtype=np.float32),
        DOCUMENT: np.array([[0.6, 0.8], [0.8, 0.6]], dtype=np.float32),
    }
    assert compare(teacher, teacher, texts)["cosine_min"] == 1.0
    measured = compare(turned, teacher, texts)
    assert measured["cosine_mean"] == 0.8
    assert measured[f"cosine_{DOCUMENT}"] == 0.6
    assert measured["recall1_tested-query"] == 0.0
    assert measured["recall1_tested-query_of_teacher"] == 0.0
