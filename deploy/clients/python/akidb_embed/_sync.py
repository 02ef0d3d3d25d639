"""The same without `async`: a thread with an event loop of its own does the work."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from ._client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from . import _names as names
    from ._backfill import Chunk
    from ._job import Job
    from ._wire import Outcome, Result

T = TypeVar("T")


class SyncClient:
    """`Client` for programs without an event loop. May be used from several threads; used as a
    context, it is closed at its end.
    """

    def __init__(self, servers: str | list[str] = "nats://127.0.0.1:4222", **options: Any) -> None:
        """Connects; `options` are those of `Client.connect`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="akidb-embed", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._run(Client.connect(servers, **options))
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        """Ends the connection."""
        if self._thread.is_alive():
            self._run(self._client.close())
            self._stop()

    def embed(self, model: str, texts: Sequence[str], **options: Any) -> Result:
        """As `Client.embed`."""
        return self._run(self._client.embed(model, texts, **options))

    def publish(self, model: str, texts: Sequence[str], **options: Any) -> list[Job]:
        """As `Client.publish`."""
        return self._run(self._client.publish(model, texts, **options))

    def results(
        self, model: str, jobs: Iterable[Job | str], **options: Any
    ) -> Iterator[tuple[str, Outcome]]:
        """As `Client.results`."""
        return self._iterate(self._client.results(model, jobs, **options))

    def result(self, model: str, job: Job | str, **options: Any) -> Result:
        """As `Client.result`."""
        return self._run(self._client.result(model, job, **options))

    def backfill(self, model: str, rows: object, **options: Any) -> Iterator[Chunk]:
        """As `Client.backfill`."""
        return self._iterate(self._client.backfill(model, rows, **options))

    def remove_results(self, model: str, key: str, ids: Sequence[str], **options: Any) -> int:
        """As `Client.remove_results`."""
        return self._run(self._client.remove_results(model, key, ids, **options))

    def models(self) -> list[str]:
        """As `Client.models`."""
        return self._run(self._client.models())

    def workers(self) -> dict[str, dict[tuple[str, str], names.VariantStatus]]:
        """As `Client.workers`."""
        return self._run(self._client.workers())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Whoever interrupts us does not want the answer any more.
            future.cancel()
            raise

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T:
            return await anext(items)

        try:
            while True:
                try:
                    yield self._run(following())
                except StopAsyncIteration:
                    return
        finally:
            # Left early, it ends what it has begun.
            self._run(items.aclose())  # type: ignore[attr-defined]

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
