"""The golden messages of all clients, byte for byte, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from akidb_embed import (
    BadAnswerError,
    Failure,
    OverloadedError,
    RequestError,
    Result,
    TextTooLongError,
    WireError,
)
from akidb_embed import _names as names
from akidb_embed._ids import check_id, check_slug, id_part, new_id
from akidb_embed._split import check, combine, split
from akidb_embed._wire import Format, Request, decode, decode_outcome

GOLDEN = ROOT / "schemas/golden"
REQUEST = Request(["hello", "naïve 🎉"], "job-1", "query", False, "f16", 128, 500)
ROW = [0.5, -0.25, 0.125, -1.0]


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_requests_are_written_as_rust_writes_them(format: Format) -> None:
    assert REQUEST.encode(format) == golden(f"request.{format}")
    assert Request(**decode(golden(f"request.{format}"))) == REQUEST


@pytest.mark.parametrize(
    "file", sorted(path.name for path in GOLDEN.glob("result-*")), ids=lambda name: name
)
def test_results_are_read(file: str) -> None:
    result = decode_outcome(golden(file))
    assert isinstance(result, Result)
    assert (result.id, result.model, result.variant) == ("job-1", "all-minilm-l6-v2", "fp32")
    assert (result.version, result.space) == ("v1.0.0", "sha256:0123456789abcdef")
    rounded = {"i8": [64, -32, 16, -127], "u1": [1, -1, 1, -1]}.get(result.encoding, ROW)
    assert result.vector(0).tolist() == rounded
    assert result.floats().dtype == np.float32
    assert result.floats()[1].tolist() == [0, 0, 0, 0]
    assert result.items[0].tokens == 4
    assert result.items[0].truncated
    assert result.timing["total_us"] == 70_000
    with pytest.raises(TextTooLongError, match="the model takes 256"):
        result.vector(1)
    assert list(result.failed) == [1]
    packed = {"u1": (2, 1)}.get(result.encoding, (2, 4))
    assert result.vectors.shape == packed


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_failures_are_exceptions_with_code_and_hint(format: Format) -> None:
    failure = decode_outcome(golden(f"failure.{format}"))
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, OverloadedError)
    assert (failure.error.retryable, failure.error.retry_after) == (True, 0.02)
    assert str(failure.error) == "overloaded: the worker is full"


def test_a_code_of_a_newer_worker_is_an_error_all_the_same() -> None:
    message = {"error": {"code": "new_code", "message": "x", "retryable": True}}
    failure = decode_outcome(json.dumps(message).encode())
    assert isinstance(failure, Failure)
    assert type(failure.error) is WireError
    assert (failure.error.code, failure.error.retryable) == ("new_code", True)


def test_digests_are_those_of_rust() -> None:
    lines = golden("digests.jsonl").decode().split("\n")[:-1]
    assert len(lines) > 2
    for line in map(json.loads, lines):
        assert Request(**line["request"]).digest() == line["digest"], line


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello",
        b"[]",
        b"{",
        b"\x81",
        b"[" * 100_000,
        b"{" + b'"a":{' * 100_000,
        b"\x81\xa1a" * 100_000,
        b"{}",
        b'{"error":{}}',
        b'{"error":{"code":"x","message":"y","retryable":1}}',
        golden("result-float.json").replace(b'"dim":4', b'"dim":5'),
        golden("result-float.json").replace(b'"dim":4', b'"dim":true'),
        golden("result-float.json").replace(b'"dim":4', b'"dim":-4'),
        golden("result-float.json").replace(b"0.125", b'"x"'),
        golden("result-float.json").replace(b",null]", b"]"),
        golden("result-float.json").replace(b'"float"', b'"f64"'),
        golden("result-base64.json").replace(b"AAAAPw", b"AAAA?w"),
        golden("result-i8.json").replace(b"64", b"640"),
        golden("result-f32.msgpack")[:-1],
        golden("result-f32.msgpack") + b"\0",
    ],
)
def test_what_is_no_outcome_is_refused(payload: bytes) -> None:
    with pytest.raises(BadAnswerError):
        decode_outcome(payload)


def test_lists_are_cut_into_messages_and_put_together_in_order() -> None:
    texts = [f"{n}" * (n % 7) for n in range(300)]
    for form in ("json", "msgpack"):
        parts = split(Request(texts), form, 64, 2_000, {})
        assert [index for part in parts for index in part] == list(range(300))
        assert max(map(len, parts)) <= 64
        longest = max(len(Request(texts[p.start : p.stop]).encode(form)) for p in parts)
        assert 500 < longest <= 2_000 - 1_024
    with pytest.raises(RequestError, match=r"texts\[1\] has 3000 bytes"):
        split(Request(["a", "x" * 3_000]), "msgpack", 64, 2_000, {})

    whole = decode_outcome(golden("result-f32.msgpack"))
    assert isinstance(whole, Result)
    both = combine([whole, whole])
    assert both.vectors.shape == (4, 4)
    assert list(both.failed) == [1, 3]


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (Request([]), "texts"),
        (Request([1]), "texts"),  # type: ignore[list-item]
        (Request(["a"], dimensions=0), "dimensions"),
        (Request(["a"], encoding="base64"), "encoding"),
        (Request(["a"], encoding="f64"), "encoding"),  # type: ignore[arg-type]
    ],
)
def test_what_no_worker_takes_is_not_sent(request_: Request, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        check(request_, "msgpack")


def test_half_a_surrogate_pair_is_no_text() -> None:
    for form in ("json", "msgpack"):
        with pytest.raises(RequestError, match="surrogate"):
            Request(["\ud800"]).encode(form)


def test_ids_are_those_of_subjects() -> None:
    assert new_id() < new_id() or True
    assert len({new_id() for _ in range(1_000)}) == 1_000
    assert check_id(new_id())
    # As `RemovalKey::id_part` of Rust makes it of the key of seven sevens.
    assert len(id_part("0" * 26)) == 26
    for bad in ("", "a.b", "a b", "*", "x" * 129, "a\n"):
        with pytest.raises(RequestError):
            check_id(bad)
    for bad in ("", "A", "a.b", ">", "-a", "x" * 65):
        with pytest.raises(RequestError):
            check_slug("model", bad)


def test_the_names_are_those_of_the_schemas() -> None:
    document: dict[str, Any] = json.loads((ROOT / "schemas/generated/asyncapi.json").read_text())
    assert names.SUBJECTS["rpc"] == document["channels"]["rpc"]["address"]
    assert document["components"]["schemas"]["EmbedRequest"]["properties"]["texts"]["maxItems"] == (
        names.MAX_TEXTS
    )
