"""Online calls: request-reply, split into several where one message cannot hold the texts or the
vectors.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from . import _names as names
from ._codes import CallTooLargeError, DeadlineExceededError, ResultTooLargeError
from ._errors import (
    BadAnswerError,
    EmbedError,
    EmbedTimeoutError,
    NotServedError,
    WireError,
)
from ._ids import new_id
from ._served import provisioned, served, target
from ._split import TEXTS_PER_CALL, IncompleteError, Space, combine, split
from ._transport import Backoff, Deadline, NoRespondersError, Transport
from ._wire import CONTENT_TYPES, Failure, Format, Request, Result, decode_outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

_CALLS_IN_FLIGHT = 8
_LOOK_AT_WORKERS = 0.35


@dataclass
class Call:
    """What is the same for all parts of a request."""

    transport: Transport
    model: str
    variant: str | None
    subject: str
    format: Format
    headers: Mapping[str, str]
    space: Space
    deadline: Deadline
    retry: bool
    _provisioned: asyncio.Task[bool] | None = field(default=None, init=False)

    async def run(self, request: Request) -> Result:
        """All texts."""
        parts = split(
            request, self.format, TEXTS_PER_CALL, self.transport.nats.max_payload, self.headers
        )
        slots = asyncio.Semaphore(_CALLS_IN_FLIGHT)
        own = request.id

        async def one(number: int, where: range) -> Result:
            # An answer is known by the id that was sent with the call.
            id = own and (f"{own}-{number}" if len(parts) > 1 else own)  # noqa: A001
            part = replace(
                request, texts=request.texts[where.start : where.stop], id=id or new_id()
            )
            async with slots:
                return await self._texts(part)

        tasks = [asyncio.create_task(one(*part)) for part in enumerate(parts)]
        answered: list[tuple[range, Result]] = []
        try:
            for where, task in zip(parts, tasks, strict=True):
                answered.append((where, await task))
        except EmbedError as error:
            if answered:
                raise IncompleteError(error, answered, len(request.texts)) from error
            raise
        finally:
            for task in tasks:
                task.cancel()
            # What failed beside the first failure is nobody's concern.
            await asyncio.gather(*tasks, return_exceptions=True)
        result = combine([result for _, result in answered])
        return result if own is None else replace(result, id=own)

    async def _texts(self, request: Request) -> Result:
        """One part. Asks for its halves if it is more than a worker computes in one call, or the
        answer does not fit into a message.
        """
        try:
            return await self._retried(request)
        except (CallTooLargeError, ResultTooLargeError):
            if len(request.texts) == 1:
                raise
        half = len(request.texts) // 2
        halves = (request.texts[:half], request.texts[half:])
        tasks = [
            asyncio.create_task(self._texts(replace(request, texts=texts, id=new_id())))
            for texts in halves
        ]
        try:
            return combine(await asyncio.gather(*tasks))
        finally:
            # Of what fails, nobody needs the other half.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _retried(self, request: Request) -> Result:
        """One message, sent again while that can help."""
        backoff = Backoff(0.02, 1.0)
        while True:
            error: WireError | None = None
            if not await self.transport.connected(self.deadline):
                raise self._late("the connection to the server is gone")
            left = self.deadline.left()
            try:
                return await self._once(request)
            except NoRespondersError:
                if not await self._worth_waiting_for():
                    raise await self._unserved() from None
            except DeadlineExceededError:
                # It is the caller's own: nobody needs the answer any more.
                raise
            except WireError as refusal:
                if not (self.retry and refusal.retryable):
                    raise
                error = refusal
            pause = backoff.pause(error.retry_after if error else None)
            # It takes a moment to find out who is there. And what would be refused again takes as
            # long as this did: if it were late, the advice would be lost.
            last = left - self.deadline.left() if error else _LOOK_AT_WORKERS
            if pause + last >= self.deadline.left():
                raise error if error else await self._unserved()
            await asyncio.sleep(pause)

    async def _once(self, request: Request) -> Result:
        left = self.deadline.left()
        deadline_ms = max(1, round(left * 1000))
        if request.deadline_ms is not None:
            deadline_ms = min(deadline_ms, request.deadline_ms)
        payload = replace(request, deadline_ms=deadline_ms).encode(self.format)
        headers = dict(self.headers) | {names.CONTENT_TYPE: CONTENT_TYPES[self.format]}
        try:
            answer = await self.transport.request(self.subject, payload, left, headers)
        except EmbedTimeoutError:
            raise self._late(
                "the workers are busy or the connection is gone; try a longer `timeout`"
            ) from None
        outcome = decode_outcome(answer.data)
        if outcome.id is not None and outcome.id != request.id:
            raise BadAnswerError(f"it answers the call {outcome.id}, and not {request.id}")
        if isinstance(outcome, Failure):
            raise outcome.error
        if len(outcome.items) != len(request.texts):
            raise BadAnswerError(f"{len(outcome.items)} rows for {len(request.texts)} texts")
        self.space.check(outcome)
        return outcome

    async def _worth_waiting_for(self) -> bool:
        if not self.retry:
            return False
        if self._provisioned is None:
            look = provisioned(self.transport, self.model, self.variant, self.deadline.left())
            self._provisioned = asyncio.create_task(look)
        return await asyncio.shield(self._provisioned)

    async def _unserved(self) -> EmbedError:
        try:
            async with asyncio.timeout(self.deadline.left()):
                there = await served(self.transport)
        except TimeoutError:
            return self._late("no worker took it")
        hint = f"; served: {', '.join(there)}" if there else "; no worker is there"
        return NotServedError(f"no worker serves {target(self.model, self.variant)}{hint}")

    def _late(self, hint: str) -> EmbedTimeoutError:
        return EmbedTimeoutError(
            f"no answer from {self.subject} within {self.deadline.timeout:g} s: {hint}"
        )
