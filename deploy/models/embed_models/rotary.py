"""Reads checkpoints of encoders that turn queries and keys by their positions (RoPE).

ModernBERT, Nomic-BERT and GTE ("new") differ in where the norms stand, in which function gates the
feed-forward layers, and ModernBERT in that most of its layers see only their neighbourhood. Their
tensors are brought under common names here; `rotary_graph` writes the network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embed_models.checkpoint import (
    EncoderFiles,
    check_heads,
    config_path,
    positive,
    read_files,
    refuse_unless,
)
from embed_models.errors import CheckpointError
from embed_models.json_files import read_object
from embed_models.metadata import Pooling
from embed_models.weights import WEIGHTS, Tensors, Weights

Gate = Literal["gelu", "silu"]

# Common names of the tensors; the layer's begin with `layer.N.`.
WORDS, EMBEDDING_NORM, FINAL_NORM = "embeddings.word_embeddings", "embeddings.norm", "final_norm"
QKV, OUTPUT, GATE, UP, DOWN = "qkv", "output", "gate", "up", "down"
ATTENTION_NORM, MLP_NORM = "attention_norm", "mlp_norm"

_TOKEN_TYPES = "embeddings.token_type_embeddings"  # noqa: S105 - the name of a tensor


@dataclass(frozen=True)
class RotaryLayer:
    """What one layer does otherwise than another."""

    # Angles of a position, one for each pair of components, in radians; [head size / 2].
    frequencies: tuple[float, ...]
    # Most tokens between two that see each other; None: all do.
    window: int | None = None


@dataclass(frozen=True)
class RotaryConfig:
    """The part of config.json that determines the encoder."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    layer_norm_eps: float
    gate: Gate
    # Whether norms stand before attention and feed-forward layers, or behind what skips them.
    pre_norm: bool
    layers: tuple[RotaryLayer, ...]

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layers)


@dataclass(frozen=True)
class RotaryCheckpoint(EncoderFiles):
    """A checkpoint that has been read and found to be importable."""

    config: RotaryConfig
    tensors: Tensors


def read_rotary_checkpoint(
    directory: Path, *, pooling: Pooling | None = None, max_seq_length: int | None = None
) -> RotaryCheckpoint:
    """Read a checkpoint; `pooling` and `max_seq_length` replace what its files say."""
    path = config_path(directory)
    raw = read_object(path)
    config, tensors = _READERS[raw["model_type"]](raw, path)
    files = read_files(
        directory,
        positions=config.max_position_embeddings,
        pooling=pooling,
        max_seq_length=max_seq_length,
        capped=bool(raw.get("max_trained_positions")),
    )
    return RotaryCheckpoint(config=config, tensors=tensors, **vars(files))


def is_rotary(directory: Path) -> bool:
    """Say whether config.json names one of these encoders."""
    model_type = read_object(config_path(directory)).get("model_type")
    return isinstance(model_type, str) and model_type in _READERS


