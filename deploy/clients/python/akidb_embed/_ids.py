"""Job ids, and keys by which their owner may have results removed. Randomness and time are
arguments where it matters.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time

from . import _names as names
from ._errors import RequestError

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARACTERS = 10
_KEY_DIGEST_CHARACTERS = 26


def new_id() -> str:
    """A new id: unique, and sorted by time. 10 characters of milliseconds and 13 of randomness."""
    return _time() + _number(secrets.randbits(64), 13)


def new_key() -> str:
    """A secret that proves that ids are one's own; see `id_with_key`."""
    return _digits(secrets.token_bytes(32))


def id_with_key(key: str) -> str:
    """A new id that this key belongs to: whoever has the key can have results removed whose ids
    begin with it, and nobody else.
    """
    return _time() + id_part(key)


def id_part(key: str) -> str:
    """What the ids hold that it is the key of."""
    digest = hashlib.sha256(b"akidb-embed removal " + key.encode()).digest()
    return _digits(digest)[:_KEY_DIGEST_CHARACTERS]


def check_id(id: str) -> str:  # noqa: A002 - as on the wire
    """The id, if it is one."""
    if not re.fullmatch(names.JOB_ID_PATTERN.strip("^$"), id):
        raise RequestError(
            f"id: {id!r:.80} is none: use 1 to {names.MAX_JOB_ID} letters, digits, `-` and `_`"
        )
    return id


def check_slug(what: str, slug: str) -> str:
    """The name of a model, variant or tenant, if it is one."""
    if not re.fullmatch(names.SLUG_PATTERN.strip("^$"), slug):
        raise RequestError(
            f"{what}: {slug!r:.80} is no name in subjects: lower-case letters, digits and `-`, at "
            "most 64; "
            "`bge-small-en-v1.5` is called `bge-small-en-v1-5` there"
        )
    return slug


def _time() -> str:
    return _number(time.time_ns() // 1_000_000, _TIME_CHARACTERS)


def _number(value: int, count: int) -> str:
    return "".join(_DIGITS[value >> (5 * place) & 31] for place in reversed(range(count)))


def _digits(data: bytes) -> str:
    """Five bits a character, those that are left over dropped."""
    count = len(data) * 8 // 5
    value = int.from_bytes(data) >> (len(data) * 8 - count * 5)
    return _number(value, count)
