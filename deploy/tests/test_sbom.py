"""The bill of materials names what the programs are made of, all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

from conftest import DEPLOY, ROOT
from processes import run


def test_it_names_every_crate_of_the_lock_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "embed.cdx.json"
    syft = ROOT / "build" / "deploy-venv" / "bin" / "syft"
    run([str(DEPLOY / "docker" / "release.sh"), "sbom", str(file)], {"EMBED_SYFT": str(syft)})
    made = json.loads(file.read_text(encoding="utf-8"))
    assert made["bomFormat"] == "CycloneDX"
    assert made["metadata"]["component"]["name"] == "akidb-embed"
    purls = {unquote(component.get("purl", "")) for component in made["components"]}
    lock = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    crates = re.findall(r'^name = "(.+)"\nversion = "(.+)"$', lock, re.MULTILINE)
    assert len(crates) > 100
    assert {f"pkg:cargo/{name}@{version}" for name, version in crates} <= purls