def _modernbert(raw: dict[str, Any], path: Path) -> tuple[RotaryConfig, Tensors]:
    refuse_unless(raw, path, {"hidden_activation": ("gelu", "gelu")})
    sizes = _sizes(raw, path)
    heads, hidden, inner = sizes["heads"], sizes["hidden_size"], sizes["inner"]
    local = positive({"local_attention": 128} | raw, path, "local_attention")
    every = positive({"global_attn_every_n_layers": 3} | raw, path, "global_attn_every_n_layers")
    types = raw.get("layer_types") or [
        "sliding_attention" if index % every else "full_attention"
        for index in range(sizes["layers"])
    ]
    known = ("sliding_attention", "full_attention")
    of_each = isinstance(types, list) and len(types) == sizes["layers"]
    if not of_each or not all(kind in known for kind in types):
        raise CheckpointError(
            f"{path}: layer_types {types!r} is not supported; it has to be sliding_attention or "
            "full_attention for each of num_hidden_layers"
        )
    rope = _object(raw, "rope_parameters", path)
    if not set(rope) <= set(known):
        raise CheckpointError(
            f"{path}: rope_parameters has {', '.join(rope)}, but has to have settings of "
            f"{' and '.join(known)} each"
        )
    thetas = {
        "full_attention": raw.get("global_rope_theta", 160_000.0),
        "sliding_attention": raw.get("local_rope_theta", 10_000.0),
    }
    angles = {
        kind: _frequencies(
            _object(rope, kind, path, "rope_parameters."), theta, hidden // heads, path
        )
        for kind, theta in thetas.items()
    }
    layers = tuple(
        RotaryLayer(angles[kind], local // 2 if kind == "sliding_attention" else None)
        for kind in types
    )
    config = _config(sizes, _epsilon(raw, path, "norm_eps", 1e-5), layers, "gelu", pre_norm=True)
    source = _Source(Weights(path.with_name(WEIGHTS)), ("", "model."), "embeddings.tok_embeddings")
    norm_bias, bias, mlp_bias = (
        raw.get(key, False) for key in ("norm_bias", "attention_bias", "mlp_bias")
    )
    source.add(WORDS, "embeddings.tok_embeddings", (sizes["vocab_size"], hidden), bias=False)
    source.add(EMBEDDING_NORM, "embeddings.norm", (hidden,), bias=norm_bias)
    source.add(FINAL_NORM, "final_norm", (hidden,), bias=norm_bias)
    for index in range(sizes["layers"]):
        ours, theirs = f"layer.{index}.", f"layers.{index}."
        source.add(ours + QKV, f"{theirs}attn.Wqkv", (3 * hidden, hidden), bias=bias)
        source.add(ours + OUTPUT, f"{theirs}attn.Wo", (hidden, hidden), bias=bias)
        source.add(f"{ours}wi", f"{theirs}mlp.Wi", (2 * inner, hidden), bias=mlp_bias)
        source.add(ours + DOWN, f"{theirs}mlp.Wo", (hidden, inner), bias=mlp_bias)
        source.add(ours + MLP_NORM, f"{theirs}mlp_norm", (hidden,), bias=norm_bias)
        # The norm of the embeddings serves the first layer as well.
        if index:
            source.add(ours + ATTENTION_NORM, f"{theirs}attn_norm", (hidden,), bias=norm_bias)
    return config, source.read(halves=("wi", GATE, UP))


def _nomic(raw: dict[str, Any], path: Path) -> tuple[RotaryConfig, Tensors]:
    # The hub's files have the names of GPT-2, those that transformers writes BERT's.
    older = {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
        "layer_norm_eps": "layer_norm_epsilon",
    }
    raw = {ours: raw[theirs] for ours, theirs in older.items() if theirs in raw} | raw
    refuse_unless(
        raw,
        path,
        {
            "hidden_act": ("silu", "silu"),
            "activation_function": ("swiglu", "swiglu"),
            "prenorm": (False, False),
            "use_rms_norm": (False, False),
            "parallel_block": (False, False),
            "qkv_proj_bias": (False, False),
            "mlp_fc1_bias": (False, False),
            "mlp_fc2_bias": (False, False),
            "rotary_emb_fraction": (1.0, 1.0),
            "rotary_emb_interleaved": (False, False),
            "rotary_emb_scale_base": (None, None),
            "num_experts": (0, 0),
        },
    )
    sizes = _sizes(raw, path)
    # Beyond these the authors' code stretches the angles by the length of the batch, which would
    # make a vector depend on its batch.
    if raw.get("max_trained_positions"):
        trained = positive(raw, path, "max_trained_positions")
        sizes["positions"] = min(sizes["positions"], trained)
    head = sizes["hidden_size"] // sizes["heads"]
    angles = _frequencies(
        _object(raw, "rope_parameters", path), raw.get("rotary_emb_base", 1000.0), head, path
    )
    layers = (RotaryLayer(angles),) * sizes["layers"]
    epsilon = _epsilon(raw, path, "layer_norm_eps", 1e-12)
    config = _config(sizes, epsilon, layers, "silu", pre_norm=False)
    hidden, inner = sizes["hidden_size"], sizes["inner"]
    source = _Source(
        Weights(path.with_name(WEIGHTS)), ("", "bert.", "nomic_bert."), "embeddings.word_embeddings"
    )
    source.words(sizes, positive(raw, path, "type_vocab_size"))
    source.add(EMBEDDING_NORM, "emb_ln", (hidden,))
    for index in range(sizes["layers"]):
        ours, theirs = f"layer.{index}.", f"encoder.layers.{index}."
        source.add(ours + QKV, f"{theirs}attn.Wqkv", (3 * hidden, hidden), bias=False)
        source.add(ours + OUTPUT, f"{theirs}attn.out_proj", (hidden, hidden), bias=False)
        source.add(ours + UP, f"{theirs}mlp.fc11", (inner, hidden), bias=False)
        source.add(ours + GATE, f"{theirs}mlp.fc12", (inner, hidden), bias=False)
        source.add(ours + DOWN, f"{theirs}mlp.fc2", (hidden, inner), bias=False)
        source.add(ours + ATTENTION_NORM, f"{theirs}norm1", (hidden,))
        source.add(ours + MLP_NORM, f"{theirs}norm2", (hidden,))
    return config, source.read()


def _gte(raw: dict[str, Any], path: Path) -> tuple[RotaryConfig, Tensors]:
    refuse_unless(
        raw,
        path,
        {
            "hidden_act": ("gelu", "gelu"),
            "position_embedding_type": ("rope", "rope"),
            "layer_norm_type": ("layer_norm", "layer_norm"),
            "pack_qkv": (True, True),
            "logn_attention_scale": (False, False),
        },
    )
    sizes = _sizes(raw, path)
    head = sizes["hidden_size"] // sizes["heads"]
    rope = _object(raw, "rope_parameters", path) or _object(raw, "rope_scaling", path)
    default = 10_000.0 if raw["model_type"] == "new" else 160_000.0
    angles = _frequencies(rope, raw.get("rope_theta", default), head, path)
    layers = (RotaryLayer(angles),) * sizes["layers"]
    epsilon = _epsilon(raw, path, "layer_norm_eps", 1e-12)
    config = _config(sizes, epsilon, layers, "gelu", pre_norm=False)
    hidden, inner = sizes["hidden_size"], sizes["inner"]
    source = _Source(
        Weights(path.with_name(WEIGHTS)), ("", "new.", "gte."), "embeddings.word_embeddings"
    )
    # Some have no token types at all.
    token_types = {"type_vocab_size": 1} | raw
    source.words(
        sizes,
        positive(token_types, path, "type_vocab_size") if token_types["type_vocab_size"] else 0,
    )
    source.add(EMBEDDING_NORM, "embeddings.LayerNorm", (hidden,))
    for index in range(sizes["layers"]):
        ours, theirs = f"layer.{index}.", f"encoder.layer.{index}."
        source.add(ours + QKV, f"{theirs}attention.qkv_proj", (3 * hidden, hidden))
        source.add(ours + OUTPUT, f"{theirs}attention.o_proj", (hidden, hidden))
        source.add(f"{ours}wi", f"{theirs}mlp.up_gate_proj", (2 * inner, hidden), bias=False)
        source.add(ours + DOWN, f"{theirs}mlp.down_proj", (hidden, inner))
        source.add(ours + ATTENTION_NORM, f"{theirs}attn_ln", (hidden,))
        source.add(ours + MLP_NORM, f"{theirs}mlp_ln", (hidden,))
    return config, source.read(halves=("wi", UP, GATE))


_READERS: dict[str, Callable[[dict[str, Any], Path], tuple[RotaryConfig, Tensors]]] = {
    "modernbert": _modernbert,
    "nomic_bert": _nomic,
    "gte": _gte,
    # What the hub's files call GTE.
    "new": _gte,
}


class _Source:
    """Collects which tensors are wanted under which of our names, and reads them at once."""

    def __init__(self, weights: Weights, prefixes: tuple[str, ...], words: str) -> None:
        self._weights = weights
        self._prefix = weights.prefix(f"{words}.weight", prefixes)
        self._names: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, ours: str, theirs: str, shape: tuple[int, ...], *, bias: bool = True) -> None:
        """Want a weight, and its bias where there is one."""
        for part, of in (("weight", shape), ("bias", shape[:1])):
            if part == "weight" or bias:
                stored = f"{self._prefix}{theirs}.{part}"
                self._names[stored] = f"{ours}.{part}"
                self._shapes[stored] = of

    def words(self, sizes: dict[str, int], token_types: int) -> None:
        """Want the embeddings of words, and of token types where there are any."""
        hidden = sizes["hidden_size"]
        self.add(WORDS, WORDS, (sizes["vocab_size"], hidden), bias=False)
        if token_types:
            self.add(_TOKEN_TYPES, _TOKEN_TYPES, (token_types, hidden), bias=False)

    def read(self, halves: tuple[str, str, str] | None = None) -> Tensors:
        """Read all; `halves` names a matrix that is two of ours, one above the other."""
        stored = self._weights.read(self._shapes)
        tensors = {self._names[name]: stored[name] for name in self._shapes}
        # A text is a single segment: its token type is a constant that each word is added to.
        segments = tensors.pop(f"{_TOKEN_TYPES}.weight", None)
        if segments is not None:
            tensors[f"{WORDS}.weight"] = tensors[f"{WORDS}.weight"] + segments[0]
        if halves is not None:
            both, first, second = halves
            for name in list(tensors):
                stem, part = name.rsplit(".", 1)
                if stem.endswith(f".{both}"):
                    above, below = np.split(tensors.pop(name), 2)
                    layer = stem.removesuffix(both)
                    tensors[f"{layer}{first}.{part}"] = above
                    tensors[f"{layer}{second}.{part}"] = below
        return tensors


