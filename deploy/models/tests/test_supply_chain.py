"""What is fetched is what was looked at: hashes of packages, digests of images."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "deploy/models"
DOCKER = ROOT / "deploy/docker"
DIGEST = "sha256:" + "0123456789abcdef" * 4
# Stands in for docker: says what a tag leads to, and tells what it was asked to build.
FAKE_DOCKER = f"""#!/bin/sh
case $1 in
buildx) echo "${{FAKE_DIGEST:-{DIGEST}}}" ;;
build)
    echo "$@"
    while [ "$1" != -f ]; do shift; done
    cat "$2" && ls "$2.dockerignore"
    ;;
esac
"""


def pins(path: Path) -> dict[str, str]:
    """Return the versions that a file of requirements names, by the package's normalized name."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("source", sorted(MODELS.glob("requirements*.in")), ids=lambda p: p.name)
def test_every_requirement_has_hashes(source: Path) -> None:
    compiled = source.with_suffix(".txt")
    wanted, there = pins(source), pins(compiled)
    assert wanted, "a file of requirements names some"
    assert wanted.items() <= there.items(), "run `make requirements`"
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", compiled.read_text(), flags=re.MULTILINE))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    constraints = pins(MODELS / "requirements.txt")
    for name, version in there.items():
        # Where Python's versions need different ones, only one of them is seen here.
        if name not in {"contourpy"}:
            assert constraints.get(name, version) == version


def test_images_take_the_wheel_that_was_tested() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    cpu = re.search(r'^ARG ONNXRUNTIME="(\S+)((?:.|\n)*?)"$', dockerfile, re.MULTILINE)
    assert cpu
    assert cpu[1] == f"onnxruntime=={pins(MODELS / 'requirements.txt')['onnxruntime']}"
    hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}", cpu[2])
    assert len(hashes) == 2
    assert all(one in (MODELS / "requirements.txt").read_text() for one in hashes)
    assert dockerfile.count("--require-hashes") == dockerfile.count("pip download") == 2


def test_images_run_in_an_empty_folder() -> None:
    stages = re.split(r"^FROM ", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    shipped = [stage for stage in stages if "ENTRYPOINT" in stage]
    assert len(shipped) == 3
    assert all("\nWORKDIR /var/empty\n" in stage for stage in shipped)


def release(tmp_path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(FAKE_DOCKER)
    docker.chmod(0o755)
    surroundings = {
        "PATH": f"{docker.parent}:{os.environ['PATH']}",
        "EMBED_IMAGES_LOCK": str(tmp_path / "images.lock"),
        **more,
    }
    command = [str(DOCKER / "release.sh"), *arguments]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)  # noqa: S603


def test_a_release_names_its_images_by_digest(tmp_path: Path) -> None:
    lock = tmp_path / "images.lock"
    refused = release(tmp_path, "build", "cpu", "x:1")
    assert refused.returncode == 1
    assert "release.sh pin" in refused.stderr
    assert release(tmp_path, "pin", FAKE_DIGEST="none").returncode == 1
    assert not lock.exists()
    pinned = release(tmp_path, "pin")
    assert pinned.returncode == 0, pinned.stderr
    lines = lock.read_text().splitlines()
    assert [line.split("=")[0] for line in lines] == [
        "RUST_IMAGE",
        "PYTHON_IMAGE",
        "CPU_BASE",
        "CUDA_BASE",
    ]
    assert all(line.endswith(f"@{DIGEST}") for line in lines)
    built = release(tmp_path, "build", "cpu", "x:1", "--pull")
    assert built.returncode == 0, built.stderr
    for line in lines:
        assert f"--build-arg {line}" in built.stdout
    assert "# syntax=" not in built.stdout, "a frontend is not fetched by its tag either"
    assert "Dockerfile.dockerignore" in built.stdout
    given = release(tmp_path, "build", "tensorrt", "x:1", "--build-arg", "TENSORRT_BASE=other:1")
    assert given.returncode == 1
    assert "by its digest" in given.stderr
    lock.write_text(lock.read_text().replace(f"@{DIGEST}", "", 1))
    assert "has no digest" in release(tmp_path, "build", "cpu", "x:1").stderr
    assert release(tmp_path, "check").returncode == 1


@pytest.mark.skipif(not (DOCKER / "images.lock").exists(), reason="no image was pinned yet")
def test_the_images_that_are_pinned_are_those_of_the_dockerfile() -> None:
    done = subprocess.run([str(DOCKER / "release.sh"), "check"], capture_output=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr


def test_onnxruntime_does_not_report_home(tmp_path: Path) -> None:
    surroundings = {
        name: value
        for name, value in os.environ.items()
        if name != "ORT_DISABLE_TELEMETRY" and not name.startswith("XDG_")
    }
    command = [sys.executable, "-c", "import embed_models, onnxruntime"]
    subprocess.run(command, env={**surroundings, "HOME": str(tmp_path)}, check=True)  # noqa: S603
    assert not list(tmp_path.rglob("*.db"))
