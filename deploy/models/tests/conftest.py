"""Fixtures that several test modules share."""

from pathlib import Path

import pytest
from tiny_bert import write_checkpoint


@pytest.fixture
def checkpoint_dir(tmp_path: Path) -> Path:
    """A tiny importable checkpoint, in a directory that the test may change."""
    directory = tmp_path / "tiny-bert"
    write_checkpoint(directory)
    return directory
