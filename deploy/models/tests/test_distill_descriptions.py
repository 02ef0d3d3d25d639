"""Texts that read like descriptions of packages: manual pages and reference works."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from embed_models.distill.entries import entry, is_english, paragraphs_of_text
from embed_models.distill.readers import read_files
from embed_models.distill.texts import Text

MAN = r""".\" A permissive licence.
.de CS
.SH NOT THIS
..
.TH Queue 3
.SH NAME
Queue_Push, Queue_Pop \- put things into \fIqueues\fR
.SH SYNOPSIS
.nf
Queue_Push(thing)
.fi
.SH DESCRIPTION
.PP
The procedure
.BR Queue_Push (3)
puts a thing at the end of a queue\(em
unless it is full.
.nf
.SH code, not a section
.fi
.PP
A queue that is full grows by itself.
"""

MDOC = """.Dd January 30, 2019
.Dt EM 4
.Sh NAME
.Nm em
.Nd "adapter driver of networks"
.Sh DESCRIPTION
The
.Nm
driver supports cards that
.Fx
knows, see
.Xr iflib 4 .
.Pp
With
.Fl v
it says what it is doing.
"""

CLASS = """<div class="title">vtkSphere Class Reference</div></div><div class="contents">

<p>create a polygonal sphere at the origin  <a href="x.html#details">More...</a></p>
<h2 class="groupheader">Detailed Description</h2>
<div class="textblock"><p>create a polygonal sphere at the origin </p>
<p>The <a href="y">radius</a> of the sphere can be set.</p>
<dl><dt>Warning</dt><dd>Not this one, it is an aside.</dd></dl>
<p>Definition at line 31 of file vtkSphere.h.</p></div>"""

COMMANDS = '''helps['queue create'] = """
type: command
short-summary: Create a queue of work.
long-summary: |
    A queue keeps work until
    somebody has the time for it.
examples:
  - name: Create one that is large
"""

@register_command("queue delete")
class Delete(AAZCommand):
    """Delete a queue with its work.

    :example: Delete one now
    """
'''


def texts(path: Path, reader: str) -> list[tuple[str, str]]:
    return [(text.kind, text.text) for group in read_files([path], reader) for text in group.texts]


def write(path: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_entry() -> None:
    said = ["First of what it does.", "The second one of four.", "https://example.com/a/b/c/d"]
    assert list(entry("tool", "does things of all kinds", said)) == [
        Text("summary", "does things of all kinds"),
        Text("description", "First of what it does.\nThe second one of four."),
        Text(
            "entry",
            "tool - does things of all kinds\nFirst of what it does.\nThe second one of four.",
        ),
    ]


def test_entry_without_a_summary_begins_with_one() -> None:
    assert list(entry("tool", "", ["Does this and that. It does more on request."])) == [
        Text("summary", "Does this and that."),
        Text("description", "Does this and that. It does more on request."),
        Text("entry", "tool\nDoes this and that. It does more on request."),
    ]
    alone = list(entry("tool", "", ["Does this and that."]))
    assert [text.text for text in alone] == ["Does this and that.", "tool - Does this and that."]


def test_long_description_is_no_longer_than_those_of_packages() -> None:
    paragraphs = [f"Paragraph number {number} has the words " + "word " * 60 for number in range(5)]
    found = [text.text for text in entry("tool", "does some things now", paragraphs)]
    assert found[1].count("\n") == 1
    assert len(found) == 6


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("A library that reads files of many kinds and says what is in them", True),
        ("Eine Bibliothek liest Dateien vieler Formate und sagt dann deren Inhalt", False),
        ("Библиотека для чтения файлов", False),
    ],
)
def test_english_only(text: str, english: bool) -> None:
    assert is_english(text) is english


def test_paragraphs_of_text() -> None:
    found = paragraphs_of_text("**Bold** and `code`, [linked](x).\n\n- one\n- two")
    assert [part.strip() for part in found] == ["Bold and code, linked.", "- one", "- two"]


@pytest.mark.parametrize("name", ["queue.3", "queue.3.gz"])
def test_manual_page(tmp_path: Path, name: str) -> None:
    description = (
        "The procedure Queue_Push(3) puts a thing at the end of a queue- unless it is full.\n"
        "A queue that is full grows by itself."
    )
    assert texts(write(tmp_path / name, MAN), "manual-page") == [
        ("summary", "put things into queues"),
        ("description", description),
        ("entry", f"Queue_Push - put things into queues\n{description}"),
    ]


def test_manual_page_of_mdoc(tmp_path: Path) -> None:
    found = texts(write(tmp_path / "em.4", MDOC), "manual-page")
    assert found[:2] == [
        ("summary", "adapter driver of networks"),
        (
            "description",
            "The em driver supports cards that FreeBSD knows, see iflib(4).\n"
            "With -v it says what it is doing.",
        ),
    ]


@pytest.mark.parametrize("terms", ["All advertising materials mentioning", "GNU General Public"])
def test_manual_page_that_asks_for_more_than_a_notice(tmp_path: Path, terms: str) -> None:
    assert texts(write(tmp_path / "em.4", f'.\\" {terms}\n{MDOC}'), "manual-page") == []


def test_manual_page_has_to_say_its_licence_where_there_are_many(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "em.4", MDOC), "licensed-manual-page") == []
    free = f'.\\" Redistribution and use in source and binary forms\n{MDOC}'
    path = write(tmp_path / "free.4", free)
    assert texts(path, "licensed-manual-page") == texts(path, "manual-page") != []


def test_class_reference(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "class.html", CLASS), "doxygen") == [
        ("summary", "create a polygonal sphere at the origin"),
        ("description", "The radius of the sphere can be set."),
        (
            "entry",
            "vtkSphere - create a polygonal sphere at the origin\n"
            "The radius of the sphere can be set.",
        ),
    ]


def test_command_help(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "_help.py", COMMANDS), "command-help") == [
        ("summary", "Create a queue of work."),
        ("description", "A queue keeps work until somebody has the time for it."),
        (
            "entry",
            "queue create - Create a queue of work.\n"
            "A queue keeps work until somebody has the time for it.",
        ),
        ("summary", "Delete a queue with its work."),
        ("entry", "queue delete - Delete a queue with its work."),
    ]


def test_service_model(tmp_path: Path) -> None:
    model = {
        "metadata": {"serviceId": "Q", "serviceFullName": "Queue Service"},
        "documentation": "<p>Keeps <i>work</i> for you.</p><p>It never gets lost.</p>",
        "operations": {
            "CreateQueue": {"documentation": "<p>Creates a new queue.</p>"},
            "Nothing": {},
        },
    }
    assert texts(write(tmp_path / "service-2.json.gz", model), "service-model") == [
        ("summary", "Keeps work for you."),
        ("description", "It never gets lost."),
        ("entry", "Queue Service - Keeps work for you.\nIt never gets lost."),
        ("summary", "Creates a new queue."),
        ("entry", "Create Queue - Creates a new queue."),
    ]


def test_discovery(tmp_path: Path) -> None:
    method = {"description": "Lists the queues of a project."}
    inner = {"queues": {"methods": {"list": method}}}
    document = {
        "name": "queue",
        "title": "Queue API",
        "description": "Keeps work for you.",
        "resources": {"projects": {"resources": inner}},
        "schemas": {"QueueState": {"description": "State of a queue."}, "Other": {}},
    }
    found = texts(write(tmp_path / "queue.v1.json", document), "discovery")
    assert [text for kind, text in found if kind == "entry"] == [
        "Queue API - Keeps work for you.",
        "list queues - Lists the queues of a project.",
        "Queue State - State of a queue.",
    ]


def test_check(tmp_path: Path) -> None:
    check = {
        "CheckTitle": "Queue is encrypted at rest",
        "Description": "**Queues** are looked at.",
        "Risk": "Others could read it.",
        "Remediation": {"Recommendation": {"Text": "Encrypt the queue now."}},
    }
    assert texts(write(tmp_path / "x.metadata.json", check), "check") == [
        ("summary", "Queue is encrypted at rest"),
        ("description", "Queues are looked at.\nOthers could read it.\nEncrypt the queue now."),
    ]


def test_translation(tmp_path: Path) -> None:
    strings = {
        "config": {"error": {"full": "There is no place left", "for": "There is none in {place}"}},
        "services": {"push": {"name": "Push", "description": "Puts things into {queue} at once."}},
    }
    assert texts(write(tmp_path / "strings.json", strings), "translation") == [
        ("summary", "There is no place left"),
        ("summary", "Puts things into at once."),
        ("entry", "Push - Puts things into at once."),
    ]


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        ("features", {"features": {"q": {"name": "Queue", "description": "Keeps all your work."}}}),
        ("resources", {"q": {"name": "Queue", "description": "Keeps all your work."}}),
    ],
)
def test_catalogues(tmp_path: Path, reader: str, content: dict[str, Any]) -> None:
    assert texts(write(tmp_path / "data.json", content), reader) == [
        ("summary", "Keeps all your work."),
        ("entry", "Queue - Keeps all your work."),
    ]
