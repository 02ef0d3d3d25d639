"""Reads and writes files of texts: JSON lines with a `text`, compressed or not, or plain lines.

The frozen texts are data of this package; `data_dir` finds them.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_models.errors import CorpusError

CALIBRATION = "calibration.jsonl.gz"
HELD_OUT = "held-out.jsonl.gz"
BY_KIND = "by-kind.jsonl.gz"

# Tokens of the texts by kind.
LENGTHS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Texts:
    """Texts, with the name and the digest under which results quote them."""

    name: str
    sha256: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class HeldOut:
    """Texts to validate with; the n-th query asks for the n-th document."""

    name: str
    sha256: str
    sentences: tuple[str, ...]
    queries: tuple[str, ...]
    documents: tuple[str, ...]

    def first(self, count: int) -> "HeldOut":
        """Return a smaller set, with at most `count` texts of each kind."""
        if count >= max(len(self.sentences), len(self.queries)):
            return self
        return HeldOut(
            name=f"{self.name} (first {count} of each kind)",
            sha256=self.sha256,
            sentences=self.sentences[:count],
            queries=self.queries[:count],
            documents=self.documents[:count],
        )


@dataclass(frozen=True)
class KindText:
    """A text of a kind, cut to a number of tokens at most."""

    kind: str
    tokens: int
    text: str


@dataclass(frozen=True)
class ByKind:
    """Texts of kinds that are neither calibrated with nor in the held-out set."""

    name: str
    sha256: str
    items: tuple[KindText, ...]

    def first(self, count: int) -> "ByKind":
        """Return a smaller set, with at most `count` texts of each kind and length."""
        seen: Counter[tuple[str, int]] = Counter()
        items = []
        for item in self.items:
            seen[item.kind, item.tokens] += 1
            if seen[item.kind, item.tokens] <= count:
                items.append(item)
        if len(items) == len(self.items):
            return self
        name = f"{self.name} (first {count} of each kind and length)"
        return ByKind(name=name, sha256=self.sha256, items=tuple(items))


def data_dir() -> Path:
    """Return the directory of the frozen texts, which is installed with the package."""
    return Path(__file__).parents[1] / "data"


def read_texts(path: Path) -> Texts:
    """Read calibration texts; rows that are empty are an error, as they are in an API call."""
    rows = read_rows(path)
    items = tuple(row["text"] for row in rows)
    if not items:
        raise CorpusError(f"{path} has no texts; calibration needs some, 10,000 are usual")
    return Texts(name=path.name, sha256=_sha256(path), items=items)


def read_held_out(path: Path) -> HeldOut:
    """Read texts to validate with."""
    rows = read_rows(path)
    kinds = {
        kind: tuple(row["text"] for row in rows if row.get("kind") == kind)
        for kind in ("sentence", "query", "document")
    }
    if not kinds["query"] or len(kinds["query"]) != len(kinds["document"]):
        raise CorpusError(
            f"{path} has {len(kinds['query'])} rows of the kind `query` and "
            f"{len(kinds['document'])} of the kind `document`; each query needs its document"
        )
    return HeldOut(
        name=path.name,
        sha256=_sha256(path),
        sentences=kinds["sentence"],
        queries=kinds["query"],
        documents=kinds["document"],
    )


def read_by_kind(path: Path) -> ByKind:
    """Read texts by kind and length."""
    rows = read_rows(path)
    items = []
    for row in rows:
        kind, tokens = row.get("kind"), row.get("tokens")
        if not isinstance(kind, str) or tokens not in LENGTHS:
            raise CorpusError(
                f"{path} has a row without `kind`, or whose `tokens` is not one of {LENGTHS}"
            )
        items.append(KindText(kind, int(tokens), row["text"]))
    return ByKind(name=path.name, sha256=_sha256(path), items=tuple(items))


def write_rows(path: Path, rows: Iterable[Mapping[str, str | int]]) -> None:
    """Write JSON lines, compressed; the same rows always give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(content.encode(), compresslevel=9, mtime=0))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file of texts with all that they say; each has a `text`."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist; give a file of texts, one a line") from None
    try:
        content = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); it has to be UTF-8 text") from error
    plain = ".jsonl" not in path.suffixes
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        row = {"text": line} if plain else _json_row(path, number, line)
        if not row["text"].strip():
            raise CorpusError(f"{path}:{number}: `text` is empty; remove the row")
        rows.append(row)
    return rows


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CorpusError(f"{path}:{number}: not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise CorpusError(f'{path}:{number}: not an object with a string `text`, as {{"text":"…"}}')
    return row


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
