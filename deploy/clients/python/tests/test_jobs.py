"""Results of jobs: believed for what they say, and not for where they are."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest
from conftest import PATIENCE
from fake import failure, result, streams
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from akidb_embed import (
    BadAnswerError,
    Client,
    EmbedTimeoutError,
    Failure,
    IdConflictError,
    JobFailedError,
    NoStreamError,
    OtherSpaceError,
    RejectedError,
    Run,
)
from akidb_embed import _names as names


@pytest.fixture(scope="module", autouse=True)
def _streams(server: str) -> None:
    async def make() -> None:
        connection = await nats.connect(server)
        await streams(connection)
        await connection.close()

    asyncio.run(make())


async def store(connection: Nats, id: str, outcome: Any, digest: str | None) -> None:
    headers = None if digest is None else {names.REQUEST_DIGEST: digest}
    payload = json.dumps(outcome).encode()
    await connection.jetstream().publish(f"embed.result.m.{id}", payload, headers=headers)


@pytest.mark.parametrize(
    ("id", "of", "digest", "error"),
    [
        ("j-own", "j-own", "", None),
        ("j-other", "another", "", BadAnswerError),
        ("j-digest", "j-digest", "SHA-256=x", IdConflictError),
        ("j-none", "j-none", None, BadAnswerError),
    ],
)
def test_a_result_is_that_of_the_job(
    server: str,
    id: str,
    of: str,
    digest: str | None,
    error: type[Exception] | None,
) -> None:
    async def run() -> None:
        async with await Client.connect(server) as client:
            [job] = await client.publish("m", ["a"], id=id)
            outcome = result({"id": of, "texts": ["a"]})
            await store(client.nats, id, outcome, job.digest if digest == "" else digest)
            if error is None:
                got = await client.result("m", job, timeout=PATIENCE)
                assert got.vector(0).tolist() == [1, ord("a")]
                # Published again, it is the same job, and with other texts another.
                [again] = await client.publish("m", ["a"], id=id)
                assert (again.duplicate, again.stream) == (True, "EMBED_RESULTS_m")
                with pytest.raises(IdConflictError):
                    await client.publish("m", ["b"], id=id)
            else:
                with pytest.raises(error):
                    await client.result("m", job, timeout=PATIENCE)

    asyncio.run(run())


def test_an_id_that_is_under_way_is_one_jobs(server: str) -> None:
    async def run() -> None:
        async with await Client.connect(server) as client:
            [first] = await client.publish("m", ["a"], id="under-way")
            [again] = await client.publish("m", ["a"], id="under-way")
            assert (again.duplicate, again.sequence) == (True, first.sequence)
            with pytest.raises(IdConflictError):
                await client.publish("m", ["b"], id="under-way")

    asyncio.run(run())


def test_many_results_come_by_one_subscription_as_they_are_stored(server: str) -> None:
    async def run() -> None:
        async with await Client.connect(server) as client:
            jobs = [(await client.publish("m", [f"{n}"]))[0] for n in range(40)]
            subscriptions = len(client.nats._subs)
            results = client.results("m", jobs, timeout=PATIENCE)
            # Later jobs first, and one that fails.
            await store(client.nats, jobs[0].id, failure({"id": jobs[0].id}, "engine_failed"), None)
            for job in reversed(jobs[1:]):
                outcome = result({"id": job.id, "texts": ["a"]})
                await store(client.nats, job.id, outcome, job.digest)
            came = {id: outcome async for id, outcome in results}
            assert set(came) == {job.id for job in jobs}
            failed = came[jobs[0].id]
            assert isinstance(failed, Failure)
            assert failed.error.code == "engine_failed"
            assert len(client.nats._subs) <= subscriptions + 1
            with pytest.raises(JobFailedError, match="embed dead retry"):
                await client.publish("m", ["0"], id=jobs[0].id)

    asyncio.run(run())


def test_a_copy_is_heard_at_once_and_a_forged_one_changes_nothing(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing but the copy is a reason to look again.
    for pause in ("_SHORTEST_PAUSE", "_LONGEST_PAUSE"):
        monkeypatch.setattr(f"akidb_embed._results.{pause}", 1_000.0)

    async def run() -> None:
        async with await Client.connect(server) as client:
            [job] = await client.publish("m", ["a"], expect=True)
            stored = await client.nats.jetstream().get_msg("EMBED_m", job.sequence)
            assert stored.headers is not None
            copy = stored.headers[names.REPLY_TO]
            waiting = asyncio.create_task(client.result("m", job, timeout=PATIENCE))
            outcome = result({"id": job.id, "texts": ["forged"]})
            await client.nats.publish(copy, json.dumps(outcome).encode())
            await client.nats.flush()
            outcome = result({"id": job.id, "texts": ["a"]})
            await store(client.nats, job.id, outcome, job.digest)
            await client.nats.publish(copy, b"")
            assert (await waiting).vector(0).tolist() == [1, ord("a")]

    asyncio.run(run())


def test_results_of_two_spaces_are_refused(server: str) -> None:
    async def run() -> None:
        async with await Client.connect(server) as client:
            jobs = [(await client.publish("m", ["a"]))[0] for _ in range(2)]
            for job, space in zip(jobs, "st", strict=True):
                outcome = result({"id": job.id, "texts": ["a"]}, space=space)
                await store(client.nats, job.id, outcome, job.digest)
            with pytest.raises(OtherSpaceError):
                _ = [one async for one in client.results("m", jobs, timeout=PATIENCE)]
            with pytest.raises(OtherSpaceError):
                _ = [
                    one async for one in client.results("m", jobs[:1], space="t", timeout=PATIENCE)
                ]

    asyncio.run(run())


def test_what_is_stored_of_jobs_of_which_one_cannot_be_is_told(server: str) -> None:
    async def run() -> None:
        async with await Client.connect(server) as client:
            await client.publish("m", ["another"], id="part-1")
            texts = [f"{n}" for n in range(2 * names.MAX_TEXTS)]
            with pytest.raises(IdConflictError) as failed:
                await client.publish("m", texts, id="part")
            assert [job.id for job in failed.value.stored] == ["part-0"]

    asyncio.run(run())


def test_what_never_comes_and_what_nobody_takes_is_told(server: str) -> None:
    async def run() -> None:
        async with await Client.connect(server) as client:
            with pytest.raises(EmbedTimeoutError, match=r"1 results did not come within 0\.2 s"):
                await client.result("m", "never", timeout=0.2)
            with pytest.raises(NoStreamError, match="EMBED_nobodys"):
                await client.publish("nobodys", ["a"], timeout=PATIENCE)

    asyncio.run(run())


def test_what_could_not_be_removed_is_no_refusal_of_the_rest(server: str) -> None:
    async def run(said: dict[str, Any]) -> int:
        other = await nats.connect(server)

        async def answer(message: Msg) -> None:
            await message.respond(json.dumps(said).encode())

        await other.subscribe("embed.remove.m", cb=answer)
        await other.flush()
        async with await Client.connect(server, format="json") as client:
            try:
                return await client.remove_results("m", "key", ["a", "b"])
            finally:
                await other.close()

    assert asyncio.run(run({"removed": 1, "left": ["b"], "error": "the stream is busy"})) == 1
    for nothing in ({"error": "another key"}, {"left": ["a", "b"], "error": "another key"}):
        with pytest.raises(RejectedError, match="another key"):
            asyncio.run(run({"removed": 0} | nothing))


def test_a_run_is_kept_where_only_its_owner_reads_it(tmp_path: Path) -> None:
    there = tmp_path / "run"
    there.write_text("what was there before")
    there.chmod(0o644)
    Run.new().save(there)
    assert there.stat().st_mode & 0o777 == 0o600
