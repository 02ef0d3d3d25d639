"""Texts of whatever rows come in: frames, Arrow, or plain iterables. Neither pandas nor Arrow is
needed for that.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ._errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator


def texts_of(rows: Any, column: str) -> Iterator[str]:
    """The texts, in order, without copying them all."""
    for row, text in enumerate(_values(rows, column)):
        if not isinstance(text, str):
            raise RequestError(f"row {row}: {text!r:.80} is no text; fill or drop such rows first")
        yield text


def _values(rows: Any, column: str) -> Iterator[Any]:
    if isinstance(rows, str | bytes):
        raise RequestError("rows: a list of texts is needed, or a table")
    if hasattr(rows, "read_next_batch"):  # pyarrow.RecordBatchReader
        for batch in rows:
            yield from _values(batch, column)
    elif hasattr(rows, "to_batches"):  # pyarrow.Table, pyarrow.dataset.Dataset
        names = rows.schema.names
        if column not in names:
            raise _missing(column, names)
        for batch in rows.to_batches():
            yield from _values(batch, column)
    elif hasattr(rows, "columns"):  # frames of pandas and polars, pyarrow.RecordBatch
        is_batch = (
            hasattr(rows, "schema")
            and hasattr(rows.schema, "names")
            and not callable(rows.schema.names)
        )
        names = list(rows.schema.names if is_batch else rows.columns)
        if column not in names:
            raise _missing(column, names)
        series = rows.column(column) if is_batch else rows[column]
        for value in series:
            yield value.as_py() if hasattr(value, "as_py") else value
    elif inspect.isasyncgen(rows) or not hasattr(rows, "__iter__"):
        raise RequestError(f"rows: {type(rows).__name__} is no table, and cannot be iterated over")
    else:
        yield from rows


def _missing(column: str, names: list[str]) -> RequestError:
    return RequestError(
        f"text: there is no column {column!r}, there are {', '.join(map(repr, names))}"
    )
