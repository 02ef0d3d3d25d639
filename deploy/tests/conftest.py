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

pytest_plugins = ["live"]


def program(name: str, folder: str = "prometheus/bin", script: str = "prometheus/get.sh") -> Path:
    """A program that a script has put below `build`, or of the PATH.

    Without it tests are skipped, not in CI.
    """
    ours = ROOT / "build" / folder / name
    found = str(ours) if ours.exists() else shutil.which(name)
    if found is None:
        reason = f"{name} is not here: deploy/{script}"
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


@pytest.fixture(scope="session")
def chromium() -> Path:
    return program("chromium", "chromium", "tests/chromium.sh")
