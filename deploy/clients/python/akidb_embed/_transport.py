"""The connection, and the few requests that everything else is made of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nats.errors
from nats.aio.client import Client as Nats

from ._errors import (
    BadAnswerError,
    DisconnectedError,
    EmbedTimeoutError,
    NotPermittedError,
    RejectedError,
    RequestError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.aio.msg import Msg

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
# What a caller is told of a connection.
_NEWS = (
    "closed_cb",
    "disconnected_cb",
    "reconnected_cb",
    "discovered_server_cb",
    "lame_duck_mode_cb",
)
# In an address.
_CREDENTIALS = re.compile(r"(?<=//).*@|^(?!.*//).*@")
_DENIED = re.compile(r"permissions violation for \w+ to \"([^\"]+)\"", re.IGNORECASE)


class NoRespondersError(Exception):
    """Nobody listens on the subject."""


class ApiError(Exception):
    """JetStream refuses a call of its API."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("description", "no reason given"))
        self.code = int(error.get("code", 0))
        self.err_code = int(error.get("err_code", 0))


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream holds it."""

    sequence: int
    subject: str
    headers: Mapping[str, str]
    payload: bytes


class Deadline:
    """A moment, by the event loop's clock."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._at = asyncio.get_running_loop().time() + timeout

    def left(self) -> float:
        """Seconds; not below 0."""
        return max(0.0, self._at - asyncio.get_running_loop().time())


class Backoff:
    """Exponential back-off with jitter: half of every pause is random, so that many clients do not
    return at once.
    """

    def __init__(self, first: float, most: float) -> None:
        self._next = first
        self._most = most

    def pause(self, advice: float | None = None) -> float:
        """Seconds. `advice` is what the other side asks for; it is kept to."""
        jitter = random.random() / 2  # noqa: S311 - no secret
        pause = self._next * (0.5 + jitter) if advice is None else advice * (1 + jitter)
        self._next = min(self._next * 2, self._most)
        return min(pause, max(self._most, advice or 0))


async def _why_hung_up(servers: str | list[str], options: dict[str, Any]) -> Exception | None:
    """What a server says that ends the connection while a client introduces itself.

    The client's PING is on its way by then, and what a closed connection receives makes the kernel
    forget the server's last words. A server that is asked to acknowledge every command says them
    before there is a PING.
    """
    told: list[Exception] = []

    async def heard(error: Exception) -> None:
        told.append(error)

    quiet = {name: value for name, value in options.items() if name not in _NEWS}
    once = dict(
        quiet, verbose=True, allow_reconnect=False, max_reconnect_attempts=1, error_cb=heard
    )
    connection = Nats()
    try:
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            await connection.connect(servers, **once)
    finally:
        await connection.close()
    return next((error for error in told if isinstance(error, nats.errors.Error)), None)


async def _connected(servers: str | list[str], options: dict[str, Any]) -> Nats:
    """A connection. nats-py takes the end of one for the answer to its first PING: then it is
    tried once more, as it may be with another server.
    """
    for _ in range(2):
        connection = Nats()
        await connection.connect(servers, **options)
        if connection.is_connected:
            return connection
        await connection.close()
    raise ConnectionResetError("the server hung up")


