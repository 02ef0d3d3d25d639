"""Sampling WordNet, on a few lines in its format; and the sample that the repository ships."""

import json
from pathlib import Path

import pytest

from embed_models.cli import main
from embed_models.errors import EmbedModelsError
from embed_models.wordnet import FILES, sample_items, split_gloss

SHIPPED = Path(__file__).parents[2] / "samples" / "wordnet" / "sentences.jsonl"


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    directory = tmp_path / "dict"
    directory.mkdir()
    for name in FILES:
        rows = [
            f"{number:08} 03 n 01 word 0 000 | the {name}  definition of word number {number}; "
            f'"here is example sentence {number} of {name}"; "too short"; "Seen In Every File Once"'
            for number in range(10)
        ]
        licence = '  1 This licence is no gloss | so it must not be taken; "as one of the texts"'
        (directory / name).write_text("\n".join([licence, *rows]) + "\n")
    return directory


@pytest.mark.parametrize(
    ("gloss", "expected"),
    [
        ("a plain definition", ("a plain definition", [])),
        ('one;  two ;"an  example"; "more"', ("one; two ", ["an example", "more"])),
        ('with; "an example"- Somebody; "more"', ("with", ["more"])),
        ('unbalanced; "an example; "more"', ("unbalanced", ["more"])),
        ('the "quoted" word; "an example"', ("", ["an example"])),
    ],
)
def test_split_gloss(gloss: str, expected: tuple[str, list[str]]) -> None:
    assert split_gloss(gloss) == expected


def test_sample(dictionary: Path) -> None:
    items = sample_items(dictionary, count=50, seed=1)
    for item in items:
        definition, examples = split_gloss(item.gloss)
        assert item.text in (definition, *examples)
    texts = [item.text for item in items]
    sentences = [text for text in texts if text.startswith(("here is", "Seen"))]
    assert len(sentences) == 30
    assert len(texts) == len({text.casefold() for text in texts}) == 50
    assert "too short" not in texts
    assert not any("licence" in text or "  " in text for text in texts)
    assert sample_items(dictionary, count=50, seed=1) == items
    assert set(sample_items(dictionary, count=50, seed=2)) != set(items)


def test_unsuitable_glosses_are_left_out(dictionary: Path) -> None:
    with (dictionary / "data.adv").open("a") as file:
        file.write(
            '1 | (offensive) a slur that nobody has to read; "an example that belongs to it"\n'
        )
    everything = [item.text for item in sample_items(dictionary, count=81, seed=1)]
    assert not any("slur" in text or "belongs to it" in text for text in everything)


def test_too_few_texts(dictionary: Path) -> None:
    with pytest.raises(EmbedModelsError, match=r"yields only .* smaller --count"):
        sample_items(dictionary, count=500, seed=1)


def test_command(dictionary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "sentences.jsonl"
    arguments = ["sample-wordnet", "--dict", str(dictionary), "--count", "3", "--out", str(out)]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["wn-00001", "wn-00002", "wn-00003"]
    (dictionary / "data.verb").unlink()
    assert main(arguments) == 1
    assert "data.verb is missing" in capsys.readouterr().err


def test_shipped_sample() -> None:
    rows = [json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [f"wn-{number:05}" for number in range(1, 2001)]
    assert len({row["text"].casefold() for row in rows}) == 2000
    assert all(len(row["text"].split()) >= 5 for row in rows)
