"""One collection's operations, each written once: generators of calls (see calls.py), no I/O.

`M3Store` and `AsyncM3Store` are this class and somebody to carry out its calls. What the calls
hold is built in layout.py, searching.py and points.py; here stands what follows what.
"""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from qdrant_client import models

from m3qdrant.collection import adoption, calls, versions
from m3qdrant.collection.calls import Call, Steps
from m3qdrant.collection.capabilities import Capabilities, Engine
from m3qdrant.collection.documents import (
    Document,
    document_id,
    document_id_of,
    own_point_ids,
    point_id,
)
from m3qdrant.collection.filters import as_filter, says_nothing
from m3qdrant.collection.hits import Hit
from m3qdrant.collection.layout import OUR_INDEX, Index, Layout, ModelId
from m3qdrant.collection.schema import ColbertDatatype, IndexKind, M3Schema
from m3qdrant.collection.search import DEFAULT_OVERSAMPLING, Search
from m3qdrant.collection.strict import StrictMode, kept_to
from m3qdrant.errors import (
    AccessDeniedError,
    CollectionExistsError,
    CollectionNotFoundError,
    DocumentNotFoundError,
    InputError,
    SchemaMismatchError,
    UnsupportedError,
)
from m3qdrant.names import DENSE, OURS, SPARSE
from m3qdrant.rows import values
from m3qdrant.scalars import plain_scalar

if TYPE_CHECKING:
    from m3qdrant.collection.standing import Standing
    from m3qdrant.encode import M3Embeddings

__all__ = ["OPTIMIZE_POINTS", "Collection", "Id", "StoreInfo", "as_ids", "is_one"]

Id: TypeAlias = str | int | uuid.UUID | Decimal | PurePath | date
"""What may name a document. `Hit.id` and `Document.id` are its string."""

T = TypeVar("T")

_PAGE = 256

