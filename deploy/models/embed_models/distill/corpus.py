"""Divides the collections into training texts and held-out texts, and writes both.

What is held out stays out in every form: training texts lose each paragraph that also stands in a
held-out text, and are dropped when nothing else is left.
"""

import json
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embed_models.distill.texts import Group, Text, questions
from embed_models.errors import EmbedModelsError
from embed_models.student_split import is_held_out, normalise

TRAIN, HELD_OUT, SOURCES = "train.jsonl.xz", "held-out.jsonl.xz", "sources.tsv"

# So many words in a row are no coincidence.
_PHRASE = 8
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Source:
    """Where texts come from."""

    registry: str
    package: str
    version: str
    licence: str


@dataclass(frozen=True)
class Row:
    """A text of the corpus; texts with the same `group` number belong together."""

    kind: str
    text: str
    group: int
    # Number of its source, in the order of the sources.
    source: int = 0


def divide(
    groups: Iterable[tuple[int, Group]], reserved: Iterable[str], documents: Iterable[str] = ()
) -> tuple[list[Row], list[Row]]:
    """Return (training rows, held-out rows) of groups with the number of their source.

    Neither has repeated texts. Groups with a text among `reserved` are held out whatever their
    digest says. What shares a phrase with one of `documents` is in no training row: the same
    software, described by others in its own words.
    """
    phrases = {phrase for document in documents for phrase in _phrases(document)}
    unwanted = {normalise(text) for text in reserved}
    everything = list(groups)
    held = [
        is_held_out(group.key) or any(normalise(text.text) in unwanted for text in group.texts)
        for _, group in everything
    ]
    held_out = list(_rows(_only(everything, held, wanted=True)))
    unwanted.update(
        normalise(part) for row in held_out for part in (row.text, *row.text.split("\n"))
    )
    training = _rows(
        (source, Group(group.key, kept))
        for source, group in _only(everything, held, wanted=False)
        if (kept := tuple(_without(group, unwanted, phrases)))
    )
    return list(training), held_out


def read_reserved(path: Path) -> Iterator[str]:
    """Yield the texts of a JSON Lines file with `text` in each row."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise EmbedModelsError(
                f'{path}, line {number}: expected a JSON object with a "text"'
            ) from error


def write_corpus(
    directory: Path,
    training: list[Row],
    held_out: list[Row],
    sources: list[Source],
    report: Callable[[str], None],
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    counts = Counter(row.source for row in training)
    lines = ["registry\tpackage\tversion\tlicence\ttexts"]
    lines += [
        "\t".join((*vars(source).values(), str(counts[number])))
        for number, source in enumerate(sources)
        if counts[number]
    ]
    (directory / SOURCES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    report(f"texts of {len(lines) - 1} packages, with their licences in {directory / SOURCES}")
    for name, rows in ((TRAIN, training), (HELD_OUT, held_out)):
        unfinished = directory / f".{name}"
        with lzma.open(unfinished, "wt", encoding="utf-8", preset=1) as file:
            for row in rows:
                file.write(json.dumps(vars(row), ensure_ascii=False) + "\n")
        unfinished.replace(directory / name)
        kinds = ", ".join(f"{count} {kind}" for kind, count in _count(rows).most_common())
        report(f"wrote {len(rows)} texts to {directory / name}: {kinds}")


def read_rows(path: Path) -> list[Row]:
    """Read what `write_corpus` wrote."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [Row(**json.loads(line)) for line in file]


def _only(
    groups: list[tuple[int, Group]], held: list[bool], *, wanted: bool
) -> Iterator[tuple[int, Group]]:
    return (group for group, flag in zip(groups, held, strict=True) if flag is wanted)


def _without(group: Group, unwanted: set[str], phrases: set[str]) -> Iterator[Text]:
    for text in group.texts:
        if phrases and not phrases.isdisjoint(_phrases(text.text)):
            continue
        kept = [part for part in text.text.split("\n") if not unwanted & _forms(part)]
        if kept and normalise(text.text) not in unwanted:
            yield Text(text.kind, "\n".join(kept))


def _forms(part: str) -> set[str]:
    """Return a paragraph, and what stands behind the name of a thing in it."""
    return {normalise(part), normalise(part.partition(" - ")[2] or part)}


def _phrases(text: str) -> Iterator[str]:
    words = _WORD.findall(text.casefold())
    return (" ".join(words[start : start + _PHRASE]) for start in range(len(words) - _PHRASE + 1))


def _rows(groups: Iterable[tuple[int, Group]]) -> Iterator[Row]:
    seen: set[str] = set()
    for number, (source, group) in enumerate(groups):
        for text in (*group.texts, *questions(group)):
            key = normalise(text.text)
            if key and key not in seen:
                seen.add(key)
                yield Row(text.kind, text.text, number, source)


def _count(rows: Iterable[Row]) -> Counter[str]:
    return Counter(row.kind for row in rows)
