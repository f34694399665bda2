"""The half of `QdrantEdge` that reads points."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from m3qdrant.edge import examples, groups, ties
from m3qdrant.edge.arguments import accept
from m3qdrant.edge.indexes import Indexer
from m3qdrant.edge.shard import Shard
from m3qdrant.edge.translate import answers, selectors
from m3qdrant.edge.translate.check_vectors import check_vector_names
from m3qdrant.edge.translate.filter_models import (
    filters_of,
    narrowed,
    ordered_by,
    queries_of,
)
from m3qdrant.edge.translate.filters import to_filter
from m3qdrant.edge.translate.formulas import missing_value
from m3qdrant.edge.translate.ids import check_id, check_ids
from m3qdrant.edge.translate.queries import is_similarity, postprocessed, query_request, span
from m3qdrant.errors import InputError

__all__ = ["Reading"]

_Made: TypeAlias = Callable[[edge.Record], models.Record]
"""What makes an answer of the engine's record: with lists, or with arrays."""


class Reading(QdrantBase):
    """Each read sees every write that was acknowledged before it."""

    def _shard(self, collection_name: str) -> Shard:
        raise NotImplementedError  # QdrantEdge has it

    def _indexer(self, shard: Shard) -> Indexer:
        raise NotImplementedError  # QdrantEdge has it

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        consistency: types.ReadConsistency | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> list[models.Record]:
        """Points by id, in the order asked for; those that don't exist are left out."""
        accept(
            "retrieve",
            kwargs,
            shard_key_selector=shard_key_selector,
            consistency=consistency,
            timeout=timeout,
        )
        return self._retrieve(collection_name, ids, with_payload, with_vectors, answers.record)

    def retrieve_arrays(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = True,
    ) -> list[models.Record]:
        """`retrieve`, with dense vectors as float32 arrays: (dim,), and multivectors (rows, dim).

        It takes a third of the time and a quarter of the memory that the lists take.
        """
        return self._retrieve(
            collection_name, ids, with_payload, with_vectors, answers.array_record
        )

    def _retrieve(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any,
        with_vectors: bool | Sequence[str],
        made: _Made,
    ) -> list[models.Record]:
        shard = self._shard(collection_name)
        wanted = check_ids(ids)
        with shard.use("read") as engine:
            payload = selectors.payload_selector(with_payload)
            vectors = _vector_selector(with_vectors, shard)
            found = [made(r) for r in engine.retrieve(list(wanted), payload, vectors)]
        by_id = {record.id: record for record in found}
        return [by_id[id] for id in dict.fromkeys(wanted) if id in by_id]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        order_by: Any = None,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        consistency: types.ReadConsistency | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> tuple[list[models.Record], int | str | None]:
        """A page of points, by id or by a field, and the id that starts the next page.

        In the order of a field there is no next page: continue with `order_by.start_from`. Points
        of one value come by id, in both directions (see `ties.py` for how far). The first call for
        a field makes the index that this takes: see `indexes.py`.
        """
        accept(
            "scroll",
            kwargs,
            shard_key_selector=shard_key_selector,
            consistency=consistency,
            timeout=timeout,
        )
        return self._scroll(
            collection_name,
            scroll_filter,
            limit,
            order_by,
            offset,
            with_payload,
            with_vectors,
            answers.record,
        )

    def scroll_arrays(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = True,
    ) -> tuple[list[models.Record], int | str | None]:
        """`scroll` in the order of the ids, with float32 arrays: see `retrieve_arrays`."""
        return self._scroll(
            collection_name,
            scroll_filter,
            limit,
            None,
            offset,
            with_payload,
            with_vectors,
            answers.array_record,
        )

    def _scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None,
        limit: int,
        order_by: Any,
        offset: Any,
        with_payload: Any,
        with_vectors: bool | Sequence[str],
        made: _Made,
    ) -> tuple[list[models.Record], int | str | None]:
        shard = self._shard(collection_name)
        if order_by is not None and offset is not None:
            raise InputError("offset doesn't go with order_by: continue with order_by.start_from")
        with shard.use("scroll") as engine:
            order = None if order_by is None else selectors.order_by(order_by)
            if order is not None:
                self._indexer(shard).need(order.key, "order_by")
            self._indexer(shard).serve(scroll_filter)
            limit = selectors.count("limit", limit, least=1)
            payload = selectors.payload_selector(with_payload)
            vectors = _vector_selector(with_vectors, shard)
            condition = to_filter(scroll_filter)
            start = None if offset is None else check_id(offset)

            def read(limit: int, payload: Any, vectors: Any) -> tuple[list[edge.Record], Any]:
                return engine.scroll(
                    edge.ScrollRequest(start, limit, condition, payload, vectors, order)
                )

            if order is None:
                found, following = read(limit, payload, vectors)
                return [made(r) for r in found], (
                    None if following is None else answers.point_id(following)
                )
            bare = False

            def more(limit: int) -> list[edge.Record]:
                nonlocal bare
                bare = True
                return read(limit, False, False)[0]

            found, _ = read(ties.asked_for(limit), payload, vectors)
            page = ties.page(found, 0, limit, ties.order_value, more)
            records = [made(r) for r in page]
            if bare:
                _fill(engine, records, payload, vectors)
            return records, None

    def count(
        self,
        collection_name: str,
        count_filter: models.Filter | None = None,
        exact: bool = True,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.CountResult:
        """How many points match; `exact=False` estimates."""
        accept(
            "count",
            kwargs,
            shard_key_selector=shard_key_selector,
            timeout=timeout,
        )
        shard = self._shard(collection_name)
        with shard.use("count") as engine:
            self._indexer(shard).serve(count_filter)
            request = edge.CountRequest(exact=exact, filter=to_filter(count_filter))
            return models.CountResult(count=engine.count(request))

    def facet(
        self,
        collection_name: str,
        key: str,
        facet_filter: models.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
        consistency: types.ReadConsistency | None = None,
        timeout: int | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        **kwargs: Any,
    ) -> models.FacetResponse:
        """The most frequent values of a payload field, with their counts.

        The first call makes the index that this takes: see `indexes.py`.

        Raises:
            InputError: the field's values are of different kinds, or floats, or objects.
        """
        accept(
            "facet",
            kwargs,
            shard_key_selector=shard_key_selector,
            consistency=consistency,
            timeout=timeout,
        )
        limit = selectors.count("limit", limit, least=1)
        shard = self._shard(collection_name)
        with shard.use("facet") as engine:
            self._indexer(shard).need(key, "facet")
            self._indexer(shard).serve(facet_filter)
            condition, asked = to_filter(facet_filter), limit + 1
            hits = engine.facet(edge.FacetRequest(key, asked, exact, condition)).hits
            # where the limit falls among values of one count, it isn't for the engine to choose
            while len(hits) == asked and hits[limit - 1].count == hits[-1].count:
                asked *= 4
                hits = engine.facet(edge.FacetRequest(key, asked, exact, condition)).hits
        ordered = sorted(hits, key=lambda hit: (-hit.count, hit.value))
        return models.FacetResponse(
            hits=[models.FacetValueHit(value=h.value, count=h.count) for h in ordered[:limit]]
        )

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: models.Prefetch | list[models.Prefetch] | None = None,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        score_threshold: float | None = None,
        lookup_from: models.LookupLocation | None = None,
        consistency: types.ReadConsistency | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> types.QueryResponse:
        """The best points for a query: a vector, examples, a fusion of prefetches, a formula.

        A point's id stands for its vector, wherever a query takes one; the point itself is then
        left out. With `lookup_from` it is a point of another collection in the same directory.
        Points of one score come by id, so that pages neither repeat points nor omit them: see
        `ties.py` for how far. In a large collection a page further on looks for more points in the
        index, and may so find better ones: `models.SearchParams(exact=True)` looks at all.
        """
        accept(
            "query_points",
            kwargs,
            shard_key_selector=shard_key_selector,
            consistency=consistency,
            timeout=timeout,
        )
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            limit=limit,
            offset=offset,
            with_payload=with_payload,
            with_vector=with_vectors,
            score_threshold=score_threshold,
            lookup_from=lookup_from,
        )
        return self.query_batch_points(collection_name, [request])[0]

    def query_batch_points(
        self,
        collection_name: str,
        requests: Sequence[models.QueryRequest],
        consistency: types.ReadConsistency | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> list[types.QueryResponse]:
        """Several queries at once, which the engine plans together.

        As on a server, a request's `with_payload` defaults to none here, and to all in
        `query_points`.
        """
        accept(
            "query_batch_points",
            kwargs,
            consistency=consistency,
            timeout=timeout,
        )
        if not requests:
            return []
        with self._resolved(collection_name, requests) as (shard, resolved):
            found = _search(shard, resolved)
        return [types.QueryResponse.model_construct(points=points) for points in found]

    def query_points_groups(
        self,
        collection_name: str,
        group_by: str,
        query: Any = None,
        using: str | None = None,
        prefetch: models.Prefetch | list[models.Prefetch] | None = None,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        limit: int = 10,
        group_size: int = 3,
        with_payload: Any = True,
        with_vectors: bool | Sequence[str] = False,
        score_threshold: float | None = None,
        with_lookup: str | models.WithLookup | None = None,
        lookup_from: models.LookupLocation | None = None,
        consistency: types.ReadConsistency | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.GroupsResult:
        """The best points for a query, by the value of a payload field: exact, see `groups.py`.

        Groups come in the order of their best hits. A point of several values is in several
        groups; one without a value, or with one that is neither a string nor an integer, in none.
        As on a server, every prefetch finds `group_size` times its limit.
        """
        accept(
            "query_points_groups",
            kwargs,
            shard_key_selector=shard_key_selector,
            consistency=consistency,
            timeout=timeout,
        )
        limit = selectors.count("limit", limit, least=1)
        group_size = selectors.count("group_size", group_size, least=1)
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            score_threshold=score_threshold,
            lookup_from=lookup_from,
        )
        with self._resolved(collection_name, [request]) as (shard, [resolved]):
            found = groups.find(
                groups.candidates_request(resolved, group_by, limit, group_size),
                group_by,
                limit,
                group_size,
                lambda requests: _search(shard, requests),
            )
            whole = {
                record.id: {"payload": record.payload, "vector": record.vector}
                for record in self.retrieve(
                    collection_name,
                    list({hit.id for hits in found.values() for hit in hits}),
                    with_payload,
                    with_vectors,
                )
            }
        beside = {} if with_lookup is None else self._look_up(with_lookup, found)
        return models.GroupsResult(
            groups=[
                models.PointGroup.model_construct(
                    id=id,
                    hits=[hit.model_copy(update=whole[hit.id]) for hit in hits],
                    lookup=beside.get(id),
                )
                for id, hits in found.items()
            ]
        )

    def search_matrix_pairs(
        self,
        collection_name: str,
        query_filter: models.Filter | None = None,
        limit: int = 3,
        sample: int = 10,
        using: str | None = None,
        consistency: types.ReadConsistency | None = None,
        timeout: int | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        **kwargs: Any,
    ) -> models.SearchMatrixPairsResponse:
        """Of a random sample of points, each one's nearest in the sample, pair by pair."""
        accept(
            "search_matrix_pairs",
            kwargs,
            shard_key_selector=shard_key_selector,
            consistency=consistency,
            timeout=timeout,
        )
        ids, rows = self._matrix(collection_name, query_filter, limit, sample, using)
        return models.SearchMatrixPairsResponse(
            pairs=[
                models.SearchMatrixPair(a=id, b=near.id, score=near.score)
                for id, row in zip(ids, rows, strict=True)
                for near in row
            ]
        )

    def search_matrix_offsets(
        self,
        collection_name: str,
        query_filter: models.Filter | None = None,
        limit: int = 3,
        sample: int = 10,
        using: str | None = None,
        consistency: types.ReadConsistency | None = None,
        timeout: int | None = None,
        shard_key_selector: types.ShardKeySelector | None = None,
        **kwargs: Any,
    ) -> models.SearchMatrixOffsetsResponse:
        """`search_matrix_pairs` as a sparse matrix: rows, columns and scores, and the ids."""
        accept(
            "search_matrix_offsets",
            kwargs,
            shard_key_selector=shard_key_selector,
            consistency=consistency,
            timeout=timeout,
        )
        ids, rows = self._matrix(collection_name, query_filter, limit, sample, using)
        place = {id: i for i, id in enumerate(ids)}
        entries = [(i, place[near.id], near.score) for i, row in enumerate(rows) for near in row]
        return models.SearchMatrixOffsetsResponse(
            offsets_row=[i for i, _, _ in entries],
            offsets_col=[j for _, j, _ in entries],
            scores=[score for _, _, score in entries],
            ids=ids,
        )

    def _matrix(
        self, collection: str, query_filter: Any, limit: int, sample: int, using: str | None
    ) -> tuple[list[models.ExtendedPointId], list[list[models.ScoredPoint]]]:
        selectors.count("limit", limit, least=1)
        selectors.count("sample", sample, least=2)
        check_vector_names([using or ""], self._shard(collection).layout)
        have = models.HasVectorCondition(has_vector=using or "")
        taken = self.query_points(
            collection,
            models.SampleQuery(sample=models.Sample.RANDOM),
            query_filter=narrowed(query_filter, must=have),
            limit=sample,
            with_payload=False,
        ).points
        ids = sorted((point.id for point in taken), key=lambda each: (isinstance(each, str), each))
        if len(ids) < 2:
            return [], []
        among = models.HasIdCondition(has_id=ids)
        answers = self.query_batch_points(
            collection,
            [  # a query by id leaves the point itself out
                models.QueryRequest(
                    query=id, using=using, limit=limit, filter=narrowed(None, must=among)
                )
                for id in ids
            ],
        )
        return ids, [answer.points for answer in answers]

    def _look_up(
        self, lookup: str | models.WithLookup, ids: Iterable[int | str]
    ) -> dict[int | str, models.Record]:
        """The points of another collection whose ids the groups are named after."""
        if isinstance(lookup, str):
            lookup = models.WithLookup(collection=lookup)
        named = {}
        for id in ids:
            with contextlib.suppress(InputError):  # a group may be named as no point can be
                named[id] = check_id(id)
        records = self.retrieve(
            lookup.collection,
            list(named.values()),
            True if lookup.with_payload is None else lookup.with_payload,
            lookup.with_vectors or False,
        )
        by_id = {record.id: record for record in records}
        return {group: by_id[id] for group, id in named.items() if id in by_id}

    @contextlib.contextmanager
    def _resolved(
        self, collection_name: str, requests: Sequence[models.QueryRequest]
    ) -> Iterator[tuple[Shard, list[models.QueryRequest]]]:
        """The requests with vectors in place of ids, which stay true until the block ends."""
        looked_up = {name for request in requests for name in examples.looked_up(request)}
        shards = {name: self._shard(name) for name in {collection_name, *looked_up}}
        shard = shards[collection_name]

        def vector_of(collection: str, id: int | str, name: str) -> Any:
            return _stored_vector(shards[collection], id, name)

        with contextlib.ExitStack() as turns:
            for name in sorted(shards):  # in one order, so that two queries never block each other
                turns.enter_context(shards[name].use("query"))
                shards[name].need_vectors()
            resolved = [
                examples.resolve(r, collection_name, shard.layout, vector_of) for r in requests
            ]
            for request in resolved:
                for key in ordered_by(request):
                    self._indexer(shard).need(key, "order_by")
                self._indexer(shard).serve(*filters_of(request))
            yield shard, resolved


def _vector_selector(with_vectors: Any, shard: Shard) -> bool | list[str]:
    wanted = selectors.vector_selector(with_vectors, shard.layout)
    if wanted:
        shard.need_vectors()
    return wanted


def _search(
    shard: Shard, requests: Sequence[models.QueryRequest]
) -> list[list[models.ScoredPoint]]:
    prepared = [postprocessed(request) for request in requests]
    with shard.use("query") as engine:
        found = _asked(engine, shard, [_to_ask(request) for request, _ in prepared])
        return [
            finish(_page(engine, shard, request, hits))
            for hits, (request, finish) in zip(found, prepared, strict=True)
        ]


def _asked(
    engine: edge.EdgeShard, shard: Shard, requests: Sequence[models.QueryRequest]
) -> list[list[edge.ScoredPoint]]:
    translated = [query_request(request, shard.layout) for request in requests]
    try:
        return engine.query_batch(edge.QueryBatchRequest(translated))
    except Exception as error:
        formulas = [
            q for r in requests for q in queries_of(r) if isinstance(q, models.FormulaQuery)
        ]
        if formulas and "cancelled" in str(error):
            raise missing_value(formulas[0]) from error
        raise


def _to_ask(request: models.QueryRequest) -> models.QueryRequest:
    """What to ask the engine for, to find a page; see `ties.py`."""
    if not ties.is_ranked(request.query):
        return request
    start, end = span(request)
    beside = {} if start == 0 else _BARE  # a page that is further on is filled when it is found
    return request.model_copy(update={"limit": ties.asked_for(end), "offset": 0, **beside})


_BARE = {"with_payload": False, "with_vector": False}


def _page(
    engine: edge.EdgeShard,
    shard: Shard,
    request: models.QueryRequest,
    hits: list[edge.ScoredPoint],
) -> list[models.ScoredPoint]:
    """The page that a request asks for, of what the engine gave for `_to_ask` of it."""
    if not ties.is_ranked(request.query):
        return [answers.scored_point(hit) for hit in hits]
    start, end = span(request)
    bare = start > 0

    def more(limit: int) -> list[edge.ScoredPoint]:
        nonlocal bare
        bare = True
        asked = request.model_copy(update={"limit": limit, "offset": 0, **_BARE})
        return _asked(engine, shard, [asked])[0]

    by_field = isinstance(request.query, models.OrderByQuery)
    rank: Any = ties.order_value if by_field else ties.score
    last_first = is_similarity(request, shard.layout)
    found = ties.page(hits, start, end, rank, more, last_first=last_first)
    page = [answers.scored_point(hit) for hit in found]
    if bare:
        payload = selectors.payload_selector(request.with_payload)
        _fill(engine, page, payload, selectors.vector_selector(request.with_vector, shard.layout))
    return page


def _fill(
    engine: edge.EdgeShard,
    page: Sequence[models.ScoredPoint | models.Record],
    payload: Any,
    vectors: bool | list[str],
) -> None:
    """Give points that were asked for bare what they were wanted with."""
    if not page or not (payload or vectors):
        return
    ids: list[Any] = list({point.id for point in page})
    found = [answers.record(r) for r in engine.retrieve(ids, payload, vectors)]
    whole = {record.id: record for record in found}
    for point in page:
        point.payload, point.vector = whole[point.id].payload, whole[point.id].vector


def _stored_vector(shard: Shard, id: int | str, name: str) -> Any:
    collection = shard.directory.name
    check_vector_names([name], shard.layout)
    with shard.use("read") as engine:
        records = engine.retrieve([id], False, [name])
    if not records:
        raise InputError(f"there is no point {id!r} in {collection!r} to search by")
    vector: Any = answers.record(records[0]).vector
    if isinstance(vector, dict):
        vector = vector.get(name)
    if vector is None:
        raise InputError(f"the point {id!r} in {collection!r} has no vector {name!r} to search by")
    return vector
