"""strict.py: what is asked of a collection in strict mode, and the answers put together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from m3qdrant.collection import Call, Steps, StrictMode, calls, kept_to
from m3qdrant.errors import M3QdrantError, RequestRejectedError, ServerUnavailableError

IDS = list(range(1, 1001))


class Server:
    """Points with an id and a score each, and a server's refusals of what is not allowed."""

    def __init__(self, mode: StrictMode, seed: int = 0) -> None:
        draw = random.Random(seed)
        self.mode = mode
        self.scores = {id: draw.random() for id in IDS}
        self.asked: list[Call[Any]] = []

    def run(self, steps: Call[Any] | Steps[Any]) -> Any:
        operation = kept_to(lambda: self.mode, steps)
        answer = None
        try:
            while True:
                call = operation.send(answer)
                assert isinstance(call, Call)  # several at once are taken apart
                self.asked.append(call)
                answer = getattr(self, call.method)(**call.arguments)
        except StopIteration as end:
            return end.value

    def scroll(self, limit: int, offset: Any, **_: Any) -> Any:
        self._check_limit(limit)
        start = IDS.index(offset) if offset is not None else 0
        page = [models.Record(id=id) for id in IDS[start : start + limit]]
        return page, IDS[start + limit] if start + limit < len(IDS) else None

    def count(self, exact: bool, **_: Any) -> models.CountResult:
        assert self.mode.exact or not exact
        return models.CountResult(count=len(IDS))

    def upsert(self, points: Sequence[models.PointStruct], **_: Any) -> models.UpdateResult:
        assert self.mode.upserts is None or len(points) <= self.mode.upserts
        return models.UpdateResult(status=models.UpdateStatus.COMPLETED)

    def query_batch_points(
        self, requests: Sequence[models.QueryRequest], **_: Any
    ) -> list[QueryResponse]:
        assert self.mode.searches is None or len(requests) <= self.mode.searches
        return [QueryResponse(points=self._query(request)) for request in requests]

    def _query(self, request: models.QueryRequest) -> list[models.ScoredPoint]:
        assert request.limit is not None
        self._check_limit(request.limit)
        exact = request.params is not None and request.params.exact
        prefetch: Any = request.prefetch
        assert self.mode.exact or not exact
        named: Any = request.filter or (prefetch.filter if prefetch else None)
        ids: Sequence[Any] = IDS
        if named is not None:
            ids = named.must[0].has_id
            assert self.mode.condition is None or len(ids) <= self.mode.condition
            # without a graph every search is an exact one, but for fetched points
            dense = not isinstance(request.query, models.SparseVector)
            assert self.mode.exact or not dense or prefetch is not None
        best = sorted(ids, key=lambda each: -self.scores[each])
        start = request.offset or 0
        return [
            models.ScoredPoint(id=id, version=0, score=self.scores[id])
            for id in best[start : start + request.limit]
        ]

    def _check_limit(self, limit: int) -> None:
        if self.mode.limit is not None and limit > self.mode.limit:
            raise RequestRejectedError(f"Limit exceeded {limit} > {self.mode.limit}")


MODES = [
    StrictMode(limit=100),
    StrictMode(limit=7, exact=False),
    StrictMode(exact=False, condition=13),
    StrictMode(limit=50, searches=2, condition=30, ef=64, exact=False),
]
by_mode = pytest.mark.parametrize("mode", MODES, ids=str)
EXACT = models.SearchParams(exact=True)


def scores_of(ids: Sequence[int], query: Any) -> models.QueryRequest:
    points = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
    return models.QueryRequest(query=query, filter=points, limit=len(ids), params=EXACT)


@by_mode
def test_the_answers_are_those_without_it(mode: StrictMode) -> None:
    some = random.sample(IDS, 120)
    sparse = models.SparseVector(indices=[1], values=[1.0])
    requests = [
        models.QueryRequest(query=[1.0], limit=101, params=models.SearchParams(hnsw_ef=20)),
        models.QueryRequest(query=sparse, limit=3),
        scores_of(some, [[1.0], [2.0]]),
        scores_of(some[:5], sparse),
    ]
    strict, free = Server(mode), Server(StrictMode())
    asked = calls.query_batch_points("x", requests)
    assert strict.run(asked) == free.run(asked)
    assert free.asked == [asked]
    for steps in (calls.count("x"), calls.upsert("x", [_point(id) for id in IDS])):
        assert strict.run(steps) == free.run(steps)


