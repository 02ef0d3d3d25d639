"""The shape of metadata.json, which describes one registry version to the worker."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from embed_models.errors import RegistryError

Pooling = Literal["mean", "cls", "max", "weightedmean", "last"]


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
    # Name of the prompt for texts that come with none.
    default_prompt: str | None = None
    # Where the weights came from: {"source", "revision", "sha256": {file: digest}}.
    weights: dict[str, Any] | None = None
    # The weights are random: the architecture is right, the vectors mean nothing.
    random_weights: bool = False
    # The recipe of the model whose vectors this one was trained to.
    teacher: str | None = None

    def to_json(self) -> str:
        fields = dataclasses.asdict(self)
        # Rare; left out, they keep a plain import what it has always been.
        for name in ("default_prompt", "weights", "random_weights", "teacher"):
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Metadata":
        """Read a metadata.json that this package has written."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            refs = {name: FileRef(**raw[name]) for name in ("tokenizer", "golden")}
            artefacts = [Artefact(**artefact) for artefact in raw["artefacts"]]
            return cls(**raw | refs | {"artefacts": artefacts})
        except FileNotFoundError:
            raise RegistryError(
                f"{path.parent} has no {path.name}; give the directory of a version"
            ) from None
        except (ValueError, TypeError, LookupError) as error:
            raise RegistryError(f"{path} is no metadata of a version ({error!r})") from error
