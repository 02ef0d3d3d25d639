"""A worker that answers as a test wants, and the streams that a test writes into itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nats
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from akidb_embed import _names as names

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]


def result(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Vectors that tell which text they are of: its length, and its first character."""
    rows = [[float(len(text)), float(ord(text[0]))] for text in request["texts"]]
    return {
        "id": request["id"],
        "model": "m",
        "variant": "v",
        "version": "v1",
        "space": "s",
        "dim": 2,
        "encoding": "float",
        "vectors": rows,
        "items": [{"tokens": 1, "truncated": False} for _ in rows],
        "timing": dict.fromkeys(names.Timing.__annotations__, 1),
    } | changes


def failure(request: dict[str, Any], code: str, **hint: Any) -> dict[str, Any]:
    error = {"code": code, "message": "no", "retryable": False} | hint
    return {"id": request["id"], "error": error}


@contextlib.asynccontextmanager
async def worker(url: str, answer: Answer, *, info: bool = True) -> AsyncIterator[Nats]:
    """Answers calls for the model `m` in JSON, and says so where it is asked."""
    connection = await nats.connect(url)
    tasks = set()

    async def respond(message: Msg) -> None:
        said = await answer(json.loads(message.data))
        if said is not None:
            await message.respond(json.dumps(said).encode())

    async def take(message: Msg) -> None:
        task = asyncio.create_task(respond(message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def tell(message: Msg) -> None:
        endpoints = [{"subject": "embed.rpc.m"}, {"subject": "embed.rpc.m.v"}, {"subject": "other"}]
        said = {"name": names.SERVICE, "id": "w1", "endpoints": endpoints, "metadata": {}}
        await message.respond(json.dumps(said).encode())

    await connection.subscribe("embed.rpc.m", "workers", cb=take)
    if info:
        await connection.subscribe("$SRV.INFO.embed-worker", cb=tell)
    await connection.flush()
    try:
        yield connection
    finally:
        await connection.close()


async def streams(connection: Nats) -> None:
    """The streams of jobs and results, which a test fills in place of a worker."""
    js = connection.jetstream()
    for name, subjects in (("EMBED_m", ["embed.job.m"]), ("EMBED_RESULTS_m", ["embed.result.m.*"])):
        await js.add_stream(StreamConfig(name=name, subjects=subjects, allow_direct=True))
