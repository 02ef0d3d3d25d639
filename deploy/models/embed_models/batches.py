"""Groups token sequences into batches that need no padding, or little."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# Larger runs fall out of the caches of a CPU.
TOKENS_PER_BATCH = 512


def equal_length_batches(
    sequences: Sequence[Sequence[int]], *, seed: int, tokens: int = TOKENS_PER_BATCH
) -> Iterator[list[int]]:
    """Yield indices of sequences of one length, the batches in random order.

    The order is random so that progress is even, and what is seen first is a sample of the whole.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, sequence in enumerate(sequences):
        by_length[len(sequence)].append(index)
    batches = []
    for length, indices in sorted(by_length.items()):
        size = max(1, tokens // length)
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    for position in np.random.default_rng(seed).permutation(len(batches)):
        yield batches[position]


def sorted_batches(
    sequences: Sequence[Sequence[int]], *, tokens: int = TOKENS_PER_BATCH
) -> Iterator[list[int]]:
    """Yield indices sorted by length, so that a batch is padded as little as possible."""
    batch: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), i)):
        if batch and (len(batch) + 1) * len(sequences[index]) > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad(sequences: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids and mask, [rows, longest], padded on the right."""
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
