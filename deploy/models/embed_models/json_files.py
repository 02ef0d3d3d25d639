"""Reads JSON objects out of a checkpoint directory with errors that name the file."""

import json
from pathlib import Path
from typing import Any

from embed_models.errors import CheckpointError


def read_json(path: Path) -> Any:
    """Return the parsed file, or raise `CheckpointError` when it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}); download the checkpoint again"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the parsed file, which has to hold a JSON object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object; download the checkpoint again")
    return value


def read_object_if_present(path: Path) -> dict[str, Any]:
    """Return the parsed file, or an empty object when there is no such file."""
    return read_object(path) if path.is_file() else {}