def _sizes(raw: dict[str, Any], path: Path) -> dict[str, int]:
    sizes = {
        ours: positive(raw, path, theirs)
        for ours, theirs in (
            ("hidden_size", "hidden_size"),
            ("inner", "intermediate_size"),
            ("heads", "num_attention_heads"),
            ("layers", "num_hidden_layers"),
            ("vocab_size", "vocab_size"),
            ("positions", "max_position_embeddings"),
        )
    }
    check_heads(path, sizes["hidden_size"], sizes["heads"])
    if sizes["hidden_size"] // sizes["heads"] % 2:
        raise CheckpointError(
            f"{path}: a head has {sizes['hidden_size'] // sizes['heads']} components, which cannot "
            "be turned in pairs"
        )
    return sizes


def _config(
    sizes: dict[str, int],
    epsilon: float,
    layers: tuple[RotaryLayer, ...],
    gate: Gate,
    *,
    pre_norm: bool,
) -> RotaryConfig:
    return RotaryConfig(
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["inner"],
        num_attention_heads=sizes["heads"],
        vocab_size=sizes["vocab_size"],
        max_position_embeddings=sizes["positions"],
        layer_norm_eps=epsilon,
        gate=gate,
        pre_norm=pre_norm,
        layers=layers,
    )


def _epsilon(raw: dict[str, Any], path: Path, key: str, default: float) -> float:
    value = raw.get(key, default)
    if not isinstance(value, float):
        raise CheckpointError(f"{path}: {key} is {value!r} but has to be a number")
    return value


