"""What stands behind an encoder: pooling, Dense layers, and the division by the norm."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embed_models.metadata import Pooling

Activation = Literal["identity", "tanh", "relu", "sigmoid"]


@dataclass(frozen=True)
class Dense:
    """A layer behind the pooling: `activation(weight @ vector + bias)`."""

    # [out, in]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    activation: Activation


@dataclass(frozen=True)
class Head:
    """The way from the states of tokens to the vector of a text."""

    pooling: Pooling
    dense: tuple[Dense, ...] = ()
    # Divide by the norm, so that vectors have unit length.
    normalize: bool = True

    def dimension(self, hidden_size: int) -> int:
        """Return the number of components of a vector."""
        return int(self.dense[-1].weight.shape[0]) if self.dense else hidden_size
