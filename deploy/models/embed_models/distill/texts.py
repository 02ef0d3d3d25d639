"""Texts in groups that belong together, and those of WordNet.

Every reader yields groups in the order of its files, where neighbours are about similar things; the
training draws neighbours into one batch to make telling them apart worthwhile.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embed_models.errors import EmbedModelsError
from embed_models.wordnet import FILES, split_gloss

# The pair (query, document) of a known-item retrieval, as kinds of text.
RETRIEVAL_PAIRS = (
    ("tested-query", "tested-document"),
    ("wordnet-words", "wordnet-definition"),
    ("summary", "description"),
)


@dataclass(frozen=True)
class Text:
    """A text with the kind of text it is."""

    kind: str
    text: str


@dataclass(frozen=True)
class Group:
    """Texts that belong together, and the key that decides about holding them out."""

    key: str
    texts: tuple[Text, ...]


def read_wordnet(directory: Path) -> Iterator[Group]:
    """Yield the synsets of data.noun etc.: their words, definition and example sentences."""
    for name in FILES:
        path = directory / name
        if not path.is_file():
            raise EmbedModelsError(
                f"{path} is missing; give the directory of Debian's package wordnet-base"
            )
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                # The licence stands before the data, on lines that begin with two spaces.
                if line.startswith("  "):
                    continue
                fields, _, gloss = line.partition("|")
                words = ", ".join(_words_of_synset(fields.split()))
                definition, examples = split_gloss(gloss)
                texts = [Text("wordnet-words", words)]
                if definition:
                    texts.append(Text("wordnet-definition", definition))
                    texts.append(Text("wordnet-entry", f"{words}: {definition}"))
                texts += [Text("wordnet-example", example) for example in examples]
                yield Group(key=gloss, texts=tuple(texts))


def questions(group: Group) -> Iterable[Text]:
    """Yield what people might ask about the things of a group, from patterns."""
    kinds = {text.kind: text.text for text in group.texts}
    number = len(group.key)
    if words := kinds.get("wordnet-words"):
        word = words.split(", ")[number % (words.count(", ") + 1)]
        yield Text("question", _ABOUT_WORDS[number % len(_ABOUT_WORDS)].format(word))
    if software := kinds.get("software"):
        for pattern in _ABOUT_SOFTWARE:
            yield Text("question", pattern.format(software.rstrip(".")))
    for number, text in enumerate(group.texts):
        if text.kind == "heading":
            pattern = _ABOUT_HEADINGS[(number + len(text.text)) % len(_ABOUT_HEADINGS)]
            yield Text("question", pattern.format(text.text))


_ABOUT_WORDS = (
    "what is {}?",
    "what does {} mean",
    "{} meaning",
    "definition of {}",
    "who or what is {}?",
    "tell me about {}",
    "{}",
    "how is {} different from other things?",
    "why is {} important?",
    "examples of {}",
    "where can I find {}?",
    "I was reading about {} yesterday.",
)
_ABOUT_SOFTWARE = (
    "which package do I need for: {}?",
    "how do I install {}",
    "looking for {}",
    "is there a {} for Linux?",
    "what is the best {}?",
    "I need {} on my server",
    "problem with {}: it does not start",
    "how to use {}",
    "alternatives to {}",
)
_ABOUT_HEADINGS = (
    "how does {} work?",
    "{} example",
    "how do I use {}?",
    "error in {}",
    "documentation of {}",
    "what is the difference between {} and the default?",
    "why does {} fail?",
    "can I change {} later?",
    "when should I use {}?",
)


def _words_of_synset(fields: list[str]) -> list[str]:
    count = int(fields[3], 16)
    words = fields[4 : 4 + 2 * count : 2]
    # Adjectives may carry a syntactic marker, such as `(p)`.
    return [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words]
