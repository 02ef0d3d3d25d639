"""Files of texts: what is read, what is refused, and that the frozen sets share nothing."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from embed_models.corpus.debian import packages
from embed_models.corpus.freeze import freeze, is_held_out
from embed_models.corpus.load import (
    BY_KIND,
    CALIBRATION,
    HELD_OUT,
    LENGTHS,
    data_dir,
    read_by_kind,
    read_held_out,
    read_rows,
    read_texts,
)
from embed_models.errors import CorpusError
from embed_models.student_split import debian_paragraphs
from embed_models.student_split import is_held_out as is_unknown_to_student
from embed_models.wordnet import split_gloss


def test_the_frozen_sets() -> None:
    calibration = read_texts(data_dir() / CALIBRATION)
    held_out = read_held_out(data_dir() / HELD_OUT)
    assert len(calibration.items) == len(set(calibration.items)) == 11_500
    assert len(held_out.sentences) == 1000
    assert len(held_out.queries) == len(held_out.documents) == 700
    known = {text.casefold() for text in calibration.items}
    for text in (*held_out.sentences, *held_out.queries, *held_out.documents):
        assert text.casefold() not in known


def test_the_texts_by_kind() -> None:
    path = data_dir() / BY_KIND
    kinds = read_by_kind(path)
    assert path.stat().st_size < 300_000
    counted = Counter((item.kind, item.tokens) for item in kinds.items)
    assert {kind for kind, _ in counted} == {
        "novel",
        "manual",
        "dictionary",
        "law",
        "code",
        "list",
        "question",
    }
    # Questions have the length that they have.
    assert all(
        counted[kind, tokens] >= 15
        for kind in ("novel", "manual", "dictionary", "law", "code", "list")
        for tokens in LENGTHS
    )
    texts = [item.text for item in kinds.items]
    assert len(set(texts)) == len(texts)
    calibration = set(read_texts(data_dir() / CALIBRATION).items)
    held_out = {row["text"] for row in read_rows(data_dir() / HELD_OUT)}
    assert not calibration & set(texts)
    assert not held_out & set(texts)
    few = kinds.first(2)
    assert max(Counter((item.kind, item.tokens) for item in few.items).values()) == 2
    assert "first 2" in few.name


def test_held_out_texts_are_held_out_by_both_splits() -> None:
    for row in read_rows(data_dir() / HELD_OUT):
        text = row["text"]
        if row["kind"] == "sentence":
            definition, examples = split_gloss(row["gloss"])
            assert text in (definition, *examples)
            assert is_held_out(row["gloss"]), text
            assert is_unknown_to_student(row["gloss"]), text
        else:
            if row["kind"] == "document":
                assert text.startswith(row["opening"].removeprefix(". "))
            assert is_held_out(row["family"]), text
            assert is_unknown_to_student(row["opening"]), text


def test_plain_lines_and_json_lines(tmp_path: Path) -> None:
    plain = tmp_path / "texts.txt"
    plain.write_text("first text\n\nsecond text\n", encoding="utf-8")
    assert read_texts(plain).items == ("first text", "second text")
    packed = tmp_path / "texts.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "one", "id": 1}\n'))
    assert read_texts(packed).items == ("one",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "empty.txt has no texts; calibration needs some"),
        ("blank.txt", b"\n  \n", "has no texts"),
        ("bad.jsonl", b'{"text": 1}\n', "bad.jsonl:1: not an object with a string `text`"),
        ("bad.jsonl", b'{"text": "a"}\nnope\n', "bad.jsonl:2: not JSON"),
        ("bad.jsonl", b'{"text": "  "}\n', "bad.jsonl:1: `text` is empty"),
        ("bad.txt.gz", b"not gzip", "cannot be read"),
        ("bad.txt", b"\xff\xfe", "has to be UTF-8"),
    ],
)
def test_refused_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=words):
        read_texts(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        read_texts(tmp_path / "none.txt")


def test_queries_need_their_documents(tmp_path: Path) -> None:
    path = tmp_path / "held-out.jsonl"
    path.write_text('{"kind": "query", "text": "where?"}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="1 rows of the kind `query` and 0 of the kind"):
        read_held_out(path)


STANZA = """Package: {name}
Description-md5: 0
Description-en: {synopsis}
 {description}
 .
 Second paragraph.
 .
 Third paragraph, which is one too many.
"""


def translation(tmp_path: Path, *entries: tuple[str, str, str]) -> Path:
    path = tmp_path / "Translation-en"
    stanzas = (STANZA.format(name=n, synopsis=s, description=d) for n, s, d in entries)
    path.write_text("\n".join(stanzas), encoding="utf-8")
    return path


def test_packages_that_can_be_told_apart(tmp_path: Path) -> None:
    long = "It does a number of things that take more than a hundred and twenty characters to tell "
    long += "and are worth telling at that length, "
    path = translation(
        tmp_path,
        ("good", "does things for people", long + "of the first, and then some more."),
        ("libgood1", "does things for people, shared library", long + "of the first, and then!"),
        ("short", "does nothing of much use", "Too short."),
        ("dummy", "a transitional package for good", "Another text. " + long),
        ("same", "does things for people", "Yet another text. " + long),
        ("quote", "finds its own words easily", "Finds its own words easily. " + long),
    )
    (only,) = packages(path)
    assert only.synopsis == "does things for people"
    assert only.description.endswith("Second paragraph.")
    assert only.opening == long + "of the first, and then some more."


def test_a_package_has_the_key_that_the_training_gave_it(tmp_path: Path) -> None:
    text = "An empty paragraph may stand before the first one that says something. " * 3
    path = translation(
        tmp_path,
        ("odd", "opens with an empty paragraph", f".\n {text}"),
        ("even", "opens with words of some kind", "Nothing but that. " + text),
    )
    entries = path.read_text("utf-8").strip().split("\n\n")
    bodies = [entry.partition("Description-en:")[2].strip().partition("\n")[2] for entry in entries]
    keys = [debian_paragraphs(body)[0] for body in bodies]
    assert [package.opening for package in packages(path)] == keys
    assert keys[0].startswith(". An empty")


def test_freezing_needs_enough_packages(tmp_path: Path) -> None:
    path = translation(tmp_path)
    with pytest.raises(CorpusError, match="too few distinct packages"):
        freeze(tmp_path, path, tmp_path / "out", seed=1)


def test_a_quarter_is_held_out() -> None:
    share = sum(is_held_out(json.dumps(number)) for number in range(4000)) / 4000
    assert 0.22 < share < 0.28
