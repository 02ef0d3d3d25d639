"""Many rows, through the queue at the lowest priority, and back in order, within bounds."""

from __future__ import annotations

import asyncio
import collections
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from . import _names as names
from ._errors import EmbedError, EmbedTimeoutError, RequestError, StreamFullError
from ._ids import id_with_key, new_key
from ._rows import texts_of
from ._split import Space, check, split
from ._transport import Backoff, Deadline
from ._wire import Format, Request, Result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from ._job import Job

_LOG = logging.getLogger("akidb_embed")


@dataclass(frozen=True, slots=True)
class Run:
    """What a backfill is known by: kept, it can be gone on with after any kind of end."""

    #: What the ids of its jobs begin with.
    id: str
    #: The secret by which its results may be removed.
    key: str

    @classmethod
    def new(cls) -> Run:
        key = new_key()
        return cls(id_with_key(key), key)

    def save(self, path: str | Path) -> None:
        """Writes it to a file that only its owner may read."""
        path = Path(path)
        path.touch(mode=0o600)
        # It may have been there.
        path.chmod(0o600)
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: str | Path) -> Run:
        return cls(**json.loads(Path(path).read_text()))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that are done."""

    #: The first row, counted from 0, and the one after the last.
    start: int
    end: int
    #: Their texts.
    texts: list[str]
    #: Their vectors; a row may have failed, see `Result.failed`.
    result: Result


class Jobs(Protocol):
    """What a backfill needs of a client."""

    @property
    def format(self) -> Format: ...

    @property
    def max_payload(self) -> int: ...

    async def publish(
        self,
        model: str,
        texts: Sequence[str],
        *,
        lane: names.StoredLane,
        id: str | None,  # noqa: A002 - as on the wire
        prompt: str | None,
        truncate: bool,
        encoding: names.Encoding | None,
        dimensions: int | None,
        variant: str | None,
        tenant: str | None,
        timeout: float,
        expect: bool,
    ) -> list[Job]: ...

    async def result(
        self,
        model: str,
        job: Job | str,
        *,
        tenant: str | None,
        timeout: float | None,
    ) -> Result: ...

    async def remove_results(
        self, model: str, key: str, ids: Sequence[str], *, tenant: str | None
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class _Pending:
    start: int
    texts: list[str]
    id: str
    task: asyncio.Task[Result]


async def run_backfill(
    client: Jobs,
    model: str,
    rows: object,
    *,
    text: str,
    request: Request,
    run: Run,
    done: int,
    variant: str | None,
    tenant: str | None,
    space: str | None,
    window: int,
    texts_per_job: int,
    stall: float,
    progress: Callable[[int], object] | None,
) -> AsyncIterator[Chunk]:
    """See `Client.backfill`."""
    if not 1 <= texts_per_job <= names.MAX_TEXTS:
        raise RequestError(f"texts_per_job: 1 to {names.MAX_TEXTS}, not {texts_per_job}")
    if window < 1:
        raise RequestError(f"window: at least 1, not {window}")
    check(replace(request, texts=["x"]), client.format)
    one_space = Space(space)
    parts = _parts(
        client,
        texts_of(rows, text),
        replace(request, id="x" * names.MAX_JOB_ID),
        done,
        texts_per_job,
    )
    pending: collections.deque[_Pending] = collections.deque()
    taken: list[str] = []

    async def job(part: Request) -> Result:
        published = await _published(client, model, part, variant, tenant, stall)
        return await client.result(model, published, tenant=tenant, timeout=stall)

    def fill() -> None:
        while len(pending) < window and (part := next(parts, None)) is not None:
            start, texts = part
            asked = replace(request, texts=texts, id=f"{run.id}-{start}")
            assert asked.id is not None  # noqa: S101 - it was given just now
            pending.append(_Pending(start, texts, asked.id, asyncio.create_task(job(asked))))

    try:
        fill()
        while pending:
            first = pending[0]
            result = await first.task
            pending.popleft()
            one_space.check(result)
            fill()
            end = first.start + len(first.texts)
            yield Chunk(first.start, end, first.texts, result)
            # Who asks for more has done with this one.
            taken.append(first.id)
            if progress is not None:
                progress(end)
            if len(taken) >= names.MAX_REMOVALS // 4:
                await _remove(client, model, run, taken, tenant)
    finally:
        for one in pending:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in pending), return_exceptions=True)
        await _remove(client, model, run, taken, tenant)


async def _published(
    client: Jobs, model: str, part: Request, variant: str | None, tenant: str | None, stall: float
) -> Job:
    """The job, once the stream has room for it."""
    deadline, backoff = Deadline(stall), Backoff(0.1, 5.0)
    while True:
        try:
            [published] = await client.publish(
                model,
                part.texts,
                lane="bulk",
                id=part.id,
                prompt=part.prompt,
                truncate=part.truncate,
                encoding=part.encoding,
                dimensions=part.dimensions,
                variant=variant,
                tenant=tenant,
                timeout=stall,
                expect=True,
            )
        except StreamFullError:
            pause = backoff.pause()
            if pause >= deadline.left():
                raise
            await asyncio.sleep(pause)
        else:
            return published


async def _remove(client: Jobs, model: str, run: Run, taken: list[str], tenant: str | None) -> None:
    """What is not removed expires, and is no reason to end."""
    ids, taken[:] = list(taken), []
    try:
        if ids:
            await client.remove_results(model, run.key, ids, tenant=tenant)
    except (EmbedError, EmbedTimeoutError) as error:
        _LOG.warning("%d results stay in their stream until they expire: %s", len(ids), error)


def _parts(
    client: Jobs, texts: Iterator[str], longest: Request, done: int, most: int
) -> Iterator[tuple[int, list[str]]]:
    """Rows in jobs: the number of the first one, and their texts. The same rows give the same jobs,
    wherever it begins.
    """
    start, ahead = 0, list[str]()
    for _ in range(done):
        if next(texts, None) is None:
            raise RequestError(f"done: there are no {done} rows")
    start = done
    while True:
        while len(ahead) < most and (text := next(texts, None)) is not None:
            ahead.append(text)
        if not ahead:
            return
        # What does not fit goes into the next one.
        first = split(replace(longest, texts=ahead), client.format, most, client.max_payload, {})[0]
        yield start, ahead[: len(first)]
        del ahead[: len(first)]
        start += len(first)