@by_mode
def test_pages_of_all_points_hold_each_of_them_once(mode: StrictMode) -> None:
    def everything() -> Steps[list[Any]]:
        found: list[Any] = []
        offset = None
        while True:
            page, offset = yield from calls.scroll("x", limit=256, offset=offset)
            found += [record.id for record in page]
            if offset is None:
                return found

    assert Server(mode).run(everything()) == IDS


def test_pages_of_one_search_come_from_one_ranking() -> None:
    server = Server(StrictMode(limit=40, ef=90))
    server.run(calls.query_batch_points("x", [models.QueryRequest(query=[1.0], limit=100)]))
    (call,) = server.asked
    requests = call.arguments["requests"]
    assert [(r.offset, r.limit) for r in requests] == [(0, 40), (40, 40), (80, 20)]
    assert {r.params.hnsw_ef for r in requests} == {90}


def test_what_has_no_other_form_is_refused() -> None:
    def both() -> Steps[str]:
        try:
            yield calls.query_points_groups(
                "x", models.QueryRequest(query=[1.0]), group_by="a", limit=9, group_size=9
            )
        except RequestRejectedError as error:
            return str(error)
        return ""

    operation = kept_to(lambda: StrictMode(limit=3), both())
    operation.send(None)
    with pytest.raises(StopIteration) as end:
        operation.throw(RequestRejectedError("Limit exceeded 81 > 3"))
    assert end.value.value == "Limit exceeded 81 > 3"


@pytest.mark.parametrize("enabled", [True, False, None])
def test_what_a_collection_says(enabled: bool | None) -> None:
    config = models.CollectionConfig.model_construct(
        strict_mode_config=models.StrictModeConfigOutput(
            enabled=enabled,
            max_query_limit=10,
            upsert_max_batchsize=20,
            write_rate_limit=15,
            search_allow_exact=False,
            unindexed_filtering_retrieve=False,
        )
    )
    info = models.CollectionInfo.model_construct(config=config)
    expected = StrictMode(limit=10, upserts=15, exact=False, unindexed_reads=False)
    assert StrictMode.of(info) == (expected if enabled else StrictMode())
    assert bool(str(StrictMode.of(info))) is bool(enabled)


def _point(id: int) -> models.PointStruct:
    return models.PointStruct(id=id, vector=[1.0])


def test_several_at_once_are_made_into_what_is_allowed() -> None:
    server = Server(StrictMode(upserts=3))

    def upsert(n: int) -> Call[Any]:
        points = [models.PointStruct(id=i, vector={}) for i in range(n)]
        return calls.upsert("c", points)

    outcomes = server.run(calls.together([upsert(2), upsert(7)]))
    assert [len(call.arguments["points"]) for call in server.asked] == [2, 3, 3, 1]
    assert all(call.arrays for call in server.asked)  # its vectors may be arrays still
    assert [outcome.status for outcome in outcomes] == [models.UpdateStatus.COMPLETED] * 2


def test_what_a_call_of_several_ends_with_ends_the_others() -> None:
    refused, gone = RequestRejectedError("no"), ServerUnavailableError("gone")

    class Failing(Server):
        def upsert(self, points: Sequence[models.PointStruct], **_: Any) -> models.UpdateResult:
            raise {1: refused, 2: gone}[len(points)]

    def upsert(n: int) -> Call[Any]:
        return calls.upsert("c", [models.PointStruct(id=i, vector={}) for i in range(n)])

    # what is thrown into the operation is what the call ended with
    def drive(server: Server, steps: Steps[Any]) -> Any:
        operation = kept_to(lambda: server.mode, steps)
        found = operation.send(None)
        try:
            while True:
                assert isinstance(found, Call)
                server.asked.append(found)
                try:
                    answer = getattr(server, found.method)(**found.arguments)
                except M3QdrantError as error:
                    found = operation.throw(error)
                else:
                    found = operation.send(answer)
        except StopIteration as end:
            return end.value

    server = Failing(StrictMode(upserts=5))
    outcomes = drive(server, calls.together([upsert(1), upsert(2), upsert(1)]))
    assert outcomes == [refused, gone, gone]
    assert len(server.asked) == 2
