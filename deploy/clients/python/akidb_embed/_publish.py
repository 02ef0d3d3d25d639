"""Jobs: stored in the model's stream, and acknowledged."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import _names as names
from ._errors import (
    BadAnswerError,
    DisconnectedError,
    EmbedError,
    EmbedTimeoutError,
    JobFailedError,
    NoStreamError,
    NotPermittedError,
    RejectedError,
    StreamFullError,
)
from ._ids import check_id, new_id
from ._job import Job
from ._results import conflict, read_outcome
from ._split import split
from ._transport import STREAM_NOT_FOUND, ApiError, Backoff, Deadline, NoRespondersError, Transport
from ._wire import CONTENT_TYPES, Failure, Format, Request, decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._transport import Stored

_PUBLISHES_IN_FLIGHT = 8
#: For one acknowledgement. The job's id makes a second publish harmless.
_ACK_TIMEOUT = 5.0
#: Temporarily unavailable, too many at once, or the same message on its way already.
_PASSES = (409, 429, 503)


@dataclass(frozen=True, slots=True)
class Publishing:
    """How jobs are published."""

    transport: Transport
    model: str
    subject: str
    tenant: str | None
    format: Format
    headers: Mapping[str, str]
    #: Looks first whether there is an outcome under the job's id already.
    check_id: bool
    timeout: float

    def jobs(self, request: Request) -> list[Request]:
        """Gives a request an id if it has none, and cuts it into as many jobs as it needs; several
        get the ids `<id>-0`, `<id>-1` and so on.
        """
        own = check_id(request.id) if request.id is not None else new_id()
        longest = replace(request, id=own + "-" + "9" * 20)
        limit = self.transport.nats.max_payload
        parts = split(longest, self.format, names.MAX_TEXTS, limit, self.headers)
        several = len(parts) > 1
        return [
            replace(
                request,
                id=check_id(f"{own}-{number}") if several else own,
                texts=request.texts[part.start : part.stop],
            )
            for number, part in enumerate(parts)
        ]

    async def publish(self, jobs: list[Request], copies: list[tuple[int, str] | None]) -> list[Job]:
        """Stores them, some at a time. The error of the first that cannot be stored says which are:
        those that were under way are waited for, and no others are sent.
        """
        slots = asyncio.Semaphore(_PUBLISHES_IN_FLIGHT)
        errors: list[EmbedError] = []

        async def one(job: Request, copy: tuple[int, str] | None) -> Job | None:
            async with slots:
                if not errors:
                    try:
                        return await self._one(job, copy)
                    except EmbedError as error:
                        errors.append(error)
                return None

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*both)) for both in zip(jobs, copies, strict=True)]
        stored = [job for task in tasks if (job := task.result()) is not None]
        if errors:
            errors[0].stored = tuple(stored)
            raise errors[0]
        return stored

    async def _one(self, job: Request, copy: tuple[int, str] | None) -> Job:
        assert job.id is not None  # noqa: S101 - `jobs` gives each one
        id, digest = job.id, job.digest()  # noqa: A001
        if self.check_id and (known := await self._known(id, digest)) is not None:
            stream = names.RESULTS_STREAM.format(model=self.model)
            return Job(id, stream, known.sequence, True, digest, copy and copy[0])
        headers = dict(self.headers) | {
            names.MESSAGE_ID: id if self.tenant is None else f"{self.tenant}.{id}",
            names.CONTENT_TYPE: CONTENT_TYPES[self.format],
            names.SUBJECT: self.subject,
        }
        if copy is not None:
            headers[names.REPLY_TO] = copy[1]
        ack = await self._stored(id, job.encode(self.format), headers)
        published = Job(
            id, ack["stream"], ack["seq"], ack.get("duplicate", False), digest, copy and copy[0]
        )
        if published.duplicate:
            await self._same(published)
        return published

    async def _known(self, id: str, digest: str) -> Stored | None:  # noqa: A002
        """The outcome that is stored under this id already, if it is that of the same job."""
        stream = names.RESULTS_STREAM.format(model=self.model)
        found = await self._readable(
            self.transport.last(stream, result_subject(self.model, self.tenant, id))
        )
        if found is not None and isinstance(outcome := read_outcome(found, id, digest), Failure):
            raise JobFailedError(id, outcome.error)
        return found

    async def _same(self, published: Job) -> None:
        """Raises if the server dropped a job as a duplicate of one with other content."""
        first = await self._readable(self.transport.at(published.stream, published.sequence))
        if first is None:
            # It is done, or it is not permitted to look.
            await self._known(published.id, published.digest)
            return
        fields = decode(first.payload)
        known = {
            name: fields[name] for name in names.EmbedRequest.__annotations__ if name in fields
        }
        if Request(**known).digest() != published.digest:
            raise conflict(published.id)

    @staticmethod
    async def _readable(look: Any) -> Stored | None:
        try:
            found: Stored | None = await look
        except (NoRespondersError, EmbedTimeoutError, NotPermittedError, RejectedError):
            return None
        return found

    async def _stored(self, id: str, payload: bytes, headers: Mapping[str, str]) -> dict[str, Any]:  # noqa: A002
        deadline, backoff = Deadline(self.timeout), Backoff(0.05, 2.0)
        error: EmbedError = EmbedTimeoutError(
            f"job {id} was not acknowledged within {self.timeout:g} s: the server is away"
        )
        while await self.transport.connected(deadline):
            try:
                answer = await self.transport.request(
                    self.subject, payload, min(deadline.left(), _ACK_TIMEOUT), headers
                )
                return self._judge(answer.data)
            except NoRespondersError:
                await self._is_there()
                error = DisconnectedError(
                    f"cannot publish to {self.subject}: the stream has no leader"
                )
            except (EmbedTimeoutError, DisconnectedError) as late:
                error = late
            pause = backoff.pause()
            if pause >= deadline.left():
                break
            await asyncio.sleep(pause)
        raise error

    def _judge(self, ack: bytes) -> dict[str, Any]:
        try:
            read = json.loads(ack)
            refusal = read.get("error")
            if refusal is None:
                return {"stream": read["stream"], "seq": read["seq"], **read}
        except (ValueError, KeyError, AttributeError) as error:
            # Somebody else answers on the subject.
            raise BadAnswerError(f"no acknowledgement from {self.subject}: {error!r}") from error
        description = str(refusal.get("description", "no reason given"))
        if "maximum" in description and "exceeded" in description:
            raise StreamFullError(
                f"the stream {names.JOBS_STREAM.format(model=self.model)} is full ({description}): "
                "jobs wait to be served; add "
                "workers, or raise the limit with `embed init --jobs-max-bytes`"
            )
        if refusal.get("code") in _PASSES:
            raise DisconnectedError(f"cannot publish to {self.subject}: {description}")
        raise RejectedError(f"cannot publish to {self.subject}: {description}")

    async def _is_there(self) -> None:
        """Raises if no stream takes jobs for the model; it may only be between leaders."""
        stream = names.JOBS_STREAM.format(model=self.model)
        try:
            await self.transport.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                raise NoStreamError(
                    f"no stream takes jobs for model {self.model}: run `embed init` against this "
                    "server, or check the model's name "
                    f"(stream {stream} does not exist)"
                ) from None
        except (NoRespondersError, EmbedTimeoutError, NotPermittedError):
            pass


def job_subject(lane: names.StoredLane, model: str, variant: str | None, tenant: str | None) -> str:
    """Where a job is published."""
    bare = names.SUBJECTS[lane].format(model=model)
    if tenant is not None:
        return f"{bare}.{variant or names.ANY_VARIANT}.{tenant}"
    return bare if variant is None else f"{bare}.{variant}"


def result_subject(model: str, tenant: str | None, id: str) -> str:  # noqa: A002
    """Under what an outcome is stored."""
    return names.SUBJECTS["result"].format(
        model=model, id=id if tenant is None else f"{tenant}.{id}"
    )
