"""Filters that stay qdrant-client's: to narrow one down, and what a request filters by. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qdrant_client import models

from m3qdrant.errors import InputError

__all__ = ["conditions", "filter_model", "filters_of", "narrowed", "ordered_by", "queries_of"]


def filter_model(filter: Any) -> models.Filter:
    """A filter as its model, where it may come as a dict.

    Raises:
        InputError: it is neither.
    """
    if isinstance(filter, Mapping):
        try:
            return models.Filter(**filter)
        except (TypeError, ValueError) as error:
            raise InputError(f"the mapping is no filter: {error}") from error
    if not isinstance(filter, models.Filter):
        raise InputError(
            f"a {type(filter).__name__} is no filter: pass qdrant_client.models.Filter"
        )
    return filter


def narrowed(filter: Any, *, must: Any = None, must_not: Any = None) -> models.Filter:
    """A filter with one more condition. Its own clauses stay as they are.

    The engine hands a query's filter down to its prefetches clause by clause, so that a filter
    within a filter would mean something else there.
    """
    whole = models.Filter() if filter is None else filter_model(filter)
    changes = {}
    if must is not None:
        changes["must"] = [*_list(whole.must), must]
    if must_not is not None:
        changes["must_not"] = [*_list(whole.must_not), must_not]
    return whole.model_copy(update=changes)


def conditions(filter: Any) -> Iterator[models.FieldCondition]:
    """The conditions on payload fields in a filter, those on nested objects left out."""
    if filter is None:
        return
    whole = filter_model(filter)
    each = [*_list(whole.must), *_list(whole.should), *_list(whole.must_not)]
    if whole.min_should is not None:
        each += whole.min_should.conditions
    for condition in each:
        if isinstance(condition, models.FieldCondition):
            yield condition
        elif isinstance(condition, models.Filter):
            yield from conditions(condition)


def filters_of(request: models.QueryRequest | models.Prefetch) -> Iterator[Any]:
    """The filters of a request and of its prefetches."""
    for stage in _stages(request):
        if stage.filter is not None:
            yield stage.filter


def ordered_by(request: models.QueryRequest | models.Prefetch) -> Iterator[str]:
    """The payload fields that a request and its prefetches order points by."""
    for stage in _stages(request):
        if isinstance(stage.query, models.OrderByQuery):
            order = stage.query.order_by
            yield order if isinstance(order, str) else order.key


def queries_of(request: models.QueryRequest | models.Prefetch) -> Iterator[Any]:
    """The queries of a request and of its prefetches."""
    for stage in _stages(request):
        yield stage.query


def _stages(
    request: models.QueryRequest | models.Prefetch,
) -> Iterator[models.QueryRequest | models.Prefetch]:
    yield request
    for prefetch in _list(request.prefetch):
        yield from _stages(prefetch)


def _list(clause: Any) -> list[Any]:
    if clause is None:
        return []
    return list(clause) if isinstance(clause, (list, tuple)) else [clause]
