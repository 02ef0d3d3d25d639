"""Reads the collections that the training texts come from, as groups of texts that belong together.

Every reader yields groups in the order of its file, where neighbours are about similar things; the
training draws neighbours into one batch to make telling them apart worthwhile.
"""

import bz2
import gzip
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embed_models.errors import EmbedModelsError
from embed_models.student_split import debian_paragraphs
from embed_models.wordnet import FILES, split_gloss

# The pair (query, document) of a known-item retrieval, as kinds of text.
RETRIEVAL_PAIRS = (
    ("debian-synopsis", "debian-description"),
    ("wordnet-words", "wordnet-definition"),
)

_FEWEST_WORDS = 3


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
        path = _existing(directory / name, "the directory of Debian's package wordnet-base")
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


def read_debian(path: Path) -> Iterator[Group]:
    """Yield the packages of a Translation-en file: synopsis and long description."""
    _existing(path, "Debian's Translation-en, uncompressed")
    for stanza in path.read_text(encoding="utf-8").split("\n\n"):
        _, found, entry = stanza.partition("Description-en:")
        if not found:
            continue
        synopsis, *lines = entry.strip().split("\n")
        paragraphs = debian_paragraphs("\n".join(lines))
        if paragraphs:
            yield Group(
                key=paragraphs[0],
                texts=(
                    Text("debian-synopsis", " ".join(synopsis.split())),
                    Text("debian-description", "\n".join(paragraphs)),
                ),
            )


def read_dictd(path: Path) -> Iterator[Group]:
    """Yield the paragraphs of a dictd database (.dict.dz): definitions and quotations."""
    _existing(path, "a .dict.dz file of Debian's dict-gcide or dict-foldoc")
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        content = file.read()
    # The paragraphs before the first headword describe the database.
    for paragraph in content.split("\n\n")[40:]:
        # Entries taken over from WordNet would bring back what is held out of it.
        if "WordNet" in paragraph or "\ufffd" in paragraph:
            continue
        text = re.sub(r"\\[^\\]*\\,?|\[[^\]]*\]|--[A-Z][\w. ]*$|[{}]", " ", paragraph.strip())
        text = re.sub(r"^\s*(?:\d+\.|\([a-z]\))\s", "", " ".join(text.split()))
        if len(text.split()) > _FEWEST_WORDS:
            yield Group(key=text, texts=(Text("dictionary", text),))


def read_wikipedia(path: Path) -> Iterator[Group]:
    """Yield the articles of a MediaWiki dump (.xml.bz2) as paragraphs; needs gensim."""
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki

    _existing(path, "the English dump among gensim's test data")
    with bz2.open(path, "rb") as dump:
        for title, markup, _ in extract_pages(dump, ("0",)):
            content = re.sub(r"'{2,}", "", filter_wiki(markup))
            paragraphs = [" ".join(line.split()) for line in content.splitlines()]
            texts = tuple(
                Text("wiki", paragraph)
                for paragraph in paragraphs
                if len(paragraph.split()) > 2 * _FEWEST_WORDS and paragraph[0] not in "=|*#:{!;<"
            )
            if texts:
                yield Group(key=title, texts=texts)


def read_lines(path: Path) -> Iterator[Group]:
    """Yield the lines of a file as documents, such as those of gensim's lee_background.cor."""
    _existing(path, "a file with one document per line")
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip():
            yield Group(key=line, texts=(Text("news", line.strip()),))


def questions(group: Group) -> Iterable[Text]:
    """Yield what people might ask about the things of a group, from patterns."""
    kinds = {text.kind: text.text for text in group.texts}
    number = len(kinds.get("wordnet-definition", "")) + len(kinds.get("debian-description", ""))
    if words := kinds.get("wordnet-words"):
        word = words.split(", ")[number % (words.count(", ") + 1)]
        yield Text("question", _ABOUT_WORDS[number % len(_ABOUT_WORDS)].format(word))
    if synopsis := kinds.get("debian-synopsis"):
        yield Text("question", _ABOUT_SOFTWARE[number % len(_ABOUT_SOFTWARE)].format(synopsis))


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


def _words_of_synset(fields: list[str]) -> list[str]:
    count = int(fields[3], 16)
    words = fields[4 : 4 + 2 * count : 2]
    # Adjectives may carry a syntactic marker, such as `(p)`.
    return [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words]


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise EmbedModelsError(f"{path} is missing; give {what}")
    return path
