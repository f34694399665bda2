"""Points that rank alike come by id, so that pages neither repeat points nor omit them.

The smaller id comes first; by similarity, the larger, as in qdrant-client's local mode.

Of points with one score the engine keeps those that it happens to meet first, and gives them in
any order, which changes with the number asked for. So it is asked for one point more than a page
ends at, and where that one ranks like the page's last, for more, until all of them are there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, TypeVar

import qdrant_edge as edge
from qdrant_client import models

__all__ = ["MOST", "asked_for", "is_ranked", "order_value", "page", "score"]

_EVERYTHING = 2**32
"""More points than a collection holds."""

MOST = 1000
"""So many points beyond a page's end are looked at, which takes some ms. Where still more rank
alike, as those may that hold one common word, the engine's choice among them stands."""

_GROWTH = 8

_T = TypeVar("_T", edge.ScoredPoint, edge.Record)


def is_ranked(query: Any) -> bool:
    """Whether a query ranks each point by itself: no sample, nor MMR, nor a mere filter."""
    return not (
        query is None
        or isinstance(query, models.SampleQuery)
        or getattr(query, "mmr", None) is not None
    )


def asked_for(end: int) -> int:
    """How many points to ask for, for a page that ends before `end`."""
    return min(end + 1, _EVERYTHING)


def score(hit: edge.ScoredPoint) -> float:
    """What ranks the points that a query finds."""
    return hit.score


def order_value(hit: edge.ScoredPoint | edge.Record) -> Any:
    """What ranks points in the order of a field."""
    return hit.order_value


def page(
    hits: list[_T],
    start: int,
    end: int,
    rank: Callable[[_T], Any],
    more: Callable[[int], list[_T]],
    *,
    last_first: bool = False,
) -> list[_T]:
    """The points from `start` to `end` of a ranking.

    Args:
        hits: the first `asked_for(end)`, or all that there are.
        start: how many points the page leaves out.
        end: where it ends.
        rank: `score` or `order_value`.
        more: gives the first so many points.
        last_first: whether the larger id comes first.
    """
    asked = asked_for(end)
    while len(hits) == asked < end + MOST and rank(hits[end - 1]) == rank(hits[-1]):
        asked = min(asked * _GROWTH, end + MOST)
        hits = more(asked)
    runs = (sorted(run, key=_by_id, reverse=last_first) for _, run in groupby(hits, rank))
    return [hit for run in runs for hit in run][start:end]


def _by_id(hit: edge.ScoredPoint | edge.Record) -> tuple[bool, Any]:
    """Numbers come before UUIDs."""
    return not isinstance(hit.id, int), hit.id