OPTIMIZE_POINTS = 10_000
OPTIMIZE_SHARE = 0.2
"""The embedded engine builds its indexes when told to. After an ingest we tell it to where this
many points, and this share of all, have come since the last time: fewer are scanned in a few
milliseconds, and a share keeps many small ingests from building the whole each time."""


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
        schema: all storage options.
        protocol: of a server, whether it is asked over gRPC or REST, and why; None elsewhere.
    """

    location: str
    collection: str
    engine: Engine
    documents: int
    model: str | None
    dim: int
    colbert_dim: int
    colbert_datatype: ColbertDatatype
    schema: M3Schema
    protocol: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        schema = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in vars(self.schema).items()
        }
        return {**vars(self), "schema": schema}


class Collection:
    """A collection's name, place and layout, and what can be asked of it.

    Attributes:
        name: the collection's name.
        location: where it is, for messages.
        layout: how it is laid out; None until it exists.
        server_version: of a server, e.g. "1.16.0", once `open` has asked.
        strict: what its strict mode allows, which `kept` keeps to.
    """

    def __init__(
        self,
        name: str,
        location: str,
        *,
        schema: M3Schema | None,
        model: ModelId | None,
        widths: tuple[int, int] | None,
        create: bool,
        place: Hashable | None = None,
    ) -> None:
        """Describe it; nothing is asked yet.

        Args:
            name: the collection's name.
            location: where it is, for messages.
            schema: what the user wants; None takes what there is, and defaults for a new one.
            model: the encoder; None without one.
            widths: of the encoder's dense and ColBERT vectors; None without one.
            create: make the collection where there is none.
            place: what tells its location from others; None where nobody asks.
        """
        self.name = name
        self.location = location
        self.layout: Layout | None = None
        self.server_version: str | None = None
        self.strict = StrictMode()
        self._capabilities: Capabilities | None = None
        self._schema = schema
        self._model = model
        self._widths = widths
        self._create = create
        self._place = place

    def __str__(self) -> str:
        """The collection in messages."""
        return f"collection {self.name!r} at {self.location}"

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do, once it is `open`."""
        assert self._capabilities is not None, "the collection isn't open yet"
        return self._capabilities

    def kept(self, steps: Call[T] | Steps[T]) -> Steps[T]:
        """An operation on it, kept to its strict mode."""
        return kept_to(lambda: self.strict, steps)

    # -- its making

    def open(self, capabilities: Capabilities) -> Steps[None]:
        """Validate the collection, or make it where its widths are known.

        Args:
            capabilities: of what answers.

        Raises:
            CollectionNotFoundError: there is none, and it is not to be made.
            SchemaMismatchError: it is laid out differently.
            UnsupportedError: the server is too old.
        """
        self._capabilities = capabilities
        if capabilities.remote:
            self.server_version = (yield from calls.info()).version
            self._need("multivectors")
        if (yield from calls.collection_exists(self.name)):
            yield from self._read()
        elif not self._create:
            raise (yield from self._not_found())
        elif self._widths is not None:
            yield from self.make(*self._widths)

    def _read(self) -> Steps[Layout]:
        info = yield from calls.get_collection(self.name)
        found = Layout.read(info)
        wrong = found if isinstance(found, list) else found.differences(self._wanted(found))
        if wrong:
            raise SchemaMismatchError(
                f"{self} does not fit: {'; '.join(wrong)} (open it with what it was made with, or "
                "use another collection)",
                wrong,
            )
        assert isinstance(found, Layout)
        self.layout, self.strict = found, StrictMode.of(info)
        yield from self._make_indexes(self._wanted(found).missing_indexes(info))
        return found

    def _wanted(self, found: Layout) -> Layout:
        """What is needed of a collection; where nothing is, what was `found`."""
        dim, colbert_dim = self._widths or (found.dim, found.colbert_dim)
        return Layout(self._schema or found.schema, dim, colbert_dim, self._model or found.model)

    def make(self, dim: int, colbert_dim: int) -> Steps[Layout]:
        """Create the collection and its payload indexes."""
        layout = Layout(self._schema or M3Schema(), dim, colbert_dim, self._model)
        for feature in layout.schema.features():
            self._need(feature)
        try:
            yield from calls.create_collection(self.name, **layout.settings())
        except CollectionExistsError:
            # made by another process in this moment, or by us, with the answer lost
            return (yield from self._read())
        self.layout = layout
        yield from self._make_indexes(layout.indexes())
        if self.capabilities.remote:  # whose operator may set one for every new collection
            self.strict = StrictMode.of((yield from calls.get_collection(self.name)))
        return layout

    @property
    def is_former(self) -> bool:
        """Whether it names its model as earlier versions did, so that nobody knows it yet."""
        model = self.layout.model if self.layout is not None else None
        return model is not None and self._model is not None and model.is_former(self._model)

    def sample(self) -> Steps[adoption.Sample]:
        """Of a collection that `is_former`: what shows whether its model is the encoder's."""
        assert self.layout is not None
        assert self.layout.model is not None
        return (yield from adoption.sample(self.name, self.layout.model))

    def adopt(self, sample: adoption.Sample, differing: int) -> Steps[str]:
        """Take the collection's model for the encoder's, and write that down; what to say of it.

        Args:
            sample: of it.
            differing: how many documents of the sample the encoder gives other vectors.

        Raises:
            SchemaMismatchError: it is another model, or there is nothing to tell it by.
        """
        layout, encoder = self.layout, self._model
        assert layout is not None
        assert layout.model is not None
        assert encoder is not None
        old = layout.model
        n = len(sample.texts)
        if differing or (not n and sample.documents):
            why = (
                f"{differing} of {n} documents that were encoded again have other vectors than "
                f"those stored: {encoder.name} is not the model that they come from, though their "
                "heads are the same"
                if n
                else "none of its documents holds a text to compare their models by"
            )
            raise SchemaMismatchError(
                f"{self} was made by an earlier version, which knew a model by its heads alone "
                f"(fingerprint {old.fingerprint}), and {why}: open it with the model that it was "
                "made with (in bfloat16, where it was made so), or store the documents anew in "
                "another collection",
                [why],
            )
        try:
            adopted = yield from adoption.adopt(self.name, old, encoder)
            written = "its metadata say so now"
        except (UnsupportedError, AccessDeniedError) as error:  # opened for reading
            adopted = ModelId(old.name, encoder.fingerprint, old.fingerprint)
            written = f"it can't be written down here, so it is compared at each opening ({error})"
        self.layout = replace(layout, model=adopted)
        seen = f"{n} documents, encoded again, have the vectors stored" if n else "it is empty"
        return (
            f"{self} was made by an earlier version, which knew a model by its heads alone: "
            f"{seen}, so its model is taken for {encoder.name} ({encoder.fingerprint}); {written}"
        )

    def _make_indexes(self, indexes: Iterable[Index]) -> Steps[None]:
        if not self.capabilities.indexes:
            return  # in-memory mode warns of each
        for field, kind in indexes:
            yield from calls.create_payload_index(self.name, field, kind)

    def index(self, kinds: Mapping[str, IndexKind]) -> Steps[list[str]]:
        """Index payload fields; those that had no such index.

        Raises:
            CollectionNotFoundError: it has not been made yet.
        """
        if self.layout is None:
            raise (yield from self._not_found())
        wanted = replace(self.layout, schema=M3Schema(payload_indexes=kinds))
        info = yield from calls.get_collection(self.name)
        missing = wanted.missing_indexes(info)
        yield from self._make_indexes(missing)
        schema = self.layout.schema
        indexes = {**schema.payload_indexes, **wanted.schema.payload_indexes}
        self.layout = replace(self.layout, schema=replace(schema, payload_indexes=indexes))
        return [index.field for index in missing] if self.capabilities.indexes else []

    def index_ours(self) -> Steps[None]:
        """Index what we filter by ourselves, where strict mode asks for it."""
        if not self.strict.unindexed_reads:
            yield from calls.create_payload_index(self.name, *OUR_INDEX)

    def _not_found(self) -> Steps[CollectionNotFoundError]:
        answer = yield from calls.get_collections()
        names = sorted(c.name for c in answer.collections)
        there = f"those there are {', '.join(names)}" if names else "there are none"
        return CollectionNotFoundError(f"no {self}; {there}")

    def _need(self, feature: str) -> None:
        """Check that a server is new enough for something in versions.py."""
        if self.server_version is not None:
            versions.check(feature, self.server_version, self.location)

    # -- reading

    def search(self, embeddings: M3Embeddings, search: Search) -> Steps[list[list[Hit]]]:
        """The hits of each of the n queries; see searching.py."""
        pages = yield from self.ranked(embeddings, search)
        return [[hit for hit, _ in page] for page in pages]

    def ranked(
        self, embeddings: M3Embeddings, search: Search
    ) -> Steps[list[list[tuple[Hit, Standing | None]]]]:
        """`search`, and where each hit stands, if `search.explain`."""
        from m3qdrant.collection import searching  # torch, which nothing else here needs

        if self.layout is None:
            return [[] for _ in range(len(embeddings))]
        if search.group_by is not None:
            self._need("groups")
        search = self._allowed(search)
        self._check_reranker(search, self.layout)
        place = self._place if self.capabilities.versions else None
        return (yield from searching.ranked(self.name, self.layout, embeddings, search, place))

    def _check_reranker(self, search: Search, layout: Layout) -> None:
        """Check that a reranker's encoder is the model that the vectors come from."""
        encoder = search.reranker.encoder if search.reranker is not None else None
        if encoder is None or layout.model is None:
            return
        if encoder.fingerprint != layout.model.fingerprint:
            raise InputError(
                f"the reranker's encoder is {encoder.name} ({encoder.fingerprint}), and the "
                f"vectors of {self} come from {layout.model.name} ({layout.model.fingerprint}): "
                "give a reranker with that encoder, or without one"
            )

    def stand(self, embeddings: M3Embeddings, search: Search, id: str) -> Steps[Standing]:
        """Where the document with this id stands in a query's ranking.

        Raises:
            DocumentNotFoundError: there is none.
            InputError: it has no vectors.
        """
        from m3qdrant.collection import searching

        known = [point_id(id), *own_point_ids(id)]  # another program's goes by its point's id
        found: list[models.Record] = []
        if self.layout is not None:
            found = yield from calls.retrieve(self.name, known, with_payload=[OURS])
        points = {str(point.id): point.id for point in found if document_id(point) == id}
        point = next((points[str(each)] for each in known if str(each) in points), None)
        if point is None or self.layout is None:
            raise DocumentNotFoundError(
                f"there is no document {id!r} in {self}: a hit's id, and `m3qdrant export`, say "
                "what they are called"
            )
        (record,) = yield from self.vectors([point])
        if not record.vector:
            raise InputError(
                f"document {id!r} of {self} has no vectors, so there is nothing to explain: "
                "ingest it again"
            )
        search = self._allowed(search)
        return (yield from searching.stand(self.name, self.layout, embeddings, search, point))

    def vectors(self, points: Sequence[models.ExtendedPointId]) -> Steps[list[models.Record]]:
        """Points with all that they hold, those that are there."""
        return (
            yield from calls.retrieve(
                self.name, points, with_payload=True, with_vectors=True, arrays=True
            )
        )

    def _allowed(self, search: Search) -> Search:
        """A search as strict mode allows it."""
        strict = self.strict
        if search.exact and not strict.exact:
            raise UnsupportedError(
                f"exact=True: {self} is in strict mode, which allows no exact search "
                "(search_allow_exact): leave it out, or give ef= a larger number"
            )
        if strict.oversampling is not None and search.oversampling is None:
            most = max(1.0, min(strict.oversampling, DEFAULT_OVERSAMPLING))
            search = replace(search, oversampling=most)
        whole = search.group_by is not None and search.mode in (DENSE, SPARSE)
        if strict.limit is not None and whole:
            # groups of the whole collection come in one answer, which has no pages
            search = replace(search, candidates=min(search.candidates, strict.limit))
        return search

    def get(self, ids: Sequence[str]) -> Steps[list[Document | None]]:
        """The documents with these ids, None where there is none."""
        wanted = [point_id(id) for id in ids]
        points: list[models.Record] = []
        if self.layout is not None and wanted:
            points = yield from calls.retrieve(self.name, wanted, with_payload=True)
        found = {str(point.id): Document.of_point(point) for point in points}
        return [found.get(id) for id in wanted]

    def page(
        self, filter: models.Filter | None, offset: models.ExtendedPointId | None
    ) -> Steps[tuple[list[Document], models.ExtendedPointId | None]]:
        """Documents in the order of their points, and where the next page begins, if it does."""
        if self.layout is None:
            return [], None
        records, following = yield from calls.scroll(
            self.name, filter=filter, limit=_PAGE, offset=offset, with_payload=True
        )
        return [Document.of_point(record) for record in records], following

    def count(self, filter: models.Filter | None = None) -> Steps[int]:
        """How many documents there are, or how many satisfy a filter. Exact."""
        if self.layout is None:
            return 0
        return (yield from calls.count(self.name, filter)).count

    def info(self) -> Steps[StoreInfo]:
        """What the collection is and holds."""
        layout = self.layout
        if layout is None:
            raise (yield from self._not_found())
        return StoreInfo(
            location=self.location,
            collection=self.name,
            engine=self.capabilities.engine,
            documents=(yield from self.count()),
            model=layout.model.name if layout.model else None,
            dim=layout.dim,
            colbert_dim=layout.colbert_dim,
            colbert_datatype=layout.schema.colbert_datatype,
            schema=layout.schema,
        )

    # -- writing

    def delete(
        self,
        ids: Id | Iterable[Id] | None,
        filter: models.Filter | Mapping[str, Any] | None,
    ) -> Steps[int]:
        """Delete documents by id, or those that satisfy a filter; how many there were."""
        if (ids is None) == (filter is None):
            raise InputError("delete takes either ids or a filter")
        if ids is not None:
            points: list[models.ExtendedPointId] = [point_id(id) for id in as_ids(ids)]
            condition = models.Filter(must=[models.HasIdCondition(has_id=points)])
        else:
            found = as_filter(filter)
            if found is None or says_nothing(found):
                raise InputError("delete: the filter is empty; it would delete every document")
            condition = found
        count = yield from self.count(condition)
        if count:
            yield from calls.delete(self.name, models.FilterSelector(filter=condition))
        return count

    def optimize(self) -> Steps[bool]:
        """Merge segments and build the indexes now, where the engine doesn't by itself."""
        if self.layout is None or not self.capabilities.optimizes:
            return False
        return (yield from calls.optimize(self.name))

    def optimize_if_due(self) -> Steps[bool]:
        """`optimize` where enough has come since the last time (see OPTIMIZE_POINTS)."""
        if self.layout is None or not self.capabilities.optimizes:
            return False
        waiting = yield from calls.unindexed(self.name)
        if waiting < OPTIMIZE_POINTS:
            return False
        total = yield from self.count()
        return (yield from self.optimize()) if waiting >= OPTIMIZE_SHARE * total else False


def is_one(ids: object) -> bool:
    """Whether `ids` is one id, and no list of them."""
    return isinstance(plain_scalar(ids), str | int | float | date)


def as_ids(ids: Any) -> list[str]:
    """One document id or several, as a list of strings.

    Raises:
        InputError: it is neither, or one of them is no id.
    """
    several = [ids] if is_one(ids) else values(ids, "ids")
    out = []
    for i, id in enumerate(several):
        try:
            out.append(document_id_of(id))
        except InputError as error:
            raise InputError(f"ids: #{i} {error}") from None
    return out
