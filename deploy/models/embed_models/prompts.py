"""Which prompt stands before which kind of text, as callers name them and workers add them."""

from collections.abc import Sequence

import numpy as np

from embed_models.metadata import Metadata

# Names that models give the prompt for what is searched, in the order of sentence-transformers'
# `encode_document`.
_DOCUMENT = ("document", "passage", "corpus")


def default_prompt(metadata: Metadata) -> str:
    """Return what is put before a text whose caller names no prompt."""
    return metadata.prompts.get(metadata.default_prompt or "", "")


def query_prompt(metadata: Metadata) -> str:
    """Return what is put before a query."""
    return metadata.prompts.get("query", default_prompt(metadata))


def document_prompt(metadata: Metadata) -> str:
    """Return what is put before a document that queries are to find."""
    named = (metadata.prompts[name] for name in _DOCUMENT if name in metadata.prompts)
    return next(named, default_prompt(metadata))


def with_mixed_prompts(metadata: Metadata, texts: Sequence[str], *, seed: int) -> list[str]:
    """Return the texts with the prompts that they could have, drawn for each.

    Those of a model without prompts stay as they are.
    """
    prompts = [default_prompt(metadata), query_prompt(metadata), document_prompt(metadata)]
    # Each counts once, whatever it is for, and always in the same order.
    distinct = list(dict.fromkeys(prompts))
    drawn = np.random.default_rng(seed).integers(len(distinct), size=len(texts))
    return [distinct[index] + text for index, text in zip(drawn, texts, strict=True)]
