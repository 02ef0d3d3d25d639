"""Reads the tensors of a checkpoint directory: one file of safetensors, or shards with an index."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from embed_models.errors import CheckpointError
from embed_models.json_files import read_object

Tensors = dict[str, NDArray[np.float32]]

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
_PICKLED = "pytorch_model.bin"
_FLOATING_DTYPES = ("F64", "F32", "F16", "BF16")


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold the tensors of `path`, a model.safetensors that may be sharded."""
    if path.is_file():
        return [path]
    index = path.with_name(_INDEX)
    if index.is_file():
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{index} has no weight_map; download the checkpoint again")
        names = sorted({str(name) for name in shards.values()})
        for name in names:
            # A shard lies beside the index, and nowhere else.
            if Path(name).name != name or not (path.parent / name).is_file():
                raise CheckpointError(
                    f"{index} names {name}, which is not there; download the checkpoint again"
                )
        return [path.parent / name for name in names]
    if path.with_name(_PICKLED).is_file():
        raise CheckpointError(
            f"{path.parent} has {_PICKLED} but no {path.name}; reading a pickle runs what is in "
            "it, so save the checkpoint in the safetensors format "
            "(`save_pretrained` of a current transformers does)"
        )
    raise CheckpointError(
        f"{path.parent} has no {path.name}; give the directory of a complete Hugging Face "
        "checkpoint"
    )


def digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that holds tensors, by its name."""
    found = {}
    for file in weight_files(path):
        with file.open("rb") as stream:
            found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


class Weights:
    """The tensors of a checkpoint by name, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file_of: dict[str, Path] = {}
        for file in weight_files(path):
            try:
                with safe_open(file, framework="np") as opened:
                    self._file_of.update(dict.fromkeys(opened.keys(), file))
            except SafetensorError as error:
                raise _unreadable(file, error) from error

    def has(self, name: str) -> bool:
        return name in self._file_of

    def prefix(self, name: str, prefixes: tuple[str, ...]) -> str:
        """Return the prefix under which a tensor is stored; a model with a task head has one."""
        return next((prefix for prefix in prefixes if self.has(prefix + name)), "")

    def read(self, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
        """Read tensors as float32 by the names that they are stored under; all have to be there."""
        tensors: Tensors = {}
        by_file: dict[Path, list[str]] = {}
        for name in shapes:
            if name not in self._file_of:
                raise CheckpointError(
                    f"{self.path} lacks the tensor {name}; "
                    "it does not belong to the config.json beside it"
                )
            by_file.setdefault(self._file_of[name], []).append(name)
        for path, names in by_file.items():
            try:
                with safe_open(path, framework="np") as file:
                    for name in names:
                        tensors[name] = _read_one(path, file, name, shapes[name])
            except SafetensorError as error:
                raise _unreadable(path, error) from error
        return tensors


def _read_one(path: Path, file: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    entry = file.get_slice(name)
    if entry.get_dtype() not in _FLOATING_DTYPES:
        raise CheckpointError(
            f"{path}: {name} is stored as {entry.get_dtype()}; import the unquantized checkpoint"
        )
    if tuple(entry.get_shape()) != shape:
        raise CheckpointError(
            f"{path}: {name} has the shape {tuple(entry.get_shape())}, "
            f"but by config.json it has to be {shape}"
        )
    tensor: NDArray[np.float32] = file.get_tensor(name).astype(np.float32, copy=False)
    if not np.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name} has values that are not finite; download it again")
    return tensor


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({error}); download the checkpoint again")
