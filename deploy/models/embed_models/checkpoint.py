"""Reads a Hugging Face BERT checkpoint directory, and refuses what the graph cannot reproduce.

Knows config.json, model.safetensors, tokenizer.json and the README's licence; the files that
sentence-transformers adds are read by `sentence_config`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from embed_models.errors import CheckpointError
from embed_models.json_files import read_object
from embed_models.metadata import Pooling
from embed_models.sentence_config import SentenceConfig, read_sentence_config

Tensors = dict[str, NDArray[np.float32]]

_FLOATING_DTYPES = ("F64", "F32", "F16", "BF16")

# Checkpoints converted from TensorFlow, bert-base-uncased among them, keep its names.
_LEGACY_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@dataclass(frozen=True)
class BertConfig:
    """The part of config.json that determines the encoder."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor of the encoder, by its name without a `bert.` prefix."""
        hidden, inner = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab_size, hidden),
            "embeddings.position_embeddings.weight": (self.max_position_embeddings, hidden),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, hidden),
            "embeddings.LayerNorm.weight": (hidden,),
            "embeddings.LayerNorm.bias": (hidden,),
        }
        for layer in range(self.num_hidden_layers):
            prefix = f"encoder.layer.{layer}."
            for name, rows, columns in (
                ("attention.self.query", hidden, hidden),
                ("attention.self.key", hidden, hidden),
                ("attention.self.value", hidden, hidden),
                ("attention.output.dense", hidden, hidden),
                ("intermediate.dense", inner, hidden),
                ("output.dense", hidden, inner),
            ):
                shapes[f"{prefix}{name}.weight"] = (rows, columns)
                shapes[f"{prefix}{name}.bias"] = (rows,)
            for name in ("attention.output.LayerNorm", "output.LayerNorm"):
                shapes[f"{prefix}{name}.weight"] = (hidden,)
                shapes[f"{prefix}{name}.bias"] = (hidden,)
        return shapes


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and found to be importable."""

    config: BertConfig
    tensors: Tensors
    tokenizer: dict[str, Any]
    pooling: Pooling
    max_seq_length: int
    sentence: SentenceConfig
    license: str | None


def read_checkpoint(
    directory: Path, *, pooling: Pooling | None = None, max_seq_length: int | None = None
) -> Checkpoint:
    """Read a checkpoint; `pooling` and `max_seq_length` replace what its files say."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (directory / name).is_file():
            raise CheckpointError(_missing_file(directory, name))
    config = read_config(directory / "config.json")
    sentence = read_sentence_config(directory, pooling)
    if sentence.pooling is None:
        raise CheckpointError(
            f"{directory} has no 1_Pooling/config.json; "
            "say how to pool the tokens with --pooling mean or --pooling cls"
        )
    return Checkpoint(
        config=config,
        tensors=read_tensors(directory / "model.safetensors", config),
        tokenizer=read_object(directory / "tokenizer.json"),
        pooling=sentence.pooling,
        max_seq_length=_max_seq_length(config, sentence, max_seq_length),
        sentence=sentence,
        license=read_license(directory / "README.md"),
    )


def read_config(path: Path) -> BertConfig:
    """Read config.json and refuse every architecture but a BERT encoder with exact GELU."""
    raw = read_object(path)
    for key, wanted, default in (
        ("model_type", "bert", None),
        ("hidden_act", "gelu", "gelu"),
        ("position_embedding_type", "absolute", "absolute"),
        ("is_decoder", False, False),
        ("add_cross_attention", False, False),
    ):
        value = raw.get(key, default)
        if value != wanted:
            raise CheckpointError(
                f"{path}: {key} {value!r} is not supported; only {wanted!r} can be imported"
            )
    sizes = {}
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
    ):
        value = raw.get(name)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{path}: {name} is {value!r} but has to be a positive integer")
        sizes[name] = value
    epsilon = raw.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float):
        raise CheckpointError(f"{path}: layer_norm_eps is {epsilon!r} but has to be a number")
    config = BertConfig(layer_norm_eps=epsilon, **sizes)
    if config.hidden_size % config.num_attention_heads != 0:
        raise CheckpointError(
            f"{path}: hidden_size {config.hidden_size} is no multiple of "
            f"num_attention_heads {config.num_attention_heads}"
        )
    return config


