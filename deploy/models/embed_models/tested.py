"""The frozen texts that versions are validated with, for what trains: it may see none of them.

Beside both packages, as `student_split`: what trains and what chooses texts do not know each other.
"""

from collections.abc import Iterator

from embed_models.corpus.load import (
    BY_KIND,
    HELD_OUT,
    data_dir,
    read_by_kind,
    read_held_out,
    read_rows,
)


def tested_texts() -> Iterator[str]:
    """Yield all of them, whole and by paragraph."""
    for name in (HELD_OUT, BY_KIND):
        for row in read_rows(data_dir() / name):
            yield row["text"]
            yield from row["text"].split("\n\n")


def unknown_texts() -> Iterator[tuple[str, int, str]]:
    """Yield (kind, number, text) of those of collections that students see nothing of.

    The query and the document of one number belong together. Not the sentences: they are WordNet's.
    """
    pairs = read_held_out(data_dir() / HELD_OUT)
    for kind, texts in (("query", pairs.queries), ("document", pairs.documents)):
        for number, text in enumerate(texts):
            yield kind, number, text
    for number, item in enumerate(read_by_kind(data_dir() / BY_KIND).items):
        yield item.kind, number, item.text
