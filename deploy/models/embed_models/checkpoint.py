"""Reads a Hugging Face checkpoint directory, and refuses what the graph cannot reproduce.

Knows config.json, the weights and the README's licence. The files that sentence-transformers adds
are read by `sentence_config`, the weights by `weights`, the names that relatives of BERT have stand
in `families`, and encoders with rotary positions are read by `rotary`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embed_models.errors import CheckpointError
from embed_models.families import FAMILIES, Family
from embed_models.head import Head
from embed_models.json_files import read_object
from embed_models.metadata import Pooling
from embed_models.sentence_config import SentenceConfig, read_sentence_config, sequence_limit
from embed_models.weights import WEIGHTS, Weights
from embed_models.weights import Tensors as Tensors

RELATIVE_BIAS = "encoder.relative_attention_bias.weight"

_POSITIONS = "embeddings.position_embeddings.weight"
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"  # noqa: S105 - the name of a tensor
_MPNET_BUCKETS = 32

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
    # Rows of MPNet's table of biases by distance; 0: there is none.
    relative_attention_num_buckets: int = 0

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
        if self.relative_attention_num_buckets:
            buckets = (self.relative_attention_num_buckets, self.num_attention_heads)
            shapes[RELATIVE_BIAS] = buckets
        return shapes


@dataclass(frozen=True)
class EncoderFiles:
    """What any checkpoint has beside its network."""

    tokenizer: dict[str, Any]
    pooling: Pooling
    max_seq_length: int
    sentence: SentenceConfig
    license: str | None

    @property
    def head(self) -> Head:
        """The way from the states of tokens to the vector.

        Without a list of modules nothing says what to do with a vector's length: it becomes one.
        """
        normalize = self.sentence.normalizes or not self.sentence.has_modules
        return Head(self.pooling, self.sentence.dense, normalize=normalize)


@dataclass(frozen=True)
class Checkpoint(EncoderFiles):
    """A checkpoint of BERT, or of a relative, that has been read and found to be importable."""

    config: BertConfig
    tensors: Tensors


@dataclass(frozen=True)
class Layout:
    """How a checkpoint stores the network: the family's names, and where positions begin."""

    family: Family = FAMILIES["bert"]
    first_position: int = 0


def read_checkpoint(
    directory: Path, *, pooling: Pooling | None = None, max_seq_length: int | None = None
) -> Checkpoint:
    """Read a checkpoint; `pooling` and `max_seq_length` replace what its files say."""
    path = config_path(directory)
    config = read_config(path)
    files = read_files(
        directory,
        positions=config.max_position_embeddings,
        pooling=pooling,
        max_seq_length=max_seq_length,
    )
    return Checkpoint(
        config=config,
        tensors=read_tensors(directory / WEIGHTS, config, read_layout(path)),
        **vars(files),
    )


def config_path(directory: Path) -> Path:
    """Return config.json, having found the files that every checkpoint has."""
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            raise CheckpointError(_missing_file(directory, name))
    return directory / "config.json"


def read_files(
    directory: Path,
    *,
    positions: int,
    pooling: Pooling | None,
    max_seq_length: int | None,
    capped: bool = False,
) -> EncoderFiles:
    """Read what is beside the network; `positions` is the most tokens that it can take.

    Where they are `capped`, to fewer than the authors' code takes, what the files say beyond them
    is cut, and not refused.
    """
    sentence = read_sentence_config(directory, pooling)
    if sentence.pooling is None:
        raise CheckpointError(
            f"{directory} has no 1_Pooling/config.json; "
            "say how to pool the tokens with --pooling mean or --pooling cls"
        )
    return EncoderFiles(
        tokenizer=read_object(directory / "tokenizer.json"),
        pooling=sentence.pooling,
        max_seq_length=_max_seq_length(
            directory, positions, sentence, max_seq_length, capped=capped
        ),
        sentence=sentence,
        license=read_license(directory / "README.md"),
    )


def read_config(path: Path) -> BertConfig:
    """Read config.json and refuse what is no BERT, nor a relative, with exact GELU."""
    raw = read_object(path)
    family = _family(raw, path)
    refuse_unless(
        raw,
        path,
        {
            family.activation: ("gelu", "gelu"),
            "position_embedding_type": ("absolute", "absolute"),
            "is_decoder": (False, False),
            "add_cross_attention": (False, False),
        },
    )
    sizes = {ours: positive(raw, path, theirs) for ours, theirs in family.sizes.items()}
    sizes["type_vocab_size"] = positive(raw, path, "type_vocab_size") if family.token_types else 1
    sizes["max_position_embeddings"] -= _first_position(raw, path, family)
    if family.relative_bias:
        buckets = raw.get("relative_attention_num_buckets", _MPNET_BUCKETS)
        raw["relative_attention_num_buckets"] = buckets
        sizes["relative_attention_num_buckets"] = positive(
            raw, path, "relative_attention_num_buckets"
        )
    epsilon = family.layer_norm_eps or raw.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float):
        raise CheckpointError(f"{path}: layer_norm_eps is {epsilon!r} but has to be a number")
    config = BertConfig(layer_norm_eps=epsilon, **sizes)
    check_heads(path, config.hidden_size, config.num_attention_heads)
    return config


