"""Puts the student together: the teacher's embeddings, and the layers kept in this package.

Only the layers were trained, so only they are stored; the embeddings, three quarters of the
student, come from the teacher's own package. The result is an ordinary checkpoint directory.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embed_models.arithmetic import WORD_EMBEDDINGS
from embed_models.checkpoint import BertConfig, Tensors, read_config, read_tensors
from embed_models.errors import CheckpointError
from embed_models.four_bits import BLOCK, round_table
from embed_models.json_files import read_object
from embed_models.sentence_config import sequence_limit
from embed_models.sources import resolve_source

LAYERS = Path(__file__).parents[1] / "distilled" / "layers.safetensors"

# Keys of the metadata in the file of the layers.
TEACHER_KEY, EMBEDDINGS_KEY = "teacher", "teacher_embeddings_sha256"
# Whether the teacher's word embeddings were rounded; without it they are as they were.
WORDS_KEY, ROUNDED = "word_embeddings", f"4 bits, by row and block of {BLOCK}"

_EMBEDDINGS, _LAYER = "embeddings.", "encoder.layer."
_POSITIONS = "embeddings.position_embeddings.weight"
_LAYER_NUMBER = re.compile(r"encoder\.layer\.(\d+)\.")
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
# What is said of the layers, beside them, and its name in the checkpoint.
_ABOUT = {"CARD.md": "README.md", "NOTICE": "NOTICE", "sources.tsv": "sources.tsv"}
# For layers of which nothing is said: what they may be used for is for whoever trained them to say.
_CARD = """\
---
language: en
---

# Distilled {layers}-layer student of {teacher}

