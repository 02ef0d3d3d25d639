"""The student: put together from small parts, and the real one from the stored layers."""

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save
from tiny_bert import random_tensors, write_checkpoint

from embed_models.arithmetic import WORD_EMBEDDINGS
from embed_models.checkpoint import Tensors, read_checkpoint
from embed_models.cli import main
from embed_models.distill.commands import TEACHER
from embed_models.distill.licences import is_permissive
from embed_models.distill.student import (
    LAYERS,
    WORDS_KEY,
    average_layers,
    build_student,
    save_layers,
)
from embed_models.errors import CheckpointError
from embed_models.four_bits import round_table
from embed_models.inference import TextEncoder
from embed_models.model import from_recipe
from embed_models.opening import open_source
from embed_models.recipe import load_recipe
from embed_models.slug import slug

SAMPLE = Path(__file__).parents[2] / "samples" / "wordnet" / "sentences.jsonl"
README, LOG, SOURCES = (LAYERS.parent / name for name in ("README.md", "log.jsonl", "sources.tsv"))

STUDENT = f"student:{TEACHER}"
RECIPE = load_recipe("distilled-minilm-l3-v2")

# What README.md promises for all that is measured, and for WordNet's example sentences, which the
# texts below are (with passages made of several, which are farther away).
PROMISED_COSINE, OF_SENTENCES = 0.96, 0.955


def trained_layers() -> Tensors:
    """Return one layer, as a training would leave it."""
    tensors = random_tensors(seed=1)
    return {name: t for name, t in tensors.items() if name.startswith("encoder.layer.0.")}


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    path = tmp_path / "layers.safetensors"
    save_layers(trained_layers(), path, teacher="tiny", embeddings=random_tensors())
    return path


@pytest.mark.parametrize("rounded", [True, False])
def test_parts(checkpoint_dir: Path, layers: Path, tmp_path: Path, rounded: bool) -> None:
    save_layers(
        trained_layers(), layers, teacher="tiny", embeddings=random_tensors(), rounded=rounded
    )
    out = build_student(str(checkpoint_dir), layers, tmp_path / "new" / "student")
    student = read_checkpoint(out)
    assert student.config.num_hidden_layers == 1
    assert student.pooling == "mean"
    assert student.max_seq_length == 24
    assert student.license is None, "of layers that nothing is said of nothing is claimed"
    teacher, trained = random_tensors(), trained_layers()
    positions = "embeddings.position_embeddings.weight"
    assert len(teacher[positions]) > 24, "some of them no text reaches"
    teacher[positions] = teacher[positions][:24]
    if rounded:
        # Of the teacher's word embeddings in float16, whatever type they come in.
        name = f"{WORD_EMBEDDINGS}.weight"
        teacher[name] = round_table(
            teacher[name].astype(np.float16).astype(np.float32)
        ).dequantized()
    for name, tensor in student.tensors.items():
        if name.startswith("embeddings."):
            np.testing.assert_array_equal(tensor, teacher[name], err_msg=name)
        else:
            wanted = trained[name].astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(tensor, wanted, err_msg=name)
    assert [path.name for path in out.parent.iterdir()] == ["student"]


def test_word_embeddings_in_another_form_are_refused(
    checkpoint_dir: Path, layers: Path, tmp_path: Path
) -> None:
    with safe_open(layers, framework="np") as file:
        about = file.metadata() | {WORDS_KEY: "2 bits"}
        layers.write_bytes(save({k: file.get_tensor(k) for k in file.keys()}, metadata=about))  # noqa: SIM118
    with pytest.raises(CheckpointError, match="another form"):
        build_student(str(checkpoint_dir), layers, tmp_path / "student")


