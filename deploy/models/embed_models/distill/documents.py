"""Reads documents in the formats that packages carry: a group of paragraphs for each."""

import gzip
import html
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from embed_models.distill.texts import Group, Text, read_wordnet
from embed_models.errors import EmbedModelsError

# Shorter ones say nothing; longer ones are cut at a line: the student sees at most 256 tokens.
_FEWEST_WORDS = 4
_LONGEST = 4000
# Sentences of the passages that running text is cut into, in turn.
_SENTENCES = (1, 2, 3, 1, 5, 2, 8, 4)
_OF_WORDS = 0.6  # share of letters and spaces in prose

_HEADINGS = frozenset({"h1", "h2", "h3", "h4"})
_SKIPPED = re.compile(
    r"<(button|footer|form|head|header|nav|note|script|style|svg)\b.*?</\1\s*>|<!--.*?-->",
    re.S | re.I,
)
_PRE = re.compile(r"<pre\b[^>]*>(.*?)</pre>", re.S | re.I)
_BLOCK = re.compile(
    r"</?(?:(?<!/)(h[1-4])|h[1-4]|article|blockquote|body|br|chapter|dd|div|dl|dt|li|ol|p|section|table|td|th|"
    r"title|tr|ul)\b[^>]*>",
    re.I,
)
_TAG = re.compile(r"<[^>]*>")
# Marks for links to a heading.
_MARKS = re.compile(r"[¶§]|\[src\]|\bsource$")


def prose(text: str) -> str | None:
    """Return running text with white space collapsed, or None: too short, or no words."""
    text = " ".join(_MARKS.sub("", text).split())[:_LONGEST]
    letters = sum(character.isalpha() or character == " " for character in text)
    if len(text.split()) < _FEWEST_WORDS or letters < _OF_WORDS * len(text):
        return None
    return text


def source_text(text: str) -> Iterator[str]:
    """Yield stretches of code between blank lines, as they stand; short ones with the next."""
    stretch = ""
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        stretch += ("\n\n" if stretch else "") + part.rstrip()
        if stretch.count("\n") >= 4:
            yield stretch[:_LONGEST]
            stretch = ""
    if len(stretch.split()) >= _FEWEST_WORDS:
        yield stretch[:_LONGEST]


def markdown(text: str, kind: str) -> Iterator[Text]:
    """Yield the paragraphs, headings and code of a text in Markdown."""
    for number, part in enumerate(re.split(r"^\s*(?:```|~~~).*$", text, flags=re.M)):
        if number % 2:
            yield from (Text("code", stretch) for stretch in source_text(part))
            continue
        part = re.sub(
            r"<!--.*?-->|<[^<>]+>|!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])", " ", part, flags=re.S
        )
        part = re.sub(r"^\s*\[[^\]]+\]:.*$", "", part, flags=re.M)
        part = re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?", r"\1", part)
        for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[*+-]|\d+\.)\s)", part):
            found = re.match(r"\s*#+\s*(.+)", paragraph)
            if found:
                yield Text("heading", " ".join(found[1].strip("# `").split()))
                paragraph = paragraph[found.end() :]
            said = re.sub(r"^\s*(?:[*+>|-]|\d+\.)\s", " ", paragraph, flags=re.M)
            cleaned = prose(re.sub(r"[*`]{1,3}", "", said))
            if cleaned:
                yield Text(kind, cleaned)


def passages(text: str, kind: str) -> Iterator[Text]:
    """Yield running text in passages of different numbers of sentences."""
    sentences = re.split(r"(?<=[.!?;])\s+(?=[A-Z\"“])", " ".join(text.split()))
    start = 0
    for size in cycle(_SENTENCES):
        if start >= len(sentences):
            return
        passage = prose(" ".join(sentences[start : start + size]))
        if passage:
            yield Text(kind, passage)
        start += size


def _html(content: str, kind: str) -> list[Text]:
    """Return headings, code and running text of a page of HTML, or of OSIS, which has its elements.

    By patterns: a parser in Python takes minutes for what packages hold.
    """
    texts: list[Text] = []
    for number, part in enumerate(_PRE.split(_SKIPPED.sub(" ", content))):
        if number % 2:
            code = html.unescape(_TAG.sub("", part))
            texts += [Text("code", stretch) for stretch in source_text(code)]
            continue
        block = ""
        for place, piece in enumerate(_BLOCK.split(part)):
            # Between two texts stands the name of a heading that begins, or nothing.
            if place % 2:
                block = piece or ""
                continue
            text = html.unescape(_TAG.sub("", piece))
            if block.lower() in _HEADINGS:
                heading = " ".join(_MARKS.sub("", text).split())
                texts += [Text("heading", heading[:_LONGEST])] if heading else []
            elif cleaned := prose(text):
                texts.append(Text(kind, cleaned))
    return texts


def _read_html(path: Path) -> Iterator[Group]:
    texts = _html(path.read_text(encoding="utf-8", errors="replace"), "manual")
    yield from _group(texts)


def _read_dictd(path: Path) -> Iterator[Group]:
    """Yield the entries of a dictd database: an entry begins in the first column."""
    content = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    for entry in re.split(r"\n\s*\n(?=\S)", content):
        if cleaned := prose(entry):
            yield Group(cleaned, (Text("dictionary", cleaned),))


def _read_sword(path: Path) -> Iterator[Group]:
    """Yield the books of a module of the Sword project: compressed OSIS, with an index."""
    content, index = path.read_bytes(), path.with_suffix(".bzs").read_bytes()
    for begin, size, _ in struct.iter_unpack("<III", index):
        book = zlib.decompress(content[begin : begin + size]).decode("utf-8", errors="replace")
        texts = [
            passage
            for text in _html(book, "scripture")
            for passage in passages(text.text, text.kind)
        ]
        yield from _group(texts)


def _read_plain(path: Path) -> Iterator[Group]:
    yield from _group(list(passages(path.read_text(encoding="utf-8"), "speech")))


def _group(texts: list[Text]) -> Iterator[Group]:
    """Yield a document as one group, whose key is what it says first."""
    if texts:
        yield Group(" ".join(text.text for text in texts[:3]), tuple(texts))


READERS = {
    "dictd": _read_dictd,
    "html": _read_html,
    "plain": _read_plain,
    "sword": _read_sword,
    "wordnet": read_wordnet,
}


def find_files(folder: Path, patterns: list[str], what: str) -> list[Path]:
    """Return the files or folders below `folder` in order, or say what is missing."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    # A whole book once more.
    paths = sorted(path for path in found if path.name != "print.html")
    if not paths:
        raise EmbedModelsError(f"{folder} has nothing of {what}; unpack that package there")
    return paths