def _object(raw: dict[str, Any], key: str, path: Path, within: str = "") -> dict[str, Any]:
    """Return settings in config.json that may be left out, or null."""
    value = raw.get(key)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"{path}: {within}{key} is {value!r} but has to be an object")
    return value or {}


def _frequencies(rope: dict[str, Any], theta: object, head: int, path: Path) -> tuple[float, ...]:
    """Return the angle of one position for each pair of components of a head."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", theta)
    if not isinstance(theta, int | float) or theta <= 0:
        raise CheckpointError(f"{path}: rope_theta is {theta!r} but has to be a positive number")
    factor = 1.0
    if kind == "ntk" and rope.get("mixed_b") is None:
        # A larger base for longer texts than those of the first training, fixed once.
        factor = rope.get("factor", 1.0)
        if not isinstance(factor, int | float) or factor < 1:
            raise CheckpointError(f"{path}: rope_scaling has factor {factor!r}; at least 1 it has")
    elif kind != "default":
        raise CheckpointError(
            f"{path}: rotary positions of the type {kind!r} are not supported; "
            "only default and ntk can be imported"
        )
    # In the precision of the library, so that long texts come out the same.
    exponents = np.arange(0, head, 2, dtype=np.float32) / np.float32(head)
    angles = np.float32(1.0) / np.float32(theta * factor) ** exponents
    angles = angles / np.float32(factor ** (2 / head))
    return tuple(float(angle) for angle in angles)
