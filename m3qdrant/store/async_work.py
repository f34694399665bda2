"""What AsyncM3Store does at the same time: by tasks and threads. sync_work.py has its twins."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from qdrant_client.async_client_base import AsyncQdrantBase

from m3qdrant.collection import Capabilities, Collection, Steps
from m3qdrant.ingest import BYTES_BEHIND, Chunk, Chunker, chunks_behind, read
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
        return Background(self.run, chunks_behind(capabilities))


class Background:
    """Operations one after another, in their order, as tasks."""

    def __init__(self, run: Callable[[Steps[Any]], Awaitable[Any]], most: int) -> None:
        """At most `most` of them have begun, or wait for it."""
        self._run = run
        self._most = most
        self._turn = asyncio.Lock()  # which is fair: the first that asks is the first that has it
        self._failed = False
        self._pending: deque[tuple[asyncio.Task[Any], int]] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let what is under way end, also after an error; cancelled, give it up."""
        if not self._pending:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            for task, _ in self._pending:
                task.cancel()
        await asyncio.wait([task for task, _ in self._pending])

    async def start(self, steps: Steps[Any], bytes: int = 0) -> None:
        """Begin an operation behind those before it, once these are few and small enough.

        Raises:
            M3QdrantError: the error of one before it; then none of those behind that began.
        """
        while self._pending and (
            len(self._pending) >= self._most
            or bytes + sum(held for _, held in self._pending) > BYTES_BEHIND
        ):
            await self._end_first()
        self._pending.append((asyncio.ensure_future(self._in_turn(steps)), bytes))

    async def wait(self) -> None:
        """Wait for all that was started, and raise its error."""
        while self._pending:
            await self._end_first()

    async def _end_first(self) -> None:
        await self._pending[0][0]
        self._pending.popleft()

    async def _in_turn(self, steps: Steps[Any]) -> None:
        async with self._turn:
            if self._failed:
                steps.close()
                return
            try:
                await self._run(steps)
            except BaseException:
                self._failed = True
                raise


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
