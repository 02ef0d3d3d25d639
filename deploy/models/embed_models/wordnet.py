"""Draws a sample of English texts from the glosses of the WordNet database.

A line of data.noun and its siblings ends in `| definition; "example sentence"; "another one"`.
The sample prefers example sentences, which read like what people write, to definitions.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embed_models.errors import EmbedModelsError

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")

SENTENCE_WORDS = 5
DEFINITION_WORDS = 6
# Three texts in five are example sentences.
SENTENCE_SHARE = (3, 5)

# Beginnings of words that keep a text out of the sample: it is shown in demos and documentation.
# WordNet says of nearly every slur that it is one, so the slurs themselves need not stand here.
_UNSUITABLE = re.compile(
    r"\b(?:sex|genital|intercourse|coitus|copulat|ejaculat|orgasm|masturbat|penis|vagin|vulva|"
    r"scrot|testic|clitor|nipple|buttock|nude|naked|erotic|porn|prostitut|whore|slut|brothel|"
    r"incest|raped?\b|rapist|molest|fuck|shit|bitch|bastard|piss|turd|feces|excrement|defecat|"
    r"urinat|slur|offensive|derogatory|disparag|vulgar|obscen|nigg|suicid)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Item:
    """A definition or an example sentence, and the whole gloss that it is a part of."""

    text: str
    gloss: str


def sample_items(
    directory: Path, *, count: int, seed: int, accept: Callable[[str], bool] = lambda _gloss: True
) -> list[Item]:
    """Return `count` distinct texts from the glosses that `accept` lets through.

    A gloss is what stands behind the `|` of a line, as it is. The same arguments always give the
    same texts.
    """
    sentences: dict[str, Item] = {}
    definitions: dict[str, Item] = {}
    for gloss in _glosses(directory):
        definition, examples = split_gloss(gloss)
        if _UNSUITABLE.search(gloss) or not accept(gloss):
            continue
        _collect(sentences, gloss, examples, SENTENCE_WORDS)
        _collect(definitions, gloss, [definition], DEFINITION_WORDS)

    wanted_sentences = count * SENTENCE_SHARE[0] // SENTENCE_SHARE[1]
    chosen = _ranked(sentences.values(), seed)[:wanted_sentences]
    others = [item for key, item in definitions.items() if key not in sentences]
    chosen += _ranked(others, seed)[: count - len(chosen)]
    if len(chosen) < count:
        raise EmbedModelsError(
            f"{directory} yields only {len(chosen)} suitable texts; ask for a smaller --count"
        )
    # Under another seed, so that sentences and definitions mix: within the choice the old order
    # would put the definitions first, which come from the larger pool.
    return _ranked(chosen, seed + 1)


def write_jsonl(items: Iterable[Item], path: Path) -> None:
    """Write one row per text, with ids that tell their order."""
    rows = (
        json.dumps({"id": f"wn-{number:05}", "text": item.text}, ensure_ascii=False)
        for number, item in enumerate(items, start=1)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def split_gloss(gloss: str) -> tuple[str, list[str]]:
    """Return the definition and the example sentences of a gloss.

    Some glosses have unbalanced quotation marks or attributions; their odd parts are left out.
    """
    definition, *quotations = re.split(r';\s*(?=")', " ".join(gloss.split()))
    examples = [match[1] for q in quotations if (match := re.fullmatch(r'"([^"]+)"', q))]
    return ("" if '"' in definition else definition), examples


def _glosses(directory: Path) -> Iterator[str]:
    for name in FILES:
        path = directory / name
        if not path.is_file():
            raise EmbedModelsError(
                f"{path} is missing; give the directory with the WordNet database "
                "(Debian's package wordnet-base has it)"
            )
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                # The licence stands before the data, on lines that begin with two spaces.
                if not line.startswith("  "):
                    yield line.partition("|")[2]


def _collect(
    items: dict[str, Item], gloss: str, candidates: Iterable[str], least_words: int
) -> None:
    for text in candidates:
        if len(text.split()) >= least_words:
            items.setdefault(text.casefold(), Item(text, gloss))


def _ranked(items: Iterable[Item], seed: int) -> list[Item]:
    # Ordered by digest and not by `random`, whose algorithms may change with the Python version.
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.text}".encode()).digest())
