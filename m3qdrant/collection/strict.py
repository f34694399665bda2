"""What a collection in strict mode allows, and operations kept to it.

A server's operator may set strict mode for a collection, as managed servers do: the most points a
request may ask for, no exact search, no filter on a field without an index. An operation asks as
if there were none (`calls.py`), and `kept_to` makes of a call that would be refused several that
are not, with the same answer: pages, batches, counts by reading ids, and the scores of given
points without the exact search that they would be a case of. What can't be had that way is left to
the server's refusal, which says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from m3qdrant.collection import calls
from m3qdrant.collection.calls import Call, Compute, Outcomes, Steps, Together
from m3qdrant.collection.carrying import through
from m3qdrant.errors import M3QdrantError

__all__ = ["StrictMode", "kept_to"]

T = TypeVar("T")

_IDS = 10_000  # a page, where nothing else is asked for


@dataclass(frozen=True)
class StrictMode:
    """What a collection's strict mode allows; None, or True, is no limit.

    Attributes:
        limit: points that a request may ask for.
        searches: requests in a batch of searches.
        upserts: points in an upsert.
        condition: ids or values in one condition of a filter.
        ef: neighbours that an HNSW search keeps in sight.
        oversampling: how many times the limit quantized vectors may be taken.
        exact: searches and counts may be exact.
        unindexed_reads: fields without an index may be filtered by.
        unindexed_writes: likewise, where a filter says what is deleted or changed.
    """

    limit: int | None = None
    searches: int | None = None
    upserts: int | None = None
    condition: int | None = None
    ef: int | None = None
    oversampling: float | None = None
    exact: bool = True
    unindexed_reads: bool = True
    unindexed_writes: bool = True

    @classmethod
    def of(cls, info: models.CollectionInfo) -> StrictMode:
        """A collection's own."""
        found = info.config.strict_mode_config
        if found is None or not found.enabled:
            return cls()
        # no upsert may cost more than a minute's writes either
        writes = [n for n in (found.upsert_max_batchsize, found.write_rate_limit) if n]
        return cls(
            limit=found.max_query_limit or None,
            searches=found.search_max_batchsize or None,
            upserts=min(writes, default=None),
            condition=found.condition_max_size or None,
            ef=found.search_max_hnsw_ef,
            oversampling=found.search_max_oversampling,
            exact=found.search_allow_exact is not False,
            unindexed_reads=found.unindexed_filtering_retrieve is not False,
            unindexed_writes=found.unindexed_filtering_update is not False,
        )

    def __str__(self) -> str:
        """What it forbids, in words; empty where that is nothing."""
        said = [
            *(["filters need an index"] if not self.unindexed_reads else []),
            *(["no exact search, so that counts read every id"] if not self.exact else []),
            *([f"at most {self.limit} points a request"] if self.limit else []),
            *([f"at most {self.searches} searches a batch"] if self.searches else []),
            *([f"at most {self.upserts} points an upsert"] if self.upserts else []),
            *([f"at most {self.condition} values a condition"] if self.condition else []),
        ]
        return ", ".join(said)


def kept_to(strict: Callable[[], StrictMode], steps: Call[T] | Steps[T]) -> Steps[T]:
    """An operation whose calls keep to a strict mode, which is looked up at each call."""

    def carried(call: Call[Any] | Together[Call[Any]] | Compute[Any]) -> Steps[Any]:
        if isinstance(call, Compute):
            return (yield call)
        mode = strict()
        if isinstance(call, Together):
            if mode == _NONE:
                return (yield call)
            return (yield from _one_by_one(call.questions, carried))
        how = _KEPT.get(call.method)
        if how is None or mode == _NONE:
            return (yield call)
        return (yield from how(mode, call))

    return through(steps, carried)


_NONE = StrictMode()


def _one_by_one(
    asked: Sequence[Call[Any]], carried: Callable[[Call[Any]], Steps[Any]]
) -> Steps[list[Any]]:
    """What became of calls of which one may be several here; see `Together`."""
    outcomes, found = Outcomes(), []
    for call in asked:
        if (end := outcomes.before()) is not None:
            found.append(end)
            continue
        try:
            found.append((yield from carried(call)))
        except M3QdrantError as error:
            found.append(outcomes.error(error))
    return found


def _scroll(mode: StrictMode, call: Call[Any]) -> Steps[Any]:
    if mode.limit is not None and call.arguments["limit"] > mode.limit:
        call = _with(call, limit=mode.limit)
    return (yield call)