def read_layout(path: Path) -> Layout:
    """Read from config.json how the tensors are named and where positions begin."""
    raw = read_object(path)
    family = _family(raw, path)
    return Layout(family, _first_position(raw, path, family))


def read_tensors(path: Path, config: BertConfig, layout: Layout | None = None) -> Tensors:
    """Read the tensors of the encoder as float32; a pooler or a task head is left out.

    They come by BERT's names: without rows of the position table that no text uses, and with token
    types of zero where the family has none.
    """
    layout = layout or Layout()
    weights, family = Weights(path), layout.family
    prefix = weights.prefix("embeddings.word_embeddings.weight", family.prefixes)
    shapes, names = {}, {}
    for name, shape in config.tensor_shapes().items():
        if name == _TOKEN_TYPES and not family.token_types:
            continue
        if name == _POSITIONS:
            shape = (shape[0] + layout.first_position, *shape[1:])
        stored = _stored_name(prefix + family.stored(name), weights)
        names[stored], shapes[stored] = name, shape
    tensors = {names[stored]: tensor for stored, tensor in weights.read(shapes).items()}
    tensors[_POSITIONS] = tensors[_POSITIONS][layout.first_position :]
    if not family.token_types:
        tensors[_TOKEN_TYPES] = np.zeros((1, config.hidden_size), np.float32)
    # In the order of the network, whatever the order of the files.
    return {name: tensors[name] for name in config.tensor_shapes()}


def refuse_unless(
    raw: dict[str, Any], path: Path, wanted: dict[str, tuple[object, object]]
) -> None:
    """Refuse a config.json in which a key has another value; each comes with its default."""
    for key, (only, default) in wanted.items():
        value = raw.get(key, default)
        if value != only:
            raise CheckpointError(
                f"{path}: {key} {value!r} is not supported; only {only!r} can be imported"
            )


def positive(raw: dict[str, Any], path: Path, key: str) -> int:
    """Return a size in config.json."""
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{path}: {key} is {value!r} but has to be a positive integer")
    return value


def check_heads(path: Path, hidden_size: int, heads: int) -> None:
    """Refuse a hidden size that cannot be shared out among the heads."""
    if hidden_size % heads != 0:
        raise CheckpointError(
            f"{path}: hidden_size {hidden_size} is no multiple of num_attention_heads {heads}"
        )


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


def _family(raw: dict[str, Any], path: Path) -> Family:
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(
            f"{path}: model_type {model_type!r} is not supported; what can be imported is "
            f"{', '.join(FAMILIES)}, and encoders with rotary positions: modernbert, nomic_bert, "
            "gte (new)"
        )
    return FAMILIES[model_type]


def _first_position(raw: dict[str, Any], path: Path, family: Family) -> int:
    if not family.positions_follow_padding:
        return 0
    if family.padding_id is not None:
        return family.padding_id + 1
    padding = raw.get("pad_token_id", 1)
    positions = positive(raw, path, family.sizes["max_position_embeddings"])
    if (
        not isinstance(padding, int)
        or isinstance(padding, bool)
        or not 0 <= padding < positions - 1
    ):
        raise CheckpointError(
            f"{path}: pad_token_id is {padding!r} but has to be an integer from 0 to "
            f"{positions - 2}, below max_position_embeddings by two or more"
        )
    return padding + 1


def _stored_name(name: str, weights: Weights) -> str:
    for current, legacy in _LEGACY_NAMES.items():
        older = name.removesuffix(current) + legacy
        if name.endswith(current) and not weights.has(name) and weights.has(older):
            return older
    return name


def _missing_file(directory: Path, name: str) -> str:
    if name == "tokenizer.json":
        for other in ("vocab.txt", "vocab.json", "sentencepiece.bpe.model"):
            if (directory / other).is_file():
                return (
                    f"{directory} has {other} but no tokenizer.json; save the fast tokenizer "
                    "(`AutoTokenizer.from_pretrained(…).save_pretrained(…)`) into the directory"
                )
    return f"{directory} has no {name}; give the directory of a complete Hugging Face checkpoint"


def _max_seq_length(
    directory: Path,
    positions: int,
    sentence: SentenceConfig,
    override: int | None,
    *,
    capped: bool,
) -> int:
    # tokenizer.json has a truncation length too, but it is a leftover of whoever saved it last: for
    # all-MiniLM-L6-v2 it says 128 where the model's authors say 256.
    length = override or sentence.max_seq_length
    if length is None:
        said = sequence_limit(directory)
        length = min(said[0], positions) if said else positions
    elif capped and override is None:
        length = min(length, positions)
    # Two tokens are [CLS] and [SEP]; a limit that leaves none for the text is a mistake.
    if not 3 <= length <= positions:
        raise CheckpointError(
            f"a max_seq_length of {length} does not fit the model: it has to be from 3 to "
            f"{positions} (its positions, by config.json); set it with --max-seq-length"
        )
    return length
