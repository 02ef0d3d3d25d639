"""The client in TypeScript, by Node.js's own test runner, against the same stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT

TYPESCRIPT = ROOT / "deploy/clients/typescript"


def test_the_client_in_typescript(url: str) -> None:
    node = Path(sys.executable).parent
    if not (TYPESCRIPT / "node_modules").exists():
        pytest.fail("node_modules is missing: run `make test-clients`, which fetches it")
    done = subprocess.run(
        [str(node / "npm"), "test"],
        cwd=TYPESCRIPT,
        env=os.environ | {"EMBED_NATS_URL": url, "PATH": f"{node}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"pass (\d+)", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 15, done.stdout
