"""One subscription and one look for all outcomes that a client waits for.

The stream is the truth, and everything is read from it: several outcomes in one look, which the
server answers with those that are there. How long it takes until the next look depends on how long
an outcome has been waited for. A job may ask for a copy of its outcome to be sent here; that is
heard at once, and is a reason to look, no more: anybody could have sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import nats.errors

from . import _names as names
from ._codes import IdConflictError
from ._errors import BadAnswerError, DisconnectedError, WireError
from ._transport import Stored, Transport, stored
from ._wire import Failure, Outcome, decode_outcome

if TYPE_CHECKING:
    from nats.aio.msg import Msg

_LOG = logging.getLogger("akidb_embed")

_LONGEST_PAUSE = 2.0
_SHORTEST_PAUSE = 0.02
#: Between two looks passes this part of the time for which an outcome has been waited for: so much
#: later may it be known.
_OF_AGE = 0.1
#: What was heard of is there, or the server that was asked lags behind for a moment. The pause
#: doubles.
_HEARD_PAUSE = 0.005
_LOOK_TIMEOUT = 5.0
#: Outcomes in one look, and bytes of the answer, about. The server would answer up to 1024.
_MOST = 256
_MOST_BYTES = 8 << 20
#: After a question for several was not answered, it is not asked for so long: servers before 2.11,
#: or a permission that names subjects.
_ONE_BY_ONE = 600.0


@dataclass(eq=False)
class _Waiting:
    stream: str
    subject: str
    since: float
    due: float
    found: asyncio.Future[Stored]
    hurry: float | None = None


@dataclass(eq=False)
class _Look:
    stream: str
    wanted: dict[str, list[_Waiting]]
    several: bool
    over: asyncio.Event = field(default_factory=asyncio.Event)
    silent: bool = False


class Lookout:
    """Waits for outcomes, for one client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._inbox = transport.nats.new_inbox()
        self._waiting: dict[int, _Waiting] = {}
        self._looks: dict[int, _Look] = {}
        self._next = 0
        self._changed = asyncio.Event()
        self._one_by_one: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._transport.nats.subscribe(f"{self._inbox}.*.*", cb=self._heard)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Whoever still waits is told."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for task in self._tasks:
            task.cancel()
        for waiting in self._waiting.values():
            if not waiting.found.done():
                waiting.found.set_exception(DisconnectedError("the client is closed"))

    def number(self) -> int:
        """A new number, by which a copy is known, and that nobody waits under."""
        self._next += 1
        while self._next in self._waiting:
            self._next += 1
        return self._next

    def copy_subject(self, number: int) -> str:
        """Where a copy of an outcome is heard."""
        return f"{self._inbox}.copy.{number}"

    async def wait(self, number: int, stream: str, subject: str) -> Stored:
        """The message that is stored on a subject, as soon as it is."""
        if number in self._waiting:
            # Somebody waits for the same job, or the number is another client's.
            number = self.number()
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiting = _Waiting(stream, subject, now, now, loop.create_future())
        self._waiting[number] = waiting
        self._changed.set()
        try:
            return await waiting.found
        finally:
            self._waiting.pop(number, None)

    async def _heard(self, message: Msg) -> None:
        kind, _, number = message.subject.removeprefix(self._inbox + ".").partition(".")
        if not number.isdigit():
            return
        if kind == "copy":
            waiting = self._waiting.get(int(number))
            if waiting is not None:
                waiting.hurry = _HEARD_PAUSE
                waiting.due = min(waiting.due, asyncio.get_running_loop().time())
                self._changed.set()
        elif kind == "get" and (look := self._looks.get(int(number))) is not None:
            self._answered(look, message)

    def _answered(self, look: _Look, message: Msg) -> None:
        found = stored(message)
        if found is None:
            # The end (204), nothing found (404), or a question that was not understood.
            status = (message.headers or {}).get("Status")
            look.silent = status not in ("204", "404")
            look.over.set()
            return
        for waiting in look.wanted.pop(found.subject, []):
            if not waiting.found.done():
                waiting.found.set_result(found)
        if not look.wanted:
            look.over.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            now = loop.time()
            due: dict[str, dict[str, list[_Waiting]]] = {}
            for waiting in self._waiting.values():
                if waiting.due <= now and not waiting.found.done():
                    waiting.due = float("inf")
                    due.setdefault(waiting.stream, {}).setdefault(waiting.subject, []).append(
                        waiting
                    )
            for stream, wanted in due.items():
                most = 1 if self._one_by_one.get(stream, 0) > now else _MOST
                subjects = list(wanted)
                for at in range(0, len(subjects), most):
                    part = {subject: wanted[subject] for subject in subjects[at : at + most]}
                    task = asyncio.create_task(self._look(_Look(stream, part, len(part) > 1)))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            next_due = min(
                (waiting.due for waiting in self._waiting.values()), default=float("inf")
            )
            pause = None if next_due == float("inf") else max(0.0, next_due - loop.time())
            # Not `wait_for`, which before Python 3.12 may take a cancellation for an answer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _look(self, look: _Look) -> None:
        number = self.number()
        self._looks[number] = look
        subjects = list(look.wanted)
        call, question = f"DIRECT.GET.{look.stream}", b""
        if look.several:
            question = json.dumps({"multi_last": subjects, "max_bytes": _MOST_BYTES}).encode()
        else:
            call += "." + subjects[0]
        try:
            # What is sent while the server is away would pile up.
            if self._transport.nats.is_connected:
                await self._transport.nats.publish(
                    f"{self._transport.api_prefix}.{call}",
                    question,
                    reply=f"{self._inbox}.get.{number}",
                )
                async with asyncio.timeout(_LOOK_TIMEOUT):
                    await look.over.wait()
        except TimeoutError:
            look.silent = True
        except nats.errors.Error as error:
            _LOG.debug("cannot look into the results: %s", error)
        finally:
            del self._looks[number]
        now = asyncio.get_running_loop().time()
        if look.silent and look.several:
            self._one_by_one[look.stream] = now + _ONE_BY_ONE
        for waiting in (one for several in look.wanted.values() for one in several):
            pause = min(max((now - waiting.since) * _OF_AGE, _SHORTEST_PAUSE), _LONGEST_PAUSE)
            if waiting.hurry is not None and waiting.hurry < pause:
                pause, waiting.hurry = waiting.hurry, waiting.hurry * 2
            elif look.silent and look.several:
                pause = 0
            waiting.due = now + pause
        self._changed.set()


def read_outcome(found: Stored, id: str, digest: str | None) -> Outcome:  # noqa: A002 - as on the wire
    """An outcome, if it is that of this job: it says so itself, and vectors come with the digest of
    the request that they answer.
    """
    of = found.headers.get(names.REQUEST_DIGEST)
    if digest is not None and of is not None and of != digest:
        raise conflict(id)
    outcome = decode_outcome(found.payload)
    if outcome.id is not None and outcome.id != id:
        raise BadAnswerError(f"it is the outcome of another job, {outcome.id}, and not of {id}")
    if digest is not None and of is None and not isinstance(outcome, Failure):
        raise BadAnswerError(
            f"it does not say which request it answers ({names.REQUEST_DIGEST} is missing): it is "
            "not from a worker of this version, "
            "or from none. Publish the job under another id"
        )
    return outcome


def conflict(id: str) -> WireError:  # noqa: A002
    """Another job has the id."""
    return IdConflictError(
        f"another job has the id {id}, with other texts or options: choose another id",
        code="id_conflict",
    )