def read_tensors(path: Path, config: BertConfig) -> Tensors:
    """Read the tensors of the encoder as float32; a pooler or a task head is left out."""
    tensors: Tensors = {}
    try:
        with safe_open(path, framework="np") as file:
            stored = set(file.keys())
            prefix = "bert." if "bert.embeddings.word_embeddings.weight" in stored else ""
            for name, shape in config.tensor_shapes().items():
                key = _stored_name(prefix + name, stored)
                if key is None:
                    raise CheckpointError(
                        f"{path} lacks the tensor {prefix}{name}; "
                        "it does not belong to the config.json beside it"
                    )
                entry = file.get_slice(key)
                if entry.get_dtype() not in _FLOATING_DTYPES:
                    raise CheckpointError(
                        f"{path}: {key} is stored as {entry.get_dtype()}; "
                        "import the unquantized checkpoint"
                    )
                if tuple(entry.get_shape()) != shape:
                    raise CheckpointError(
                        f"{path}: {key} has the shape {tuple(entry.get_shape())}, "
                        f"but by config.json it has to be {shape}"
                    )
                tensors[name] = file.get_tensor(key).astype(np.float32, copy=False)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); download the checkpoint again"
        ) from error
    return tensors


def read_license(readme: Path) -> str | None:
    """Return `license` from the front matter of a model card, or None when it names none."""
    if not readme.is_file():
        return None
    text = readme.read_text(encoding="utf-8", errors="replace")
    front_matter = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if front_matter is None:
        return None
    # `other` is what the hub takes for licences that it has no name for; `license_name` has theirs.
    found = dict(
        re.findall(r"^(license|license_name):[ \t]*([^\s#]+)", front_matter[1], re.MULTILINE)
    )
    named = {key: value.strip("\"'") for key, value in found.items()}
    license_name = named.get("license")
    return named.get("license_name", license_name) if license_name == "other" else license_name


def _stored_name(name: str, stored: set[str]) -> str | None:
    if name in stored:
        return name
    for current, legacy in _LEGACY_NAMES.items():
        if name.endswith(current) and name.removesuffix(current) + legacy in stored:
            return name.removesuffix(current) + legacy
    return None


def _missing_file(directory: Path, name: str) -> str:
    if name == "model.safetensors":
        if (directory / "model.safetensors.index.json").is_file():
            return f"{directory} holds a sharded checkpoint; save it as one model.safetensors"
        if (directory / "pytorch_model.bin").is_file():
            return (
                f"{directory} has pytorch_model.bin but no model.safetensors; "
                "save the checkpoint in the safetensors format"
            )
    if name == "tokenizer.json" and (directory / "vocab.txt").is_file():
        return (
            f"{directory} has vocab.txt but no tokenizer.json; "
            "save the fast tokenizer (BertTokenizerFast) into the directory"
        )
    return f"{directory} has no {name}; give the directory of a complete Hugging Face checkpoint"


def _max_seq_length(config: BertConfig, sentence: SentenceConfig, override: int | None) -> int:
    # tokenizer.json has a truncation length too, but it is a leftover of whoever saved it last: for
    # all-MiniLM-L6-v2 it says 128 where the model's authors say 256.
    limit = config.max_position_embeddings
    length = override or sentence.max_seq_length or limit
    # Two tokens are [CLS] and [SEP]; a limit that leaves none for the text is a mistake.
    if not 3 <= length <= limit:
        raise CheckpointError(
            f"a max_seq_length of {length} does not fit the model: it has to be from 3 to {limit} "
            "(max_position_embeddings in config.json); set it with --max-seq-length"
        )
    return length
