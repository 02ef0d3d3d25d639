"""The parts of the training that need torch; skipped where it is not installed."""

import json

import numpy as np
import pytest
from numpy_bert import encode as reference
from tiny_bert import BERT_CONFIG, random_tensors, tokenizer_json
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from embed_models.distill.batches import BUCKETS, Corpus, Sampler, build_corpus  # noqa: E402
from embed_models.distill.encoder import embed_tokens, encode  # noqa: E402
from embed_models.distill.objective import Weighting, objective  # noqa: E402
from embed_models.distill.train import embed_all  # noqa: E402

CPU = torch.device("cpu")
CLS, SEP, PAD = 2, 3, 0


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json()))
    words = ["hello", "world", "the", "quick", "foxs", "a", "ab", "1", "!"]
    generator = np.random.default_rng(3)
    texts = [" ".join(generator.choice(words, size)) for size in generator.integers(1, 300, 900)]
    return build_corpus(texts, tokenizer, CPU)


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
