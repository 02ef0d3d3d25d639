"""A model registry in a local directory.

A version is written into a hidden directory beside its place and moved there in one step, so that a
reader sees all of it or nothing. Once published it never changes. The pointer current.json is
replaced in one step too, and keeps the history of where it pointed.

`embed-worker models` writes to the same directories (`schemas/registry`): both move the pointer
under the same lock, and both leave alone what the other is publishing.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embed_models.errors import RegistryError, UsageError
from embed_models.golden import equivalent
from embed_models.limits import MOVES_KEPT

METADATA = "metadata.json"
TOKENIZER = "tokenizer.json"
GOLDEN = "golden.json"
CURRENT = "current.json"
# Who moves the pointer holds the lock of the first file, and with it owns the name of the second.
# The worker's names, see `schemas/registry/src/pointer.rs`.
_POINTER_LOCK, _POINTER_PARTIAL = f".{CURRENT}.lock", f".{CURRENT}.partial"
# The lock is held for as long as it takes to write one small file.
_LONGEST_LOCK_SECONDS, _RETRY_SECONDS = 10.0, 0.02
# In a version's directory: a worker's command is publishing it, or was stopped while it did.
_UPLOAD = ".upload.json"

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# `current` is what a worker's configuration says to follow the pointer.
_RESERVED_VERSIONS = ("current", CURRENT)

# Facts about one import, which two imports of the same content need not share: its time, and the
# digest of the golden vectors, whose last bits depend on the processor.
_IMPORT_SPECIFIC = ("created_at", "golden")


def check_version(version: str) -> str:
    """Return the version if it can be one, or raise `UsageError`."""
    if not _VERSION.fullmatch(version) or version in _RESERVED_VERSIONS:
        raise UsageError(
            f"{version!r} cannot be a version; it takes letters, digits, '.', '_' and '-', "
            "such as v1.0.0"
        )
    return version


class Registry:
    """The models below one root directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def model_dir(self, slug: str) -> Path:
        return self._root / "models" / slug

    def version_dir(self, slug: str, version: str) -> Path:
        return self.model_dir(slug) / version

    def check_name(self, slug: str, model_name: str) -> None:
        """Refuse a model whose slug another model already has."""
        for path in sorted(self.model_dir(slug).glob(f"[!.]*/{METADATA}")):
            other = _read_json(path).get("model_name")
            if other != model_name:
                raise RegistryError(
                    f"{model_name!r} and {other!r} in the registry share the slug {slug!r}; "
                    "give one of them another --name"
                )

    def current_versions(self) -> list[Path]:
        """Return the directories that the pointers of all models point at."""
        pointers = sorted(self._root.glob(f"models/*/{CURRENT}"))
        return [pointer.parent / _read_json(pointer)["version"] for pointer in pointers]

    @contextmanager
    def staging(self, slug: str, version: str) -> Iterator[Path]:
        """Yield an empty directory to write a version into; it goes away unless published."""
        parent = self.model_dir(slug)
        parent.mkdir(parents=True, exist_ok=True)
        staged = parent / f".{version}.{secrets.token_hex(4)}.partial"
        staged.mkdir()
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def publish(self, staged: Path, slug: str, version: str) -> bool:
        """Move a staged version to its place.

        Returns False when the same content is there already, and raises `RegistryError` when the
        place is taken by other content.
        """
        for path in sorted(staged.iterdir()):
            _sync(path)
        _sync(staged)
        place = self.version_dir(slug, version)
        try:
            # On POSIX a directory is never renamed over one that holds files, which makes this the
            # test and the act at once, even between two importers.
            staged.rename(place)
        except OSError:
            if not place.is_dir():
                raise
            if not (place / METADATA).exists():
                raise RegistryError(
                    f"{place} is not whole: somebody is publishing it, or was stopped doing so; "
                    "try again later, or clear it away with `embed-worker models gc`"
                ) from None
            difference = _first_difference(staged, place)
            if difference is None:
                return False
            raise RegistryError(
                f"{place} is published and its {difference} differs from the new one; "
                "a published version never changes, so import under another --version"
            ) from None
        _sync(place.parent)
        return True

    def set_current(self, slug: str, version: str, *, who: str, when: str) -> bool:
        """Point current.json at a version; returns False when it points there already.

        Under the lock that every writer takes, so that no move of another is lost.
        """
        path = self.model_dir(slug) / CURRENT
        with _locked(path.with_name(_POINTER_LOCK)):
            pointer = _read_json(path) if path.exists() else {}
            before = pointer.get("version")
            if before == version:
                return False
            step = {"from": before, "to": version, "who": who, "when": when}
            history = [*pointer.get("history", []), step][-MOVES_KEPT:]
            moved = {"version": version, "history": history}
            partial = path.with_name(_POINTER_PARTIAL)
            with os.fdopen(_open_to_write(partial, os.O_TRUNC), "w", encoding="utf-8") as file:
                file.write(json.dumps(moved, indent=2, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _sync(path.parent)
        return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, as the worker's commands take it: flock, exclusive, never for long."""
    descriptor = _open_to_write(path)
    try:
        end = time.monotonic() + _LONGEST_LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise RegistryError(
                        f"{path} has been locked by another process for "
                        f"{_LONGEST_LOCK_SECONDS:.0f} s; find out what holds it, and try again"
                    ) from None
                time.sleep(_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _open_to_write(path: Path, flags: int = 0) -> int:
    """Open a file that may be made, through no link: another may own the directory."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o666)


def _first_difference(new: Path, old: Path) -> str | None:
    """Return the name of the first file in which two versions differ, or None."""
    names = {path.name for directory in (new, old) for path in directory.iterdir()}
    for name in sorted(names - {_UPLOAD}):
        left, right = new / name, old / name
        if not left.is_file() or not right.is_file() or not _same_content(left, right):
            return name
    return None


def _same_content(left: Path, right: Path) -> bool:
    a, b = left.read_bytes(), right.read_bytes()
    try:
        if left.name == METADATA:
            return _comparable(a) == _comparable(b)
        if left.name == GOLDEN:
            return equivalent(a, b)
    except (ValueError, LookupError, TypeError, AttributeError):
        # The published file is damaged; whatever it holds, it is not the same.
        return False
    return a == b


def _comparable(metadata: bytes) -> dict[str, Any]:
    return {k: v for k, v in json.loads(metadata).items() if k not in _IMPORT_SPECIFIC}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RegistryError(f"{path} is not valid JSON ({error}); restore it") from error
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
