"""The measurements, on vectors whose answer is known."""

import numpy as np
import pytest

from embed_models.corpus.load import ByKind, KindText
from embed_models.validate.agreement import agreement, cosines
from embed_models.validate.kinds import by_kind, neighbours_shared
from embed_models.validate.lee import lee_documents
from embed_models.validate.retrieval import retrieve
from embed_models.validate.speed import Speed


def unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


def speed(*rounds: float) -> Speed:
    return Speed(
        texts_per_second=0.0,
        texts_per_cpu_second=float(np.median(rounds)),
        latency_p50_ms=0.0,
        latency_p95_ms=0.0,
        rounds=rounds,
    )


def test_speeds_are_compared_round_by_round() -> None:
    # The machine becomes ten times as slow in between, and one round is disturbed.
    slow, fast = speed(100, 100, 10, 10, 10), speed(250, 250, 25, 25, 5)
    assert fast.ratio_to(slow) == pytest.approx(2.5)
    # Medians of their own would hide a change that only meets one of them less evenly.
    assert speed(200, 20, 22).ratio_to(speed(100, 10, 100)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("cosine", "verdict"),
    [(1.0, "pass"), (0.9901, "pass"), (0.9899, "caution"), (0.9801, "caution"), (0.9799, "fail")],
)
def test_verdicts_as_users_word_them(cosine: float, verdict: str) -> None:
    left = np.array([[1.0, 0.0]], np.float32)
    right = np.array([[cosine, np.sqrt(1 - cosine**2)]], np.float32)
    result = agreement(left, right)
    assert result.mean == pytest.approx(cosine, abs=1e-6)
    assert result.verdict == verdict


def test_agreement_tells_the_worst_and_the_quantiles() -> None:
    angles = np.linspace(0, 0.5, 101)
    left = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    right = np.tile(np.array([[1.0, 0.0]], np.float32), (101, 1))
    result = agreement(left, right)
    assert result.minimum == pytest.approx(np.cos(0.5), abs=1e-6)
    assert result.quantiles["p50"] == pytest.approx(np.cos(0.25), abs=1e-6)
    assert result.quantiles["p1"] == pytest.approx(np.cos(0.495), abs=1e-6)


def test_not_a_number_never_passes() -> None:
    vectors = np.array([[np.nan, 0.0], [0.0, 0.0]], np.float32)
    reference = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert cosines(vectors, reference)[0] == -1
    assert agreement(vectors, reference).verdict == "fail"


def test_retrieval_of_known_items() -> None:
    documents = unit(np.eye(20, dtype=np.float32))
    exact = retrieve(documents, documents)
    assert (exact.recall_at_1, exact.mrr_at_10, exact.overlap(exact)) == (1, 1, 1)
    # Each query is nearest to the document after its own, and its own comes second.
    shifted = retrieve(unit(documents + 1.1 * np.roll(documents, 1, axis=1)), documents)
    assert (shifted.recall_at_1, shifted.mrr_at_10, shifted.recall_at_10) == (0, 0.5, 1)


def test_vectors_that_are_all_the_same_find_nothing() -> None:
    same = unit(np.ones((20, 4), np.float32))
    result = retrieve(same, same)
    assert (result.recall_at_1, result.recall_at_10, result.mrr_at_10) == (0, 0, 0)


def test_overlap_counts_what_both_have() -> None:
    random = np.random.default_rng(0)
    documents = unit(random.standard_normal((50, 8)))
    queries = unit(random.standard_normal((50, 8)))
    one, other = retrieve(queries, documents), retrieve(-queries, documents)
    assert one.overlap(one) == 1
    assert one.overlap(other) < 0.2


def test_human_ratings() -> None:
    lee = lee_documents()
    assert lee is not None, "gensim has to be installed, see requirements-models.txt"
    assert len(lee.documents) == 50
    assert lee.ratings.shape == (50, 50)
    # Vectors whose products are the ratings agree with them completely.
    ratings = np.triu(lee.ratings, 1)
    ratings = ratings + ratings.T
    values, basis = np.linalg.eigh(ratings + np.eye(50) * 50)
    vectors = (basis * np.sqrt(values)).astype(np.float32)
    assert lee.correlation(vectors) == pytest.approx(1, abs=1e-3)


def test_figures_by_kind_and_length() -> None:
    random = np.random.default_rng(0)
    reference = unit(random.standard_normal((40, 16)))
    vectors = reference.copy()
    # One text of code is turned by a right angle.
    vectors[3] = unit(np.roll(reference[3:4], 1, axis=1))
    items = tuple(
        KindText("code" if i < 10 else "law", 16 if i % 2 else 256, "") for i in range(40)
    )
    result = by_kind(ByKind("texts", "0" * 64, items), vectors, reference)
    assert result["kinds"]["law"] == {
        "texts": 30,
        "cosine_similarity_vs_fp32": 1.0,
        "cosine_min": 1.0,
    }
    assert result["kinds"]["code"]["cosine_min"] == result["cosine_min"] < 0.9
    assert result["tokens"]["16"]["cosine_min"] == result["cosine_min"]
    assert result["tokens"]["256"]["cosine_min"] == 1.0
    assert 0.5 < result["top10_overlap"] < 1


def test_what_is_near_itself_is_no_neighbour() -> None:
    reference = unit(np.random.default_rng(1).standard_normal((30, 8)))
    assert neighbours_shared(reference, reference) == 1
    assert neighbours_shared(-reference, reference) == 1
    assert neighbours_shared(np.roll(reference, 1, axis=0), reference) < 0.6
