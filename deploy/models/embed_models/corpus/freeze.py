"""Chooses the texts of `data`, so that calibration and held-out text share nothing.

What is held out is new to the distilled student as well: it takes both splits, the one of this
module and that of the student's training. Everything is decided by digests: the same sources and
the same seed give the same files.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from embed_models.corpus.debian import Package, packages
from embed_models.corpus.load import CALIBRATION, HELD_OUT, write_rows
from embed_models.errors import CorpusError
from embed_models.student_split import is_held_out as is_unknown_to_student
from embed_models.wordnet import sample_items

CALIBRATION_SENTENCES = 5000
CALIBRATION_DESCRIPTIONS = 3500
CALIBRATION_SYNOPSES = 1500
HELD_OUT_SENTENCES = 1000
HELD_OUT_PAIRS = 700


def freeze(wordnet: Path, translation: Path, out: Path, *, seed: int) -> dict[str, int]:
    """Write both files and return how many rows each has."""
    chosen = _ranked(list(packages(translation)), seed)
    known = [
        package
        for package in chosen
        if is_held_out(package.family) and is_unknown_to_student(package.opening)
    ]
    rest = [package for package in chosen if not is_held_out(package.family)]
    if len(known) < HELD_OUT_PAIRS or len(rest) < CALIBRATION_DESCRIPTIONS + CALIBRATION_SYNOPSES:
        raise CorpusError(f"{translation} has too few distinct packages; give that of all of main")
    described, named = rest[:CALIBRATION_DESCRIPTIONS], rest[CALIBRATION_DESCRIPTIONS:]

    glosses = sample_items(
        wordnet,
        count=CALIBRATION_SENTENCES,
        seed=seed,
        accept=lambda gloss: not is_held_out(gloss),
    )
    calibration = [
        *(item.text for item in glosses),
        *(package.description for package in described),
        *(package.synopsis for package in named[:CALIBRATION_SYNOPSES]),
    ]
    sentences = sample_items(
        wordnet,
        count=HELD_OUT_SENTENCES,
        seed=seed,
        accept=lambda gloss: is_held_out(gloss) and is_unknown_to_student(gloss),
    )
    pairs = known[:HELD_OUT_PAIRS]
    # With what the splits went by, so that anybody can check them without the sources.
    held_out = [
        *({"kind": "sentence", "text": item.text, "gloss": item.gloss} for item in sentences),
        *(_row("query", package.synopsis, package) for package in pairs),
        *(_row("document", package.description, package) for package in pairs),
    ]
    # Mixed, so that any first part of the file is a sample of the whole.
    order = sorted(calibration, key=lambda text: _digest(f"{seed}:{text}"))
    rows = [{"text": text} for text in order]
    write_rows(out / CALIBRATION, rows)
    write_rows(out / HELD_OUT, held_out)
    return {CALIBRATION: len(rows), HELD_OUT: len(held_out)}


def is_held_out(key: str) -> bool:
    """Say whether a gloss or a family of packages is kept out of calibration: one in four."""
    return _digest(f"held-out:{key}")[0] < 64


def _row(kind: str, text: str, package: Package) -> dict[str, str]:
    return {"kind": kind, "text": text, "family": package.family, "opening": package.opening}


def _ranked(items: Sequence[Package], seed: int) -> list[Package]:
    return sorted(items, key=lambda item: _digest(f"{seed}:{json.dumps(item.synopsis)}"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
