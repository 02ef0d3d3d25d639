"""The training texts: what is read, what is held out, and that none of it gets into training."""

import gzip
import itertools
import json
from pathlib import Path

import pytest

from embed_models.cli import main
from embed_models.distill.corpus import HELD_OUT, TRAIN, divide, read_rows
from embed_models.distill.texts import (
    Group,
    Text,
    read_debian,
    read_dictd,
    read_lines,
    read_wordnet,
)
from embed_models.errors import EmbedModelsError
from embed_models.student_split import HELD_OUT_BELOW, is_held_out, normalise
from embed_models.wordnet import FILES

SYNSET = (
    "00001740 03 n 02 physical_entity 0 be(p) 0 001 ~ 00001930 n 0000 "
    '| an entity that exists; "it was an entity"; "so was this one"  \n'
)

EXPECTED_HELD_OUT = ["0", "9", "49", "53"]

TRANSLATION = """\
Package: zoo
Description-md5: 00
Description-en: animals in cages
 A zoo shows  animals
 to visitors.
 .
 This package contains the zoo.

Package: empty
Description-md5: 01
Description-en: no long description
"""


def key_on(side: bool, *, beginning: str) -> str:
    """Return a key with this beginning that is held out (or is not)."""
    return next(
        key for number in itertools.count() if is_held_out(key := f"{beginning} {number}") is side
    )


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_text("  1 licence | no gloss\n")
    (tmp_path / "data.noun").write_text("  1 licence | no gloss\n" + SYNSET)
    return tmp_path


def test_split_is_what_the_student_was_trained_with() -> None:
    # Other answers mean another split, for which the stored student would have to be trained anew.
    assert [key for key in map(str, range(60)) if is_held_out(key)] == EXPECTED_HELD_OUT
    share = sum(is_held_out(f"text {number}") for number in range(20_000)) / 20_000
    assert abs(share - HELD_OUT_BELOW / 256) < 0.01


def test_split_looks_at_neither_case_nor_spaces() -> None:
    for number in range(200):
        assert is_held_out(f"Some  TEXT\n{number} ") == is_held_out(f"some text {number}")


def test_wordnet(dictionary: Path) -> None:
    (group,) = read_wordnet(dictionary)
    assert normalise(group.key) == ('an entity that exists; "it was an entity"; "so was this one"')
    assert [(text.kind, text.text) for text in group.texts] == [
        ("wordnet-words", "physical entity, be"),
        ("wordnet-definition", "an entity that exists"),
        ("wordnet-entry", "physical entity, be: an entity that exists"),
        ("wordnet-example", "it was an entity"),
        ("wordnet-example", "so was this one"),
    ]


def test_debian(tmp_path: Path) -> None:
    path = tmp_path / "Translation-en"
    path.write_text(TRANSLATION)
    (group,) = read_debian(path)
    assert group.key == "A zoo shows animals to visitors."
    assert [text.text for text in group.texts] == [
        "animals in cages",
        "A zoo shows animals to visitors.\nThis package contains the zoo.",
    ]


def test_dictd(tmp_path: Path) -> None:
    path = tmp_path / "small.dict.dz"
    paragraphs = ["about the database"] * 40 + [
        'Affect \\Af*fect"\\, v. t. [L. affectus.]\n   1. To {act} upon; to change.',
        "   2. To love; to   regard with affection. [Obs.]",
        "      As for Queen Katharine, he rather respected her. --Fuller.",
        "   3. a definition that has been taken over from there. [WordNet 1.5]",
        "   too short",
    ]
    with gzip.open(path, "wt") as file:
        file.write("\n\n".join(paragraphs))
    assert [group.texts[0].text for group in read_dictd(path)] == [
        "Affect v. t. 1. To act upon; to change.",
        "To love; to regard with affection.",
        "As for Queen Katharine, he rather respected her.",
    ]


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.cor"
    path.write_text("one document\n\nanother one\n")
    assert [group.key for group in read_lines(path)] == ["one document", "another one"]


def test_wikipedia(tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    import bz2

    from embed_models.distill.texts import read_wikipedia

    path = tmp_path / "dump.xml.bz2"
    dump = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><page><title>Zoo</title>'
        "<ns>0</ns><id>1</id><revision><id>2</id><text>A '''zoo''' is a place where [[animal]]s "
        "are kept.\n\n== History ==\n* short\n</text></revision></page></mediawiki>"
    )
    path.write_bytes(bz2.compress(dump.encode()))
    (group,) = read_wikipedia(path)
    assert group == Group("Zoo", (Text("wiki", "A zoo is a place where animals are kept."),))


def test_held_out_texts_stay_out() -> None:
    shared = "a paragraph that both have"
    held = Group(
        key_on(True, beginning="held"),
        (Text("debian-synopsis", "Held Synopsis"), Text("debian-description", f"own\n{shared}")),
    )
    kept = Group(
        key_on(False, beginning="kept"),
        (
            Text("debian-synopsis", "held  synopsis"),
            Text("debian-description", f"another\n{shared.upper()}"),
        ),
    )
    reserved = Group(key_on(False, beginning="reserved"), (Text("wordnet-example", "Reserved."),))
    training, held_out = divide([kept, held, reserved, kept], ["reserved."])
    assert [(row.kind, row.text) for row in training] == [("debian-description", "another")]
    assert {"Held Synopsis", f"own\n{shared}", "Reserved."} <= {row.text for row in held_out}
    synopsis, description = held_out[0], held_out[1]
    assert synopsis.group == description.group != held_out[-1].group


def test_command(dictionary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.cor"
    texts.write_text("".join(f"document number {number}\n" for number in range(200)))
    reserve = tmp_path / "reserve.jsonl"
    reserve.write_text(json.dumps({"text": "So was this one"}) + "\n")
    out = tmp_path / "out"
    arguments = ["distill-data", "--out", str(out), "--reserve", str(reserve)]
    sources = ["--wordnet", str(dictionary), "--lines", str(texts)]
    assert main([*arguments, *sources]) == 0
    training, held_out = read_rows(out / TRAIN), read_rows(out / HELD_OUT)
    assert 150 < len(training) < 200
    assert "it was an entity" in [row.text for row in held_out]
    assert len(training) + sum(row.kind == "news" for row in held_out) == 200
    assert "wordnet-example" in capsys.readouterr().err

    first = (out / TRAIN).read_bytes()
    assert main([*arguments, *sources]) == 0
    assert (out / TRAIN).read_bytes() == first

    assert main(arguments) == 2
    assert "at least one collection" in capsys.readouterr().err
    assert main([*arguments, "--debian", str(tmp_path / "nothing")]) == 1
    assert "nothing is missing" in capsys.readouterr().err
    reserve.write_text("[]\n")
    assert main([*arguments, *sources]) == 1
    assert "line 1" in capsys.readouterr().err


def test_missing_dictionary(tmp_path: Path) -> None:
    with pytest.raises(EmbedModelsError, match="wordnet-base"):
        list(read_wordnet(tmp_path))
