"""From a checkpoint to a published version on a tiny model, and everything that can go wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_recipe import GOOD
from tiny_bert import CONFIG, WORDS, tokenizer_json, write_json

from embed_models import version as steps
from embed_models.cli import main
from embed_models.registry import METADATA

RECIPE = (
    GOOD
    + """
[quantization.strengths]
int8 = [0.5]
int8-tensorrt = [0.5]
fp8-tensorrt = [0.0]
[thresholds.all]
recall_at_1_ratio = 0.5
top10_overlap = 0.5
mean_cosine = 0.981
min_cosine = 0.5
golden_cosine = 0.5
[thresholds.int8]
speedup = 0.0
size_ratio = 9.0
[thresholds.int8-tensorrt]
size_ratio = 9.0
"""
)
FILES = ["fp32", "fp16", "int8", "fp16-packed", "fp16-tensorrt", "int8-tensorrt", "fp8-tensorrt"]


class Workbench:
    """A tiny checkpoint with a recipe and texts, and a registry that is still empty."""

    def __init__(self, root: Path, checkpoint: Path) -> None:
        self.root, self.checkpoint = root, checkpoint
        self.registry = root / "registry"
        self.model = self.registry / "models" / "tiny"
        self.recipe = root / "tiny.toml"
        self.recipe.write_text(RECIPE, encoding="utf-8")
        random = np.random.default_rng(0)

        def texts(count: int) -> list[str]:
            return [" ".join(random.choice(WORDS, random.integers(2, 15))) for _ in range(count)]

        self.calibration = root / "calibration.txt"
        self.calibration.write_text("\n".join(texts(120)) + "\n", encoding="utf-8")
        documents = texts(30)
        rows = [{"kind": "sentence", "text": text} for text in texts(40)]
        rows += [{"kind": "query", "text": text} for text in documents]
        rows += [{"kind": "document", "text": text + " a"} for text in documents]
        self.held_out = root / "held-out.jsonl"
        self.held_out.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    @property
    def source(self) -> list[str]:
        return ["--source", str(self.checkpoint)]

    @property
    def texts(self) -> list[str]:
        return ["--calibration", str(self.calibration), "--threads", "1"]

    @property
    def measured(self) -> list[str]:
        return ["--held-out", str(self.held_out)]

    def arguments(self, *more: str) -> list[str]:
        registry = ["--registry", str(self.registry)]
        start = ["build", str(self.recipe), *registry]
        return [*start, *self.source, *self.texts, *self.measured, *more]

    def build(self, *more: str) -> int:
        return main(self.arguments(*more))

    def left_behind(self) -> list[str]:
        """Return the paths of all files in the registry, hidden ones too."""
        return [str(path) for path in self.registry.rglob("*") if path.is_file()]


@pytest.fixture
def bench(tmp_path: Path, checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    # A tenth of a second tells nothing about speed, which is not what these tests are about.
    monkeypatch.setattr("embed_models.validate.speed._SECONDS", 0.01)
    monkeypatch.setattr("embed_models.validate.speed._ROUNDS", 1)
    monkeypatch.setattr("embed_models.validate.speed.SHAPES", ((8, 32),))
    return Workbench(tmp_path, checkpoint_dir)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    return text[text.index("embed-models: error: ") :]


def metadata_of(version: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((version / METADATA).read_text(encoding="utf-8"))
    return value


def test_build(bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.build() == 0, capsys.readouterr().err
    version = bench.model / "v1.5.0"
    metadata = metadata_of(version)
    assert [artefact["file"] for artefact in metadata["artefacts"]] == [f"{f}.onnx" for f in FILES]
    for artefact in metadata["artefacts"]:
        validation = artefact["validation"]
        assert validation["test_texts"] == 100
        assert validation["cosine_similarity_vs_fp32"] > 0.981
        packed = artefact["form"] == "packed"
        assert ("structure only" in validation.get("packing", "")) == packed
        quantized = artefact["precision"] in ("int8", "fp8")
        assert (artefact["quantization"] is not None) == quantized
        if quantized:
            assert artefact["quantization"]["calibration_texts"] == 120
            assert artefact["quantization"]["trials"]
            # What the user's schema has: measured, or null.
            assert artefact["quantization"]["accuracy_loss"].endswith("%")
        assert 0 < validation["recall_at_k"] <= 1
        assert validation["golden_cosine_min"] <= validation["golden_cosine_mean"]
        on_cpu = artefact["form"] == "contrib" and artefact["precision"] != "fp16"
        assert (artefact["performance"]["throughput_qps"] is not None) == on_cpu
        assert artefact["performance"]["gpu_memory_mb"] is None
        # What did not run here is said, and not called met.
        assert (validation["not_run"] is None) == (artefact["file"] in ("fp32.onnx", "int8.onnx"))
    assert metadata["artefacts"][0]["validation"]["cosine_min"] == pytest.approx(1)
    pointer = json.loads((bench.model / "current.json").read_text(encoding="utf-8"))
    assert pointer["version"] == "v1.5.0"
    assert (version / "recipe.toml").read_text(encoding="utf-8") == RECIPE
    said = capsys.readouterr().err
    assert "tokenizer.json asks for padding; switched off" in said
    # One more than there are: the empty text.
    assert "calibrated, texts: 121 of 121" in said

    page = (version / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org/", "").replace(
        "https://matplotlib.org/", ""
    )
    markdown = (version / "report.md").read_text(encoding="utf-8")
    for artefact in metadata["artefacts"]:
        mean = artefact["validation"]["cosine_similarity_vs_fp32"]
        assert f"| {artefact['file']} " in markdown
        assert f"| {mean:.5f} |" in markdown
    assert "Met: every threshold of its recipe that could be judged" in markdown

    # Before any work, since minutes would be lost otherwise.
    assert bench.build() == 1
    assert "is published, and a published version never changes" in error_of(capsys)
    # The overview has every model.
    overview = ["report", "--registry", str(bench.registry), "--out", str(bench.root / "all")]
    assert main(overview) == 0
    assert "## Tiny v1.5.0" in (bench.root / "all" / "report.md").read_text(encoding="utf-8")


def test_single_steps(bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    work = str(bench.root / "work")
    recipe = str(bench.recipe)
    assert main(["quantize", recipe, "--work", work, *bench.source, *bench.texts]) == 0
    target = ["--registry", str(bench.registry)]
    assert main(["publish", work, *target]) == 1
    assert "int8.onnx has not been validated" in error_of(capsys)
    assert main(["validate", work, *bench.measured, "--held-out-texts", "20"]) == 0
    validation = metadata_of(Path(work))["artefacts"][2]["validation"]
    assert validation["test_dataset"] == "held-out.jsonl (first 20 of each kind)"
    assert main(["publish", work, *target, "--version", "v9"]) == 0
    published = bench.model / "v9"
    assert metadata_of(published)["version"] == "v9"
    before = (published / METADATA).read_bytes()
    assert main(["validate", str(published), *bench.measured]) == 0
    assert (published / METADATA).read_bytes() == before
    assert main(["report", work, "--out", str(bench.root / "out")]) == 0
    assert (bench.root / "out" / "report.html").is_file()
    assert main(["quantize", recipe, "--work", work, *bench.source, *bench.texts]) == 2
    assert "is not empty; give a new directory" in error_of(capsys)


def test_a_changed_file_is_not_published(
    bench: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    work = bench.root / "work"
    recipe = str(bench.recipe)
    assert main(["quantize", recipe, "--work", str(work), *bench.source, *bench.texts]) == 0
    assert main(["validate", str(work), *bench.measured]) == 0
    (work / "int8.onnx").write_bytes((work / "fp32.onnx").read_bytes())
    assert main(["publish", str(work), "--registry", str(bench.registry)]) == 1
    assert "is not the file that metadata.json describes" in error_of(capsys)
    (work / "int8.onnx").unlink()
    assert main(["validate", str(work), *bench.measured]) == 1
    assert "int8.onnx is missing" in error_of(capsys)


def test_below_a_threshold_nothing_is_published(
    bench: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RECIPE.replace("mean_cosine = 0.981", "mean_cosine = 0.99999")
    bench.recipe.write_text(text, encoding="utf-8")
    assert bench.build() == 1
    error = error_of(capsys)
    assert "Tiny v1.5.0 misses what its recipe asks for and is not published" in error
    assert "int8.onnx: cosine_similarity_vs_fp32 is 0.9" in error
    assert "at least 0.99999 is needed" in error
    assert bench.left_behind() == []


def test_another_models_checkpoint(bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(bench.checkpoint / "config.json", CONFIG | {"num_hidden_layers": 1})
    assert bench.build() == 1
    assert "num_hidden_layers 1, but the recipe of Tiny says 2" in error_of(capsys)


def test_no_bert(bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(bench.checkpoint / "config.json", CONFIG | {"model_type": "t5"})
    assert bench.build() == 1
    assert "model_type 't5' is not supported; what can be imported is bert," in error_of(capsys)
    assert bench.left_behind() == []


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_tensors_that_do_not_fit(
    bench: Workbench, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bench.checkpoint / "model.safetensors"
    tensors = load_file(path)
    name = "encoder.layer.1.output.dense.weight"
    tensor = tensors.pop(name)
    if change == "shape":
        tensors[name] = np.ascontiguousarray(tensor.T)
    save_file(tensors, path)
    assert bench.build() == 1
    wanted = "lacks the tensor" if change == "missing" else "has the shape (64, 32)"
    error = error_of(capsys)
    assert wanted in error
    assert name in error
    assert bench.left_behind() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "calibration.txt has no texts"), ("just one\n", "calibration needs at least 16")],
)
def test_too_little_to_calibrate_with(
    bench: Workbench, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.calibration.write_text(content, encoding="utf-8")
    assert bench.build() == 1
    assert words in error_of(capsys)
    assert bench.left_behind() == []


def test_no_room_on_the_disk(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "_ROOM", 10**12)
    assert bench.build() == 1
    assert "MB left on its disk, and this build needs about" in error_of(capsys)
    assert bench.left_behind() == []


# The largest file that the process may write: the float32 graph fits, the report does not.
WITH_A_LIMIT = """
import resource, signal, sys
from embed_models.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
sys.exit(main(sys.argv[1:]))
"""


def test_a_write_that_fails_publishes_nothing(bench: Workbench) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", WITH_A_LIMIT, *bench.arguments()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "embed-models: error: [Errno 27] File too large" in done.stderr
    assert bench.left_behind() == []


def test_a_full_disk_is_called_that(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device", "int8.onnx")

    monkeypatch.setattr("embed_models.quantize.run.serialize", full)
    assert bench.build() == 1
    assert "the disk is full: [Errno 28] No space left on device: 'int8.onnx'" in error_of(capsys)
    assert bench.left_behind() == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_publishes_nothing(bench: Workbench, stop: signal.Signals) -> None:
    # A shell's background job ignores this signal, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "embed_models", *bench.arguments()],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("wrote int8.onnx"):
            break
    assert bench.left_behind(), "the build has begun to write"
    process.send_signal(stop)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "interrupted; nothing was published" in rest
    assert bench.left_behind() == []


def test_a_killed_build_leaves_no_version(bench: Workbench) -> None:
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "embed_models", *bench.arguments()],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("wrote int8.onnx"):
            break
    process.kill()
    process.communicate(timeout=120)
    # What is left has a name that begins with a dot, which no reader looks at.
    assert [path.name[0] for path in bench.model.iterdir()] == ["."]
    assert bench.build() == 0


def test_dynamic_quantization_has_to_be_asked_for(
    bench: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.build("--int8", "dynamic") == 2
    assert "say --allow-batch-dependent if that is acceptable" in error_of(capsys)
    assert bench.build("--int8", "dynamic", "--allow-batch-dependent") == 0
    int8 = metadata_of(bench.model / "v1.5.0")["artefacts"][2]
    assert int8["quantization"]["batch_dependent"] is True
    assert int8["validation"]["batch_difference"] > 1e-5
    report = (bench.model / "v1.5.0" / "report.md").read_text(encoding="utf-8")
    assert "depend on what else is in a batch" in report


def test_twin(bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    # Its tokenizer is the real one, so its vocabulary has to be, too.
    recipe = RECIPE.replace("vocab_size = 64", "vocab_size = 30522")
    bench.recipe.write_text(recipe, encoding="utf-8")
    target = ["--registry", str(bench.registry)]
    assert main(["twin", str(bench.recipe), *target, *bench.texts]) == 0
    version = bench.registry / "models" / "tiny-twin" / "v1.5.0"
    metadata = metadata_of(version)
    assert metadata["random_weights"] is True
    assert metadata["model_name"] == "Tiny-twin"
    assert "random weights" in metadata["model_id"]
    assert len(metadata["artefacts"]) == len(FILES)
    assert all(artefact["validation"] is None for artefact in metadata["artefacts"])
    assert "**Random weights.**" in (version / "report.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["validate", str(version), *bench.measured]) == 1
    assert "has random weights: its vectors mean nothing" in error_of(capsys)


def test_a_twin_of_some_artefacts_is_not_calibrated(
    bench: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(bench.root / "tokenizer.json", tokenizer_json())
    start = ["twin", str(bench.recipe), "--registry", str(bench.registry)]
    start += ["--tokenizer", str(bench.root / "tokenizer.json")]
    assert main([*start, "--artefacts", "fp16-packed,fp32,fp16", *bench.texts]) == 0
    assert "calibrated" not in capsys.readouterr().err
    version = bench.registry / "models" / "tiny-twin" / "v1.5.0"
    files = [artefact["file"] for artefact in metadata_of(version)["artefacts"]]
    assert files == ["fp32.onnx", "fp16.onnx", "fp16-packed.onnx"]
    assert main([*start, "--artefacts", "fp16", "--version", "v2"]) == 1
    assert "--artefacts: `artefacts` lacks fp32" in error_of(capsys)


def test_validate_needs_something_to_hold_a_version_to(
    bench: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(bench.checkpoint), "--registry", str(bench.registry)]) == 0
    version = bench.registry / "models" / "tiny-bert" / "v1.0.0"
    assert main(["validate", str(version), *bench.measured]) == 1
    assert "it was imported and not built" in error_of(capsys)
    assert main(["validate", str(bench.root), *bench.measured]) == 1
    assert "has no metadata.json; give the directory of a version" in error_of(capsys)


def test_no_source(bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--registry", str(bench.registry)]
    assert main(["build", str(bench.recipe), *target]) == 1
    assert "give the directory of its checkpoint with --source" in error_of(capsys)


def test_no_network(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    target = ["--registry", str(bench.registry)]
    assert main(["build", "bge-small-en-v1.5", *target]) == 1
    error = error_of(capsys)
    assert "BAAI/bge-small-en-v1.5 cannot be had from the Hugging Face hub" in error
    assert "give the directory of a copy" in error


@pytest.mark.parametrize(("least", "published"), [(0.99, True), (1.5, False)])
def test_a_student_is_compared_with_its_teacher(
    bench: Workbench, least: float, published: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = bench.root / "teacher.toml"
    source = f'source = "{bench.checkpoint}"\n'
    teacher.write_text(source + RECIPE.replace('"Tiny"', '"Teacher"'), encoding="utf-8")
    comparison = f'[teacher]\nrecipe = "{teacher}"\nmean_cosine = {least}\n'
    comparison += "recall_at_1_ratio = 0.9\nspeedup = 0.0\n"
    bench.recipe.write_text(RECIPE + comparison, encoding="utf-8")
    assert bench.build() == (0 if published else 1)
    if not published:
        assert "cosine_similarity_vs_teacher is 1.0, at least 1.5 is needed" in error_of(capsys)
        assert bench.left_behind() == []
        return
    metadata = metadata_of(bench.model / "v1.5.0")
    assert metadata["teacher"] == str(teacher)
    validation = metadata["artefacts"][0]["validation"]
    assert validation["cosine_similarity_vs_teacher"] == pytest.approx(1)
    assert validation["recall_at_1_ratio_to_teacher"] == 1
    assert metadata["artefacts"][0]["performance"]["speedup_vs_teacher_fp32"] > 0
    report = (bench.model / "v1.5.0" / "report.md").read_text(encoding="utf-8")
    assert "Against its teacher" in report
