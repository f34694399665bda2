"""Hits by group: for each value of a payload field, its best points.

The engine has no groups, so they are made of its answers to plain queries, and are exact: `find`
asks for more hits until it knows the first groups, and for more of each group until it is full or
has no more points. Pure but for `search`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qdrant_client import models

from m3qdrant.edge.translate.filter_models import narrowed
from m3qdrant.jsonpath import first_key, groups_at

__all__ = ["candidates_request", "find"]

Search = Callable[[Sequence[models.QueryRequest]], "list[list[models.ScoredPoint]]"]
"""Answers several requests at once."""

Groups = dict["int | str", "list[models.ScoredPoint]"]

_GROWTH = 4

_MOST_REQUESTS = 5
"""A server's: to find groups, and again to fill them."""


def candidates_request(
    request: models.QueryRequest, group_by: str, limit: int, group_size: int
) -> models.QueryRequest:
    """The query whose hits are grouped, made as a server makes it.

    Points without the field are left out from the start, every prefetch finds `group_size` times
    as much, and of the payload only the field is read. MMR chooses among as many candidates as
    the groups can hold, unless it names a number.
    """
    query: Any = request.query
    mmr = getattr(query, "mmr", None)
    if mmr is not None and mmr.candidates_limit is None:
        mmr = mmr.model_copy(update={"candidates_limit": limit * group_size})
        query = query.model_copy(update={"mmr": mmr})
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=group_by))
    return request.model_copy(
        update={
            "filter": narrowed(request.filter, must_not=empty),
            "query": query,
            "prefetch": _widened(request.prefetch, group_size),
            "offset": 0,
            "with_payload": [first_key(group_by)],
            "with_vector": False,
        }
    )


def _widened(prefetch: Any, factor: int) -> Any:
    if prefetch is None:
        return None
    each = prefetch if isinstance(prefetch, (list, tuple)) else [prefetch]
    return [
        p.model_copy(
            update={
                "limit": (10 if p.limit is None else p.limit) * factor,
                "prefetch": _widened(p.prefetch, factor),
            }
        )
        for p in each
    ]


def find(
    request: models.QueryRequest, group_by: str, limit: int, group_size: int, search: Search
) -> Groups:
    """The best `limit` groups, in the order of their best hits.

    Args:
        request: what `candidates_request` made.
        group_by: the path of the field.
        limit: how many groups.
        group_size: hits a group, at most.
        search: answers requests.
    """
    if not _scores_alone(request):
        return _as_a_server(request, group_by, limit, group_size, search)
    wanted = limit * group_size
    while True:
        hits = search([request.model_copy(update={"limit": wanted})])[0]
        groups = _grouped(hits, group_by, group_size)
        first = dict(list(groups.items())[:limit])
        short = [id for id, members in first.items() if len(members) < group_size]
        if len(hits) < wanted or (len(first) == limit and not short):
            return first
        if len(first) == limit and all(map(_can_match, short)):
            return {**first, **_filled(request, short, group_by, group_size, search)}
        wanted *= _GROWTH


def _as_a_server(
    request: models.QueryRequest, group_by: str, limit: int, group_size: int, search: Search
) -> Groups:
    """Groups of what prefetches find, or MMR takes: as a server finds them, in as many requests.

    A prefetch finds so many points and no more. So once a group is full the next request leaves it
    out, of the prefetches too, and makes room for others; then those that aren't full are asked
    for alone.
    """
    groups: Groups = {}

    def more(**clause: Any) -> bool:
        asked = request.model_copy(
            update={"filter": narrowed(request.filter, **clause), "limit": limit * group_size}
        )
        hits, grown = search([asked])[0], False
        for id, members in _grouped(hits, group_by, group_size).items():
            held = groups.setdefault(id, [])
            known = {hit.id for hit in held}
            fresh = [hit for hit in members if hit.id not in known][: group_size - len(held)]
            held += fresh
            grown = grown or bool(fresh)
        return grown

    def full(ids: Iterable[int | str]) -> list[int | str]:
        return [id for id in ids if len(groups[id]) == group_size]

    for _ in range(_MOST_REQUESTS):
        excluded = full(groups)
        if not more(must_not=_named(group_by, excluded)) or len(groups) >= limit:
            break
    first = list(groups)[:limit]
    for _ in range(_MOST_REQUESTS):
        short = [id for id in first if id not in full(first)]
        if not short or not more(must=_named(group_by, short)):
            break
    return {id: groups[id] for id in first}


def _named(group_by: str, ids: Sequence[int | str]) -> models.Filter | None:
    """The points of these groups; None where there are none."""
    texts = [id for id in ids if isinstance(id, str)]
    numbers = [id for id in ids if isinstance(id, int)]
    each: list[models.Condition] = [
        models.FieldCondition(key=group_by, match=match)
        for match in (models.MatchAny(any=texts), models.MatchAny(any=numbers))
        if match.any
    ]
    return models.Filter(should=each) if each else None


def _grouped(hits: Iterable[models.ScoredPoint], group_by: str, group_size: int) -> Groups:
    groups: Groups = {}
    for hit in hits:
        for value in groups_at(hit.payload, group_by):
            members = groups.setdefault(value, [])
            if len(members) < group_size:
                members.append(hit)
    return groups


def _scores_alone(request: models.QueryRequest) -> bool:
    """Whether a point's score and rank depend on nothing but the point and the query."""
    return not request.prefetch and getattr(request.query, "mmr", None) is None


def _can_match(id: int | str) -> bool:
    return isinstance(id, str) or id < 2**63


def _filled(
    request: models.QueryRequest,
    ids: Sequence[int | str],
    group_by: str,
    group_size: int,
    search: Search,
) -> Groups:
    """Groups that the hits so far don't fill, each by queries of its own."""
    filled: Groups = {}
    waiting, wanted = list(ids), group_size
    while waiting:
        answers = search([_within(request, group_by, id, wanted) for id in waiting])
        for id, hits in zip(tuple(waiting), answers, strict=True):
            members = _grouped(hits, group_by, group_size).get(id, [])
            if len(members) == group_size or len(hits) < wanted:
                filled[id] = members
                waiting.remove(id)
        wanted *= _GROWTH
    return filled


def _within(
    request: models.QueryRequest, group_by: str, id: int | str, limit: int
) -> models.QueryRequest:
    inside = models.FieldCondition(key=group_by, match=models.MatchValue(value=id))
    return request.model_copy(
        update={"filter": narrowed(request.filter, must=inside), "limit": limit}
    )
