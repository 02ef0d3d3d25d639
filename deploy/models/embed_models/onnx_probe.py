"""Finds out what an ONNX file of others does by running it: its outputs, and what it takes.

What a graph says of its shapes may be missing or wrong, so it is not relied on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embed_models.attention import ATTENTION_MASK
from embed_models.batches import pad
from embed_models.errors import CheckpointError
from embed_models.golden import TEXTS
from embed_models.graph import INPUT_IDS
from embed_models.inference import cpu_session, run_batch

# Widths that tell apart what has a place for each token from what has not.
_ROWS, _WIDTHS = 3, (7, 11)
_FLOATING = ("tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)")
_FEWEST_TOKENS = 3
# Vectors that differ by no more are the same, but for the last bits.
_SAME = 1e-5


@dataclass(frozen=True)
class Output:
    """An output that vectors can be made of: one for each token, or for each text."""

    name: str
    by_token: bool
    dimension: int
    # It is not float32 already.
    cast: bool

    def describe(self) -> str:
        """Its name and shape, for a person."""
        rows = "batch, seq" if self.by_token else "batch"
        return f"{self.name} [{rows}, {self.dimension}]"


class Texts:
    """Token sequences of a tokenizer, to run a graph with."""

    def __init__(self, tokenizer: Tokenizer, origin: str) -> None:
        self._tokenizer = tokenizer
        self._origin = origin
        self._long = max((tokenizer.encode(text).ids for text in TEXTS), key=len)
        if not tokenizer.encode("").ids:
            raise CheckpointError(
                f"{origin}: its post_processor adds no token, so an empty text has none, and no "
                "vector; add the special tokens that the model was trained with"
            )

    def of_length(self, tokens: int) -> list[int]:
        return [self._long[place % len(self._long)] for place in range(tokens)]

    def golden(self, most: int) -> list[list[int]]:
        """Return the tokens of the golden texts, cut to `most`."""
        return [self._cut(text, most) for text in TEXTS]

    def largest_id(self) -> int:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        return max(vocabulary.values(), default=0)

    def _cut(self, text: str, most: int) -> list[int]:
        self._tokenizer.enable_truncation(most)
        ids: list[int] = self._tokenizer.encode(text).ids
        self._tokenizer.no_truncation()
        return ids


def open_graph(graph: bytes, path: Path) -> Any:
    """Open a graph as a worker does, or raise `CheckpointError`."""
    try:
        return cpu_session(graph, threads=1, quiet=True)
    except Exception as error:  # ONNX Runtime's errors have no public base class
        raise CheckpointError(f"{path} is refused by ONNX Runtime: {_first_line(error)}") from error


def find_outputs(session: Any, texts: Texts, path: Path) -> list[Output]:
    """Return the outputs that vectors can be made of."""
    found: list[dict[str, NDArray[Any]]] = []
    # In a batch of rows of different lengths, whose dimensions cannot be taken for each other's.
    for width in _WIDTHS:
        ids, mask = pad([texts.of_length(width - row) for row in range(_ROWS)])
        outputs = _run(session, ids, mask, path)
        found.append(dict(zip((o.name for o in session.get_outputs()), outputs, strict=True)))
    usable = []
    for output in session.get_outputs():
        shapes = [np.shape(one[output.name]) for one in found]
        by_token = all(
            len(shape) == 3 and shape[:2] == (_ROWS, width)
            for shape, width in zip(shapes, _WIDTHS, strict=True)
        )
        by_text = all(len(shape) == 2 and shape[0] == _ROWS for shape in shapes)
        same = shapes[0][-1:] == shapes[1][-1:]
        if output.type in _FLOATING and same and (by_token or by_text):
            cast = output.type != _FLOATING[0]
            usable.append(Output(output.name, by_token, int(shapes[0][-1]), cast))
    return usable


def check_vocabulary(session: Any, texts: Texts, path: Path, origin: str) -> None:
    """Refuse a tokenizer that makes ids which the graph has no row for."""
    largest = texts.largest_id()
    sequence = [*texts.of_length(_FEWEST_TOKENS), largest]
    try:
        run_batch(session, [sequence])
    except Exception as error:
        raise CheckpointError(
            f"{origin} makes token ids up to {largest}, which {path} cannot take "
            f"({_first_line(error)}); the two belong to different models"
        ) from error


def longest_text(session: Any, texts: Texts, most: int) -> int:
    """Return the most tokens, up to `most`, of a text that a graph takes."""

    def takes(tokens: int) -> bool:
        try:
            run_batch(session, [texts.of_length(tokens)])
        except Exception:
            return False
        return True

    if takes(most):
        return most
    least, above = 0, most
    while above - least > 1:
        middle = (least + above) // 2
        least, above = (middle, above) if takes(middle) else (least, middle)
    return least


@dataclass(frozen=True)
class Vectors:
    """The vectors of some texts: each text alone, and all of them in one batch."""

    alone: NDArray[np.float32]
    together: NDArray[np.float32]

    def batch_error(self) -> float:
        """How far a component is from what it is when the text is alone, of a unit vector."""
        return float(np.abs(self.alone - self.together).max()) / self._scale()

    def error(self, other: "Vectors") -> float:
        """How far a component is from another graph's, of a unit vector."""
        pairs = ((self.alone, other.alone), (self.together, other.together))
        return max(float(np.abs(a - b).max()) for a, b in pairs) / self._scale()

    def _scale(self) -> float:
        """Return what makes components of vectors that keep their length comparable."""
        return max(1.0, float(np.linalg.norm(self.alone, axis=1).max()))


def golden_vectors(session: Any, sequences: Sequence[Sequence[int]], path: Path) -> Vectors:
    """Embed sequences; refuse a graph whose vectors no worker would take for vectors."""
    alone = np.concatenate([_checked(session, [one], path) for one in sequences])
    together = _checked(session, sequences, path)
    if not (np.isfinite(alone).all() and np.isfinite(together).all()):
        raise CheckpointError(f"{path} gives vectors with components that are no numbers")
    if not alone.any(axis=1).all():
        raise CheckpointError(f"{path} gives vectors that are all zeros")
    if float(np.abs(alone - alone[0]).max()) <= _SAME:
        raise CheckpointError(f"{path} gives every text the same vector")
    return Vectors(alone, together)


def _checked(session: Any, sequences: Sequence[Sequence[int]], path: Path) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = _guarded(lambda: run_batch(session, sequences), path)
    return vectors


def _run(session: Any, ids: NDArray[Any], mask: NDArray[Any], path: Path) -> list[NDArray[Any]]:
    feeds = {INPUT_IDS: ids, ATTENTION_MASK: mask}
    outputs: list[NDArray[Any]] = _guarded(lambda: list(session.run(None, feeds)), path)
    return outputs


def _guarded(run: Callable[[], Any], path: Path) -> Any:
    try:
        return run()
    except Exception as error:
        raise CheckpointError(f"{path} cannot be run: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
