"""AsyncM3Store: M3Store's methods, awaitable.

On a server it works with AsyncQdrantClient; an embedded collection lives in a worker process
(see edge/aio.py), since the engine holds the interpreter while it works. Encoding runs in a
thread: torch lets the event loop go on. What is asked of Qdrant is M3Store's own (collection.py,
ingest.py).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase

from m3qdrant.collection.calls import Steps
from m3qdrant.collection.documents import Document
from m3qdrant.collection.filters import as_filter
from m3qdrant.collection.hits import Hit
from m3qdrant.collection.operations import Id, StoreInfo, as_ids
from m3qdrant.collection.requests import Search, SearchOptions, one_query
from m3qdrant.collection.schema import M3Schema
from m3qdrant.encode.embeddings import M3Embeddings
from m3qdrant.encode.encoder import M3Encoder
from m3qdrant.ingest.chunks import Chunk, Chunker, Item, read
from m3qdrant.ingest.job import Ingest
from m3qdrant.ingest.report import IngestReport
from m3qdrant.names import DEFAULT_WEIGHTS
from m3qdrant.progress import progress_bar
from m3qdrant.store.base import StoreBase
from m3qdrant.transport import run as transport
from m3qdrant.transport.run import Retries

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["AsyncM3Store"]

T = TypeVar("T")


class AsyncM3Store(StoreBase[AsyncQdrantBase]):
    """`M3Store` for asyncio: the same arguments, methods, results and errors.

        async with AsyncM3Store("data", "papers", encoder) as store:
            await store.add([{"id": "a", "text": "Attention is all you need", "year": 2017}])
            hits = await store.search("transformers", filter={"year": {"gte": 2015}})

    Opening needs the event loop, so it is done by `async with`, by `await store.open()`, or by the
    first method that is awaited.

    Attributes:
        client: the AsyncQdrantClient, or the AsyncQdrantEdge, underneath; there once opened.
        collection: the collection's name.
        encoder: what encodes documents and queries; None where the caller brings embeddings.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | AsyncQdrantBase,
        collection: str,
        encoder: M3Encoder | None = None,
        schema: M3Schema | None = None,
        *,
        create: bool = True,
        timeout_s: float = 60.0,
        retries: Retries | None = None,
    ) -> None:
        """Describe the store; the arguments are M3Store's.

        A client of yours is an AsyncQdrantClient or an AsyncQdrantEdge.
        """
        super().__init__(location, collection, encoder, schema, create, timeout_s, retries)
        self._opening = asyncio.Lock()
        self._opened = False

    async def open(self) -> Self:
        """Open or create the collection, if that hasn't been done; see `M3Store.__init__`."""
        self._check_open()
        async with self._opening:
            if not self._opened:
                # asking a server for its version waits for it
                connecting = asyncio.to_thread(
                    transport.connect_async, self._location, timeout_s=self._timeout_s
                )
                self._attach(*await connecting)
                try:
                    await self._arun(self._collection.open())
                except BaseException:
                    await self.close()
                    raise
                self._opened = True
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the store, and the client where the store made it. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            if self._owned:
                await self.client.close()

    # -- writing

    async def add(
        self,
        documents: Document | Mapping[str, Any] | str | Iterable[Item] | AsyncIterable[Item],
        *,
        embeddings: M3Embeddings | None = None,
        max_length: int = 8192,
        long_documents: str = "pool",
        prune: bool | models.Filter | Mapping[str, Any] = False,
        optimize: bool | None = None,
        progress: bool = False,
        total: int | None = None,
    ) -> IngestReport:
        """See `M3Store.add`; `documents` may be an asynchronous iterable too.

        Cancelled, it leaves what was written, and running it again resumes.
        """
        await self.open()
        if embeddings is None:
            self._need_encoder("documents")
        job = Ingest(
            self._collection,
            self.encoder,
            documents,
            embeddings,
            max_length,
            long_documents,
            prune,
            optimize,
            total,
            asynchronous=True,
        )
        pending: asyncio.Task[None] | None = None
        with job.accountable(), progress_bar("storing", job.total, progress) as advance:
            try:
                async for chunk in _chunks(job.documents, job.chunker):
                    plan = await self._arun(job.plan(chunk))
                    views = await asyncio.to_thread(job.embed, plan)
                    if pending is not None:
                        await pending
                    pending = asyncio.create_task(self._arun(job.write(plan, views)))
                    advance(job.report.received, job.encoded)
                if pending is not None:
                    await pending
            except asyncio.CancelledError:
                if pending is not None:
                    pending.cancel()
                raise
            finally:
                if pending is not None:  # let it end, also where the source has failed
                    await asyncio.wait([pending])
            advance(job.report.received, job.encoded)
            await self._arun(job.finish())
        return job.report

    async def delete(
        self,
        ids: Id | Iterable[Id] | None = None,
        *,
        filter: models.Filter | Mapping[str, Any] | None = None,
    ) -> int:
        """See `M3Store.delete`."""
        await self.open()
        return await self._arun(self._collection.delete(ids, filter))

    async def optimize(self) -> bool:
        """See `M3Store.optimize`; on the embedded engine searches wait for its end."""
        await self.open()
        return await self._arun(self._collection.optimize())

    # -- reading

    @overload
    async def get(self, ids: Id) -> Document | None: ...
    @overload
    async def get(self, ids: list[Id] | list[str] | tuple[Id, ...]) -> list[Document | None]: ...
    async def get(
        self, ids: Id | list[Id] | list[str] | tuple[Id, ...]
    ) -> Document | list[Document | None] | None:
        """See `M3Store.get`."""
        await self.open()
        found = await self._arun(self._collection.get(as_ids(ids)))
        return found[0] if isinstance(ids, Id) else found

    async def documents(
        self, filter: models.Filter | Mapping[str, Any] | None = None
    ) -> AsyncIterator[Document]:
        """See `M3Store.documents`."""
        await self.open()
        condition, offset = as_filter(filter), None
        while True:
            page, offset = await self._arun(self._collection.page(condition, offset))
            for document in page:
                yield document
            if offset is None:
                return

    async def count(self, filter: models.Filter | Mapping[str, Any] | None = None) -> int:
        """See `M3Store.count`."""
        await self.open()
        return await self._arun(self._collection.count(as_filter(filter)))

    async def info(self) -> StoreInfo:
        """See `M3Store.info`."""
        await self.open()
        return await self._arun(self._collection.info())

    async def search(
        self,
        query: str | M3Embeddings,
        mode: str = "weighted",
        limit: int = 10,
        candidates: int = 100,
        weights: Sequence[float] = DEFAULT_WEIGHTS,
        filter: models.Filter | Mapping[str, Any] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """See `M3Store.search`."""
        asked = Search(mode, limit, candidates, weights, filter, **options)
        (hits,) = await self._search(one_query(query), asked)
        return hits

    async def search_batch(
        self,
        queries: Sequence[str] | M3Embeddings,
        mode: str = "weighted",
        limit: int = 10,
        candidates: int = 100,
        weights: Sequence[float] = DEFAULT_WEIGHTS,
        filter: models.Filter | Mapping[str, Any] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[list[Hit]]:
        """See `M3Store.search_batch`."""
        asked = Search(mode, limit, candidates, weights, filter, **options)
        return await self._search(queries, asked)

    # -- inside

    async def _search(self, queries: Any, search: Search) -> list[list[Hit]]:
        await self.open()
        embedded = await asyncio.to_thread(self._embed_queries, queries)
        return await self._arun(self._collection.search(embedded, search))

    async def _arun(self, steps: Steps[T]) -> T:
        self._check_open()
        return await transport.arun(
            self.client, steps, where=str(self._collection), retries=self._retries
        )


async def _chunks(documents: Any, chunker: Chunker) -> AsyncIterator[Chunk]:
    """`ingest.read` for either kind of iterable; a blocking one is read in a thread."""
    if isinstance(documents, AsyncIterable):
        async for item in documents:
            if (chunk := chunker.push(item)) is not None:
                yield chunk
        if (chunk := chunker.rest()) is not None:
            yield chunk
        return
    chunks = read(documents, chunker)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