def test_same_bytes_every_time(checkpoint_dir: Path, layers: Path, tmp_path: Path) -> None:
    first = build_student(str(checkpoint_dir), layers, tmp_path / "first")
    second = build_student(str(checkpoint_dir), layers, tmp_path / "second")
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_another_teacher_is_refused(checkpoint_dir: Path, layers: Path, tmp_path: Path) -> None:
    write_checkpoint(checkpoint_dir, tensors=random_tensors(seed=7))
    with pytest.raises(CheckpointError, match="embeddings of tiny"):
        build_student(str(checkpoint_dir), layers, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_existing_directory_is_kept(checkpoint_dir: Path, layers: Path, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    with pytest.raises(CheckpointError, match="exists"):
        build_student(str(checkpoint_dir), layers, tmp_path / "student")


@pytest.mark.parametrize("damage", ["missing", "broken", "incomplete", "another shape", "not ours"])
def test_bad_layers(checkpoint_dir: Path, layers: Path, tmp_path: Path, damage: str) -> None:
    tensors, teacher = trained_layers(), random_tensors()
    name = "encoder.layer.0.output.dense.bias"
    expected = re.escape(name)
    if damage == "missing":
        layers.unlink()
        expected = "give the file that a training wrote"
    elif damage == "broken":
        layers.write_bytes(layers.read_bytes()[:-1])
        expected = "give the file that a training wrote"
    else:
        if damage == "incomplete":
            del tensors[name]
        elif damage == "another shape":
            tensors[name] = tensors[name][1:]
        else:
            tensors = {"head": tensors[name]}
            expected = "holds no trained layers"
        save_layers(tensors, layers, teacher="tiny", embeddings=teacher)
    with pytest.raises(CheckpointError, match=expected):
        build_student(str(checkpoint_dir), layers, tmp_path / "student")


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    tensors = trained_layers()
    tensors["encoder.layer.0.output.dense.bias"][0] = 1e6
    with pytest.raises(CheckpointError, match=r"output\.dense\.bias"):
        save_layers(tensors, tmp_path / "layers", teacher="tiny", embeddings=random_tensors())


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("student")
    for source in (STUDENT, TEACHER):
        assert main(["import", source, "--registry", str(directory / "registry")]) == 0
    return directory / "registry" / "models"


def logged() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text("utf-8").splitlines()]


def test_stored_file() -> None:
    digest = hashlib.sha256(LAYERS.read_bytes()).hexdigest()
    assert digest in README.read_text(encoding="utf-8")
    tensors = load_file(LAYERS)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    assert sum(tensor.size for tensor in tensors.values()) == 3 * 1_774_464


def test_what_it_was_trained_on_is_said_wherever_it_goes(registry: Path, tmp_path: Path) -> None:
    assert RECIPE.license == "apache-2.0"
    version = registry / slug(RECIPE.name) / "v1.0.0"
    assert json.loads((version / "metadata.json").read_text("utf-8"))["license"] == "apache-2.0"
    out = tmp_path / "student"
    assert main(["student", "--out", str(out)]) == 0
    card, notice = (out / "README.md").read_text("utf-8"), (out / "NOTICE").read_text("utf-8")
    # Every source of README.md, in the numbers of that table, which are those of the list.
    rows = re.findall(
        r"^\| [^|]+ \|[^|]*\| [^|]*?: ([\d,]+) \|$", README.read_text(encoding="utf-8"), re.M
    )
    assert len(rows) == 12
    for texts in rows:
        assert texts in card
        assert texts in notice
    with (out / "sources.tsv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file, delimiter="\t"))
    assert sum(int(row["texts"]) for row in listed) == sum(int(n.replace(",", "")) for n in rows)
    # What each training has read is named, and is no more than what is listed.
    started = [entry["texts"] for entry in logged() if entry["event"] == "start"]
    assert len(started) == 3
    for texts in started:
        assert f"{texts:,}" in README.read_text(encoding="utf-8")
        assert texts <= sum(int(row["texts"]) for row in listed)


def test_no_licence_of_what_it_was_trained_on_asks_for_the_same() -> None:
    with SOURCES.open(encoding="utf-8", newline="") as file:
        licences = {row["licence"] for row in csv.DictReader(file, delimiter="\t")}
    assert len(licences) > 10
    for licence in licences - {"public domain", "LicenseRef-WordNet-3.0"}:
        assert is_permissive(licence), licence


def test_log_is_that_of_the_file() -> None:
    entries = logged()
    assert entries[0]["event"] == "start"
    assert entries[-1]["layers"] == hashlib.sha256(LAYERS.read_bytes()).hexdigest()
    recall = entries[-1]["recall1_tested-query_of_teacher"]
    assert RECIPE.teacher is not None
    assert recall >= RECIPE.teacher.recall_at_1_ratio
    assert entries[-1]["cosine_mean"] >= PROMISED_COSINE
    assert entries[-1]["cosine_wordnet-example"] >= OF_SENTENCES


def test_recipe_puts_the_student_together(registry: Path, tmp_path: Path) -> None:
    assert RECIPE.source == STUDENT
    lines: list[str] = []
    built = from_recipe(RECIPE, None, lines.append)
    # By the recipe, by `import`, and by way of a directory: one name, one space, one graph.
    version = registry / built.slug / "v1.0.0"
    metadata = json.loads((version / "metadata.json").read_text("utf-8"))
    assert (metadata["model_name"], metadata["model_id"]) == (RECIPE.name, RECIPE.model_id)
    assert metadata["space"] == built.space
    assert built.space[:23] in README.read_text(encoding="utf-8")
    assert (version / "fp32.onnx").read_bytes() == built.graph
    out = tmp_path / RECIPE.name
    assert main(["student", "--out", str(out)]) == 0
    assert from_recipe(RECIPE, str(out), lines.append).graph == built.graph


def test_the_directory_of_a_student_is_temporary() -> None:
    with open_source(STUDENT, model_name=None, model_id=None) as source:
        assert (source.directory / "model.safetensors").is_file()
    assert not source.directory.exists()


def test_a_student_needs_its_teacher(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["import", "student:nowhere", "--registry", str(tmp_path)]) == 1
    assert "nowhere is not a directory" in capsys.readouterr().err


def test_held_out_cosine(registry: Path) -> None:
    teacher = encoder(registry / "all-minilm-l6-v2" / "v1.0.0")
    student = encoder(registry / slug(RECIPE.name) / "v1.0.0")
    cosines = np.array(
        [
            float(teacher.embed(text).vector @ student.embed(text).vector)
            for text in held_out_texts()
        ]
    )
    assert cosines.mean() >= OF_SENTENCES
    # Not the minimum: README.md names the sentence that it gets wrong.
    assert np.quantile(cosines, 0.01) >= 0.85


def held_out_texts() -> list[str]:
    """Return sentences, which were reserved by name, and passages made of several of them."""
    sentences = [json.loads(line)["text"] for line in SAMPLE.read_text("utf-8").splitlines()]
    passages = [". ".join(sentences[begin : begin + 8]) for begin in range(1000, 1240, 8)]
    return sentences[:300] + passages


def encoder(version: Path) -> TextEncoder:
    metadata: dict[str, Any] = json.loads((version / "metadata.json").read_text(encoding="utf-8"))
    return TextEncoder(
        version / "fp32.onnx", version / "tokenizer.json", metadata["max_seq_length"]
    )


def test_layers_of_trainings_that_began_alike_are_averaged(layers: Path, tmp_path: Path) -> None:
    trained = load_file(layers)
    other, out = tmp_path / "other.safetensors", tmp_path / "mean.safetensors"
    moved = {name: tensor.astype(np.float32) + 1 for name, tensor in trained.items()}
    save_layers(moved, other, teacher="tiny", embeddings=random_tensors())
    average_layers([layers, other, other, layers], out)
    with safe_open(out, framework="np") as mean, safe_open(layers, framework="np") as first:
        assert mean.metadata() == first.metadata()
    for name, tensor in load_file(out).items():
        assert tensor.dtype == np.float16
        np.testing.assert_allclose(tensor, trained[name] + 0.5, atol=2e-3)

    # Of another teacher, of other names, and what says nothing of a teacher: nothing is written.
    none = tmp_path / "none.safetensors"
    save_layers(moved, other, teacher="another", embeddings=random_tensors())
    renamed = {name.replace("layer.0", "layer.1"): tensor for name, tensor in moved.items()}
    deeper, bare = tmp_path / "deeper.safetensors", tmp_path / "bare.safetensors"
    save_layers(renamed, deeper, teacher="tiny", embeddings=random_tensors())
    bare.write_bytes(save(moved))
    for wrong in ([layers, other], [layers, deeper], [bare, bare]):
        with pytest.raises(CheckpointError, match=wrong[1].name):
            average_layers(wrong, none)
    assert not none.exists()
