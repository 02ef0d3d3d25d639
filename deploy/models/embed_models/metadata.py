"""The shape of metadata.json, which describes one registry version to the worker."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class FileRef:
    """A file of the version, with what is needed to prove that it arrived intact."""

    file: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileRef":
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        return cls(file=path.name, bytes=path.stat().st_size, sha256=digest.hexdigest())


@dataclass(frozen=True)
class Artefact:
    """One ONNX file: a precision in one graph form."""

    precision: str
    form: str
    file: str
    bytes: int
    sha256: str
    quantization: dict[str, Any] | None = None
    performance: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None

    @classmethod
    def of(cls, path: Path, *, precision: str, form: str) -> "Artefact":
        ref = FileRef.of(path)
        return cls(
            precision=precision, form=form, file=ref.file, bytes=ref.bytes, sha256=ref.sha256
        )


@dataclass(frozen=True)
class Metadata:
    """The whole of metadata.json; the order of the fields is the order in the file."""

    model_name: str
    slug: str
    model_id: str
    version: str
    dimension: int
    max_seq_length: int
    pooling: Pooling
    normalized: bool
    dimensions: list[int]
    prompts: dict[str, str]
    space: str
    tokenizer: FileRef
    golden: FileRef
    artefacts: list[Artefact]
    license: str | None
    created_at: str

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"
