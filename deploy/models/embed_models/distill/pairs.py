"""Which text of the corpus a short one has to find: query and document, as a search has them."""

from collections.abc import Iterator, Sequence

from embed_models.distill.corpus import Row

# Kinds that sum up, and those of what they sum up, which stand behind them in their group.
_SUMMED_UP = {
    "summary": ("description",),
    "software": ("readme",),
    "heading": ("manual", "readme", "documentation"),
    "wordnet-words": ("wordnet-definition",),
}


def pairs(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Yield (row that sums up, row of what it sums up), each row by its number.

    The first text behind it of a kind that it can sum up, in the same group and before another one
    of its own kind.
    """
    waiting: dict[str, int] = {}
    group = -1
    for number, row in enumerate(rows):
        if row.group != group:
            waiting, group = {}, row.group
        for kind in [kind for kind in waiting if row.kind in _SUMMED_UP[kind]]:
            yield waiting.pop(kind), number
        if row.kind in _SUMMED_UP:
            waiting[row.kind] = number
