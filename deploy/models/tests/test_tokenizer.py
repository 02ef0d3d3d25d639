"""The registry's tokenizer.json: no truncation, no padding, and a fit to the model."""

import json
from pathlib import Path

import pytest
from tiny_bert import CONFIG, tokenizer_json, write_json

from embed_models.checkpoint import read_checkpoint
from embed_models.errors import CheckpointError
from embed_models.tokenizer import load_tokenizer, registry_tokenizer


def test_truncation_and_padding_are_off(checkpoint_dir: Path) -> None:
    text = registry_tokenizer(read_checkpoint(checkpoint_dir))
    tokenizer = load_tokenizer(text)
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert tokenizer.encode("hello").ids == [2, 4, 3]
    assert len(tokenizer.encode("hello " * 30).ids) == 32


def test_the_rest_is_kept(checkpoint_dir: Path) -> None:
    written = json.loads(registry_tokenizer(read_checkpoint(checkpoint_dir)))
    assert written == tokenizer_json() | {"truncation": None, "padding": None}


def test_vocabulary_larger_than_the_model(checkpoint_dir: Path) -> None:
    tokenizer = tokenizer_json()
    tokenizer["model"]["vocab"]["extra"] = CONFIG["vocab_size"]
    write_json(checkpoint_dir / "tokenizer.json", tokenizer)
    with pytest.raises(CheckpointError, match="token ids up to 64"):
        registry_tokenizer(read_checkpoint(checkpoint_dir))


def test_lowercasing_outside_the_tokenizer(checkpoint_dir: Path) -> None:
    write_json(checkpoint_dir / "sentence_bert_config.json", {"do_lower_case": True})
    registry_tokenizer(read_checkpoint(checkpoint_dir))
    tokenizer = tokenizer_json()
    tokenizer["normalizer"]["lowercase"] = False
    write_json(checkpoint_dir / "tokenizer.json", tokenizer)
    with pytest.raises(CheckpointError, match="do_lower_case"):
        registry_tokenizer(read_checkpoint(checkpoint_dir))


def test_unreadable_tokenizer(checkpoint_dir: Path) -> None:
    write_json(checkpoint_dir / "tokenizer.json", {"model": {"type": "Unheard"}})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be loaded"):
        registry_tokenizer(read_checkpoint(checkpoint_dir))
