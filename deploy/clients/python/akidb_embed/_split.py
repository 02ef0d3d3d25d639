"""Cutting many texts into messages that the server takes, and putting answers together. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from . import _names as names
from ._errors import EmbedError, OtherSpaceError, RequestError
from ._wire import Format, Request, Result, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Room for the headers that every message has.
_HEADER_BYTES = 1024

#: Texts in one call. The dimension is not known here, so this bounds the answer too: 64 vectors of
#: 4096 components are 1 MiB, the default limit of a server.
TEXTS_PER_CALL = 64


def check(request: Request, format: Format) -> None:  # noqa: A002
    """Raises `RequestError` for what no worker would take."""
    if not all(isinstance(text, str) for text in request.texts):
        raise RequestError("texts: a list of strings is needed")
    if not request.texts:
        raise RequestError("texts: the list is empty")
    if request.dimensions is not None and request.dimensions < 1:
        raise RequestError("dimensions: must be at least 1; leave it out for the model's own")
    if format == "msgpack" and request.encoding == "base64":
        raise RequestError("encoding: `base64` is for JSON; leave it out: vectors come as bytes")
    if request.encoding is not None and request.encoding not in names.ENCODINGS:
        raise RequestError(f"encoding: {request.encoding!r}: use {', '.join(names.ENCODINGS)}")


def split(
    request: Request,
    format: Format,  # noqa: A002
    most: int,
    max_payload: int,
    headers: Mapping[str, str],
) -> list[range]:
    """Ranges of texts, in order and without gaps, each of which fits into a message."""
    fixed = _HEADER_BYTES + len(replace(request, texts=[]).encode(format))
    fixed += sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
    room = max_payload - fixed
    parts: list[range] = []
    start = size = 0
    for index, text in enumerate(request.texts):
        # In JSON, a comma; in MessagePack, the length.
        own = len(encode(text, format)) + 1
        if own > room:
            raise RequestError(
                f"texts[{index}] has {len(text.encode())} bytes, and a message may have "
                f"{max_payload} on this server: "
                "cut the text, or raise max_payload in the server's configuration"
            )
        if index > start and (index - start == most or size + own > room):
            parts.append(range(start, index))
            start, size = index, 0
        size += own
    parts.append(range(start, len(request.texts)))
    return parts


def combine(parts: Sequence[Result]) -> Result:
    """One result from those of the parts, in order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        if (part.space, part.dim, part.encoding) != (first.space, first.dim, first.encoding):
            raise OtherSpaceError(
                f"the parts of this request were answered by {first.variant} {first.version} and "
                f"{part.variant} {part.version}, "
                "whose vectors cannot be compared: choose one with `variant`"
            )
    timings = [part.timing for part in parts]
    longest: names.Timing = {
        "queue_us": max(timing["queue_us"] for timing in timings),
        "tokenize_us": max(timing["tokenize_us"] for timing in timings),
        "infer_us": max(timing["infer_us"] for timing in timings),
        "total_us": max(timing["total_us"] for timing in timings),
        "batch_size": max(timing["batch_size"] for timing in timings),
    }
    return replace(
        first,
        vectors=np.concatenate([part.vectors for part in parts]),
        items=[item for part in parts for item in part.items],
        timing=longest,
    )


class Space:
    """The one embedding space whose vectors are taken: that which was asked for, or else the first
    that comes.
    """

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted

    def check(self, result: Result) -> None:
        """Raises `OtherSpaceError`."""
        if self._wanted is None:
            self._wanted = result.space
        if result.space != self._wanted:
            raise OtherSpaceError(
                f"expected space {self._wanted}, and {result.variant} {result.version} of "
                f"{result.model} has {result.space}: "
                "vectors of two spaces cannot be compared. Choose a variant of the expected space "
                "with `variant`; or, if the new "
                "one is wanted, embed everything anew"
            )


class IncompleteError(EmbedError):
    """A request took several calls, and one failed after others had been answered: what is here
    need not be asked for again.
    """

    def __init__(
        self, cause: EmbedError, answered: Sequence[tuple[range, Result]], texts: int
    ) -> None:
        count = sum(len(where) for where, _ in answered)
        super().__init__(f"{cause} ({count} of {texts} texts had been answered)")
        self.code = cause.code
        self.retryable = cause.retryable
        self.retry_after = cause.retry_after
        #: Where in the request the texts stand, and their vectors, in order.
        self.answered = list(answered)
