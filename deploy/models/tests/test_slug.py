"""The slug rule, which has to agree with the one in the Rust crates."""

import random
import re

import pytest

from embed_models.errors import UsageError
from embed_models.slug import MAX_LENGTH, slug


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bge-small-en-v1.5", "bge-small-en-v1-5"),
        ("all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("UAE-Large-V1", "uae-large-v1"),
        ("  spaces and\ttabs ", "spaces-and-tabs"),
        ("org/model__name", "org-model-name"),
        ("--a---b--", "a-b"),
        ("modèle", "mod-le"),
        ("\N{KELVIN SIGN}elvin", "elvin"),
        ("7", "7"),
        ("x" * MAX_LENGTH, "x" * MAX_LENGTH),
        ("." + "x" * MAX_LENGTH + ".", "x" * MAX_LENGTH),
    ],
)
def test_examples(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize("name", ["", "---", " . ", "日本語"])
def test_nothing_left(name: str) -> None:
    with pytest.raises(UsageError, match="no letter a-z or digit"):
        slug(name)


def test_too_long() -> None:
    with pytest.raises(UsageError, match="65 characters"):
        slug("x" * (MAX_LENGTH + 1))


def test_properties_of_random_names() -> None:
    generator = random.Random(1)
    alphabet = "abcXYZ019-._/ äß語\N{KELVIN SIGN}\n"
    for _ in range(2000):
        name = "a" + "".join(generator.choices(alphabet, k=generator.randrange(40)))
        result = slug(name)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", result)
        assert slug(result) == result
        assert slug(f".{name}.") == result
