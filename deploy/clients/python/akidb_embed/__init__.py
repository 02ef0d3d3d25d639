"""Text embeddings over NATS: the client of akidb-embed for Python.

    async with await Client.connect("nats://127.0.0.1:4222") as client:
        result = await client.embed("all-minilm-l6-v2", ["hello", "world"])
        result.vectors  # a numpy array, (2, 384)

`SyncClient` has the same methods without `async`.
"""

from ._backfill import Chunk, Run
from ._client import Client
from ._codes import *  # noqa: F403 - an exception for each code, as `_codes.__all__` lists them
from ._codes import __all__ as _codes
from ._errors import (
    BadAnswerError,
    DisconnectedError,
    EmbedError,
    EmbedTimeoutError,
    JobFailedError,
    NoStreamError,
    NotPermittedError,
    NotServedError,
    OtherSpaceError,
    RejectedError,
    RequestError,
    StreamFullError,
    WireError,
)
from ._ids import id_with_key, new_id, new_key
from ._job import Job
from ._split import IncompleteError
from ._sync import SyncClient
from ._wire import Failure, Item, Outcome, Result

__all__ = [
    "BadAnswerError",
    "Chunk",
    "Client",
    "DisconnectedError",
    "EmbedError",
    "Failure",
    "IncompleteError",
    "Item",
    "Job",
    "JobFailedError",
    "NoStreamError",
    "NotPermittedError",
    "NotServedError",
    "OtherSpaceError",
    "Outcome",
    "RejectedError",
    "RequestError",
    "Result",
    "Run",
    "StreamFullError",
    "SyncClient",
    "EmbedTimeoutError",
    "WireError",
    "id_with_key",
    "new_id",
    "new_key",
    *_codes,
]
