"""The registry's promises: all or nothing, never changed once published, history kept."""

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from embed_models.errors import RegistryError, UsageError
from embed_models.golden import encode_vector
from embed_models.registry import Registry, check_version

LOCK = ".current.json.lock"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def golden(difference: float = 0.0, text: str = "hello") -> str:
    vector = np.full(4, 0.5 + difference, np.float32)
    item = {"text": text, "prompt": None, "tokens": 3, "truncated": False}
    return json.dumps(
        {"tolerance": 1e-4, "items": [item | {"vector_f32_base64": encode_vector(vector)}]}
    )


@contextmanager
def staged_version(registry: Registry, **changed: str) -> Iterator[Path]:
    files = {
        "metadata.json": json.dumps({"model_name": "Tiny", "created_at": "earlier"}),
        "fp32.onnx": "weights",
        "golden.json": golden(),
    }
    with registry.staging("tiny", "v1") as staged:
        for name, content in (files | changed).items():
            (staged / name).write_text(content)
        yield staged


def publish(registry: Registry, **changed: str) -> bool:
    with staged_version(registry, **changed) as staged:
        return registry.publish(staged, "tiny", "v1")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_publishes_in_one_step(registry: Registry) -> None:
    place = registry.version_dir("tiny", "v1")
    with staged_version(registry) as staged:
        assert not place.exists()
        assert staged.name.startswith("."), "a listing of versions must be able to leave it out"
        assert registry.publish(staged, "tiny", "v1")
    assert names(place) == ["fp32.onnx", "golden.json", "metadata.json"]
    assert names(place.parent) == ["v1"]


def test_a_failed_import_leaves_nothing(registry: Registry) -> None:
    with pytest.raises(RuntimeError, match="stop"), staged_version(registry):
        raise RuntimeError("stop")
    assert names(registry.model_dir("tiny")) == []


def test_the_same_content_is_accepted_and_left_alone(registry: Registry) -> None:
    assert publish(registry)
    later = json.dumps({"model_name": "Tiny", "created_at": "later"})
    assert not publish(registry, **{"metadata.json": later})
    metadata = (registry.version_dir("tiny", "v1") / "metadata.json").read_text()
    assert "earlier" in metadata
    assert names(registry.model_dir("tiny")) == ["v1"]


def test_golden_vectors_of_another_processor_are_the_same_content(registry: Registry) -> None:
    assert publish(registry)
    assert not publish(registry, **{"golden.json": golden(1e-6)})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fp32.onnx", "other weights"),
        ("metadata.json", json.dumps({"model_name": "Tiny", "license": "mit"})),
        ("golden.json", golden(1e-3)),
        ("golden.json", golden(text="bye")),
        ("golden.json", "[]"),
        ("metadata.json", "{"),
        ("int8.onnx", "one more file"),
    ],
)
def test_other_content_is_refused(registry: Registry, name: str, content: str) -> None:
    publish(registry)
    before = {path: path.read_bytes() for path in registry.version_dir("tiny", "v1").iterdir()}
    with pytest.raises(RegistryError, match=f"its {name} differs .* another --version"):
        publish(registry, **{name: content})
    assert before == {
        path: path.read_bytes() for path in registry.version_dir("tiny", "v1").iterdir()
    }
    assert names(registry.model_dir("tiny")) == ["v1"]


def test_current_keeps_its_history(registry: Registry) -> None:
    publish(registry)
    assert registry.set_current("tiny", "v1", who="ann", when="t1")
    assert not registry.set_current("tiny", "v1", who="bob", when="t2")
    assert registry.set_current("tiny", "v2", who="bob", when="t3")
    assert json.loads((registry.model_dir("tiny") / "current.json").read_text()) == {
        "version": "v2",
        "history": [
            {"from": None, "to": "v1", "who": "ann", "when": "t1"},
            {"from": "v1", "to": "v2", "who": "bob", "when": "t3"},
        ],
    }
    assert names(registry.model_dir("tiny")) == [LOCK, "current.json", "v1"]


