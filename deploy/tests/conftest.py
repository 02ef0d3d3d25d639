"""Where things are, and what the tests start."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
sys.path.insert(0, str(DEPLOY / "grafana"))


def program(name: str) -> Path:
    """A program of `build/prometheus`, or of the PATH. Without it tests are skipped, not in CI."""
    ours = ROOT / "build" / "prometheus" / "bin" / name
    found = str(ours) if ours.exists() else shutil.which(name)
    if found is None:
        reason = f"{name} is not here: deploy/prometheus/get.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)


@pytest.fixture(scope="session")
def promtool() -> Path:
    return program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    return program("prometheus")
