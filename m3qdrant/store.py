"""M3Store: a collection of documents with BGE-M3's three vectors, searched with all of them.

Thin: what is asked of Qdrant is built in query.py and convert.py, this file sends it.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, TypeAlias, overload

from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase

from m3qdrant import convert, ingest
from m3qdrant import query as queries
from m3qdrant.documents import Document, point_id
from m3qdrant.edge import QdrantEdge
from m3qdrant.embeddings import M3Embeddings
from m3qdrant.encoder import M3Encoder
from m3qdrant.errors import (
    CollectionNotFoundError,
    EngineError,
    InputError,
    M3QdrantError,
    SchemaMismatchError,
    StoreClosedError,
)
from m3qdrant.filters import as_filter
from m3qdrant.ingest import IngestReport
from m3qdrant.progress import progress_bar
from m3qdrant.query import EmbeddedQuery
from m3qdrant.schema import COLBERT, Layout, M3Schema, ModelId
from m3qdrant.scoring import check_weights

__all__ = ["Hit", "Id", "M3Store", "StoreInfo"]

Id: TypeAlias = str | int | uuid.UUID
"""What may name a document. `Hit.id` and `Document.id` are its string."""

_TIMEOUT_S = 60


@dataclass(frozen=True)
class Hit:
    """One found document.

    Attributes:
        id: the document's id.
        text: its text.
        payload: its payload.
        score: what the hits are ranked by; its meaning is the mode's.
        scores: the exact "dense", "sparse" (lexical) and "colbert" (mean MaxSim) scores, whatever
            the mode.
    """

    id: str
    text: str
    payload: Mapping[str, Any]
    score: float
    scores: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StoreInfo:
    """What a collection is and holds.

    Attributes:
        location: where it is.
        collection: its name.
        engine: "embedded", "memory" or "server".
        documents: how many it holds.
        model: name of the checkpoint its vectors come from, None where they were brought along.
        dim: width of the dense vectors.
        colbert_dim: width of the ColBERT vectors.
        colbert_datatype: how ColBERT vectors are stored.
    """

    location: str
    collection: str
    engine: str
    documents: int
    model: str | None
    dim: int
    colbert_dim: int
    colbert_datatype: str

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return asdict(self)


class M3Store:
    """A collection of documents in Qdrant, open for adding and searching. A context manager.

    Opening validates an existing collection against the encoder and the schema, or creates it.

        with M3Store("data", "papers", encoder=M3Encoder.from_pretrained("m3-tiny")) as store:
            store.add([{"id": "a", "text": "Attention is all you need", "year": 2017}])
            for hit in store.search("transformers", filter={"year": {"gte": 2015}}):
                print(hit.score, hit.text)

    Attributes:
        client: the Qdrant client or embedded engine underneath.
        collection: the collection's name.
        encoder: what encodes documents and queries; None where the caller brings embeddings.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | QdrantBase,
        collection: str,
        encoder: M3Encoder | None = None,
        schema: M3Schema | None = None,
        *,
        create: bool = True,
    ) -> None:
        """Open or create a collection.

        Args:
            location: a directory (the embedded engine), ":memory:" (qdrant-client's in-memory
                mode), "http(s)://host:port" (a server; its API key is read from QDRANT_API_KEY),
                or a QdrantClient or QdrantEdge of yours, which stays open when the store closes.
            collection: the collection's name.
            encoder: for texts; without one, documents and queries must come with embeddings.
            schema: how vectors are stored; None takes an existing collection as it is, and the
                defaults for a new one.
            create: make the collection where there is none. Without an encoder its widths are
                not known, so it is made by the first `add`.

        Raises:
            CollectionNotFoundError: there is no such collection and `create` is False.
            SchemaMismatchError: there is one, and it is laid out differently. Says what differs.
            StoreLockedError: another process has the directory open.
        """
        if not collection:
            raise InputError("the collection's name is empty")
        if encoder is not None and not isinstance(encoder, M3Encoder):
            raise InputError(
                f"encoder is {type(encoder).__name__}: make one with M3Encoder.from_pretrained"
            )
        if schema is not None and not isinstance(schema, M3Schema):
            raise InputError(f"schema is {type(schema).__name__}: give an M3Schema")
        self.collection = collection
        self.encoder = encoder
        self._schema = schema
        self._create = create
        self._closed = False
        self._layout: Layout | None = None
        self._location = _describe(location)
        self.client, self._owned = _connect(location)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> M3Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, and the client where the store made it. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            if self._owned:
                self.client.close()

    # -- writing

    def add(
        self,
        documents: Document | Mapping[str, Any] | str | Iterable[ingest.Item],
        *,
        embeddings: M3Embeddings | None = None,
        max_length: int = 8192,
        progress: bool = False,
        total: int | None = None,
    ) -> IngestReport:
        """Encode and store documents. A document whose id is there already is replaced.

        The input is read, encoded and written a chunk at a time, so it may be any iterable, of any
        length. A document that can't be stored is left out; the others are written, and the report
        says which failed and why.

        Args:
            documents: `Document`s, mappings, or strings (see `Document.of`).
            embeddings: the documents' embeddings, in their order, where they were computed
                elsewhere; then `documents` must be a sequence as long.
            max_length: tokens a text is cut to; the report counts the texts that were cut.
            progress: show a progress bar on stderr.
            total: how many documents there are, for the bar, where an iterator can't say.

        Raises:
            InputError: there is neither an encoder nor embeddings, or they don't fit.
            EngineError: Qdrant failed. What was written before stays.
        """
        self._check_open()
        if isinstance(documents, str | Mapping | Document):
            documents = [documents]
        if not isinstance(documents, Iterable):
            raise InputError(f"documents must be an iterable, not {type(documents).__name__}")
        if embeddings is not None and not isinstance(embeddings, M3Embeddings):
            raise InputError(f"embeddings must be M3Embeddings, not {type(embeddings).__name__}")
        if isinstance(documents, Sequence):
            total = len(documents)
        if embeddings is not None and total != len(embeddings):
            raise InputError(
                f"{'an unknown number of' if total is None else total} documents, but embeddings "
                f"of {len(embeddings)}: give a list of as many documents"
            )
        report = IngestReport()
        arrays = isinstance(self.client, QdrantEdge)
        with progress_bar("storing", total, progress) as advance:
            for chunk in ingest.read(documents, report):
                views = (
                    embeddings[chunk.positions]
                    if embeddings is not None
                    else ingest.embed(self._need_encoder("documents"), chunk, max_length)
                )
                layout = self._layout or self._make_collection(*convert.widths(views))
                ingest.write(chunk, views, layout, self._upsert, report, arrays=arrays)
                advance(report.received)
        return report

    def delete(
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
        if (ids is None) == (filter is None):
            raise InputError("delete takes either ids or a filter")
        layout = self._ready()
        if layout is None:
            return 0
        if ids is not None:
            points = _point_ids([ids] if isinstance(ids, Id) else ids)
            condition = models.Filter(must=[models.HasIdCondition(has_id=list(points))])
        else:
            found = as_filter(filter)
            if found is None or found == models.Filter():
                raise InputError("delete: the filter is empty; it would delete every document")
            condition = found
        with self._calling("delete"):
            count = self.client.count(self.collection, count_filter=condition, exact=True).count
            if count:
                selector = models.FilterSelector(filter=condition)
                self.client.delete(self.collection, points_selector=selector, wait=True)
        return int(count)

    def optimize(self) -> bool:
        """Merge segments and build the indexes now, on the embedded engine.

        A server does this by itself and in-memory mode has no index: there, nothing happens.

        Returns:
            True where something was done.
        """
        if self._ready() is None or not isinstance(self.client, QdrantEdge):
            return False
        with self._calling("optimize"):
            return bool(self.client.optimize(self.collection))

    # -- reading

    @overload
    def get(self, ids: Id) -> Document | None: ...
    @overload
    def get(self, ids: list[Id] | list[str] | tuple[Id, ...]) -> list[Document | None]: ...
    def get(
        self, ids: Id | list[Id] | list[str] | tuple[Id, ...]
    ) -> Document | list[Document | None] | None:
        """The document with this id, or a list for a list of ids; None where there is none."""
        wanted = _point_ids([ids] if isinstance(ids, Id) else ids)
        found: dict[str, Document] = {}
        if self._ready() is not None and wanted:
            with self._calling("get"):
                points = self.client.retrieve(self.collection, ids=wanted, with_payload=True)
            found = {str(point.id): convert.document(point) for point in points}
        documents = [found.get(id) for id in wanted]
        return documents[0] if isinstance(ids, Id) else documents

    def count(self, filter: models.Filter | Mapping[str, Any] | None = None) -> int:
        """How many documents there are, or how many satisfy a filter. Exact."""
        condition = as_filter(filter)
        if self._ready() is None:
            return 0
        with self._calling("count"):
            answer = self.client.count(self.collection, count_filter=condition, exact=True)
        return int(answer.count)

    def info(self) -> StoreInfo:
        """What the collection is and holds.

        Raises:
            CollectionNotFoundError: it has not been made yet.
        """
        layout = self._ready()
        if layout is None:
            raise CollectionNotFoundError(self._not_found())
        return StoreInfo(
            location=self._location,
            collection=self.collection,
            engine=_engine(self.client),
            documents=self.count(),
            model=layout.model.name if layout.model else None,
            dim=layout.dim,
            colbert_dim=layout.colbert_dim,
            colbert_datatype=layout.schema.colbert_datatype,
        )

    def search(
        self,
        query: str | M3Embeddings,
        mode: str = "weighted",
        limit: int = 10,
        candidates: int = 100,
        weights: Sequence[float] = queries.DEFAULT_WEIGHTS,
        filter: models.Filter | Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """The best documents for a query, best first.

        Args:
            query: a text, or the embeddings of one.
            mode: "dense", "sparse", "colbert", "rrf", "dbsf" or "weighted"; query.py defines them.
            limit: the most hits to return.
            candidates: length of the dense and of the sparse top list, whose union the other modes
                rank; raised to `limit` where smaller.
            weights: of the dense, the lexical and the ColBERT score in mode "weighted"; relative.
            filter: what a document must satisfy: a mapping (see filters.py) or Qdrant's own.

        Raises:
            InputError: names the argument and what is allowed.
            EngineError: Qdrant failed.
        """
        self._check_open()
        queries.check_search(mode, limit, candidates)
        check_weights(weights)
        condition = as_filter(filter)
        if isinstance(query, str):
            if not query.strip():
                raise InputError("the query is empty")
            query = self._need_encoder("queries").encode_queries(query)
        elif not isinstance(query, M3Embeddings):
            raise InputError(f"a query is a text or its embeddings, not {type(query).__name__}")
        layout = self._ready()
        if layout is None:
            return []
        embedded = EmbeddedQuery.of(query, layout)
        request = queries.search_request(embedded, mode, limit, candidates, weights, condition)
        if request is None:
            return []
        with self._calling("search"):
            (answer,) = self.client.query_batch_points(self.collection, [request])
            if not answer.points:
                return []
            ids = [point.id for point in answer.points]
            components = queries.component_requests(embedded, ids)
            answers = self.client.query_batch_points(
                self.collection, [component for _, component in components]
            )
        scores = queries.component_scores(
            embedded,
            ids,
            [(name, part.points) for (name, _), part in zip(components, answers, strict=True)],
        )
        hits = [
            _hit(point, score, mode) for point, score in zip(answer.points, scores, strict=True)
        ]
        # the engine gives equal scores in any order, and cuts at the limit as it likes
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

    # -- the collection behind it

    def _open(self) -> None:
        """Validate the collection, or make it where its widths are known."""
        with self._calling("open"):
            exists = self.client.collection_exists(self.collection)
        if not exists:
            if not self._create:
                raise CollectionNotFoundError(self._not_found())
            if self.encoder is not None:
                self._make_collection(self.encoder.dim, self.encoder.colbert_dim)
            return
        with self._calling("open"):
            found = Layout.read(self.client.get_collection(self.collection))
        wrong = found if isinstance(found, list) else found.differences(self._wanted(found))
        if wrong:
            raise SchemaMismatchError(
                f"collection {self.collection!r} at {self._location} does not fit: "
                f"{'; '.join(wrong)} (open it with what it was made with, or use another "
                "collection)",
                wrong,
            )
        if isinstance(found, Layout):
            self._layout = found

    def _wanted(self, found: Layout) -> Layout:
        """What this store needs of a collection; where it needs nothing, what was `found`."""
        encoder = self.encoder
        return Layout(
            schema=self._schema or found.schema,
            dim=encoder.dim if encoder else found.dim,
            colbert_dim=encoder.colbert_dim if encoder else found.colbert_dim,
            model=self._model() or found.model,
        )

    def _make_collection(self, dim: int, colbert_dim: int) -> Layout:
        layout = Layout(self._schema or M3Schema(), dim, colbert_dim, self._model())
        with self._calling("create"):
            self.client.create_collection(self.collection, **layout.create_arguments())
        self._layout = layout
        return layout

    def _model(self) -> ModelId | None:
        return ModelId(self.encoder.name, self.encoder.fingerprint) if self.encoder else None

    def _ready(self) -> Layout | None:
        """The layout, or None where the collection has not been made yet."""
        self._check_open()
        return self._layout

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(f"the store of {self.collection!r} is closed; open a new one")

    def _need_encoder(self, what: str) -> M3Encoder:
        if self.encoder is None:
            raise InputError(
                f"this store has no encoder for {what}: open it with "
                "encoder=M3Encoder.from_pretrained(...), or pass embeddings"
            )
        return self.encoder

    def _not_found(self) -> str:
        with self._calling("open"):
            names = sorted(c.name for c in self.client.get_collections().collections)
        there = f"those there are {', '.join(names)}" if names else "there are none"
        return f"no collection {self.collection!r} at {self._location}; {there}"

    def _upsert(self, points: list[models.PointStruct]) -> None:
        with self._calling("upsert"):
            self.client.upsert(self.collection, points=points, wait=True)

    @contextmanager
    def _calling(self, operation: str) -> Iterator[None]:
        """Turn whatever the client raises into one of ours, with its cause."""
        try:
            yield
        except M3QdrantError:
            raise
        except Exception as error:  # each of Qdrant's transports has exceptions of its own
            raise EngineError(
                f"{operation} of collection {self.collection!r} at {self._location} failed: "
                f"{str(error).strip() or type(error).__name__}"
            ) from error


def _point_ids(ids: Iterable[Id]) -> list[str]:
    if not isinstance(ids, Iterable):
        raise InputError(f"ids are strings, integers or UUIDs, not {type(ids).__name__}")
    return [point_id(str(id)) for id in ids]


def _hit(point: models.ScoredPoint, scores: dict[str, float], mode: str) -> Hit:
    document = convert.document(point)
    # MAX_SIM sums over the query's tokens; the mean is the reference's score, on one scale for all
    score = scores[COLBERT] if mode == COLBERT else float(point.score)
    return Hit(document.id, document.text, document.payload, score, scores)


def _connect(location: str | os.PathLike[str] | QdrantBase) -> tuple[QdrantBase, bool]:
    """The client for a location, and whether it is ours to close."""
    if isinstance(location, QdrantBase):
        return location, False
    if not isinstance(location, str | os.PathLike):
        raise InputError(
            f"a location is a directory, ':memory:', a URL or a QdrantClient, not "
            f"{type(location).__name__}"
        )
    name = os.fspath(location)
    if name == ":memory:":
        return QdrantClient(":memory:"), True
    if name.startswith(("http://", "https://")):
        key = os.environ.get("QDRANT_API_KEY")
        return QdrantClient(url=name, api_key=key, timeout=_TIMEOUT_S), True
    if not name or re.fullmatch(r"[\w.-]+:\d+", name):
        raise InputError(f"location {name!r} is no directory; a server's begins with http://")
    return QdrantEdge(name), True


def _describe(location: object) -> str:
    return str(location) if isinstance(location, str | os.PathLike) else type(location).__name__


def _engine(client: QdrantBase) -> str:
    if isinstance(client, QdrantEdge):
        return "embedded"
    options = getattr(client, "init_options", {})
    return "memory" if options.get("location") == ":memory:" else "server"
