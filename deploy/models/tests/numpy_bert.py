"""A plain NumPy BERT sentence encoder, written from the definition, to compare the graph with."""

import math

import numpy as np
from numpy.typing import NDArray

from embed_models.checkpoint import BertConfig, Tensors

Array = NDArray[np.float64]

_erf = np.vectorize(math.erf)


def encode(
    config: BertConfig, tensors: Tensors, ids: list[int], pooling: str, *, normalize: bool = True
) -> NDArray[np.float64]:
    """Return the vector of one unpadded sequence, of unit length or not, computed in float64."""
    t: dict[str, Array] = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def linear(x: Array, key: str) -> Array:
        return x @ t[f"{key}.weight"].T + t[f"{key}.bias"]

    def layer_norm(x: Array, key: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        scaled: Array = centred / np.sqrt(variance + config.layer_norm_eps)
        return scaled * t[f"{key}.weight"] + t[f"{key}.bias"]

    def attention(x: Array, key: str) -> Array:
        head = config.hidden_size // config.num_attention_heads
        query, keys, value = (
            linear(x, f"{key}.{part}").reshape(len(x), -1, head).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ keys.transpose(0, 2, 1) / math.sqrt(head)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        result: Array = (weights @ value).transpose(1, 0, 2).reshape(len(x), -1)
        return result

    x = (
        t["embeddings.word_embeddings.weight"][ids]
        + t["embeddings.position_embeddings.weight"][: len(ids)]
        + t["embeddings.token_type_embeddings.weight"][0]
    )
    x = layer_norm(x, "embeddings.LayerNorm")
    for layer in range(config.num_hidden_layers):
        key = f"encoder.layer.{layer}"
        attended = linear(attention(x, f"{key}.attention.self"), f"{key}.attention.output.dense")
        x = layer_norm(x + attended, f"{key}.attention.output.LayerNorm")
        inner = linear(x, f"{key}.intermediate.dense")
        inner = inner * 0.5 * (1 + _erf(inner / math.sqrt(2)))
        x = layer_norm(x + linear(inner, f"{key}.output.dense"), f"{key}.output.LayerNorm")
    places = np.arange(1, len(x) + 1)[:, np.newaxis]
    vector = {
        "mean": x.mean(axis=0),
        "cls": x[0],
        "max": x.max(axis=0),
        "weightedmean": (x * places).sum(axis=0) / places.sum(),
        "last": x[-1],
    }[pooling]
    unit: Array = vector / np.linalg.norm(vector) if normalize else vector
    return unit
