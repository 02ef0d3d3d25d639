"""Tells how far a long step has come, a line at every tenth."""

from collections.abc import Callable


def tenths(report: Callable[[str], None], what: str, total: int) -> Callable[[int], None]:
    """Return a function that takes how many of `total` are done."""
    told = 0

    def progress(done: int) -> None:
        nonlocal told
        tenth = done * 10 // max(total, 1)
        if tenth > told:
            told = tenth
            report(f"{what}: {done:,} of {total:,}")

    return progress
