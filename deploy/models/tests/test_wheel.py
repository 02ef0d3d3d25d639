"""The package works as it is installed from a wheel, without the checkout that it was made from."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from embed_models.corpus.load import BY_KIND, CALIBRATION, HELD_OUT
from embed_models.distill.commands import TEACHER

MODELS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory into which a wheel has been unpacked, which is how pip installs one."""
    temporary = tmp_path_factory.mktemp("wheel")
    source, out = temporary / "source", temporary / "dist"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(MODELS / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(MODELS / "embed_models", source / "embed_models", ignore=ignored)
    out.mkdir()
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(  # noqa: S603
        [sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = out.glob("*.whl")
    place = temporary / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    shutil.rmtree(source)
    return place


def python(installed: Path, *arguments: str) -> str:
    """Run Python with the installed package, and with no other of its name before it."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    result = subprocess.run(  # noqa: S603
        [sys.executable, *arguments],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_it_is_the_installed_one(installed: Path) -> None:
    said = python(installed, "-c", "import embed_models; print(embed_models.__file__)")
    assert Path(said.strip()).is_relative_to(installed)


def test_the_texts_are_there(installed: Path) -> None:
    program = (
        "from embed_models.corpus.load import *; "
        f"print(len(read_texts(data_dir() / {CALIBRATION!r}).items), "
        f"len(read_held_out(data_dir() / {HELD_OUT!r}).queries), data_dir())"
    )
    texts, queries, place = python(installed, "-c", program).split()
    assert int(texts) > 1000
    assert int(queries) > 100
    assert Path(place).is_relative_to(installed)


def test_the_licences_of_the_texts_are_there(installed: Path) -> None:
    """WordNet's wants its notice on all copies, and so do Perl's and CPython's."""
    (about,) = installed.glob("*.dist-info")
    names = {"LICENSE-WordNet.txt", "LICENSE-PSF.txt", "LICENSE-Artistic.txt", "README.md"}
    data = installed / "embed_models/data"
    assert {path.name for path in data.iterdir()} >= {*names, CALIBRATION, HELD_OUT, BY_KIND}
    for name, words in (
        ("LICENSE-WordNet.txt", "WordNet 3.0 Copyright 2006 by Princeton University"),
        ("LICENSE-PSF.txt", "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"),
        ("LICENSE-Artistic.txt", 'The "Artistic License"'),
        ("README.md", "Debian Free Software Guidelines"),
    ):
        listed = about / "licenses/embed_models/data" / name
        assert words in listed.read_text(encoding="utf-8")
        assert listed.read_bytes() == (data / name).read_bytes()
    said = (about / "METADATA").read_text(encoding="utf-8")
    (expression,) = (line for line in said.splitlines() if line.startswith("License-Expression:"))
    for part in ("LicenseRef-WordNet-3.0", "PSF-2.0", "Artistic-1.0-Perl", "LicenseRef-Debian"):
        assert f" AND {part}" in expression
    original = MODELS.parent / "samples/wordnet/LICENSE"
    assert (data / "LICENSE-WordNet.txt").read_bytes() == original.read_bytes()


def test_recipes_and_the_student_are_there(installed: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    assert "all-minilm-l6-v2" in python(installed, "-m", "embed_models", "recipes")
    arguments = ("student", "--teacher", TEACHER, "--out", str(out))
    assert f"wrote {out}" in python(installed, "-m", "embed_models", *arguments)
    assert {"model.safetensors", "README.md", "tokenizer.json"} <= {p.name for p in out.iterdir()}