The embeddings are the teacher's; the layers were trained to reproduce its vectors. No licence is
stated, since nothing is known here of what they were trained on.
"""


def build_student(teacher: str, layers: Path, out: Path) -> Path:
    """Write the student's checkpoint directory to `out`, which must not exist, and return it.

    `teacher` is a SOURCE as `import` takes it. The same inputs always give the same bytes.
    """
    source = resolve_source(teacher, model_name=None, model_id=None)
    if out.exists():
        raise CheckpointError(f"{out} exists; give a directory that does not, or remove it")
    teacher_config = read_config(source.directory / "config.json")
    embeddings = {
        name: tensor
        for name, tensor in read_tensors(
            source.directory / "model.safetensors", teacher_config
        ).items()
        if name.startswith(_EMBEDDINGS)
    }
    trained, about = _read_layers(layers, teacher_config)
    if about[EMBEDDINGS_KEY] != embeddings_digest(embeddings):
        raise CheckpointError(
            f"{layers} was trained on the embeddings of {about[TEACHER_KEY]}, "
            f"and those of {teacher} differ; give that model as the teacher"
        )
    words = about.get(WORDS_KEY)
    if words not in (None, ROUNDED):
        raise CheckpointError(
            f"{layers} was trained on word embeddings in another form ({words}), which this "
            "version of embed-models does not know; take the one that made it"
        )
    if words == ROUNDED:
        embeddings |= rounded_words(embeddings)
    count = _count_layers(trained)
    # Those that no text reaches are not carried along.
    limit = sequence_limit(source.directory)
    positions = teacher_config.max_position_embeddings
    if limit:
        positions = min(positions, limit[0])
    embeddings[_POSITIONS] = embeddings[_POSITIONS][:positions]
    config = read_object(source.directory / "config.json")
    config |= {"num_hidden_layers": count, "max_position_embeddings": positions}

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        staged = Path(temporary) / out.name
        staged.mkdir()
        content = save(embeddings | trained, metadata={"format": "pt"})
        (staged / "model.safetensors").write_bytes(content)
        (staged / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        card = _CARD.format(layers=count, teacher=about[TEACHER_KEY])
        (staged / "README.md").write_text(card, encoding="utf-8")
        for name, copy in _ABOUT.items():
            if (layers.parent / name).is_file():
                shutil.copyfile(layers.parent / name, staged / copy)
        for name in _COPIED:
            if (source.directory / name).is_file():
                (staged / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source.directory / name, staged / name)
        staged.rename(out)
    return out


def save_layers(
    tensors: Tensors, path: Path, *, teacher: str, embeddings: Tensors, rounded: bool = True
) -> None:
    """Store trained layers (`encoder.layer.0...`) as float16, with whose embeddings they need.

    `rounded`: whether the word embeddings are those of `rounded_words`.
    """
    about = {TEACHER_KEY: teacher, EMBEDDINGS_KEY: embeddings_digest(embeddings)}
    if rounded:
        about[WORDS_KEY] = ROUNDED
    path.write_bytes(save(_halves(tensors), metadata=about))


def average_layers(paths: Sequence[Path], out: Path) -> None:
    """Store the mean of the layers of several trainings, which began with the same ones.

    Each of them ends beside where the loss is least, in another direction, and their mean can be
    nearer to it than any of them while they are near each other. That they began with the same
    layers is not seen in the files.
    """
    trained = [_open_layers(path) for path in paths]
    (first, about), *others = trained
    for path, (tensors, said) in zip(paths[1:], others, strict=True):
        if _shapes(tensors) != _shapes(first) or said != about or TEACHER_KEY not in about:
            raise CheckpointError(
                f"{path} holds layers of another shape or teacher than {paths[0]}; "
                "give files of trainings that began with the same layers"
            )
    mean: Tensors = {
        name: np.asarray(
            np.mean([tensors[name] for tensors, _ in trained], axis=0, dtype=np.float32)
        )
        for name in first
    }
    out.write_bytes(save(_halves(mean), metadata=about))


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _halves(tensors: Tensors) -> dict[str, NDArray[np.float16]]:
    halves: dict[str, NDArray[np.float16]] = {}
    for name, tensor in sorted(tensors.items()):
        with np.errstate(over="ignore"):
            halves[name] = tensor.astype(np.float16)
        if not np.isfinite(halves[name]).all():
            raise CheckpointError(f"{name} has values that float16 cannot hold")
    return halves


def rounded_words(tensors: Tensors) -> Tensors:
    """Return the word embeddings as a student has them, by their name.

    Of what float16 holds, so that they do not change when a checkpoint is stored in half precision.
    """
    name = f"{WORD_EMBEDDINGS}.weight"
    return {name: round_table(tensors[name].astype("<f2").astype(np.float32)).dequantized()}


def embeddings_digest(tensors: Tensors) -> str:
    """Return the SHA-256 of a model's embedding tables and their LayerNorm, rounded to float16.

    Rounded, so that it does not change when a checkpoint is stored in half precision.
    """
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if name.startswith(_EMBEDDINGS)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], dtype="<f2").tobytes())
    return digest.hexdigest()


def _count_layers(tensors: Tensors) -> int:
    numbers = [int(match[1]) for name in tensors if (match := _LAYER_NUMBER.match(name))]
    return 1 + max(numbers, default=0)


def _open_layers(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            return {
                name: file.get_tensor(name).astype(np.float32) for name in sorted(file.keys())
            }, about
    except (SafetensorError, FileNotFoundError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); give the file that a training wrote, "
            "or the one of the repository"
        ) from error


def _read_layers(path: Path, teacher: BertConfig) -> tuple[Tensors, dict[str, str]]:
    tensors, about = _open_layers(path)
    expected = replace(teacher, num_hidden_layers=_count_layers(tensors)).tensor_shapes()
    shapes = {name: shape for name, shape in expected.items() if name.startswith(_LAYER)}
    found = _shapes(tensors)
    if found != shapes or not {TEACHER_KEY, EMBEDDINGS_KEY} <= about.keys():
        odd = min((name for name, _ in found.items() ^ shapes.items()), default="its metadata")
        raise CheckpointError(
            f"{path} holds no trained layers for this teacher: {odd} does not fit; "
            "give the file that the training wrote"
        )
    return tensors, about
