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
    normalised = checkpoint.tokenizer | {"truncation": None, "padding": None}
    text = json.dumps(normalised, ensure_ascii=False, separators=(",", ":")) + "\n"
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


def load_tokenizer(text: str) -> Tokenizer:
    """Load the text of a tokenizer.json."""
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(
            f"tokenizer.json cannot be loaded ({error}); "
            "save it again with a current version of the tokenizers library"
        ) from error


def _lowercases(tokenizer: dict[str, Any]) -> bool:
    normalizer = tokenizer.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(step.get("lowercase") or step.get("type") == "Lowercase" for step in steps)
