"""Whether a text's vector depends on what else is in its batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from embed_models.inference import run_batch

_TEXTS = 48
_TOGETHER = 12


def batch_difference(session: Any, sequences: Sequence[Sequence[int]]) -> float:
    """Return the largest difference of a component between a text alone and among others.

    The texts are taken as they come, so that a batch has several lengths and padding.
    """
    chosen = list(sequences[:_TEXTS])
    alone = np.concatenate([run_batch(session, [sequence]) for sequence in chosen])
    together = np.concatenate(
        [
            run_batch(session, chosen[start : start + _TOGETHER])
            for start in range(0, len(chosen), _TOGETHER)
        ]
    )
    return float(np.abs(alone - together).max())
