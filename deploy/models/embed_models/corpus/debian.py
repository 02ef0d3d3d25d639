"""Reads synopses and descriptions of packages from Debian's Translation-en."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embed_models.errors import CorpusError
from embed_models.student_split import debian_paragraphs

# What a description has to have to be worth finding, in characters and words.
LEAST_DESCRIPTION = 120
LEAST_SYNOPSIS_WORDS = 4
PARAGRAPHS = 2

# Packages without a subject of their own.
_EMPTY = re.compile(r"\b(?:transitional|dummy|metapackage|debug symbols|debugging symbols)\b", re.I)


@dataclass(frozen=True)
class Package:
    """A package with its one-line synopsis and the first paragraphs of its description."""

    family: str
    synopsis: str
    # Its first paragraph as the student's training counts, by which `student_split` decides.
    opening: str
    description: str


def packages(translation: Path) -> Iterator[Package]:
    """Yield the packages whose texts can be told apart from those of all others."""
    if not translation.is_file():
        raise CorpusError(
            f"{translation} is missing; give Debian's Translation-en, uncompressed "
            "(see embed_models/data/README.md)"
        )
    synopses: set[str] = set()
    openings: set[str] = set()
    for stanza in translation.read_text(encoding="utf-8").split("\n\n"):
        package = _parse(stanza)
        if package is None:
            continue
        # Several packages of one source often share their text; a search could not tell them apart.
        opening = package.description[:LEAST_DESCRIPTION].casefold()
        if package.synopsis.casefold() in synopses or opening in openings:
            continue
        synopses.add(package.synopsis.casefold())
        openings.add(opening)
        yield package


def _parse(stanza: str) -> Package | None:
    name = re.search(r"^Package: (\S+)$", stanza, re.M)
    body = re.search(r"^Description-en: (.+)\n((?: .*\n?)+)", stanza, re.M)
    if name is None or body is None:
        return None
    synopsis = " ".join(body[1].split())
    paragraphs = [" ".join(p.split()) for p in re.split(r"^ \.\s*$", body[2], flags=re.M)]
    description = " ".join(p for p in paragraphs[:PARAGRAPHS] if p)
    if (
        len(description) < LEAST_DESCRIPTION
        or len(synopsis.split()) < LEAST_SYNOPSIS_WORDS
        or _EMPTY.search(synopsis)
        # Finding a text by a part of itself would be no test.
        or synopsis.casefold() in description.casefold()
    ):
        return None
    return Package(
        family=_family(name[1]),
        synopsis=synopsis,
        opening=debian_paragraphs(body[2])[0],
        description=description,
    )


def _family(name: str) -> str:
    """Return what packages of one source tend to share: the beginning of the name."""
    return re.sub(r"^(?:lib|golang-|node-|python3?-|r-|ruby-|haskell-|fonts-)+", "", name)[:4]
