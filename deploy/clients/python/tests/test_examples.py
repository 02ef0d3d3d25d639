"""The examples do what they say, run as programs; and the package works as it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import MODEL, PATIENCE, ROOT, binary

PYTHON = ROOT / "deploy/clients/python"
EXAMPLES = PYTHON / "examples"


def run(command: list[str], where: Path, **surroundings: str) -> str:
    """What a program prints; it has to succeed."""
    done = subprocess.run(
        command,
        cwd=where,
        env=os.environ | surroundings,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def example(name: str, where: Path, *arguments: str) -> list[str]:
    program = [sys.executable, str(EXAMPLES / name), *arguments]
    return run(program, where, PYTHONPATH=str(PYTHON)).splitlines()


def test_calls(url: str, tmp_path: Path) -> None:
    shape, cosine, refused = example("calls.py", tmp_path, url)
    assert shape == "(2, 384) vectors of fp32 v1.0.0"
    assert 0.5 < float(cosine.removeprefix("cosine: ")) < 1
    assert refused == "refused: unsupported_dimensions"


def test_jobs(url: str, tmp_path: Path) -> None:
    assert example("jobs.py", tmp_path, url) == ["3 jobs", "301 vectors"]


def test_a_frame_gets_a_column_of_vectors(url: str, tmp_path: Path) -> None:
    texts = [f"text number {n}" for n in range(70)]
    pd.DataFrame({"n": range(70), "text": texts}).to_csv(tmp_path / "in.csv", index=False)
    said = example("backfill_frame.py", tmp_path, url, "in.csv", "out.parquet")
    assert said == ["64 of 70 rows", "70 of 70 rows"]
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert frame["n"].tolist() == list(range(70))
    assert {len(vector) for vector in frame["embedding"]} == {384}
    assert not (tmp_path / "out.parquet.run").exists()


def test_duckdb_finds_what_is_meant(url: str, tmp_path: Path) -> None:
    about = ["sea", "ocean"]
    sentences = (ROOT / "deploy/samples/wordnet/sentences.jsonl").read_text().splitlines()
    rows = [row for row in sentences if any(word in row for word in about)] + sentences[:100]
    (tmp_path / "rows.jsonl").write_text("\n".join(dict.fromkeys(rows)) + "\n")
    backfill = [binary("embed"), "backfill", "run", "rows.jsonl", "vectors", "--server", url]
    run([*backfill, "--format", "parquet", "--keep", "text"], tmp_path)
    found = example("search_duckdb.py", tmp_path, url, "vectors", "Where can I see the ocean?")
    assert len(found) == 5
    assert found[0].endswith("a commanding view of the ocean")
    scores = [float(line.split()[0]) for line in found]
    assert scores == sorted(scores, reverse=True)
    # Rows of another space say nothing.
    manifest = json.loads((tmp_path / "vectors/manifest.json").read_text())
    assert manifest["model"] == MODEL
    (tmp_path / "vectors/manifest.json").write_text(json.dumps(manifest | {"space": "other"}))
    with pytest.raises(AssertionError, match="expected space other"):
        example("search_duckdb.py", tmp_path, url, "vectors", "Where?")


def test_the_package_works_as_it_is_installed(url: str, tmp_path: Path) -> None:
    source, wheels, site = (tmp_path / name for name in ("source", "wheels", "site"))
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(PYTHON, source, ignore=ignored)
    wheels.mkdir()
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    run([sys.executable, "-c", build, str(wheels)], source)
    [wheel] = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = "import akidb_embed; print(akidb_embed.__file__)"
    where = run([sys.executable, "-c", program], tmp_path, PYTHONPATH=str(site), PYTHONSAFEPATH="1")
    assert Path(where.strip()).is_relative_to(site)
    assert (site / "akidb_embed/py.typed").exists()
    calls = run([sys.executable, str(EXAMPLES / "calls.py"), url], tmp_path, PYTHONPATH=str(site))
    assert "(2, 384) vectors" in calls