def _count(mode: StrictMode, call: Call[Any]) -> Steps[Any]:
    if mode.exact or not call.arguments["exact"]:
        return (yield call)
    found, offset = 0, None
    while True:
        records, offset = yield from calls.scroll(
            call.arguments["collection_name"],
            filter=call.arguments["count_filter"],
            limit=min(mode.limit or _IDS, _IDS),
            offset=offset,
        )
        found += len(records)
        if offset is None:
            return models.CountResult(count=found)


def _upsert(mode: StrictMode, call: Call[Any]) -> Steps[Any]:
    answer = None
    for part in _parts(call.arguments["points"], mode.upserts):
        answer = yield _with(call, points=part)
    return answer


def _query_batch(mode: StrictMode, call: Call[Any]) -> Steps[Any]:
    """Requests made into those that are allowed; the answers of each put together again."""
    allowed = [_allowed(mode, request) for request in call.arguments["requests"]]
    flat = [request for each in allowed for request in each]
    answers: list[QueryResponse] = []
    for part in _parts(flat, mode.searches):
        answers += yield _with(call, requests=part)
    rest = iter(answers)
    return [_together([next(rest) for _ in each]) for each in allowed]


def _query_groups(mode: StrictMode, call: Call[Any]) -> Steps[Any]:
    params = call.arguments["search_params"]
    return (yield call if mode.exact else _with(call, search_params=_inexact(params)))


_KEPT: dict[str, Callable[[StrictMode, Call[Any]], Steps[Any]]] = {
    "scroll": _scroll,
    "count": _count,
    "upsert": _upsert,
    "query_batch_points": _query_batch,
    "query_points_groups": _query_groups,
}


def _with(call: Call[Any], **changed: Any) -> Call[Any]:
    return replace(call, arguments={**call.arguments, **changed})


def _parts(items: Sequence[T], most: int | None) -> Iterator[Sequence[T]]:
    size = most or max(len(items), 1)
    for start in range(0, len(items), size):
        yield items[start : start + size]


# -- a search


def _allowed(mode: StrictMode, request: models.QueryRequest) -> list[models.QueryRequest]:
    """Requests that are allowed, whose answers one after the other are the request's."""
    params = request.params if mode.exact else _inexact(request.params)
    points = _given(request.filter)
    limit = request.limit or 0
    if points is not None:
        sizes = [size for size in (mode.limit, mode.condition) if size is not None]
        parts = _parts(points, min(sizes, default=None))
        return [_scored(mode, request, part, params) for part in parts]
    if mode.limit is None or limit <= mode.limit:
        return [request.model_copy(update={"params": params})]
    if not isinstance(request.query, models.SparseVector):
        # all pages are to be cut out of one and the same ranking
        seen = max(limit, params.hnsw_ef or 0 if params is not None else 0)
        seen = seen if mode.ef is None else min(seen, mode.ef)
        wider = params or models.SearchParams()
        params = wider.model_copy(update={"hnsw_ef": seen})
    return [
        request.model_copy(
            update={"params": params, "limit": min(mode.limit, limit - start), "offset": start}
        )
        for start in range(0, limit, mode.limit)
    ]


def _given(filter: models.Filter | None) -> list[models.ExtendedPointId] | None:
    """The points that a filter names and asks nothing else of."""
    if filter is None or filter.should or filter.must_not or filter.min_should:
        return None
    must = filter.must if isinstance(filter.must, list) else [filter.must]
    if len(must) == 1 and isinstance(must[0], models.HasIdCondition):
        return list(must[0].has_id)
    return None


def _scored(
    mode: StrictMode,
    request: models.QueryRequest,
    points: Sequence[models.ExtendedPointId],
    params: models.SearchParams | None,
) -> models.QueryRequest:
    """The scores of given points, which is no search where they are fetched first."""
    named = models.Filter(must=[models.HasIdCondition(has_id=list(points))])
    changed: dict[str, Any] = {"params": params, "limit": len(points), "filter": named}
    if not mode.exact and not isinstance(request.query, models.SparseVector):
        changed |= {
            "filter": None,
            "prefetch": models.Prefetch(filter=named, limit=len(points)),
        }
    return request.model_copy(update=changed)


def _inexact(params: models.SearchParams | None) -> models.SearchParams | None:
    if params is None or not params.exact:
        return params
    kept = params.model_copy(update={"exact": None})
    return kept if kept.model_dump(exclude_none=True) else None


def _together(answers: Sequence[QueryResponse]) -> QueryResponse:
    """Answers about different points as one, best first."""
    if len(answers) == 1:
        return answers[0]
    points = {point.id: point for answer in reversed(answers) for point in answer.points}
    return QueryResponse(points=sorted(points.values(), key=lambda p: -p.score))
