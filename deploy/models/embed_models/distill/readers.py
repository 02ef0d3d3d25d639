"""The readers that `sources.toml` names, and the files they are given."""

from collections.abc import Iterator
from pathlib import Path

from embed_models.distill import documents, references
from embed_models.distill.manpages import read_licensed_manual_page, read_manual_page
from embed_models.distill.texts import Group

READERS = {
    **documents.READERS,
    "check": references.read_check,
    "command-help": references.read_command_help,
    "discovery": references.read_discovery,
    "doxygen": references.read_doxygen,
    "features": references.read_features,
    "licensed-manual-page": read_licensed_manual_page,
    "manual-page": read_manual_page,
    "resources": references.read_resources,
    "service-model": references.read_service_model,
    "translation": references.read_translation,
}


def read_files(paths: list[Path], reader: str) -> Iterator[Group]:
    """Yield the documents of files that a reader of `READERS` is for."""
    for path in paths:
        yield from READERS[reader](path)
