"""What the training minimises.

The distance between the student's vectors and the teacher's; of pairs also how well a query finds
its document.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from torch import Tensor

# Rows of a batch that are compared with each other.
_COMPARED = 2048


@dataclass(frozen=True)
class Weighting:
    """How much each part counts."""

    similarity: float
    states: float
    # Of pairs alone: how far off the teacher's order is, and that a text finds its own.
    ranking: float = 0.0
    found: float = 0.0
    temperature: float = 0.05


def objective(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    mask: Tensor,
    weighting: Weighting,
) -> dict[str, Tensor]:
    """Return the parts of the loss and their weighted sum, `loss`.

    `mse` is the squared error summed over the dimensions, which for unit vectors is
    2 (1 - cosine). `similarity` compares how the texts of the batch resemble each other,
    `states` the tokens' last hidden states.
    """
    vectors, states = student
    wanted, wanted_states = teacher
    parts = {"mse": (vectors - wanted).square().sum(-1).mean()}
    parts["similarity"] = 0.5 * (
        _of_neighbours(vectors, vectors, wanted, weighting.temperature)
        + _of_neighbours(vectors, wanted, wanted, weighting.temperature)
    )
    parts["states"] = _states_error(states, wanted_states, mask)
    parts["loss"] = (
        parts["mse"]
        + weighting.similarity * parts["similarity"]
        + weighting.states * parts["states"]
    )
    return parts


def retrieval(
    queries: Tensor, documents: Tensor, wanted: tuple[Tensor, Tensor], weighting: Weighting
) -> dict[str, Tensor]:
    """Return what pairs add to the loss, and its weighted sum, `retrieval`.

    All are unit vectors [pairs, dimension], `wanted` the teacher's of queries and documents.
    `ranking` compares the order of all documents for each query with the teacher's, `found` is the
    cross entropy of finding the document of the same pair among them.
    """
    scores = queries @ documents.T / weighting.temperature
    reference = wanted[0] @ wanted[1].T / weighting.temperature
    parts = {
        "ranking": _divergence(scores, reference),
        "found": F.cross_entropy(scores, torch.arange(len(scores), device=scores.device)),
    }
    weighted = weighting.ranking * parts["ranking"] + weighting.found * parts["found"]
    return parts | {"retrieval": weighted}


def _of_neighbours(queries: Tensor, keys: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Divergence of the neighbours' distributions, a text itself left out."""
    count = min(len(wanted), _COMPARED)
    queries, keys, wanted = queries[:count], keys[:count], wanted[:count]
    itself = torch.eye(count, dtype=torch.bool, device=wanted.device)

    def scores(first: Tensor, second: Tensor) -> Tensor:
        return (first @ second.T / temperature).masked_fill(itself, -1e4)

    return _divergence(scores(queries, keys), scores(wanted, wanted))


def _divergence(scores: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the distributions that rows of scores stand for."""
    return F.kl_div(
        F.log_softmax(scores, dim=-1),
        F.log_softmax(wanted, dim=-1),
        log_target=True,
        reduction="batchmean",
    )


def _states_error(states: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    weight = mask.unsqueeze(-1).float()
    difference = (states.float() - wanted.float()).square() * weight
    scale = (wanted.float().square() * weight).sum()
    return difference.sum() / scale
