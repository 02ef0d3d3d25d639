"""Brings tokenizer.json into the one form that the registry holds.

Truncation and padding are switched off: the worker truncates by the model's max_seq_length, and
pads to the longest sequence of a batch. The rest is kept as it is.
"""

import json
from typing import Any

from tokenizers import Tokenizer

from embed_models.checkpoint import Checkpoint
from embed_models.errors import CheckpointError


def registry_tokenizer(checkpoint: Checkpoint) -> str:
    """Return the text of the registry's tokenizer.json, having checked that it fits the model."""
    text = _without_truncation_and_padding(checkpoint.tokenizer)
    tokenizer = load_tokenizer(text)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    largest = max(vocabulary.values(), default=-1)
    if largest >= checkpoint.config.vocab_size:
        raise CheckpointError(
            f"tokenizer.json makes token ids up to {largest}, but config.json has a vocab_size "
            f"of {checkpoint.config.vocab_size}; the two belong to different checkpoints"
        )
    if checkpoint.sentence.do_lower_case and not _lowercases(checkpoint.tokenizer):
        raise CheckpointError(
            "sentence_bert_config.json says do_lower_case, but the normalizer in tokenizer.json "
            "does not lowercase; set lowercase in its BertNormalizer to true"
        )
    return text


def normalised_tokenizer(text: str, origin: str) -> str:
    """Return the registry's form of any tokenizer.json; `origin` is what errors call it."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{origin} is not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{origin} holds no JSON object; give a tokenizer.json")
    normalised = _without_truncation_and_padding(raw)
    load_tokenizer(normalised)
    return normalised


def load_tokenizer(text: str) -> Tokenizer:
    """Load the text of a tokenizer.json."""
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(
            f"tokenizer.json cannot be loaded ({error}); "
            "save it again with a current version of the tokenizers library"
        ) from error


def _without_truncation_and_padding(tokenizer: dict[str, Any]) -> str:
    normalised = tokenizer | {"truncation": None, "padding": None}
    return json.dumps(normalised, ensure_ascii=False, separators=(",", ":")) + "\n"


def _lowercases(tokenizer: dict[str, Any]) -> bool:
    normalizer = tokenizer.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(step.get("lowercase") or step.get("type") == "Lowercase" for step in steps)
