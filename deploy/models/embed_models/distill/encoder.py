"""The BERT encoder of teacher and student in torch, as functions over a dictionary of tensors.

Weights are kept in float32 under the checkpoint's names and cast to the type of the activations;
pooling and normalisation are always float32.
"""

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812 - its customary name
from torch import Tensor

from embed_models.checkpoint import BertConfig

Weights = dict[str, Tensor]
Layer = Callable[[list[Tensor], int, float, Tensor, Tensor], Tensor]

# The linear maps and norms of a layer, in the order of their use.
PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


def embed_tokens(weights: Weights, config: BertConfig, ids: Tensor) -> Tensor:
    """Return the output of the embedding layer in float32, [batch, length, hidden]."""
    table = "embeddings.{}_embeddings.weight"
    summed = F.embedding(ids, weights[table.format("word")])
    summed = summed + weights[table.format("position")][: ids.shape[1]]
    summed = summed + weights[table.format("token_type")][0]
    norm = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
    return F.layer_norm(summed, (config.hidden_size,), *norm, config.layer_norm_eps)


def bert_layer(
    parts: list[Tensor], heads: int, epsilon: float, states: Tensor, mask: Tensor
) -> Tensor:
    """Run one layer; `parts` are weights and biases in the order of `PARTS`."""
    dtype = states.dtype
    batch, length, hidden = states.shape
    query, key, value, output, norm, inner, outer, last_norm = (
        (parts[2 * number].to(dtype), parts[2 * number + 1].to(dtype))
        for number in range(len(PARTS))
    )

    def heads_of(projected: Tensor) -> Tensor:
        return projected.view(batch, length, heads, hidden // heads).transpose(1, 2)

    attended = F.scaled_dot_product_attention(
        heads_of(F.linear(states, *query)),
        heads_of(F.linear(states, *key)),
        heads_of(F.linear(states, *value)),
        attn_mask=mask[:, None, None, :],
    )
    attended = F.linear(attended.transpose(1, 2).reshape(batch, length, hidden), *output)
    states = F.layer_norm(attended + states, (hidden,), *norm, epsilon)
    expanded = F.linear(F.gelu(F.linear(states, *inner)), *outer)
    return F.layer_norm(expanded + states, (hidden,), *last_norm, epsilon)


def encode(
    weights: Weights,
    config: BertConfig,
    layers: int,
    embedded: Tensor,
    mask: Tensor,
    layer: Layer = bert_layer,
) -> tuple[Tensor, Tensor]:
    """Run `layers` layers; return the unit vectors and the last states.

    `mask` is boolean, [batch, length], true for tokens. The vectors are [batch, hidden], the states
    [batch, length, hidden]. `layer` may be a compiled `bert_layer`.
    """
    states = embedded
    for number in range(layers):
        prefix = f"encoder.layer.{number}."
        parts = [weights[f"{prefix}{name}.{kind}"] for name in PARTS for kind in ("weight", "bias")]
        states = layer(parts, config.num_attention_heads, config.layer_norm_eps, states, mask)
    weight = mask.unsqueeze(-1).float()
    pooled = (states.float() * weight).sum(1) / weight.sum(1)
    return F.normalize(pooled, dim=-1), states
