"""Texts that speak as descriptions of packages do: a line that sums up, and what it is good for.

What the student is used for asks a synopsis for its description. Reference works of other kinds are
written the same way: manual pages, classes, commands and operations of services.
"""

import html
import re
from collections.abc import Iterable, Iterator

from embed_models.distill.documents import prose
from embed_models.distill.texts import Text

# As many paragraphs and words as such a description has at most; what follows is left to itself.
_PARAGRAPHS, _WORDS = 4, 150
# A first sentence beyond that sums nothing up.
_LONGEST_SUMMARY = 30

_BREAK = re.compile(r"</?(?:p|ul|ol|dl|dt|dd|li|div|note|important|h\d)\b[^>]*>|<br\s*/?>", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_ADDRESS = re.compile(r"\(?\bhttps?://\S+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_END = re.compile(r"(?<=[a-z0-9)\"'][.!?])\s+(?=[A-Z])")
# Words of which any English sentence has some.
_ENGLISH = re.compile(
    r"\b(?:an?|and|are|as|at|be|by|can|for|from|has|if|in|into|is|it|its|not|of|on|or|that|the|this"
    r"|to|used|using|when|which|will|with|your?)\b"
)


def entry(name: str, summary: str, paragraphs: Iterable[str]) -> Iterator[Text]:
    """Yield the summary, the description, and both in one, of a thing of this name.

    Without a summary of its own the first sentence is the summary, and stays in the description.
    """
    said = [found for found in map(_plain, paragraphs) if found]
    summary = " ".join(summary.split())
    if not summary and said:
        summary = _END.split(said[0], maxsplit=1)[0]
        if said[0] == summary:
            del said[0]
    if prose(summary) and len(summary.split()) <= _LONGEST_SUMMARY:
        yield Text("summary", summary)
    if not said:
        if summary and name:
            yield Text("entry", f"{name} - {summary}")
        return
    beginning = list(_beginning(said))
    description = "\n".join(beginning)
    yield Text("description", description)
    if summary and name:
        heading = name if said[0].startswith(summary) else f"{name} - {summary}"
        yield Text("entry", f"{heading}\n{description}")
    yield from (Text("description", paragraph) for paragraph in said[len(beginning) :])


def paragraphs_of_html(content: str) -> list[str]:
    """Return the paragraphs of a fragment of HTML, as descriptions of interfaces have it."""
    return [html.unescape(_TAG.sub("", part)) for part in _BREAK.split(content)]


def paragraphs_of_text(content: str) -> list[str]:
    """Return the paragraphs and items of a text in little more than plain words."""
    content = re.sub(r"[*`]{1,3}", "", _LINK.sub(r"\1", content))
    return re.split(r"\n\s*\n|\n(?=\s*(?:[*+-]|\d+\.)\s)", content)


def is_english(text: str) -> bool:
    """Tell whether a text of some length has ASCII and the commonest words of English."""
    ascii_only = sum(character.isascii() for character in text) > 0.95 * len(text)
    return ascii_only and (len(text.split()) < 8 or bool(_ENGLISH.search(text.lower())))


def _plain(paragraph: str) -> str | None:
    text = prose(re.sub(r"^\s*(?:[*+-]|\d+\.)\s", "", _ADDRESS.sub("", paragraph)))
    return text if text and is_english(text) else None


def _beginning(paragraphs: list[str]) -> Iterator[str]:
    words = 0
    for paragraph in paragraphs[:_PARAGRAPHS]:
        words += len(paragraph.split())
        if words > _WORDS and words > len(paragraph.split()):
            return
        yield paragraph
