"""Computes the embedding-space fingerprint.

Vectors are comparable exactly when they come from the same weights by the same path from text to
vector. The fingerprint therefore covers the encoder's weights, the pooling, the normalisation, the
tokenizer and the text of the default prompt, which stands before texts that come with none. It
covers nothing about the precision in which the weights are later stored: all precisions of one
checkpoint share it, and may share traffic and an index.
"""

import dataclasses
import hashlib
import json

import numpy as np

from embed_models.checkpoint import BertConfig, Tensors
from embed_models.head import Head
from embed_models.metadata import Pooling
from embed_models.rotary import RotaryConfig


def space_fingerprint(
    config: BertConfig | RotaryConfig,
    tensors: Tensors,
    head: Head | Pooling,
    tokenizer: str,
    default_prompt: str = "",
) -> str:
    """Return `sha256:` and the first 16 hexadecimal digits of the digest.

    `default_prompt` is the text of the default prompt, and not its name.
    """
    digest = hashlib.sha256()

    def add_header(**fields: object) -> None:
        digest.update(_header(**fields))

    # Neither shows in the shapes of the tensors, but both change the vectors.
    add_header(num_attention_heads=config.num_attention_heads, layer_norm_eps=config.layer_norm_eps)
    if isinstance(config, RotaryConfig):
        add_header(**dataclasses.asdict(config))
    head = head if isinstance(head, Head) else Head(head)
    add_header(pooling=head.pooling, normalization="l2" if head.normalize else None)
    behind = {
        f"dense.{index}.{part}": tensor
        for index, dense in enumerate(head.dense)
        for part, tensor in (("weight", dense.weight), ("bias", dense.bias))
        if tensor is not None
    }
    for index, dense in enumerate(head.dense):
        add_header(dense=index, activation=dense.activation)
    for name, values in sorted((tensors | behind).items()):
        tensor = np.ascontiguousarray(values, dtype="<f4")
        add_header(tensor=name, shape=tensor.shape)
        digest.update(tensor.data)
    content = tokenizer.encode()
    add_header(tokenizer_bytes=len(content))
    digest.update(content)
    digest.update(prompt_header(default_prompt))
    return f"sha256:{digest.hexdigest()[:16]}"


def prompt_header(default_prompt: str) -> bytes:
    """Return what a digest takes up of the default prompt: nothing where there is none."""
    return _header(default_prompt=default_prompt) if default_prompt else b""


def _header(**fields: object) -> bytes:
    # One JSON line before each run of bytes keeps the boundaries unambiguous.
    return json.dumps(fields, sort_keys=True).encode() + b"\n"
