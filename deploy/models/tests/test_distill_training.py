"""The parts of the training that need torch; skipped where it is not installed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy_bert import encode as reference
from tiny_bert import BERT_CONFIG, random_tensors, tokenizer_json
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from embed_models.distill.batches import (  # noqa: E402
    BUCKETS,
    DOCUMENT,
    QUERY,
    Corpus,
    Sampler,
    build_corpus,
)
from embed_models.distill.encoder import bert_layer, embed_tokens, encode  # noqa: E402
from embed_models.distill.objective import Weighting, objective, retrieval  # noqa: E402
from embed_models.distill.train import Run, _encode, _step, embed_all  # noqa: E402
from embed_models.distill.train import main as train  # noqa: E402

CPU = torch.device("cpu")
CLS, SEP, PAD = 2, 3, 0


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json()))
    words = ["hello", "world", "the", "quick", "foxs", "a", "ab", "1", "!"]
    generator = np.random.default_rng(3)
    texts = [" ".join(generator.choice(words, size)) for size in generator.integers(1, 300, 900)]
    # An empty text has no tokens: those behind it move up, and its own pair is left out.
    texts[3] = ""
    return build_corpus(texts, tokenizer, CPU, [(2, 3), *((n, n + 1) for n in range(4, 890, 2))])


def test_encoder_agrees_with_the_definition() -> None:
    tensors = random_tensors()
    weights = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    rows = [[CLS, 4, SEP], [CLS, 7, 9, 11, 5, SEP], [CLS, 8, 8, SEP]]

    def embed(ids: Tensor, mask: Tensor) -> Tensor:
        return encode(weights, BERT_CONFIG, 2, embed_tokens(weights, BERT_CONFIG, ids), mask)[0]

    vectors = embed_all(rows, embed, pad=PAD, device=CPU)
    for row, vector in zip(rows, vectors, strict=True):
        np.testing.assert_allclose(
            vector, reference(BERT_CONFIG, tensors, row, "mean"), atol=1e-5, err_msg=str(row)
        )


def test_batches_are_well_formed(corpus: Corpus) -> None:
    sampler = Sampler(corpus, tokens=4096, seed=5)
    seen = set()
    for _ in range(60):
        ids, mask = sampler.batch()
        size, length = ids.shape
        seen.add(length)
        assert size == 4096 // length
        lengths = mask.sum(1)
        assert (lengths >= 3).all()
        # Ones, then zeros; [CLS] first, [SEP] last, padding after it and nowhere else.
        assert (mask == (torch.arange(length) < lengths[:, None])).all()
        assert (ids[:, 0] == CLS).all()
        assert (ids[torch.arange(size), lengths - 1] == SEP).all()
        inner = mask.clone()
        inner[:, 0] = False
        inner[torch.arange(size), lengths - 1] = False
        assert (ids[~mask] == PAD).all()
        assert (ids[inner] >= 4).all()
    assert seen == set(BUCKETS)


def test_batches_depend_on_the_seed_alone(corpus: Corpus) -> None:
    first, again, other = (Sampler(corpus, 2048, seed) for seed in (1, 1, 2))
    batches = [[sampler.batch()[0] for _ in range(4)] for sampler in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(batches[0], batches[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(batches[0], batches[2], strict=True))


def test_pairs_are_of_texts_that_belong_together(corpus: Corpus) -> None:
    sampler = Sampler(corpus, tokens=40 * (QUERY + DOCUMENT), seed=5)
    assert corpus.pairs[0].tolist() == [3, 4]
    assert len(corpus.pairs) == 443
    cut = {
        tuple(tuple(corpus.ids[begin : begin + length].tolist()) for begin, length in ends)
        for pair in corpus.pairs
        for ends in [
            [
                (corpus.starts[text], min(int(corpus.lengths[text]), limit - 2))
                for text, limit in zip(pair, (QUERY, DOCUMENT), strict=True)
            ]
        ]
    }
    known = 0
    for _ in range(10):
        (queries, of_queries), (documents, of_documents) = sampler.pairs()
        assert (queries.shape, documents.shape) == ((40, QUERY), (40, DOCUMENT))
        for query, query_mask, document, document_mask in zip(
            queries, of_queries, documents, of_documents, strict=True
        ):
            both = tuple(
                tuple(ids[mask][1:-1].tolist())
                for ids, mask in ((query, query_mask), (document, document_mask))
            )
            known += both in cut
    # In 6 % of the sequences some words are others.
    assert 300 < known < 400


def test_a_share_of_the_batches_is_pairs(corpus: Corpus) -> None:
    sampler = Sampler(corpus, tokens=2048, seed=5)
    assert 200 < sum(sampler.is_pairs(0.25) for _ in range(1000)) < 300
    assert not any(sampler.is_pairs(0.0) for _ in range(100))


def test_retrieval_is_of_the_teachers_order_and_of_the_own_document() -> None:
    generator = torch.Generator().manual_seed(1)
    normalize = torch.nn.functional.normalize
    queries = normalize(torch.randn(6, 32, generator=generator), dim=-1)
    documents = normalize(queries + 0.1 * torch.randn(6, 32, generator=generator), dim=-1)
    weighting = Weighting(similarity=0.1, states=1.0, ranking=0.5, found=0.25)
    same = retrieval(queries, documents, (queries, documents), weighting)
    assert same["ranking"].item() == pytest.approx(0, abs=1e-6)
    assert same["retrieval"].item() == pytest.approx(0.25 * same["found"].item(), abs=1e-6)

    # Each query before the document of another one.
    wrong = retrieval(queries, documents.roll(1, 0), (queries, documents), weighting)
    assert wrong["ranking"].item() > 1
    assert wrong["found"].item() > same["found"].item() + 1
    assert wrong["retrieval"].item() == pytest.approx(
        0.5 * wrong["ranking"].item() + 0.25 * wrong["found"].item(), rel=1e-5
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_step_goes_down_what_is_logged(corpus: Corpus, share: float) -> None:
    teacher = {name: torch.from_numpy(tensor) for name, tensor in random_tensors().items()}
    positions = "embeddings.position_embeddings.weight"
    teacher[positions] = teacher[positions].repeat(6, 1)
    student = {name: weight.clone() for name, weight in teacher.items()}
    for name, weight in list(teacher.items()):
        # A student has three layers.
        if ".layer.0." in name:
            student[name.replace(".layer.0.", ".layer.2.")] = weight.clone()
    layers = {name: w.requires_grad_() for name, w in student.items() if "encoder." in name}
    weighting = Weighting(similarity=0.1, states=1.0, ranking=0.5, found=0.25)

    def run() -> Run:
        # Begun anew, so that each step has the same batch.
        sampler = Sampler(corpus, 8 * (QUERY + DOCUMENT), seed=1)
        return Run(BERT_CONFIG, teacher, student, sampler, weighting, torch.float32, bert_layer)

    expected = None
    if share:
        first = run()
        encoded = [(_encode(first, ids, mask), mask) for ids, mask in first.sampler.pairs()]
        halves = [objective(got, wanted, mask, weighting) for (got, wanted), mask in encoded]
        (((query, _), (wanted_query, _)), _), (((document, _), (wanted_document, _)), _) = encoded
        added = retrieval(query, document, (wanted_query, wanted_document), weighting)
        expected = sum(half["loss"].item() for half in halves) / 2 + added["retrieval"].item()

    optimizer = torch.optim.SGD(layers.values(), lr=0.01)
    loss = "pairs_loss" if share else "loss"
    losses = []
    parts: dict[str, Tensor] = {}
    for _ in range(8):
        parts, size = _step(run(), layers, [optimizer], share)
        losses.append(parts[loss].item())
        assert size == 16 if share else size > 0
    assert set(parts) == (
        {"ranking", "found", "retrieval", "pairs_loss"}
        if share
        else {"mse", "similarity", "states", "loss"}
    )
    if expected is not None:
        assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--found 0.1", "--pairs"),
        ("--pairs 0.3", "--ranking"),
        ("--pairs 0.3 --found 0.1 --batch-tokens 100", "--batch-tokens"),
    ],
)
def test_options_without_effect_are_refused(
    options: str,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    given = f"train --data {tmp_path} --teacher {tmp_path} --out {out} {options}"
    monkeypatch.setattr(sys, "argv", given.split())
    with pytest.raises(SystemExit):
        train()
    assert named in capsys.readouterr().err
    assert not out.exists()


def test_objective_is_zero_for_the_teacher_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=-1)
    states = torch.randn(6, 3, 8, generator=generator)
    mask = torch.ones(6, 3, dtype=torch.bool)
    weighting = Weighting(similarity=0.1, states=1.0)
    same = objective((vectors, states), (vectors, states), mask, weighting)
    assert all(abs(part.item()) < 1e-6 for part in same.values())

    other = torch.nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=-1)
    parts = objective((other, states + 1), (vectors, states), mask, weighting)
    cosine = (other * vectors).sum(-1).mean().item()
    assert parts["mse"].item() == pytest.approx(2 - 2 * cosine, rel=1e-4)
    assert parts["similarity"].item() > 0
    assert parts["loss"].item() == pytest.approx(
        parts["mse"].item() + 0.1 * parts["similarity"].item() + parts["states"].item(), rel=1e-4
    )

    # What stands at padded places does not count.
    mask[:, 2] = False
    padded = states.clone()
    padded[:, 2] += 5
    assert objective((vectors, padded), (vectors, states), mask, weighting)["states"].item() == 0
