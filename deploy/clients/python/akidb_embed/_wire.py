"""Messages: requests written, outcomes read, in JSON and in MessagePack. No I/O."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import msgpack
import numpy as np

from . import _names as names
from ._codes import BY_CODE
from ._errors import BadAnswerError, RequestError, WireError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Format: TypeAlias = Literal["json", "msgpack"]

CONTENT_TYPES: dict[Format, str] = {"json": names.JSON, "msgpack": names.MESSAGE_PACK}

#: Number formats as they are in memory: what a row of `vectors` holds. All are little-endian.
DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "float": np.dtype("<f4"),
    "base64": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "i8": np.dtype("i1"),
    "u1": np.dtype("u1"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a worker: the same as a call, a job or a chunk of a backfill."""

    texts: list[str]
    id: str | None = None
    prompt: str | None = None
    truncate: bool = True
    encoding: names.Encoding | None = None
    dimensions: int | None = None
    deadline_ms: int | None = None

    def fields(self) -> names.EmbedRequest:
        """As it goes over the wire: what is left to the default is left out."""
        message: names.EmbedRequest = cast("names.EmbedRequest", {})
        if self.id is not None:
            message["id"] = self.id
        message["texts"] = self.texts
        if self.prompt is not None:
            message["prompt"] = self.prompt
        if not self.truncate:
            message["truncate"] = False
        if self.encoding is not None:
            message["encoding"] = self.encoding
        if self.dimensions is not None:
            message["dimensions"] = self.dimensions
        if self.deadline_ms is not None:
            message["deadline_ms"] = self.deadline_ms
        return message

    def encode(self, format: Format) -> bytes:  # noqa: A002 - as `Content-Type` has it
        return encode(self.fields(), format)

    def digest(self) -> str:
        """What the request asks for, as `SHA-256=<base64url>`: the same for the same texts and
        options, whatever the id.
        """
        digest = hashlib.sha256()
        options = [self.prompt, self.truncate, self.encoding, self.dimensions]
        for part in (_json(options), *(text.encode() for text in self.texts)):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return "SHA-256=" + base64.urlsafe_b64encode(digest.digest()).decode()


@dataclass(frozen=True, slots=True)
class Item:
    """What is known of one text."""

    #: Tokens that went into the model, special tokens included.
    tokens: int
    #: Whether the text was cut to the model's limit.
    truncated: bool
    #: Why this text has no vector.
    error: WireError | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The vectors of one request."""

    id: str
    model: str
    variant: str
    version: str
    #: Fingerprint of the embedding space: only vectors with the same `space` may be compared.
    space: str
    dim: int
    encoding: names.Encoding
    #: A row for each text, as the encoding has it: `(texts, dim)`, or `(texts, ceil(dim / 8))`
    #: bytes of signs for `u1`. The row of a text that failed is zero.
    vectors: NDArray[Any] = field(repr=False)
    items: list[Item] = field(repr=False)
    timing: names.Timing = field(repr=False)

    def vector(self, row: int) -> NDArray[np.float32]:
        """One text's vector as 32-bit floating point: `i8` as -127 to 127, `u1` as -1 and 1. Raises
        that text's error.
        """
        error = self.items[row].error
        if error is not None:
            raise error
        vector: NDArray[np.float32] = self.floats()[row]
        return vector

    def floats(self) -> NDArray[np.float32]:
        """All rows as 32-bit floating point, `(texts, dim)`; zero where a text failed."""
        if self.encoding != "u1":
            return self.vectors.astype(np.float32, copy=False)
        signs = np.unpackbits(self.vectors, axis=1, count=self.dim).astype(np.float32) * 2 - 1
        signs[list(self.failed)] = 0
        return signs

    @property
    def failed(self) -> dict[int, WireError]:
        """Texts without a vector, by their row."""
        return {row: item.error for row, item in enumerate(self.items) if item.error is not None}


@dataclass(frozen=True, slots=True)
class Failure:
    """A job or call that failed as a whole."""

    id: str | None
    error: WireError


Outcome: TypeAlias = Result | Failure


def encode(message: object, format: Format) -> bytes:  # noqa: A002
    """One message."""
    try:
        return (
            _json(message)
            if format == "json"
            else cast("bytes", msgpack.packb(message, use_bin_type=True))
        )
    except UnicodeEncodeError as error:
        raise RequestError(
            f"a text is no Unicode: {error}; it has half of a surrogate pair"
        ) from error


def decode(payload: bytes) -> dict[str, Any]:
    """A message, whose first byte tells how it is encoded."""
    first = payload[:1]
    try:
        if first and first in b"{ \t\r\n":
            message = json.loads(payload)
        elif first and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)):
            message = msgpack.unpackb(payload, raw=False)
        else:
            raise BadAnswerError("it is neither a JSON object nor a MessagePack map")
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise BadAnswerError(f"it cannot be read: {error}") from error
    if not isinstance(message, dict):
        raise BadAnswerError("it is no object")
    return message


def decode_outcome(payload: bytes) -> Outcome:
    """The answer to a call, or what is stored of a job. Raises `BadAnswerError`."""
    message = decode(payload)
    try:
        if message.get("error") is not None:
            return Failure(_optional(message.get("id"), str), wire_error(message["error"]))
        return _result(message)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadAnswerError(f"it is no outcome: {error!r}") from error


def wire_error(error: names.WireError) -> WireError:
    """The exception for what a worker says."""
    after = _optional(error.get("retry_after_ms"), int)
    code = _is(error["code"], str)
    kind = BY_CODE.get(code, WireError)
    return kind(
        _is(error["message"], str),
        code=code,
        retryable=_is(error["retryable"], bool),
        retry_after=None if after is None else after / 1000,
    )


def _result(message: dict[str, Any]) -> Result:
    items = [
        Item(
            _is(item["tokens"], int),
            _is(item["truncated"], bool),
            None if item.get("error") is None else wire_error(item["error"]),
        )
        for item in message["items"]
    ]
    encoding, dim = message["encoding"], _is(message["dim"], int)
    dtype = DTYPES[encoding]
    width = -(-dim // 8) if encoding == "u1" else dim
    packed = message["vectors"]
    if isinstance(packed, bytes):
        vectors = np.frombuffer(packed, dtype).reshape(len(items), width)
    else:
        vectors = np.zeros((len(items), width), dtype)
        if len(packed) != len(items):
            raise ValueError(f"vectors: {len(packed)} rows for {len(items)} items")
        for row, numbers in enumerate(packed):
            if numbers is not None:
                vectors[row] = _row(numbers, encoding, dtype, width)
    return Result(
        id=_is(message["id"], str),
        model=_is(message["model"], str),
        variant=_is(message["variant"], str),
        version=_is(message["version"], str),
        space=_is(message["space"], str),
        dim=dim,
        encoding=encoding,
        vectors=vectors,
        items=items,
        timing=message["timing"],
    )


def _row(numbers: object, encoding: str, dtype: np.dtype[Any], width: int) -> NDArray[Any]:
    if encoding == "base64":
        row = np.frombuffer(base64.b64decode(_is(numbers, str), validate=True), dtype)
    else:
        row = np.array(_is(numbers, list), dtype)
    if row.shape != (width,):
        raise ValueError(f"vectors: a row has the shape {row.shape}, expected ({width},)")
    return row


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _is(value: Any, kind: type[Any]) -> Any:
    # `True` is an `int` in Python, and none on the wire.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def _optional(value: Any, kind: type[Any]) -> Any:
    return None if value is None else _is(value, kind)
