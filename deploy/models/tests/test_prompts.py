"""Texts are validated and calibrated with as callers would send them: behind their prompts."""

import dataclasses
from pathlib import Path

import pytest

from embed_models.corpus.load import HeldOut, Texts
from embed_models.importer import ImportRequest, import_model
from embed_models.metadata import Metadata
from embed_models.prompts import default_prompt, document_prompt, query_prompt, with_mixed_prompts
from embed_models.quantize.run import tokenize
from embed_models.registry import Registry
from embed_models.validate.run import Validator

E5 = {"query": "hello ", "passage": "world "}
TEXTS = tuple(["fox"] * 64)
FOX, HELLO, WORLD, QUICK = ([2, *ids, 3] for ids in ([7], [4, 7], [5, 7], [8, 7]))


@pytest.fixture
def version(checkpoint_dir: Path, tmp_path: Path) -> tuple[Path, Metadata]:
    registry = Registry(tmp_path / "registry")
    request = ImportRequest(str(checkpoint_dir), registry, "v1", "test", model_name="tiny")
    metadata = import_model(request, lambda _line: None)
    return registry.version_dir("tiny", "v1"), metadata


def with_prompts(
    metadata: Metadata, prompts: dict[str, str], default: str | None = None
) -> Metadata:
    return dataclasses.replace(metadata, prompts=prompts, default_prompt=default)


@pytest.mark.parametrize(
    ("prompts", "default", "wanted"),
    [
        ({}, None, ("", "", "")),
        (E5, None, ("", "hello ", "world ")),
        (E5, "passage", ("world ", "hello ", "world ")),
        ({"query": "hello "}, None, ("", "hello ", "")),
        ({"query": "hello ", "document": "", "passage": "world "}, None, ("", "hello ", "")),
        ({"STS": "quick "}, "STS", ("quick ", "quick ", "quick ")),
    ],
)
def test_which_prompt(
    version: tuple[Path, Metadata],
    prompts: dict[str, str],
    default: str | None,
    wanted: tuple[str, str, str],
) -> None:
    metadata = with_prompts(version[1], prompts, default)
    found = default_prompt(metadata), query_prompt(metadata), document_prompt(metadata)
    assert found == wanted


def test_validation(version: tuple[Path, Metadata]) -> None:
    directory, metadata = version
    held_out = HeldOut("x", "", ("fox",), ("fox",), ("fox",))

    def sequences(prompts: dict[str, str], default: str | None = None) -> list[list[int]]:
        changed = with_prompts(metadata, prompts, default)
        return Validator(directory, changed, held_out, None, threads=1).sequences

    assert sequences({}) == [FOX, FOX, FOX]
    assert sequences(E5) == [FOX, HELLO, WORLD]
    assert sequences(E5 | {"other": "quick "}, "other") == [QUICK, HELLO, WORLD]


def test_calibration(version: tuple[Path, Metadata]) -> None:
    directory, metadata = version
    texts = Texts("x", "", TEXTS)

    def sequences(prompts: dict[str, str], default: str | None = None) -> list[list[int]]:
        return tokenize(with_prompts(metadata, prompts, default), directory, texts, seed=1)

    assert sequences({}) == [[2, 3], *([FOX] * 64)]
    mixed = sequences(E5)
    assert mixed == sequences(E5)
    assert mixed[0] == [2, 3]
    for one in (FOX, HELLO, WORLD):
        assert mixed.count(one) > 10
    # One without any prompt does not occur where there is a default.
    assert {tuple(one) for one in sequences({"STS": "quick "}, "STS")[1:]} == {tuple(QUICK)}


def test_prompts_are_drawn_by_the_seed(version: tuple[Path, Metadata]) -> None:
    metadata = with_prompts(version[1], E5)
    assert with_mixed_prompts(metadata, TEXTS, seed=1) == with_mixed_prompts(
        metadata, TEXTS, seed=1
    )
    assert with_mixed_prompts(metadata, TEXTS, seed=1) != with_mixed_prompts(
        metadata, TEXTS, seed=2
    )
