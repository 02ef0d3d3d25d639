"""Everything once more against real workers: calls, jobs, backfills, and what is left behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import MODEL, PATIENCE

from akidb_embed import (
    Chunk,
    Client,
    IdConflictError,
    NotServedError,
    RejectedError,
    RequestError,
    Result,
    Run,
    SyncClient,
    UnknownPromptError,
    new_key,
)

TEXTS = [f"sentence number {n}" + " and more" * (n % 5) for n in range(150)]


def test_a_call_is_answered_in_both_formats_alike_and_as_a_plain_client_sees_it(url: str) -> None:
    async def run() -> None:
        async with await Client.connect(url) as client:
            packed = await client.embed(MODEL, ["hello world", "you"], timeout=PATIENCE)
            plain = await client.nats.request(
                f"embed.rpc.{MODEL}", b'{"texts":["hello world","you"]}', timeout=PATIENCE
            )
            vectors = np.array(json.loads(plain.data)["vectors"], np.float32)
            assert packed.vectors.dtype == np.float32
            assert packed.vectors.shape == (2, 384)
            np.testing.assert_allclose(packed.vectors, vectors, atol=1e-4)
            half = await client.embed(MODEL, ["hello world"], encoding="f16", timeout=PATIENCE)
            np.testing.assert_allclose(half.vector(0), vectors[0], atol=1e-3)
            other = Client(client.nats, format="json")
            text = await other.embed(
                MODEL, ["hello world"], encoding="base64", variant="fp32", timeout=PATIENCE
            )
            np.testing.assert_allclose(text.vector(0), vectors[0], atol=1e-4)
            signs = await client.embed(MODEL, ["hello world"], encoding="u1", timeout=PATIENCE)
            assert ((signs.vector(0) > 0) == (vectors[0] > 0)).all()
            assert [(m, v) for m, v in (await client.workers()).popitem()[1]] == [(MODEL, "fp32")]
            assert await client.models() == [MODEL, f"{MODEL}.fp32"]
            with pytest.raises(UnknownPromptError):
                await client.embed(MODEL, ["a"], prompt="nonsense", timeout=PATIENCE)
            with pytest.raises(NotServedError, match=f"variant x of model {MODEL}; served"):
                await client.embed(MODEL, ["a"], variant="x", timeout=PATIENCE)

    asyncio.run(run())


def test_jobs_are_stored_once_and_their_results_are_those_of_calls(url: str) -> None:
    async def run() -> None:
        async with await Client.connect(url) as client:
            jobs = await client.publish(MODEL, TEXTS, id="py-1", expect=True)
            more = await client.publish(MODEL, ["alone"], lane="bulk", tenant="a")
            assert [job.id for job in jobs] == ["py-1"]
            called = await client.embed(MODEL, TEXTS, timeout=PATIENCE)
            got = await client.result(MODEL, jobs[0], timeout=PATIENCE)
            np.testing.assert_allclose(got.vectors, called.vectors, atol=1e-4)
            assert (await client.result(MODEL, more[0], tenant="a", timeout=PATIENCE)).dim == 384
            [again] = await client.publish(MODEL, TEXTS, id="py-1")
            assert again.duplicate
            with pytest.raises(IdConflictError):
                await client.publish(MODEL, ["other"], id="py-1")
            # More than one message holds.
            parts = await client.publish(
                MODEL, [str(n) for n in range(300)], id="py-2", expect=True
            )
            assert [job.id for job in parts] == ["py-2-0", "py-2-1"]
            results = client.results(MODEL, parts, timeout=PATIENCE)
            got_parts = {id: outcome async for id, outcome in results}
            sizes = [
                len(one.items) for _, one in sorted(got_parts.items()) if isinstance(one, Result)
            ]
            assert sizes == [256, 44]

    asyncio.run(run())


async def stored(client: Client, run: Run) -> int:
    """Results of a backfill that are still in their stream."""
    stream = client.nats.jsm()
    info = await stream.stream_info(f"EMBED_RESULTS_{MODEL}", subjects_filter=">")
    return sum(run.id in subject for subject in info.state.subjects or {})


TABLES: dict[str, Any] = {
    "pandas": pd.DataFrame({"text": TEXTS}),
    "polars": pl.DataFrame({"text": TEXTS}),
    "arrow": pa.table({"text": TEXTS}),
    "reader": lambda: pa.table({"text": TEXTS}).to_reader(max_chunksize=7),
    "texts": lambda: iter(TEXTS),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_backfill_gives_all_rows_in_order_and_leaves_nothing(url: str, kind: str) -> None:
    rows = TABLES[kind]() if callable(TABLES[kind]) else TABLES[kind]

    async def run() -> None:
        async with await Client.connect(url) as client:
            run, seen = Run.new(), list[int]()
            chunks: list[Chunk] = [
                chunk
                async for chunk in client.backfill(
                    MODEL, rows, run=run, texts_per_job=40, window=2, progress=seen.append
                )
            ]
            assert [text for chunk in chunks for text in chunk.texts] == TEXTS
            assert [(chunk.start, chunk.end) for chunk in chunks] == [
                (0, 40),
                (40, 80),
                (80, 120),
                (120, 150),
            ]
            assert seen == [40, 80, 120, 150]
            vectors = np.concatenate([chunk.result.vectors for chunk in chunks])
            called = await client.embed(MODEL, TEXTS[::10], timeout=PATIENCE)
            np.testing.assert_allclose(vectors[::10], called.vectors, atol=1e-4)
            assert await stored(client, run) == 0

    asyncio.run(run())


def test_a_backfill_goes_on_where_it_was_left(url: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with await Client.connect(url) as client:
            Run.new().save(tmp_path / "run")
            assert (tmp_path / "run").stat().st_mode & 0o077 == 0
            kept = Run.load(tmp_path / "run")
            chunks = client.backfill(MODEL, TEXTS, run=kept, texts_per_job=40, window=4)
            first = await anext(chunks)
            await anext(chunks)
            # The second is not safe: whoever takes it ends here.
            await chunks.aclose()  # type: ignore[attr-defined]
            rest = [
                chunk
                async for chunk in client.backfill(
                    MODEL, TEXTS, run=Run.load(tmp_path / "run"), done=first.end, texts_per_job=40
                )
            ]
            assert [chunk.start for chunk in rest] == [40, 80, 120]
            vectors = np.concatenate([chunk.result.vectors for chunk in rest])
            called = await client.embed(MODEL, TEXTS[40::10], timeout=PATIENCE)
            np.testing.assert_allclose(vectors[::10], called.vectors, atol=1e-4)
            assert await stored(client, kept) == 0
            # Nobody else's results can be removed with a key.
            [job] = await client.publish(MODEL, ["precious"], expect=True)
            await client.result(MODEL, job, timeout=PATIENCE)
            with pytest.raises(RejectedError):
                await client.remove_results(MODEL, new_key(), [job.id])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        (pd.DataFrame({"body": ["a"]}), "there is no column 'text', there are 'body'"),
        (pd.DataFrame({"text": ["a", None]}), "row 1: (nan|None) is no text"),
        ("a text", "a list of texts is needed"),
        (5, "int is no table"),
    ],
)
def test_rows_that_cannot_be_read_are_named(url: str, rows: Any, word: str) -> None:
    async def run() -> None:
        async with await Client.connect(url) as client:
            _ = [chunk async for chunk in client.backfill(MODEL, rows)]

    with pytest.raises(RequestError, match=word):
        asyncio.run(run())


def test_programs_without_an_event_loop_do_the_same(url: str) -> None:
    with SyncClient(url) as client:
        called = client.embed(MODEL, TEXTS[:3], timeout=PATIENCE)
        jobs = client.publish(MODEL, TEXTS[:3], expect=True)
        [(_, outcome)] = client.results(MODEL, jobs, timeout=PATIENCE)
        assert isinstance(outcome, Result)
        np.testing.assert_allclose(outcome.vectors, called.vectors, atol=1e-4)
        rows = [chunk.end for chunk in client.backfill(MODEL, TEXTS, texts_per_job=100)]
        assert rows == [100, 150]
        for chunk in client.backfill(MODEL, TEXTS, texts_per_job=10):
            assert chunk.end == 10
            break
        assert client.models() == [MODEL, f"{MODEL}.fp32"]
        with pytest.raises(NotServedError):
            client.embed("nobodys", ["a"], timeout=PATIENCE)
    client.close()
