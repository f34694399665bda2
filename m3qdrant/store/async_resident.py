"""AsyncResidentCorpus: a collection's token vectors on a device, searched exactly, for asyncio.

sync_resident.py is made of this file by tools/unasync.py: change it here, and run that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase
from torch import Tensor

from m3qdrant.collection import (
    MEMORY,
    Call,
    Capabilities,
    Collection,
    Hit,
    Multivectors,
    PointId,
    Read,
    Reading,
    Steps,
    StrictMode,
    as_filter,
    calls,
)
from m3qdrant.edge import VectorFiles
from m3qdrant.encode import M3Embeddings, TokenVectors
from m3qdrant.errors import InputError, UnsupportedError
from m3qdrant.names import COLBERT
from m3qdrant.progress import progress_bar, tell
from m3qdrant.rank import Cascade, Dtype, Recall, ResidentVectors, recall
from m3qdrant.store.async_store import AsyncM3Store
from m3qdrant.store.async_work import Runner, in_thread
from m3qdrant.store.resident_base import (
    FEW,
    CorpusChanges,
    Loading,
    Query,
    ResidentBase,
    check_limit,
    check_sample,
    queries_of,
    sample_of,
    single,
    tokens_of,
)
from m3qdrant.transport import TIMEOUT_S, Retries, aconnect, capabilities_of, describe

if TYPE_CHECKING:
    from typing_extensions import Self

    from m3qdrant.encode import Encoder

__all__ = ["AsyncResidentCorpus"]

T = TypeVar("T")


class AsyncResidentCorpus(ResidentBase):
    """All token vectors of a collection on a device, every document searched exactly by MaxSim.

        async with await AsyncResidentCorpus.load(store) as corpus:
            hits = await corpus.search("compress a file", filter={"lang": "en"})
            await corpus.refresh()

    A score is the mean over the query's tokens of the best dot product (of a collection with the
    cosine: cosine) with a vector of the document, as the store's mode "colbert" gives it for
    candidates; documents of one score come in the order of their ids. With dtype "float32" and
    "int8" answers are exact, the scores those of the vectors as Qdrant gives them; "int8" holds a
    quarter of the bytes on the device, and proves its answers with the vectors as they were read,
    which stay in the host's memory, or in a file (`folder`). "bfloat16" holds half of float32 and
    rounds the documents: scores of unit vectors move by 2e-4 at most (measured).

    It stays as it was loaded until `refresh`. Searches may run in several threads or tasks, beside
    a `refresh` too, which they see whole or not at all.
    """

    def __init__(
        self, dtype: Dtype | None, device: str | torch.device | None, max_bytes: int | None
    ) -> None:
        super().__init__(dtype, device, max_bytes)
        self._store: AsyncM3Store | None = None
        self._client: AsyncQdrantBase | None = None
        self._encoder: Encoder | None = None
        self._runner: Runner | None = None
        self._reading: Reading | None = None
        self._capabilities: Capabilities = MEMORY

    @classmethod
    async def load(
        cls,
        source: AsyncM3Store | str | os.PathLike[str] | AsyncQdrantBase,
        collection: str | None = None,
        *,
        vector: str = COLBERT,
        encoder: Encoder | None = None,
        dtype: Dtype | None = None,
        device: str | torch.device | None = None,
        folder: str | os.PathLike[str] | None = None,
        max_bytes: int | None = None,
        progress: bool = False,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Read a collection's token vectors onto a device.

        Nothing is loaded before it is known to fit, by the number of documents and a sample of
        them.

        Args:
            source: a store; or where any other collection with a multivector is (see
                `AsyncM3Store`), or a client of it, which stays open.
            collection: its name; a store has its own.
            vector: the multivector's name, "" for one without.
            encoder: for queries that are texts; a store has its own.
            dtype: as what vectors are held on the device: "float32", "bfloat16" or "int8". None is
                int8 on a GPU, and on a CPU float32, which is loaded several times as fast.
            device: where; None is the GPU where there is one, else the CPU.
            folder: where to keep the vectors in a file too, which the next `load` maps and brings
                up to date in place of reading all again. A load that was cut off, by whatever,
                goes on where it was. One process has it at a time.
            max_bytes: the most that vectors may take on the device; None: what is free.
            progress: show a progress bar on stderr.
            timeout_s: as of a store, where `source` is none; likewise retries and ca_file.
            retries: how long to go on where a server fails for a while.
            ca_file: certificate authorities of a server.

        Raises:
            InputError: an argument is wrong, the collection has no such multivector, or it does
                not fit; says what is needed and what is there.
            CollectionNotFoundError: there is no such collection.
            UnsupportedError: the multivector is compared by another distance than Dot or Cosine.
            SchemaMismatchError: the folder holds the vectors of something else.
            StoreDamagedError: the folder's files were changed, or vectors hold NaN or infinity.
            StoreLockedError: another process has the folder.
            EngineError: Qdrant failed, or the disk is full.
        """
        self = cls(dtype, device, max_bytes)
        try:
            if isinstance(source, AsyncM3Store):
                if collection not in (None, source.collection) or encoder is not None:
                    raise InputError("a store has a collection and an encoder of its own")
                await source.open()
                self._store = source
                self._runner = source._runner
                name, place = source.collection, source._collection.location
                client: AsyncQdrantBase = source.client
            else:
                if collection is None:
                    raise InputError("give the collection's name")
                found = await aconnect(
                    source, timeout_s=timeout_s, retries=retries, ca_file=ca_file
                )
                client, owned = found
                self._client = client if owned else None
                self._encoder = encoder
                name, place = collection, describe(source)
                described = Collection(
                    name, place, schema=None, model=None, widths=None, create=False
                )
                self._runner = Runner(client, described, retries or Retries())
            capabilities = self._capabilities = capabilities_of(client)
            info = await self._run(calls.get_collection(name))
            one = Multivectors.of(name, vector, info)
            self._reading = Reading(one, capabilities, StrictMode.of(info))
            size = await self._run(self._reading.size())
            vectors = await in_thread(self._begin, one, capabilities.versions, place, size, folder)
            self._changes = await self._follow(vectors, size, progress)
            self._vectors = vectors
        except BaseException:
            await self.close()
            raise
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Free the memory and the folder; a store or client of yours stays open."""
        self._let_go()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def refresh(self, *, progress: bool = False) -> CorpusChanges:
        """Take in what was written and deleted in the collection since, whoever did it.

        The version of each point and its score for one vector are compared with those at its
        loading (see collection/multivectors.py), and the vectors of those that differ are read
        again. In-memory mode has no versions: there all vectors are read and compared.

        Raises:
            SchemaMismatchError: it is another collection now, or of another model: load it anew.
            EngineError: Qdrant failed; the corpus is as it was.
        """
        vectors = self._open_vectors
        assert self._reading is not None
        one = self._reading.multivectors
        info = await self._run(calls.get_collection(one.collection))
        wrong = one.differences(Multivectors.of(one.collection, one.vector, info))
        if wrong:
            raise self._another(wrong)
        size = await self._run(self._reading.size())
        self._changes = await self._follow(vectors, size, progress)
        return self._changes

    # -- searching

    async def search(
        self,
        query: str | M3Embeddings | TokenVectors | Tensor | NDArray[np.floating[Any]],
        limit: int = 10,
        *,
        filter: models.Filter | Mapping[str, Any] | None = None,
        documents: bool = True,
        cascade: Cascade | None = None,
    ) -> list[Hit]:
        """The best documents of all for a query, best first.

        Args:
            query: a text, the embeddings of one, or its token vectors, (n, dim).
            limit: the most hits to return.
            filter: what a document must satisfy, as of a store; the collection is asked, as it is
                now, which documents do.
            documents: ask the collection for the hits' texts and payloads; without, hits have ids
                and scores, and nothing is asked. Documents that were deleted since are left out.
            cascade: look first at less than the whole, which may miss hits; see `Cascade`.

        Raises:
            InputError: names the argument and what is allowed.
            StoreClosedError: the corpus is closed, or its store.
            EngineError: Qdrant failed.
        """
        (hits,) = await self.search_batch(
            single(query), limit, filter=filter, documents=documents, cascade=cascade
        )
        return hits

    async def search_batch(
        self,
        queries: Sequence[str] | M3Embeddings | TokenVectors,
        limit: int = 10,
        *,
        filter: models.Filter | Mapping[str, Any] | None = None,
        documents: bool = True,
        cascade: Cascade | None = None,
    ) -> list[list[Hit]]:
        """`search` for several queries at once, which share one scan of the documents."""
        vectors = self._open_vectors
        limit = check_limit(limit)
        condition = as_filter(filter)
        asked = await in_thread(self._asked, queries)
        assert self._reading is not None
        allowed = None
        if condition is not None:
            allowed = await self._run(self._reading.all_ids(condition))
        rows = [each for each, _ in asked]
        if cascade is not None and cascade.keep < limit:
            raise InputError(
                f"the cascade keeps {cascade.keep} documents of {limit} that are asked"
            )
        found = await in_thread(vectors.search, rows, limit, allowed=allowed, cascade=cascade)
        records: list[models.Record] | None = None
        ids = list({each.id: None for hits in found for each in hits})
        if documents:
            reading = calls.retrieve(self._reading.multivectors.collection, ids, with_payload=True)
            records = await self._run(reading) if ids else []
        return self._hits(found, asked, records)

    async def recall(
        self,
        queries: Sequence[str] | M3Embeddings | TokenVectors,
        cascade: Cascade,
        limit: int = 10,
        *,
        filter: models.Filter | Mapping[str, Any] | None = None,
    ) -> Recall:
        """How much of the exact answers a cascade finds, on queries of yours."""
        exact = await self.search_batch(queries, limit, filter=filter, documents=False)
        found = await self.search_batch(
            queries, limit, filter=filter, documents=False, cascade=cascade
        )
        scores = [[[hit.score for hit in hits] for hits in each] for each in (exact, found)]
        return recall(scores[0], scores[1], limit)

    # -- inside

    async def _follow(
        self, vectors: ResidentVectors, size: tuple[int, float], progress: bool
    ) -> CorpusChanges:
        """Read what is not there, or not as it is there."""
        reading = self._reading
        assert reading is not None
        ids = await self._run(reading.all_ids())
        known = vectors.marks if self._file is None else self._file.marks
        changed = ids
        if known:
            changed = await self._run(reading.changed(ids, known))
        loading = Loading(vectors, self._file, ids, round(len(changed) * size[1]))
        done = len(ids) - len(changed)
        with progress_bar("loading", len(ids), progress) as advance:
            advance(done)
            files = await self._files(changed)
            for batch in reading.batches(changed, size[1]):
                read = await self._read(batch, files)
                await in_thread(loading.take, read, batch)
                done += len(batch)
                advance(done)
            return await in_thread(loading.finish)

    async def _read(self, ids: Sequence[PointId], files: VectorFiles | None) -> Read:
        """These points, from files as far as they can be."""
        assert self._reading is not None
        if files is None:
            return await self._run(self._reading.points(ids))
        found = await in_thread(files.read, ids)
        others = [id for id in ids if id not in files.places]
        return await self._run(self._reading.from_files(*found, others))

    async def _files(self, ids: Sequence[PointId]) -> VectorFiles | None:
        """The engine's files, where these points are to be read from there.

        Only where there are some, and a sample of them is the same as what the engine gives.
        """
        reading = self._reading
        assert reading is not None
        if not self._capabilities.files or len(ids) < FEW:
            return None
        one = reading.multivectors
        try:
            files: VectorFiles = await self._run(calls.vector_files(one.collection, one.vector))
            sample = sample_of([id for id in ids if id in files.places])
            found = await in_thread(files.read, sample)
            asked = await self._run(reading.points(found.ids))
            check_sample(found, asked)
        except UnsupportedError as error:
            tell(f"reading the vectors from the engine, not from its files: {error}")
            return None
        return files

    def _asked(self, queries: object) -> list[Query]:
        assert self._reading is not None
        store = self._store
        if store is not None and isinstance(queries, M3Embeddings):
            store._check_model(queries)
        tokens = tokens_of(queries)
        if tokens is None:
            encoder = self._encoder if store is None else store.encoder
            tokens = self._embed_texts(encoder, queries)
        return queries_of(tokens, self._reading.multivectors)

    async def _run(self, steps: Call[T] | Steps[T]) -> T:
        self._check_open()
        if self._store is not None:
            return await self._store._run(iter(steps))
        assert self._runner is not None
        return await self._runner.run(iter(steps))
