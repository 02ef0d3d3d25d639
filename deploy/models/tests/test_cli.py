"""The command line end to end on a tiny checkpoint: files, messages, exit codes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_bert import encode
from tiny_bert import BERT_CONFIG, CONFIG, random_tensors, write_json

from embed_models.cli import main
from embed_models.golden import TEXTS, decode_vector
from embed_models.metadata import FileRef
from embed_models.tokenizer import load_tokenizer


def run_import(source: Path, registry: Path, *options: str) -> int:
    return main(["import", str(source), "--registry", str(registry), *options])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_import(checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_import(checkpoint_dir, tmp_path / "registry", "--model-id", "org/Tiny.Bert") == 0
    model = tmp_path / "registry" / "models" / "tiny-bert"
    version = model / "v1.0.0"
    metadata = read(version / "metadata.json")
    assert list(metadata) == [
        "model_name", "slug", "model_id", "version", "dimension", "max_seq_length", "pooling",
        "normalized", "dimensions", "prompts", "space", "tokenizer", "golden", "artefacts",
        "license", "created_at", "weights",
    ]  # fmt: skip
    assert metadata["model_name"] == "Tiny.Bert"
    assert metadata["slug"] == "tiny-bert"
    assert metadata["model_id"] == "org/Tiny.Bert"
    assert metadata["dimension"] == 32
    assert metadata["license"] == "mit"
    (artefact,) = metadata["artefacts"]
    assert (artefact["precision"], artefact["form"]) == ("fp32", "contrib")
    for described in (artefact, metadata["tokenizer"], metadata["golden"]):
        ref = FileRef.of(version / described["file"])
        assert (described["bytes"], described["sha256"]) == (ref.bytes, ref.sha256)
    current = read(model / "current.json")
    assert current["version"] == "v1.0.0"
    assert [step["to"] for step in current["history"]] == ["v1.0.0"]

    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1] == "imported Tiny.Bert v1.0.0 as tiny-bert"


def test_golden_vectors(checkpoint_dir: Path, tmp_path: Path) -> None:
    assert run_import(checkpoint_dir, tmp_path) == 0
    version = tmp_path / "models" / "tiny-bert" / "v1.0.0"
    golden = read(version / "golden.json")
    assert golden["tolerance"] == 1e-4
    assert [item["text"] for item in golden["items"]] == list(TEXTS)
    assert {item["truncated"] for item in golden["items"]} == {True, False}
    tokenizer = load_tokenizer((version / "tokenizer.json").read_text(encoding="utf-8"))
    for item in golden["items"]:
        ids = tokenizer.encode(item["text"]).ids
        assert item["truncated"] == (len(ids) > 24)
        if item["truncated"]:
            # The special token at the end stays when the text before it is cut.
            ids = [*ids[:23], ids[-1]]
        assert item["tokens"] == len(ids)
        expected = encode(BERT_CONFIG, random_tensors(), ids, "mean")
        vector = decode_vector(item["vector_f32_base64"])
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)


def test_import_again(
    checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import(checkpoint_dir, tmp_path) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    capsys.readouterr()
    assert run_import(checkpoint_dir, tmp_path) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    messages = capsys.readouterr().err
    assert "holds the same content already" in messages
    assert "already points at v1.0.0" in messages

    assert run_import(checkpoint_dir, tmp_path, "--pooling", "cls") == 1
    assert "a published version never changes" in capsys.readouterr().err
    assert run_import(checkpoint_dir, tmp_path, "--pooling", "cls", "--version", "v2") == 0


def test_no_current(checkpoint_dir: Path, tmp_path: Path) -> None:
    assert run_import(checkpoint_dir, tmp_path, "--no-current") == 0
    assert [path.name for path in (tmp_path / "models" / "tiny-bert").iterdir()] == ["v1.0.0"]


def test_says_that_it_adds_the_normalisation(
    checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint_dir / "modules.json").unlink()
    assert run_import(checkpoint_dir, tmp_path, "--license", "cc0-1.0") == 0
    assert "does not normalise its vectors; the imported model does" in capsys.readouterr().err
    metadata = read(tmp_path / "models" / "tiny-bert" / "v1.0.0" / "metadata.json")
    assert metadata["normalized"] is True
    assert metadata["license"] == "cc0-1.0"


def test_failures_exit_with_1_and_leave_the_registry_alone(
    checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(checkpoint_dir / "config.json", CONFIG | {"model_type": "t5"})
    assert run_import(checkpoint_dir, tmp_path / "registry") == 1
    assert run_import(tmp_path / "nowhere", tmp_path / "registry") == 1
    assert main(["import", "package:no-such-model", "--registry", str(tmp_path)]) == 1
    messages = capsys.readouterr().err.splitlines()
    assert len(messages) == 3
    assert all(line.startswith("embed-models: error: ") for line in messages)
    assert not (tmp_path / "registry").exists()


def test_unwritable_registry(
    checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run_import(checkpoint_dir, tmp_path / "file") == 1
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [("--name", "..."), ("--name", "x" * 65), ("--version", "a/b"), ("--version", "current")],
)
def test_unusable_values_exit_with_2(
    checkpoint_dir: Path, tmp_path: Path, options: tuple[str, str]
) -> None:
    assert run_import(checkpoint_dir, tmp_path / "registry", *options) == 2
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["export"],
        ["import"],
        ["import", "somewhere"],
        ["import", "somewhere", "--registry", "r", "--pooling", "sum"],
        ["import", "somewhere", "--registry", "r", "--max-seq-length", "0"],
        ["sample-wordnet", "--dict", "d", "--out", "o", "--count", "many"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