class Transport:
    """A connection to NATS."""

    def __init__(self, connection: Nats, api_prefix: str = "$JS.API") -> None:
        self.nats = connection
        self.api_prefix = api_prefix.rstrip(".")
        self._waiting: dict[str, set[asyncio.Future[Msg]]] = {}

    @classmethod
    async def connect(cls, servers: str | list[str], api_prefix: str, **options: Any) -> Transport:
        """Connects once; later disconnections mend themselves."""
        theirs = options.pop("error_cb", None)
        this: Transport | None = None
        told: list[Exception] = []

        async def heard(error: Exception) -> None:
            told.append(error)
            del told[:-1]
            if this is not None:
                this._denied(str(error))
            if theirs is not None:
                await theirs(error)

        given = set(options)
        defaults: dict[str, Any] = {
            "name": "akidb-embed",
            # For the first connection: without a bound it is tried for ever.
            "max_reconnect_attempts": 1,
            "ping_interval": 5,
        }
        options = defaults | options
        try:
            connection = await _connected(servers, options | {"error_cb": heard})
        except (nats.errors.Error, OSError, TimeoutError) as error:
            # The last that was told says more than that there is no server.
            hung_up = isinstance(error, ConnectionResetError)
            why = told[-1] if told and not hung_up else error
            if isinstance(why, ConnectionResetError | BrokenPipeError):
                why = await _why_hung_up(servers, options) or why
            names = [servers] if isinstance(servers, str) else servers
            where = ", ".join(_CREDENTIALS.sub("", name) for name in names)
            raise DisconnectedError(f"no connection to {where}: {why!r}") from error
        if "max_reconnect_attempts" not in given:
            connection.options["max_reconnect_attempts"] = -1
        this = cls(connection, api_prefix)
        return this

    def _denied(self, error: str) -> None:
        found = _DENIED.search(error)
        for waiting in self._waiting.get(found[1], ()) if found else ():
            if not waiting.done():
                waiting.set_exception(
                    NotPermittedError(f"the server does not permit this user {error}")
                )

    async def connected(self, deadline: Deadline) -> bool:
        """Waits for the connection: what is sent while the server is away would arrive when nobody
        waits for it any more.
        """
        while not self.nats.is_connected:
            if self.nats.is_closed:
                raise DisconnectedError("the connection is closed")
            if deadline.left() == 0:
                return False
            await asyncio.sleep(0.02)
        return True

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Msg:
        """A request and its answer. Raises `NoRespondersError`, `EmbedTimeoutError`,
        `NotPermittedError`, `DisconnectedError`.
        """
        loop = asyncio.get_running_loop()
        denied: asyncio.Future[Msg] = loop.create_future()
        self._waiting.setdefault(subject, set()).add(denied)
        answer = loop.create_task(
            self.nats.request(
                subject, payload, timeout=timeout, headers=dict(headers) if headers else None
            )
        )
        try:
            await asyncio.wait({answer, denied}, return_when=asyncio.FIRST_COMPLETED)
            return await (answer if answer.done() else denied)
        except nats.errors.NoRespondersError as error:
            raise NoRespondersError from error
        except (nats.errors.TimeoutError, TimeoutError) as error:
            raise EmbedTimeoutError(f"no answer from {subject} within {timeout:.3g} s") from error
        except nats.errors.MaxPayloadError as error:
            raise RequestError(f"the message is larger than the server takes: {error}") from error
        except nats.errors.BadSubjectError as error:
            raise RequestError(f"{subject!r} is no subject") from error
        except nats.errors.Error as error:
            raise DisconnectedError(str(error)) from error
        finally:
            answer.cancel()
            denied.cancel()
            self._waiting[subject].discard(denied)
            if not self._waiting[subject]:
                del self._waiting[subject]

    async def api(self, call: str, body: object = None, timeout: float = 5) -> dict[str, Any]:
        """A call of JetStream's API. Raises `ApiError` if it is refused, and as `request` does."""
        payload = b"" if body is None else json.dumps(body).encode()
        answer = await self.request(f"{self.api_prefix}.{call}", payload, timeout)
        read = json.loads(answer.data)
        if "error" in read:
            raise ApiError(read["error"])
        if not isinstance(read, dict):
            raise BadAnswerError(f"unusable answer to {call}")
        return read

    async def last(self, stream: str, subject: str, timeout: float = 5) -> Stored | None:
        """The last message on a subject, read without a consumer. `None` if there is none."""
        answer = await self.request(
            f"{self.api_prefix}.DIRECT.GET.{stream}.{subject}", b"", timeout
        )
        return self._one(stream, answer)

    async def at(self, stream: str, sequence: int, timeout: float = 5) -> Stored | None:
        """The message with this sequence."""
        question = json.dumps({"seq": sequence}).encode()
        answer = await self.request(f"{self.api_prefix}.DIRECT.GET.{stream}", question, timeout)
        return self._one(stream, answer)

    @staticmethod
    def _one(stream: str, answer: Msg) -> Stored | None:
        found = stored(answer)
        status = (answer.headers or {}).get("Status")
        if found is None and status != "404":
            raise RejectedError(f"the stream {stream} cannot be read: status {status}")
        return found


def stored(message: Msg) -> Stored | None:
    """From the answer to a direct get."""
    headers = message.headers or {}
    sequence, subject = headers.get("Nats-Sequence"), headers.get("Nats-Subject")
    if sequence is None or subject is None or not sequence.isdigit():
        return None
    return Stored(int(sequence), subject, headers, message.data)
