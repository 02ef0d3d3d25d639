"""What can go wrong: exceptions that name the fix, and say whether trying again can help."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._job import Job


class EmbedError(Exception):
    """Whatever this package raises on its own account."""

    #: Stable; programs branch on it.
    code: str = "error"
    #: Whether the same request, sent again later, can succeed.
    retryable: bool = False
    #: Seconds after which to try again, if a worker can tell.
    retry_after: float | None = None
    #: Of a `publish` that failed: those of its jobs that are stored, whose results will come.
    stored: tuple[Job, ...] = ()

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class WireError(EmbedError):
    """What a worker answers. There is a subclass for each code that is known; this one is for those
    of newer workers.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.retryable = retryable
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class RequestError(EmbedError, ValueError):
    """The request cannot be sent as it is: nothing was."""

    code = "invalid_request"


class EmbedTimeoutError(EmbedError, TimeoutError):
    """Nothing came in time."""

    code = "timeout"
    retryable = True


class DisconnectedError(EmbedError, ConnectionError):
    """There is no connection to a server."""

    code = "disconnected"
    retryable = True


class NotPermittedError(EmbedError, PermissionError):
    """The server does not let this user do it."""

    code = "not_permitted"


class NotServedError(EmbedError):
    """No worker serves the model, or the variant of it."""

    code = "unknown_model"


class NoStreamError(EmbedError):
    """No stream takes jobs for the model."""

    code = "no_stream"


class StreamFullError(EmbedError):
    """The stream takes no more jobs now."""

    code = "stream_full"
    retryable = True


class RejectedError(EmbedError):
    """The server refuses the request."""

    code = "rejected"


class BadAnswerError(EmbedError):
    """An answer that makes no sense, or is not to what was asked."""

    code = "bad_answer"


class OtherSpaceError(EmbedError):
    """Vectors of another embedding space than the ones before, or than was asked for: they cannot
    be compared.
    """

    code = "other_space"


class JobFailedError(EmbedError):
    """A job with this id was published before, and has failed; published again, it would be dropped
    as the same job.
    """

    code = "job_failed"

    def __init__(self, id: str, error: WireError) -> None:  # noqa: A002 - as on the wire
        super().__init__(
            f"job {id} has failed before ({error}): send it once more with `embed dead retry "
            f"{id}`, "
            "or publish it under an id of its own"
        )
        self.id = id
        self.error = error
