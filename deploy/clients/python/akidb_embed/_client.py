"""The client: calls that are answered at once, jobs that are stored, their results, and what
workers serve.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from . import _names as names
from ._backfill import Chunk, Run, run_backfill
from ._call import Call
from ._errors import EmbedTimeoutError, RejectedError, RequestError
from ._ids import check_id, check_slug
from ._job import Job
from ._publish import Publishing, job_subject, result_subject
from ._results import Lookout, read_outcome
from ._served import served, statuses, workers
from ._split import Space, check
from ._transport import Deadline, NoRespondersError, Transport
from ._wire import Format, Outcome, Request, Result, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from nats.aio.client import Client as Nats

_LOG = logging.getLogger("akidb_embed")


class Client:
    """A connection to NATS, as a producer of texts sees it. Used as a context, it is closed at its
    end.
    """

    def __init__(
        self,
        connection: Nats | Transport,
        *,
        format: Format = "msgpack",  # noqa: A002 - as `Content-Type` has it
        api_prefix: str = "$JS.API",
    ) -> None:
        """On a connection that exists, and stays open. `connect` makes one."""
        own = isinstance(connection, Transport)
        self._transport = (
            connection if isinstance(connection, Transport) else Transport(connection, api_prefix)
        )
        self._owned = own
        self._format: Format = format
        self._lookout: asyncio.Task[Lookout] | None = None

    @classmethod
    async def connect(
        cls,
        servers: str | list[str] = "nats://127.0.0.1:4222",
        *,
        format: Format = "msgpack",  # noqa: A002 - as `Content-Type` has it
        api_prefix: str = "$JS.API",
        **options: Any,
    ) -> Client:
        """Connects. `options` are those of `nats.connect`: `user`, `password`, `user_credentials`,
        `tls`, `inbox_prefix` and so on.
        """
        return cls(await Transport.connect(servers, api_prefix, **options), format=format)

    async def close(self) -> None:
        """Ends what waits for results, and the connection if `connect` made it."""
        lookout, self._lookout = self._lookout, None
        try:
            if lookout is not None:
                await asyncio.wait([lookout])
                # One that could not begin was told to whoever wanted it.
                if not lookout.cancelled() and lookout.exception() is None:
                    await lookout.result().stop()
        finally:
            if self._owned:
                await self._transport.nats.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def nats(self) -> Nats:
        """The connection."""
        return self._transport.nats

    @property
    def format(self) -> Format:
        """How messages are encoded."""
        return self._format

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, bytes."""
        return self._transport.nats.max_payload

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        id: str | None = None,  # noqa: A002 - as on the wire
        prompt: str | None = None,
        truncate: bool = True,
        encoding: names.Encoding | None = None,
        dimensions: int | None = None,
        variant: str | None = None,
        space: str | None = None,
        timeout: float = 10.0,
        deadline_ms: int | None = None,
        retry: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Result:
        """Asks workers for the vectors of any number of texts, and waits for them.

        The time-out is for all of it, retries included, and workers are told how much of it is
        left. Within it, a call is made again when a worker asks for that, with the pause that it
        asks for, or while the workers of a model that is provisioned are restarted; not with
        `retry=False`. Large lists are sent as several calls, eight at a time; where one fails after
        others were answered, `IncompleteError` has those. Vectors of two spaces are refused, and so
        are those of any other than `space`, where it is given.

        A single text may still have failed: see `Item.error`.
        """
        request = Request(_list(texts), id, prompt, truncate, encoding, dimensions, deadline_ms)
        self._check(request)
        subject = names.SUBJECTS["rpc"].format(model=check_slug("model", model))
        if variant is not None:
            subject += "." + check_slug("variant", variant)
        call = Call(
            self._transport,
            model,
            variant,
            subject,
            self._format,
            headers or {},
            Space(space),
            Deadline(timeout),
            retry,
        )
        return await call.run(request)

    async def publish(
        self,
        model: str,
        texts: Sequence[str],
        *,
        lane: names.StoredLane = "job",
        id: str | None = None,  # noqa: A002 - as on the wire
        prompt: str | None = None,
        truncate: bool = True,
        encoding: names.Encoding | None = None,
        dimensions: int | None = None,
        variant: str | None = None,
        tenant: str | None = None,
        deadline_ms: int | None = None,
        timeout: float = 30.0,
        expect: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> list[Job]:
        """Stores texts as one or more jobs, and waits until the server has them.

        A job whose id the server has seen in the last two minutes, or that has its result already,
        is not stored again. Published again under the same id, the same texts and options are the
        same job; others are an `IdConflictError`. Where texts are several jobs and one cannot be
        stored, `stored` of the error has those that are.

        With `expect`, a copy of each outcome is sent here, so that `results` knows of it at once,
        and not a tenth later than it is stored.
        """
        request = Request(_list(texts), id, prompt, truncate, encoding, dimensions, deadline_ms)
        self._check(request)
        check_slug("model", model)
        for what, name in (("variant", variant), ("tenant", tenant)):
            if name is not None:
                check_slug(what, name)
        publishing = Publishing(
            self._transport,
            model,
            job_subject(lane, model, variant, tenant),
            tenant,
            self._format,
            headers or {},
            request.id is not None,
            timeout,
        )
        jobs = publishing.jobs(request)
        copies: list[tuple[int, str] | None] = [None] * len(jobs)
        if expect:
            lookout = await self._looking()
            numbers = [lookout.number() for _ in jobs]
            copies = [(number, lookout.copy_subject(number)) for number in numbers]
        return await publishing.publish(jobs, copies)

    async def results(
        self,
        model: str,
        jobs: Iterable[Job | str],
        *,
        tenant: str | None = None,
        space: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[tuple[str, Outcome]]:
        """The outcomes of jobs, as they come, by their ids. One subscription serves all of them.

        They are read from the stream, and taken only if they are of these jobs: by their ids, and
        where jobs come from `publish`, by what was asked. Vectors of two spaces are refused
        (`OtherSpaceError`), and so are those of any other than `space`, where it is given. Without
        a `timeout`, it waits as long as it takes.
        """
        lookout = await self._looking()
        one_space = Space(space)
        stream = names.RESULTS_STREAM.format(model=check_slug("model", model))
        deadline = None if timeout is None else Deadline(timeout)

        async def one(job: Job | str) -> tuple[str, Outcome]:
            id = check_id(job if isinstance(job, str) else job.id)  # noqa: A001
            number = (None if isinstance(job, str) else job.copy) or lookout.number()
            subject = result_subject(model, tenant, id)
            digest = None if isinstance(job, str) else job.digest
            outcome = read_outcome(await lookout.wait(number, stream, subject), id, digest)
            if isinstance(outcome, Result):
                one_space.check(outcome)
            return id, outcome

        tasks = [asyncio.create_task(one(job)) for job in jobs]
        waiting: set[asyncio.Task[tuple[str, Outcome]]] = set(tasks)
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=None if deadline is None else deadline.left(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    raise EmbedTimeoutError(
                        f"{len(waiting)} results did not come within {timeout:g} s: their jobs "
                        "wait to be served, or their results "
                        "have expired; is a worker running?"
                    )
                for task in done:
                    yield task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def result(
        self,
        model: str,
        job: Job | str,
        *,
        tenant: str | None = None,
        timeout: float | None = None,
    ) -> Result:
        """The vectors of one job, waited for. Raises the error of a job that failed."""
        async for _, outcome in self.results(model, [job], tenant=tenant, timeout=timeout):
            if isinstance(outcome, Result):
                return outcome
            raise outcome.error
        raise AssertionError("one job has one outcome")

    def backfill(
        self,
        model: str,
        rows: object,
        *,
        text: str = "text",
        run: Run | None = None,
        done: int = 0,
        prompt: str | None = None,
        truncate: bool = True,
        encoding: names.Encoding | None = None,
        dimensions: int | None = None,
        variant: str | None = None,
        tenant: str | None = None,
        space: str | None = None,
        window: int = 16,
        texts_per_job: int = 64,
        stall: float = 600.0,
        progress: Callable[[int], object] | None = None,
    ) -> AsyncIterator[Chunk]:
        """Embeds many rows at the lowest priority: their vectors, in order, a chunk at a time.

        `rows` is a pandas or polars frame, an Arrow table, record batch or reader, or an iterable
        of texts; in frames and Arrow, the column `text` is read. No more than `window` jobs are
        under way at a time. When the next chunk is asked for, the one before is taken to be safe:
        its results are removed from their stream, and `progress` is called with the number of rows
        that are done. To go on after a crash, give the same rows, the same `run`, and as `done` the
        `end` of the last chunk that was safe: jobs that were under way are found again. A job
        without an outcome for `stall` seconds is a `EmbedTimeoutError`.
        """
        request = Request([], None, prompt, truncate, encoding, dimensions)
        return run_backfill(
            self,
            model,
            rows,
            text=text,
            request=request,
            run=run or Run.new(),
            done=done,
            variant=variant,
            tenant=tenant,
            space=space,
            window=window,
            texts_per_job=texts_per_job,
            stall=stall,
            progress=progress,
        )

    async def remove_results(
        self, model: str, key: str, ids: Sequence[str], *, tenant: str | None = None
    ) -> int:
        """Has a worker remove the results of jobs whose ids were made with this key
        (`id_with_key`). How many were there.
        """
        subject = names.SUBJECTS["remove"].format(model=check_slug("model", model))
        if tenant is not None:
            subject += "." + check_slug("tenant", tenant)
        removed = 0
        for at in range(0, len(ids), names.MAX_REMOVALS):
            removal: names.Removal = {"key": key, "ids": list(ids[at : at + names.MAX_REMOVALS])}
            try:
                answer = await self._transport.request(subject, encode(removal, self._format), 5.0)
            except NoRespondersError:
                raise RejectedError(
                    f"results could not be removed: no worker serves model {model}"
                ) from None
            said = decode(answer.data)
            why, left = said.get("error"), said.get("left")
            # Beside what is left, it says why that is.
            if why is not None and left and said.get("removed"):
                _LOG.warning(
                    "%d results stay in their stream until they expire: %s", len(left), why
                )
            elif why is not None:
                raise RejectedError(f"results could not be removed: {why}")
            removed += int(said.get("removed", 0))
        return removed

    async def models(self) -> list[str]:
        """What can be asked for now, as `model` or `model.variant`. Takes 300 milliseconds."""
        return await served(self._transport)

    async def workers(self) -> dict[str, dict[tuple[str, str], names.VariantStatus]]:
        """What workers say of their variants: by the worker's id, then by model and variant. Takes
        300 milliseconds.
        """
        return {info["id"]: statuses(info) for info in await workers(self._transport)}

    def _check(self, request: Request) -> None:
        check(request, self._format)
        if request.id is not None:
            check_id(request.id)

    async def _looking(self) -> Lookout:
        before = self._lookout
        # One that could not begin is begun again.
        if before is None or (before.done() and (before.cancelled() or before.exception())):
            lookout = Lookout(self._transport)

            async def start() -> Lookout:
                await lookout.start()
                return lookout

            before = self._lookout = asyncio.create_task(start())
        return await asyncio.shield(before)


def _list(texts: Sequence[str]) -> list[str]:
    # A string is a sequence of strings as well.
    if isinstance(texts, str):
        raise RequestError("texts: a list of strings is needed, and this is one string")
    return list(texts)
