"""What is known of a job that is stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is stored: what its result is found by."""

    #: Its result will be stored under it.
    id: str
    #: The stream: that of results if the job is done already.
    stream: str
    sequence: int
    #: Whether the same job had been stored before, so that this one was not.
    duplicate: bool
    #: What it asks for; a result of anything else is refused.
    digest: str
    #: By which a copy of its outcome is known, if one was asked for.
    copy: int | None = None
