"""Computes the embedding-space fingerprint.

Vectors are comparable exactly when they come from the same weights by the same path from text to
vector. The fingerprint therefore covers the encoder's weights, the pooling, the normalisation and
the tokenizer, and nothing about the precision in which the weights are later stored: all
precisions of one checkpoint share it, and may share traffic and an index.
"""

import hashlib
import json

import numpy as np

from embed_models.checkpoint import BertConfig, Tensors
from embed_models.metadata import Pooling


def space_fingerprint(
    config: BertConfig, tensors: Tensors, pooling: Pooling, tokenizer: str
) -> str:
    """Return `sha256:` and the first 16 hexadecimal digits of the digest."""
    digest = hashlib.sha256()

    def add_header(**fields: object) -> None:
        # One JSON line before each run of bytes keeps the boundaries unambiguous.
        digest.update(json.dumps(fields, sort_keys=True).encode() + b"\n")

    # Neither shows in the shapes of the tensors, but both change the vectors.
    add_header(num_attention_heads=config.num_attention_heads, layer_norm_eps=config.layer_norm_eps)
    add_header(pooling=pooling, normalization="l2")
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name], dtype="<f4")
        add_header(tensor=name, shape=tensor.shape)
        digest.update(tensor.data)
    content = tokenizer.encode()
    add_header(tokenizer_bytes=len(content))
    digest.update(content)
    return f"sha256:{digest.hexdigest()[:16]}"
