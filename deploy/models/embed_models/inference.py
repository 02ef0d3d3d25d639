"""Runs graphs on the CPU: with the settings that a worker uses, and one text at a time.

`TextEncoder` is the reference for what a worker has to compute: same tokens, same truncation, no
padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from embed_models.attention import ATTENTION_MASK
from embed_models.batches import pad, sorted_batches
from embed_models.graph import EMBEDDING, INPUT_IDS
from embed_models.tokenizer import load_tokenizer

# Severities of messages that ONNX Runtime writes to standard error by itself.
_ERRORS_ONLY, _NOTHING = 3, 4


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


def cpu_session(
    model: Path | bytes, *, threads: int, as_written: bool = False, quiet: bool = False
) -> Any:
    """Open a graph as a worker does on the CPU (worker/src/engine/onnx.rs has the same settings).

    `as_written` runs Q/DQ nodes one by one instead of replacing them by integer kernels: what a
    graph for TensorRT means, at the pace of float32. `quiet` leaves it to the caller to
    tell of runs that fail.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = _NOTHING if quiet else _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )


def run_batch(session: Any, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Embed token sequences in one run, padded to the longest: [rows, dimension]."""
    ids, mask = pad(sequences)
    (vectors,) = session.run([EMBEDDING], {INPUT_IDS: ids, ATTENTION_MASK: mask})
    return np.asarray(vectors, np.float32)


def embed_sequences(
    session: Any,
    sequences: Sequence[Sequence[int]],
    progress: Callable[[int], None] = lambda _done: None,
) -> NDArray[np.float32]:
    """Embed any number of token sequences, in batches of similar length: [rows, dimension]."""
    vectors: NDArray[np.float32] | None = None
    done = 0
    for batch in sorted_batches(sequences):
        rows = run_batch(session, [sequences[index] for index in batch])
        if vectors is None:
            vectors = np.zeros((len(sequences), rows.shape[1]), np.float32)
        vectors[batch] = rows
        done += len(batch)
        progress(done)
    return np.zeros((0, 0), np.float32) if vectors is None else vectors
