"""What workers say that they serve, and whether anybody is meant to serve it."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from . import _names as names
from ._errors import EmbedError
from ._transport import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError, NoRespondersError, Transport

if TYPE_CHECKING:
    from nats.aio.msg import Msg

_LOG = logging.getLogger("akidb_embed")

#: How long the first answer may take, and all of them.
_FIRST_ANSWER = 2.0
_ALL_ANSWERS = 5.0
#: Nobody knows how many workers there are. When none has answered for so long, all have.
_SILENCE = 0.3
#: Whoever answers in their place fills no memory.
_MOST_BYTES = 64 << 20
_MOST_WORKERS = 4096
_LOOK_TIMEOUT = 2.0


async def workers(transport: Transport) -> list[dict[str, Any]]:
    """What all workers answer to `$SRV.INFO`. Takes 300 milliseconds, less if there is none."""
    inbox = transport.nats.new_inbox()
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await transport.nats.subscribe(inbox, cb=answers.put)
    found: dict[str, dict[str, Any]] = {}
    size, patience = 0, _FIRST_ANSWER
    try:
        await transport.nats.publish(f"$SRV.INFO.{names.SERVICE}", b"", reply=inbox)
        async with asyncio.timeout(_ALL_ANSWERS):
            while size <= _MOST_BYTES and len(found) < _MOST_WORKERS:
                async with asyncio.timeout(patience):
                    answer = await answers.get()
                if (answer.headers or {}).get("Status"):
                    break  # nobody listens
                size += len(answer.data)
                patience = _SILENCE
                try:
                    info = json.loads(answer.data)
                    if info["name"] == names.SERVICE:
                        found.setdefault(str(info["id"]), info)
                except (ValueError, KeyError, TypeError):
                    _LOG.debug("an answer to $SRV.INFO cannot be read")
    except TimeoutError:
        pass
    finally:
        await subscription.unsubscribe()
    return [found[worker] for worker in sorted(found)]


def statuses(info: dict[str, Any]) -> dict[tuple[str, str], names.VariantStatus]:
    """The variants of one worker, by model and variant. What cannot be read is of another release,
    and left out.
    """
    read: dict[tuple[str, str], names.VariantStatus] = {}
    for key, value in (info.get("metadata") or {}).items():
        model, dot, variant = key.removeprefix(names.STATUS_PREFIX).partition(".")
        if key.startswith(names.STATUS_PREFIX) and dot:
            try:
                read[model, variant] = json.loads(value)
            except (TypeError, ValueError):
                _LOG.debug("%s: cannot be read", key)
    return read


async def served(transport: Transport) -> list[str]:
    """What can be asked for, as `model` or `model.variant`."""
    prefix = names.SUBJECTS["rpc"].format(model="")
    subjects = {
        endpoint["subject"]
        for info in await workers(transport)
        for endpoint in info.get("endpoints") or ()
        if isinstance(endpoint, dict) and isinstance(endpoint.get("subject"), str)
    }
    return sorted(
        subject.removeprefix(prefix) for subject in subjects if subject.startswith(prefix)
    )


async def provisioned(
    transport: Transport, model: str, variant: str | None, patience: float
) -> bool:
    """Whether somebody is likely to take calls for the model soon. Where it cannot be told, waiting
    costs no more than the time-out.
    """
    stream = names.JOBS_STREAM.format(model=model)
    call = f"STREAM.INFO.{stream}"
    if variant is not None:
        call = f"CONSUMER.INFO.{stream}.{names.JOB_CONSUMER.format(variant=variant)}"
    try:
        await transport.api(call, timeout=min(patience, _LOOK_TIMEOUT))
    except ApiError as error:
        return error.err_code not in (STREAM_NOT_FOUND, CONSUMER_NOT_FOUND)
    except (EmbedError, NoRespondersError):
        return True
    return True


def target(model: str, variant: str | None) -> str:
    """For messages: what was asked for."""
    return f"model {model}" if variant is None else f"variant {variant} of model {model}"
