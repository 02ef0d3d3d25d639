"""Copies a version of a model under another number, with graphs of other bytes and the same values.

A worker shares what versions have in common. To see what loading one beside another costs, the two
must have nothing in common.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

# `producer_version` of an ONNX model, a string: the last one of a message counts.
PRODUCER_VERSION = 3 << 3 | 2


def other_bytes(graph: bytes, version: str) -> bytes:
    """Return the same graph, made by another version of its maker."""
    text = version.encode()
    return graph + bytes([PRODUCER_VERSION, len(text)]) + text


def copy(folder: Path, out: Path) -> None:
    """Copy the version in `folder` to `out`, whose name is the new version."""
    metadata: dict[str, Any] = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    metadata["version"] = out.name
    out.mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix != ".onnx":
            shutil.copy(file, out / file.name)
    for artefact in metadata["artefacts"]:
        graph = other_bytes((folder / artefact["file"]).read_bytes(), out.name)
        (out / artefact["file"]).write_bytes(graph)
        artefact |= {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    (out / "metadata.json").write_text(json.dumps(metadata, indent=1), encoding="utf-8")


def main() -> None:
    """Copy one version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="VERSION_DIR")
    parser.add_argument("out", type=Path, metavar="NEW_VERSION_DIR")
    arguments = parser.parse_args()
    copy(arguments.folder, arguments.out)


if __name__ == "__main__":
    main()
