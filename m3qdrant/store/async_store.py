"""AsyncM3Store: a collection of documents with BGE-M3's three vectors, for asyncio.

Thin: the room `collection` says what is asked of Qdrant, `transport` asks it. An embedded
collection lives in a worker process (see edge/worker/), since the engine holds the interpreter
while it works; encoding runs in a thread, and torch lets the event loop go on.

sync_store.py is made of this file by tools/unasync.py: change it here, and run that.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase

from m3qdrant.collection import (
    Document,
    Hit,
    Hits,
    Id,
    IndexKind,
    M3Schema,
    Search,
    SearchOptions,
    Steps,
    StoreInfo,
    as_filter,
    as_ids,
    check_queries,
    is_one,
    one_query,
)
from m3qdrant.errors import DocumentNotFoundError
from m3qdrant.ingest import IngestReport, Item
from m3qdrant.names import LongDocuments, Mode
from m3qdrant.progress import progress_bar
from m3qdrant.store.async_work import ITERABLES, Lock, Runner, chunks, in_thread
from m3qdrant.store.base import StoreBase
from m3qdrant.transport import TIMEOUT_S, Retries, aconnect, capabilities_of
from m3qdrant.weights import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from m3qdrant.collection import Standing
    from m3qdrant.encode import Encoder, M3Embeddings
    from m3qdrant.rank import Explanation

__all__ = ["AsyncM3Store"]

T = TypeVar("T")


class AsyncM3Store(StoreBase[AsyncQdrantBase]):
    """A collection of documents in Qdrant, open for adding and searching. A context manager.

    Opening validates an existing collection against the encoder and the schema, or creates it.

        async with AsyncM3Store("data", "papers", encoder) as store:
            await store.add([{"id": "a", "text": "Attention is all you need", "year": 2017}])
            for hit in await store.search("transformers", filter={"year": {"gte": 2015}}):
                print(hit.score, hit.text)

    Attributes:
        client: the AsyncQdrantClient, or the AsyncQdrantEdge, underneath; there once opened.
        collection: the collection's name.
        encoder: what encodes documents and queries; None where the caller brings embeddings.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | Sequence[str] | AsyncQdrantBase,
        collection: str,
        encoder: Encoder | None = None,
        schema: M3Schema | None = None,
        *,
        create: bool = True,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Describe the store; `open` opens it.

        Args:
            location: a directory (the embedded engine), ":memory:" (qdrant-client's in-memory
                mode), "http(s)://host[:port][/prefix]" (a server, over gRPC where it answers; its
                API key is read from QDRANT_API_KEY), or an AsyncQdrantClient or AsyncQdrantEdge of
                yours, which stays open when the store closes. Several URLs, in a list or with
                commas between, are nodes of one cluster: where the one that is asked doesn't
                answer, the next one is asked.
            collection: the collection's name.
            encoder: for texts; without one, documents and queries must come with embeddings.
            schema: how vectors are stored; None takes an existing collection as it is, and the
                defaults for a new one.
            create: make the collection where there is none. Without an encoder its widths are
                not known, so it is made by the first `add`.
            timeout_s: seconds that one call to a server may take.
            retries: how long to go on where a server fails for a while; by default up to six
                tries within two minutes, and 10 seconds for one that does not answer at first.
            ca_file: PEM file of the certificate authorities that a server's certificate may come
                from, over REST and gRPC; by default QDRANT_CA_FILE or SSL_CERT_FILE, where the
                environment has one, else the public ones.

        Raises:
            InputError: an argument is wrong.
        """
        super().__init__(
            location, collection, encoder, schema, create, timeout_s, retries, ca_file
        )
        self._opening = Lock()
        # sync: self.open()

    async def open(self) -> Self:
        """Open or create the collection, if that hasn't been done.

        `async with` does it, and so does the first method that is awaited, for it needs the event
        loop.

        Raises:
            CollectionNotFoundError: there is no such collection and `create` is False.
            SchemaMismatchError: there is one, and it is laid out differently, or its vectors come
                from another model. Says what differs.
            StoreLockedError: another process has the directory open.
            ServerUnavailableError, AccessDeniedError: the server doesn't answer, or refuses.

        Warns:
            UserWarning: once, where an earlier version made it, and its model was found to be the
                encoder's by encoding a few documents again.
        """
        self._check_open()
        if self._opened:
            return self
        async with self._opening:
            if not self._opened:
                connected = await aconnect(self._location, **self._connecting)
                self.client, self._owned = connected
                self._runner = Runner(self.client, self._collection, self._retries)
                try:
                    await self._run(self._collection.open(capabilities_of(self.client)))
                    if self._collection.is_former:
                        await self._adopt()
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
        long_documents: LongDocuments = "pool",
        prune: bool | models.Filter | Mapping[str, Any] = False,
        optimize: bool | None = None,
        progress: bool = False,
        total: int | None = None,
    ) -> IngestReport:
        """Encode and store documents. A document whose id is there already is replaced.

        The input is read, encoded and written a chunk at a time, one chunk being encoded while
        those before are written, so it may be any iterable, of any length. A document whose text,
        model and options are as they were is left alone, so a second run over the same input
        resumes the first. A document that can't be stored is left out; the others are written, and
        the report says which failed and why.

        Args:
            documents: `Document`s, mappings, or strings (see `Document.of`).
            embeddings: the documents' embeddings, in their order, where they were computed
                elsewhere; then `documents` must be a sequence as long, and all are written.
            max_length: tokens a text is cut to; the report counts the texts that were cut.
            long_documents: what to do with a document of more ColBERT vectors than Qdrant takes
                (1,023 at 1024-d): "pool" merges the most similar ones until they fit,
                "truncate" keeps the first ones (the dense and the lexical view still see the whole
                text), "error" refuses the document. The report counts them.
            prune: remove the documents that the input no longer has, once all of it was read; a
                filter removes only among the documents that satisfy it.
            optimize: build the embedded engine's indexes afterwards; None decides by how much has
                come since the last time.
            progress: show a progress bar on stderr.
            total: how many documents there are, for the bar, where an iterator can't say.

        Raises:
            InputError: there is neither an encoder nor embeddings, or they don't fit.
            IngestError: Qdrant failed. What was written before stays; `.report` says what.
            asyncio.CancelledError: what was written stays, and running it again resumes.
        """
        # torch, which a store that is only read needs not
        from m3qdrant.ingest import Ingest, bytes_of

        await self.open()
        if embeddings is None:
            self._need_encoder("documents")
        else:
            self._check_model(embeddings)
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
            iterables=ITERABLES,
        )
        with job.accountable(), progress_bar("storing", job.total, progress) as advance:
            async with self._runner.background(self._collection.capabilities) as background:
                async for chunk in chunks(job.documents, job.chunker):
                    plan = await self._run(job.plan(chunk))
                    views = await in_thread(job.embed, plan)
                    await background.start(job.write(plan, views), bytes_of(views))
                    advance(job.report.received, job.encoded)
                await background.wait()
            advance(job.report.received, job.encoded)
            await self._run(job.finish())
        return job.report

    async def delete(
        self,
        ids: Id | Iterable[Id] | None = None,
        *,
        filter: models.Filter | Mapping[str, Any] | None = None,
    ) -> int:
        """Delete documents by id, or those that satisfy a filter.

        Returns:
            How many there were.

        Raises:
            InputError: neither ids nor a filter, or both.
        """
        await self.open()
        return await self._run(self._collection.delete(ids, filter))

    async def optimize(self) -> bool:
        """Merge segments and build the indexes now, on the embedded engine; searches wait.

        A server does this by itself and in-memory mode has no index: there, nothing happens.

        Returns:
            True where something was done.
        """
        await self.open()
        return await self._run(self._collection.optimize())

    async def index(self, fields: Mapping[str, IndexKind]) -> list[str]:
        """Index payload fields, which filters on large collections want, and strict mode asks for.

        Args:
            fields: payload keys, and the kind of their values: "keyword", "integer", "float",
                "bool", "datetime", "uuid", "text" or "geo".

        Returns:
            Those that had no such index. In-memory mode has none at all.

        Raises:
            InputError: a key or a kind is none.
            CollectionNotFoundError: the collection has not been made yet.
        """
        await self.open()
        return await self._run(self._collection.index(fields))

    # -- reading

    @overload
    async def get(self, ids: Id) -> Document | None: ...
    @overload
    async def get(self, ids: list[Id] | list[str] | tuple[Id, ...]) -> list[Document | None]: ...
    async def get(
        self, ids: Id | list[Id] | list[str] | tuple[Id, ...]
    ) -> Document | list[Document | None] | None:
        """The document with this id, or a list for several ids; None where there is none."""
        await self.open()
        found = await self._run(self._collection.get(as_ids(ids)))
        return found[0] if is_one(ids) else found

    async def documents(
        self, filter: models.Filter | Mapping[str, Any] | None = None
    ) -> AsyncIterator[Document]:
        """All documents, or those that satisfy a filter, a page at a time, in no useful order."""
        await self.open()
        condition = as_filter(filter)
        offset: models.ExtendedPointId | None = None
        while True:
            page, offset = await self._run(self._collection.page(condition, offset))
            for document in page:
                yield document
            if offset is None:
                return

    async def count(self, filter: models.Filter | Mapping[str, Any] | None = None) -> int:
        """How many documents there are, or how many satisfy a filter. Exact."""
        await self.open()
        return await self._run(self._collection.count(as_filter(filter)))

    async def info(self) -> StoreInfo:
        """What the collection is and holds.

        Raises:
            CollectionNotFoundError: it has not been made yet.
        """
        await self.open()
        return self._with_protocol(await self._run(self._collection.info()))

    async def search(
        self,
        query: str | M3Embeddings,
        mode: Mode = "weighted",
        limit: int = 10,
        candidates: int = 100,
        weights: Sequence[float] = DEFAULT_WEIGHTS,
        filter: models.Filter | Mapping[str, Any] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """The best documents for a query, best first.

        Args:
            query: a text, or the embeddings of one.
            mode: how to rank; see the module `m3qdrant.collection.fusion`.
            limit: the most hits to return.
            candidates: length of the dense and of the sparse top list, whose union the other modes
                rank. Their ranking ends with it, whatever the page; one that reaches behind that
                gets a `RankingEndsWarning`.
            weights: of the dense, the lexical and the ColBERT score in mode "weighted"; relative.
            filter: what a document must satisfy: a mapping (see `collection/filters.py`) or
                Qdrant's own.
            options: offset, score_threshold, group_by, group_size, diversity, with_vectors, exact,
                ef, oversampling, components, explain, reranker; `SearchOptions` says what each is.

        Returns:
            A list, which shows itself as a table in a notebook.

        Raises:
            InputError: names the argument and what is allowed.
            UnsupportedError: the server is too old for groups.
            StoreDamagedError: a score that no vectors of the model can have.
            EngineError: Qdrant failed.
        """
        asked = Search.asked(
            self._method("search"), mode, limit, candidates, weights, filter, **options
        )
        (hits,) = await self._search(one_query(query), asked)
        return hits

    async def search_batch(
        self,
        queries: Sequence[str] | M3Embeddings,
        mode: Mode = "weighted",
        limit: int = 10,
        candidates: int = 100,
        weights: Sequence[float] = DEFAULT_WEIGHTS,
        filter: models.Filter | Mapping[str, Any] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[list[Hit]]:
        """`search` for several queries at once.

        They are encoded in one pass, and each step of the search is one round trip for all: the
        lists, the scores, the documents. (Of the whole collection's groups Qdrant has no batch:
        in modes "dense" and "sparse" with `group_by` each query is a round trip.)

        Returns:
            For each query its hits, as `search` gives them.
        """
        asked = Search.asked(
            self._method("search_batch"), mode, limit, candidates, weights, filter, **options
        )
        return await self._search(queries, asked)

    async def explain(
        self,
        query: str | M3Embeddings,
        id: Id,
        mode: Mode = "weighted",
        candidates: int = 100,
        weights: Sequence[float] = DEFAULT_WEIGHTS,
        filter: models.Filter | Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Why a document ranks where it does for a query, be it found or not.

        `search(..., explain=True)` says it of hits. The document's vectors are fetched, and its
        text is encoded again for the words that they stand for; where these can't be known, the
        explanation says why, and goes by the vectors' numbers.

        Args:
            query: a text, or the embeddings of one, whose tokens nobody knows.
            id: the document's.
            mode: how to rank.
            candidates: as `search` takes it; a document beyond them has no rank.
            weights: likewise.
            filter: likewise.

        Raises:
            DocumentNotFoundError: there is no such document.
            InputError: names the argument and what is allowed; the document has no vectors.
            EngineError: Qdrant failed.
        """
        asked = Search.asked(
            self._method("explain"), mode, 1, candidates, weights, filter, explain=True
        )
        (name,) = as_ids([id])
        await self.open()
        queries = check_queries(one_query(query))
        embeddings = await in_thread(self._embed_queries, queries)
        standing = await self._run(self._collection.stand(embeddings, asked, name))
        (found,) = await self._explained(queries, embeddings, asked, [(0, standing)])
        if found is None:
            raise DocumentNotFoundError(f"document {name!r} was deleted while it was explained")
        return found

    # -- inside

    async def _explained(
        self,
        queries: list[str] | M3Embeddings,
        embeddings: M3Embeddings,
        search: Search,
        wanted: list[tuple[int, Standing]],
    ) -> list[Explanation | None]:
        """An explanation for each place in a query's ranking; None where nothing is there now."""
        explaining = await in_thread(self._explaining, queries, embeddings, search)
        found: list[Explanation | None] = []
        for start in range(0, len(wanted), explaining.at_once):
            some = wanted[start : start + explaining.at_once]
            points = list({standing.point: None for _, standing in some})
            records = await self._run(self._collection.vectors(points))
            found += await in_thread(explaining.explained, some, records)
        return found

    async def _adopt(self) -> None:
        """Compare a collection that an earlier version made with what the encoder computes."""
        sample = await self._run(self._collection.sample())
        differing = await in_thread(self._differing, sample)
        said = await self._run(self._collection.adopt(sample, differing))
        warnings.warn(said, UserWarning, stacklevel=3)

    async def _search(self, queries: object, search: Search) -> list[list[Hit]]:
        await self.open()
        checked = check_queries(queries)
        embeddings = await in_thread(self._embed_queries, checked)
        pages = await self._run(self._collection.ranked(embeddings, search))
        if search.explain:
            return await self._with_reasons(checked, embeddings, search, pages)
        return [Hits(hit for hit, _ in page) for page in pages]

    async def _with_reasons(
        self,
        queries: list[str] | M3Embeddings,
        embeddings: M3Embeddings,
        search: Search,
        pages: list[list[tuple[Hit, Standing | None]]],
    ) -> list[list[Hit]]:
        """The hits with their explanations; none for one that was deleted meanwhile."""
        wanted = [
            (i, standing)
            for i, page in enumerate(pages)
            for _, standing in page
            if standing is not None
        ]
        reasons = iter(
            await self._explained(queries, embeddings, search, wanted) if wanted else ()
        )
        return [Hits(replace(hit, explanation=next(reasons)) for hit, _ in page) for page in pages]

    async def _run(self, steps: Steps[T]) -> T:
        self._check_open()
        return await self._runner.run(steps)
