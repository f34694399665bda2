"""One collection's operations, each written once: generators of calls (see calls.py), no I/O.

`M3Store` and `AsyncM3Store` are this class and somebody to carry out its calls. What the calls
hold is built in query.py, convert.py and schema.py; here stands what follows what.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from qdrant_client import models

from m3qdrant.collection import points as convert
from m3qdrant.collection import requests as queries
from m3qdrant.collection import versions
from m3qdrant.collection.calls import Call, Steps
from m3qdrant.collection.diversity import diversify
from m3qdrant.collection.documents import Document, point_id
from m3qdrant.collection.filters import as_filter
from m3qdrant.collection.hits import Hit
from m3qdrant.collection.requests import EmbeddedQuery, Search
from m3qdrant.collection.schema import Layout, M3Schema, ModelId
from m3qdrant.encode.embeddings import M3Embeddings
from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    SchemaMismatchError,
)
from m3qdrant.names import COLBERT, DENSE

__all__ = ["Collection", "Id", "StoreInfo", "as_ids"]

Id: TypeAlias = str | int | uuid.UUID
"""What may name a document. `Hit.id` and `Document.id` are its string."""

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
    """

    location: str
    collection: str
    engine: str
    documents: int
    model: str | None
    dim: int
    colbert_dim: int
    colbert_datatype: str
    schema: M3Schema

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
        engine: what answers, once there is a client: "embedded", "memory" or "server".
        layout: how it is laid out; None until it exists.
        server_version: of a server, e.g. "1.16.0", once `open` has asked.
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
    ) -> None:
        """Describe it; nothing is asked yet.

        Args:
            name: the collection's name.
            location: where it is, for messages.
            schema: what the user wants; None takes what there is, and defaults for a new one.
            model: the encoder; None without one.
            widths: of the encoder's dense and ColBERT vectors; None without one.
            create: make the collection where there is none.
        """
        self.name = name
        self.location = location
        self.engine: Literal["embedded", "memory", "server"] | None = None
        self.layout: Layout | None = None
        self.server_version: str | None = None
        self._schema = schema
        self._model = model
        self._widths = widths
        self._create = create

    def __str__(self) -> str:
        """The collection in messages."""
        return f"collection {self.name!r} at {self.location}"

    def _call(self, method: str, **arguments: Any) -> Call:
        return Call(method, {"collection_name": self.name, **arguments})

    # -- its making

    def open(self) -> Steps[None]:
        """Validate the collection, or make it where its widths are known.

        Raises:
            CollectionNotFoundError: there is none, and it is not to be made.
            SchemaMismatchError: it is laid out differently.
            UnsupportedError: the server is too old.
        """
        if self.engine == "server":
            answer = yield Call("info")
            self.server_version = str(answer.version)
            self._need("multivectors")
        if (yield self._call("collection_exists")):
            yield from self._read()
        elif not self._create:
            yield from self._not_found()
        elif self._widths is not None:
            yield from self.make(*self._widths)

    def _read(self) -> Steps[Layout]:
        info = yield self._call("get_collection")
        found = Layout.read(info)
        wrong = found if isinstance(found, list) else found.differences(self._wanted(found))
        if wrong:
            raise SchemaMismatchError(
                f"{self} does not fit: {'; '.join(wrong)} (open it with what it was made with, or "
                "use another collection)",
                wrong,
            )
        assert isinstance(found, Layout)
        self.layout = found
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
        arguments = {"collection_name": self.name, **layout.create_arguments()}
        try:
            # a lost answer makes the second try fail, so it isn't repeated blindly
            yield Call("create_collection", arguments, idempotent=False)
        except CollectionExistsError:
            # made by another process in this moment, or by us, with the answer lost
            return (yield from self._read())
        self.layout = layout
        yield from self._make_indexes(layout.index_arguments())
        return layout

    def _make_indexes(self, indexes: Iterable[dict[str, Any]]) -> Steps[None]:
        if self.engine == "memory":
            return  # it has none, and warns of each
        for arguments in indexes:
            yield self._call("create_payload_index", wait=True, **arguments)

    def _not_found(self) -> Steps[None]:
        answer = yield Call("get_collections")
        names = sorted(c.name for c in answer.collections)
        there = f"those there are {', '.join(names)}" if names else "there are none"
        raise CollectionNotFoundError(f"no {self}; {there}")

    # -- reading

    def search(self, embeddings: M3Embeddings, search: Search) -> Steps[list[list[Hit]]]:
        """The hits of each of the n queries: all rankings in one request, all components in one
        more.
        """
        layout = self.layout
        if layout is None:
            return [[] for _ in range(len(embeddings))]
        self._need(search.mode)
        if search.group_by is not None:
            self._need("groups")
        asked = [EmbeddedQuery.of(embeddings[i], layout) for i in range(len(embeddings))]
        requests = [queries.search_request(query, search) for query in asked]
        rankings = yield from (
            self._ranked(requests) if search.group_by is None else self._grouped(requests, search)
        )
        pages = [
            _page(points, search, query) for points, query in zip(rankings, asked, strict=True)
        ]
        scores: list[list[dict[str, float]]] = [[{} for _ in page] for page in pages]
        if search.components:
            scores = yield from self._components(asked, pages)
        return [
            [
                Hit.of(point, score, components, group, search.vectors_of(point))
                for (point, score, group), components in zip(page, parts, strict=True)
            ]
            for page, parts in zip(pages, scores, strict=True)
        ]

    def _need(self, feature: str) -> None:
        """Check that a server is new enough for something in versions.py."""
        if self.server_version is not None:
            versions.check(feature, self.server_version, self.location)

    def _ranked(self, requests: list[models.QueryRequest | None]) -> Steps[list[list[_Ranked]]]:
        rankings: list[list[_Ranked]] = [[] for _ in requests]
        sent = [i for i, request in enumerate(requests) if request is not None]
        if sent:
            answers = yield self._call("query_batch_points", requests=[requests[i] for i in sent])
            for i, answer in zip(sent, answers, strict=True):
                rankings[i] = [(point, None) for point in answer.points]
        return rankings

    def _grouped(
        self, requests: list[models.QueryRequest | None], search: Search
    ) -> Steps[list[list[_Ranked]]]:
        """Groups in the order of their best hits; Qdrant has no batch of groups."""
        rankings: list[list[_Ranked]] = []
        for request in requests:
            points: list[_Ranked] = []
            if request is not None:
                answer = yield self._call(
                    "query_points_groups", **queries.group_arguments(request, search)
                )
                groups = answer.groups[search.offset : search.depth]
                points = [(point, group.id) for group in groups for point in group.hits]
            rankings.append(points)
        return rankings

    def _components(
        self, asked: Sequence[EmbeddedQuery], pages: Sequence[list[_Placed]]
    ) -> Steps[list[list[dict[str, float]]]]:
        wanted = [
            queries.component_requests(query, [point.id for point, _, _ in page]) if page else []
            for query, page in zip(asked, pages, strict=True)
        ]
        answers: list[Any] = []
        if any(wanted):
            answers = yield self._call(
                "query_batch_points",
                requests=[request for requests in wanted for _, request in requests],
            )
        rest = iter(answers)
        return [
            queries.component_scores(
                query,
                [point.id for point, _, _ in page],
                [(name, next(rest).points) for name, _ in requests],
            )
            for query, page, requests in zip(asked, pages, wanted, strict=True)
        ]

    def get(self, ids: Sequence[Id]) -> Steps[list[Document | None]]:
        """The documents with these ids, None where there is none."""
        wanted = [point_id(str(id)) for id in ids]
        points: list[Any] = []
        if self.layout is not None and wanted:
            points = yield self._call("retrieve", ids=wanted, with_payload=True)
        found = {str(point.id): convert.document(point) for point in points}
        return [found.get(id) for id in wanted]

    def page(self, filter: models.Filter | None, offset: Any) -> Steps[tuple[list[Document], Any]]:
        """Documents in the order of their points, and where the next page begins, if it does."""
        if self.layout is None:
            return [], None
        records, following = yield self._call(
            "scroll",
            scroll_filter=filter,
            limit=_PAGE,
            offset=offset,
            with_payload=True,
            with_vectors=False,
        )
        return [convert.document(record) for record in records], following

    def count(self, filter: models.Filter | None = None) -> Steps[int]:
        """How many documents there are, or how many satisfy a filter. Exact."""
        if self.layout is None:
            return 0
        answer = yield self._call("count", count_filter=filter, exact=True)
        return int(answer.count)

    def info(self) -> Steps[StoreInfo]:
        """What the collection is and holds."""
        layout = self.layout
        if layout is None:
            yield from self._not_found()
            raise AssertionError("not reached")
        return StoreInfo(
            location=self.location,
            collection=self.name,
            engine=str(self.engine),
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
            points = [point_id(str(id)) for id in as_ids(ids)]
            condition = models.Filter(must=[models.HasIdCondition(has_id=list(points))])
        else:
            found = as_filter(filter)
            if found is None or found == models.Filter():
                raise InputError("delete: the filter is empty; it would delete every document")
            condition = found
        count = yield from self.count(condition)
        if count:
            yield self._call(
                "delete", points_selector=models.FilterSelector(filter=condition), wait=True
            )
        return count

    def optimize(self) -> Steps[bool]:
        """Merge segments and build the indexes now, where the engine doesn't by itself."""
        if self.layout is None or self.engine != "embedded":
            return False
        return bool((yield self._call("optimize")))

    def optimize_if_due(self) -> Steps[bool]:
        """`optimize` where enough has come since the last time (see OPTIMIZE_POINTS)."""
        if self.layout is None or self.engine != "embedded":
            return False
        waiting = yield self._call("unindexed")
        if waiting < OPTIMIZE_POINTS:
            return False
        total = yield from self.count()
        return (yield from self.optimize()) if waiting >= OPTIMIZE_SHARE * total else False


_Ranked: TypeAlias = tuple[models.ScoredPoint, str | int | None]
"""A point as the engine ranked it, and the group it stands for."""
_Placed: TypeAlias = tuple[models.ScoredPoint, float, str | int | None]
"""A point on the page that was asked for, its score, and its group."""


def _page(ranking: list[_Ranked], search: Search, query: EmbeddedQuery) -> list[_Placed]:
    """What of a ranking is given out, in order, with scores as the mode defines them."""
    # MAX_SIM sums over the query's tokens; the mean is the reference's score, on one scale for all
    divisor = query.tokens if search.mode == COLBERT else 1
    placed = [(point, float(point.score) / divisor, group) for point, group in ranking]
    if search.group_by is not None:
        return placed
    # the engine gives equal scores in any order, and cuts at the limit as it likes
    placed.sort(key=lambda entry: (-entry[1], convert.document_id(entry[0])))
    if search.diversity is not None:
        taken = diversify(
            [score for _, score, _ in placed],
            [_dense(point) for point, _, _ in placed],
            search.diversity,
            search.offset + search.limit,
        )
        placed = [placed[i] for i in taken[search.offset :]]
    return placed


def _dense(point: models.ScoredPoint) -> Any:
    vectors: Any = point.vector
    return vectors[DENSE]


def as_ids(ids: Id | Iterable[Id]) -> list[Id]:
    """One id or several, as a list.

    Raises:
        InputError: neither.
    """
    if isinstance(ids, Id):
        return [ids]
    if not isinstance(ids, Iterable):
        raise InputError(f"ids are strings, integers or UUIDs, not {type(ids).__name__}")
    return list(ids)
