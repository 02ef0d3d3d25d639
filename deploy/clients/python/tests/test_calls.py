"""Calls, against a worker that answers as each test wants."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import socket
import struct
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import PATIENCE, nats_server
from fake import Answer, failure, result, worker

from akidb_embed import (
    BadAnswerError,
    Client,
    DisconnectedError,
    EmbedTimeoutError,
    EngineFailedError,
    IncompleteError,
    NotPermittedError,
    NotServedError,
    OtherSpaceError,
    OverloadedError,
    RequestError,
)


async def ask(url: str, answer: Answer, texts: list[str], **options: Any) -> Any:
    async with worker(url, answer), await Client.connect(url, format="json") as client:
        return await client.embed("m", texts, **({"timeout": PATIENCE} | options))


def test_a_call_is_made_again_when_the_worker_says_so(server: str) -> None:
    asked: list[tuple[float, int]] = []

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append((time.monotonic(), request["deadline_ms"]))
        if len(asked) < 3:
            return failure(request, "overloaded", retryable=True, retry_after_ms=60)
        return result(request)

    got = asyncio.run(ask(server, answer, ["abc"]))
    assert got.vector(0).tolist() == [3, ord("a")]
    times, deadlines = zip(*asked, strict=True)
    assert all(later - earlier >= 0.06 for earlier, later in itertools.pairwise(times))
    # Workers are told how much of the time is left.
    assert deadlines[0] <= PATIENCE * 1000
    assert deadlines[2] <= deadlines[0] - 120


def test_overload_is_told_when_it_does_not_end_in_time_or_at_once(server: str) -> None:
    asked = 0

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        # Longer than the call has left, in the end.
        after = 100 if asked < 3 else int(2000 * PATIENCE)
        return failure(request, "overloaded", retryable=True, retry_after_ms=after)

    with pytest.raises(OverloadedError) as raised:
        asyncio.run(ask(server, answer, ["a"]))
    assert (raised.value.retryable, raised.value.retry_after) == (True, 2 * PATIENCE)
    assert asked == 3
    asked = 0
    with pytest.raises(OverloadedError):
        asyncio.run(ask(server, answer, ["a"], retry=False))
    assert asked == 1


def test_what_would_be_refused_too_late_is_not_asked_again(server: str) -> None:
    asked = 0

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(3)
        return failure(request, "overloaded", retryable=True, retry_after_ms=1)

    # It would end as a time-out.
    with pytest.raises(OverloadedError):
        asyncio.run(ask(server, answer, ["a"], timeout=5.5))
    assert asked == 1


@pytest.mark.parametrize("code", ["invalid_request", "deadline_exceeded"])
def test_what_no_retry_can_help_is_not_tried_again(server: str, code: str) -> None:
    asked = 0

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return failure(request, code, retryable=code == "deadline_exceeded")

    with pytest.raises(Exception, match=code):
        asyncio.run(ask(server, answer, ["a"]))
    assert asked == 1


def test_large_lists_are_split_and_come_back_in_order(server: str) -> None:
    flying = most = calls = 0

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal flying, most, calls
        calls += 1
        flying += 1
        most = max(most, flying)
        # The first is the last to be answered.
        await asyncio.sleep(0.2 if request["texts"][0] == "x" else 0.02)
        flying -= 1
        assert len(request["texts"]) <= 64
        return result(request)

    texts = ["x" * (1 + n % 9) for n in range(1_000)]
    got = asyncio.run(ask(server, answer, texts, id="mine"))
    assert got.vectors[:, 0].tolist() == [len(text) for text in texts]
    assert (got.id, calls, len(got.items)) == ("mine", 16, 1_000)
    assert 1 < most <= 8


def test_what_is_too_much_for_one_call_is_asked_in_halves(server: str) -> None:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        if len(request["texts"]) > 5:
            return failure(request, "call_too_large")
        return result(request)

    texts = ["x" * n for n in range(1, 43)]
    got = asyncio.run(ask(server, answer, texts))
    assert got.vectors[:, 0].tolist() == [len(text) for text in texts]


def test_what_was_answered_before_a_failure_is_not_lost(server: str) -> None:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["texts"][0] == "bad":
            return failure(request, "engine_failed")
        return result(request)

    with pytest.raises(IncompleteError) as raised:
        asyncio.run(ask(server, answer, ["a"] * 64 + ["bad"] + ["b"] * 100))
    assert isinstance(raised.value.__cause__, EngineFailedError)
    [(where, answered)] = raised.value.answered
    assert (where, answered.vectors.shape, raised.value.code) == (
        range(64),
        (64, 2),
        "engine_failed",
    )


def test_vectors_of_two_spaces_are_refused(server: str) -> None:
    spaces = iter(["s", "t", "s"])

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        return result(request, space=next(spaces))

    with pytest.raises(IncompleteError, match="vectors of two spaces") as raised:
        asyncio.run(ask(server, answer, ["a"] * 100))
    assert isinstance(raised.value.__cause__, OtherSpaceError)
    with pytest.raises(OtherSpaceError, match="expected space t, and v v1 of m has s"):
        asyncio.run(ask(server, answer, ["a"], space="t"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"id": "another"}, "it answers the call another"),
        ({"vectors": [], "items": []}, "0 rows for 1 texts"),
        ({"dim": 3}, "it is no outcome"),
    ],
)
def test_an_answer_to_something_else_is_not_believed(
    server: str, changes: dict[str, Any], word: str
) -> None:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        return result(request, **changes)

    with pytest.raises(BadAnswerError, match=word):
        asyncio.run(ask(server, answer, ["a"]))


def test_who_is_not_there_is_told_at_once_with_what_is(server: str) -> None:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        return result(request)

    async def other() -> None:
        async with worker(server, answer), await Client.connect(server) as client:
            assert await client.models() == ["m", "m.v"]
            await client.embed("n", ["a"], timeout=PATIENCE)

    with pytest.raises(NotServedError, match=r"no worker serves model n; served: m, m\.v"):
        asyncio.run(other())


def test_silence_ends_with_the_time_out(server: str) -> None:
    async def answer(_request: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    with pytest.raises(EmbedTimeoutError, match=r"no answer from embed\.rpc\.m within 0\.3 s"):
        asyncio.run(ask(server, answer, ["a"], timeout=0.3))
    with pytest.raises(TimeoutError):
        asyncio.run(ask(server, answer, ["a"], timeout=0.1))


def test_a_text_is_no_list_of_texts(server: str) -> None:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        return result(request)

    with pytest.raises(RequestError, match="this is one string"):
        asyncio.run(ask(server, answer, "hello"))  # type: ignore[arg-type]


def test_a_connection_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        return result(request)

    async def away(url: str) -> Any:
        async with worker(url, answer), await Client.connect(url, format="json") as client:
            await client.nats.force_reconnect()
            assert not client.nats.is_connected
            return await client.embed("m", ["abc"], timeout=PATIENCE)

    with nats_server(tmp_path) as url:
        assert asyncio.run(away(url)).vector(0).tolist() == [3, ord("a")]


def test_who_cannot_connect_is_told_why(tmp_path: Path) -> None:
    async def connect(url: str | list[str], **who: Any) -> None:
        async with await Client.connect(url, **who):
            raise AssertionError("nobody gets in")

    def refused(url: str | list[str], why: str, **who: Any) -> None:
        with pytest.raises(DisconnectedError, match=why):
            asyncio.run(asyncio.wait_for(connect(url, **who), PATIENCE))

    refused("nats://127.0.0.1:1", r"127\.0\.0\.1:1")
    users = "authorization { users: [ { user: u, password: p } ] }"
    with nats_server(tmp_path, users) as url:
        wrong: dict[str, Any] = {"user": "u", "password": "w"}
        refused(url, "Authorization", **wrong)
    # Without what may be a secret.
    refused("nats://me:secret@127.0.0.1:1", r"no connection to nats://127\.0\.0\.1:1: ")
    refused(["secret@127.0.0.1:1", "127.0.0.1:1"], r"to 127\.0\.0\.1:1, 127\.0\.0\.1:1: ")


@pytest.mark.parametrize("reset", [True, False])
def test_why_a_server_hangs_up_is_asked_for(tmp_path: Path, reset: bool) -> None:
    """As if the first PING came to a connection that the server has just closed, which takes the
    server's reason along.
    """

    async def behind(
        server: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        theirs, ours = await asyncio.open_connection(*server)
        writer.write(await theirs.readline())
        connect = await reader.readline()
        if json.loads(connect.removeprefix(b"CONNECT "))["verbose"]:
            ours.write(connect)
            writer.write(await theirs.readline())
            await writer.drain()
        else:
            await reader.readline()
            if reset:
                at_once = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, at_once
                )
        for each in (ours, writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()

    async def refused(url: str) -> None:
        found = urlsplit(url)
        server = (found.hostname or "", found.port or 0)
        proxy = await asyncio.start_server(functools.partial(behind, server), "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        async with proxy:
            with pytest.raises(DisconnectedError, match="Authorization"):
                await Client.connect(f"nats://u:w@127.0.0.1:{port}")

    users = "authorization { users: [ { user: u, password: p } ] }"
    with nats_server(tmp_path, users) as url:
        asyncio.run(asyncio.wait_for(refused(url), PATIENCE))


def test_a_server_that_hangs_up_once_is_connected_to_once_more(server: str) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while read := await reader.read(4096):
            writer.write(read)
            await writer.drain()

    async def run() -> int:
        found, connections, ended = urlsplit(server), 0, asyncio.Event()

        async def behind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            is_first = connections == 1
            theirs, ours = await asyncio.open_connection(found.hostname, found.port)
            if is_first:
                writer.write(await theirs.readline())
                # What it is called, and its PING.
                await reader.readline()
                await reader.readline()
            else:
                both = [pass_on(theirs, writer), pass_on(reader, ours)]
                tasks = [asyncio.create_task(one) for one in both]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for each in (ours, writer):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            if not is_first:
                ended.set()

        proxy = await asyncio.start_server(behind, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        async with proxy:
            async with await Client.connect(f"nats://127.0.0.1:{port}") as client:
                assert client.nats.is_connected
            await ended.wait()
        return connections

    assert asyncio.run(asyncio.wait_for(run(), PATIENCE)) == 2


def test_what_is_not_permitted_is_told_at_once(tmp_path: Path) -> None:
    users = """
        authorization { users: [
            { user: u, password: p,
              permissions: { publish: "embed.rpc.m", subscribe: "_INBOX.u.>" } }
        ] }
    """

    async def denied(url: str) -> None:
        who: dict[str, Any] = {"user": "u", "password": "p", "inbox_prefix": "_INBOX.u"}
        client = await Client.connect(url, **who)
        async with client:
            began = time.monotonic()
            with pytest.raises(NotPermittedError, match=r"embed\.rpc\.other"):
                await client.embed("other", ["a"], timeout=PATIENCE)
            with pytest.raises(NotPermittedError, match=r"embed\.job\.m"):
                await client.publish("m", ["a"], timeout=PATIENCE)
            assert time.monotonic() - began < PATIENCE / 2

    with nats_server(tmp_path, users) as url:
        asyncio.run(denied(url))
