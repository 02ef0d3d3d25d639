"""The fingerprint changes with everything that changes vectors, and with nothing else."""

import dataclasses
import re

from tiny_bert import BERT_CONFIG, random_tensors

from embed_models.space import space_fingerprint

BASE = space_fingerprint(BERT_CONFIG, random_tensors(), "mean", "{}")


def test_form() -> None:
    assert re.fullmatch(r"sha256:[0-9a-f]{16}", BASE)


def test_order_of_the_tensors_does_not_matter() -> None:
    backwards = dict(reversed(random_tensors().items()))
    assert space_fingerprint(BERT_CONFIG, backwards, "mean", "{}") == BASE


def test_everything_that_changes_vectors_changes_it() -> None:
    one_weight = random_tensors()
    one_weight["encoder.layer.1.output.dense.bias"][7] += 1e-3
    other_heads = dataclasses.replace(BERT_CONFIG, num_attention_heads=8)
    other_epsilon = dataclasses.replace(BERT_CONFIG, layer_norm_eps=1e-5)
    variants = {
        BASE,
        space_fingerprint(BERT_CONFIG, one_weight, "mean", "{}"),
        space_fingerprint(BERT_CONFIG, random_tensors(), "cls", "{}"),
        space_fingerprint(BERT_CONFIG, random_tensors(), "mean", "{ }"),
        space_fingerprint(other_heads, random_tensors(), "mean", "{}"),
        space_fingerprint(other_epsilon, random_tensors(), "mean", "{}"),
        space_fingerprint(BERT_CONFIG, random_tensors(), "mean", "{}", "query: "),
        space_fingerprint(BERT_CONFIG, random_tensors(), "mean", "{}", "passage: "),
    }
    assert len(variants) == 8
    assert space_fingerprint(BERT_CONFIG, random_tensors(), "mean", "{}", "") == BASE
