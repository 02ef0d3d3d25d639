"""Embeds texts with a graph and a tokenizer of the registry, one text per run.

This is the reference for what a worker has to compute: same tokens, same truncation, no padding.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from embed_models.attention import ATTENTION_MASK
from embed_models.graph import EMBEDDING, INPUT_IDS
from embed_models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Embedded:
    """A vector, with how many tokens went in and whether that was all of the text."""

    vector: NDArray[np.float32]
    tokens: int
    truncated: bool


class TextEncoder:
    """An ONNX Runtime session on the CPU with the tokenizer that belongs to it."""

    def __init__(self, model: Path, tokenizer: Path, max_seq_length: int) -> None:
        options = ort.SessionOptions()
        # With one thread the order of the additions, and so every bit of a vector, is fixed.
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer = load_tokenizer(tokenizer.read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(max_seq_length)

    def embed(self, text: str) -> Embedded:
        encoding = self._tokenizer.encode(text)
        feeds = {
            INPUT_IDS: np.array([encoding.ids], dtype=np.int64),
            ATTENTION_MASK: np.ones((1, len(encoding.ids)), dtype=np.int64),
        }
        (vectors,) = self._session.run([EMBEDDING], feeds)
        return Embedded(
            vector=np.asarray(vectors, dtype=np.float32)[0],
            tokens=len(encoding.ids),
            truncated=bool(encoding.overflowing),
        )
