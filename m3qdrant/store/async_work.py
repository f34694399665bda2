"""What AsyncM3Store does at the same time: by tasks and threads. sync_work.py has its twins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from qdrant_client.async_client_base import AsyncQdrantBase

from m3qdrant.collection import Capabilities, Collection, Steps
from m3qdrant.ingest import Chunk, Chunker, read
from m3qdrant.transport import Retries, arun

if TYPE_CHECKING:
    from typing_extensions import Self


__all__ = ["ITERABLES", "Background", "Lock", "Runner", "chunks", "in_thread"]

P = ParamSpec("P")
T = TypeVar("T")

ITERABLES = (Iterable, AsyncIterable)
"""What documents may come as."""

Lock = asyncio.Lock


class Runner:
    """Carries operations out with a client."""

    def __init__(self, client: AsyncQdrantBase, collection: Collection, retries: Retries) -> None:
        self._client = client
        self._collection = collection
        self._retries = retries

    async def run(self, steps: Steps[T]) -> T:
        """What the operation returns, kept to the collection's strict mode."""
        where = str(self._collection)
        steps = self._collection.kept(steps)
        return await arun(self._client, steps, where=where, retries=self._retries)

    def background(self, capabilities: Capabilities) -> Background:
        """Something to run operations behind the back of whoever goes on."""
        return Background(self.run)


class Background:
    """One operation at a time, as a task."""

    def __init__(self, run: Callable[[Steps[Any]], Awaitable[Any]]) -> None:
        self._run = run
        self._pending: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let what is under way end, also after an error; cancelled, give it up."""
        if self._pending is None:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._pending.cancel()
        await asyncio.wait([self._pending])

    async def start(self, steps: Steps[Any]) -> None:
        """Begin an operation; the one before has ended."""
        self._pending = asyncio.ensure_future(self._run(steps))

    async def wait(self) -> None:
        """Wait for what was started, and raise its error."""
        if self._pending is not None:
            await self._pending
            self._pending = None


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns that takes its time: the event loop goes on meanwhile."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def chunks(documents: Any, chunker: Chunker) -> AsyncIterator[Chunk]:
    """`ingest.read` for either kind of iterable; a blocking one is read in a thread."""
    if isinstance(documents, AsyncIterable):
        async for item in documents:
            if (chunk := chunker.push(item)) is not None:
                yield chunk
        if (chunk := chunker.rest()) is not None:
            yield chunk
        return
    found = read(documents, chunker)
    while (chunk := await asyncio.to_thread(next, found, None)) is not None:
        yield chunk