def test_no_move_is_lost_between_two_writers(registry: Registry) -> None:
    registry.model_dir("tiny").mkdir(parents=True)
    moves = 60
    program = (
        "import sys; from pathlib import Path; import embed_models.registry as module\n"
        # A slow disk is no reason to give up: the next test is about that.
        "module._LONGEST_LOCK_SECONDS = 300; Registry = module.Registry\n"
        "registry, who = Registry(Path(sys.argv[1])), sys.argv[2]\n"
        f"for n in range({moves}): registry.set_current('tiny', f'{{who}}{{n}}', who=who, when='t')"
    )
    root = str(registry.model_dir("tiny").parents[1])
    writers = [
        subprocess.Popen([sys.executable, "-c", program, root, who])  # noqa: S603
        for who in ("ann", "bob", "cat")
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    pointer = json.loads((registry.model_dir("tiny") / "current.json").read_text())
    history = pointer["history"]
    assert len(history) == 3 * moves
    assert [step["from"] for step in history] == [None, *(step["to"] for step in history[:-1])]
    assert history[-1]["to"] == pointer["version"]
    assert names(registry.model_dir("tiny")) == [LOCK, "current.json"]


def test_a_lock_that_is_held_is_waited_for_and_not_broken(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry)
    monkeypatch.setattr("embed_models.registry._LONGEST_LOCK_SECONDS", 0.1)
    with (registry.model_dir("tiny") / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(
            RegistryError, match=r"\.current\.json\.lock has been locked by another"
        ):
            registry.set_current("tiny", "v1", who="ann", when="t1")
    assert registry.set_current("tiny", "v1", who="ann", when="t1")


def test_what_another_is_publishing_is_left_alone(registry: Registry) -> None:
    place = registry.version_dir("tiny", "v1")
    place.mkdir(parents=True)
    (place / ".upload.json").write_text("{}")
    with pytest.raises(RegistryError, match=r"v1 is not whole: .*embed-worker models gc"):
        publish(registry)
    assert names(place) == [".upload.json"]


def test_a_link_is_not_followed(registry: Registry, tmp_path: Path) -> None:
    publish(registry)
    for name in (LOCK, ".current.json.partial"):
        link = registry.model_dir("tiny") / name
        link.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            registry.set_current("tiny", "v1", who="ann", when="t1")
        link.unlink()
    assert not (tmp_path / "elsewhere").exists()


def test_damaged_current(registry: Registry) -> None:
    publish(registry)
    (registry.model_dir("tiny") / "current.json").write_text("")
    with pytest.raises(RegistryError, match=r"current\.json is not valid JSON"):
        registry.set_current("tiny", "v1", who="ann", when="t1")


def test_two_models_cannot_share_a_slug(registry: Registry) -> None:
    registry.check_name("tiny", "Tiny")
    publish(registry)
    registry.check_name("tiny", "Tiny")
    with pytest.raises(RegistryError, match=r"'tiny\.' and 'Tiny' .* share the slug 'tiny'"):
        registry.check_name("tiny", "tiny.")


@pytest.mark.parametrize("version", ["v1.0.0", "2", "v2.0.0-rc.1", "2026-11-24_a"])
def test_versions(version: str) -> None:
    assert check_version(version) == version


@pytest.mark.parametrize("version", ["", ".", "..", ".v1", "a/b", "current", "current.json", "v 1"])
def test_impossible_versions(version: str) -> None:
    with pytest.raises(UsageError, match="cannot be a version"):
        check_version(version)


def test_the_pointer_keeps_its_last_moves(registry: Registry) -> None:
    path = registry.model_dir("tiny") / "current.json"
    path.parent.mkdir(parents=True)
    moves = [{"from": None, "to": "v0", "who": str(n), "when": "x"} for n in range(1500)]
    path.write_text(json.dumps({"version": "v0", "history": moves}))
    assert registry.set_current("tiny", "v1", who="ann", when="now")
    history = json.loads(path.read_text())["history"]
    assert (len(history), history[0]["who"], history[-1]["who"]) == (1000, "501", "ann")
