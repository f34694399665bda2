"""Search by example: the point ids in a query become the vectors of those points.

The engine takes vectors only. As on a server, a point that a query names as its example is left
out of that query's results, and `lookup_from` takes the vectors from another collection, whose
points leave nothing out. Pure but for `vector_of`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from m3qdrant.edge.translate.check_vectors import CheckedVector, Sparse, check_query_vector
from m3qdrant.edge.translate.filter_models import narrowed
from m3qdrant.edge.translate.ids import check_id
from m3qdrant.edge.translate.vector_specs import VectorSpecs
from m3qdrant.errors import InputError

__all__ = ["looked_up", "resolve"]

VectorOf = Callable[[str, "int | str", str], Any]
"""The vector of a point: by the collection's name, the point's id and the vector's name."""

_Stage = TypeVar("_Stage", models.QueryRequest, models.Prefetch)


def looked_up(request: models.QueryRequest | models.Prefetch) -> Iterator[str]:
    """The names of the collections that a request and its prefetches look vectors up in."""
    if request.lookup_from is not None:
        yield request.lookup_from.collection
    for prefetch in _prefetches(request):
        yield from looked_up(prefetch)


def resolve(stage: _Stage, collection: str, layout: VectorSpecs, vector_of: VectorOf) -> _Stage:
    """A request, or a prefetch, with vectors in place of ids.

    Recommending by the average vector becomes a search by that vector.

    Args:
        stage: the request.
        collection: the name of the collection that is searched.
        layout: its vectors.
        vector_of: gives a stored vector, or an error where there is none.

    Raises:
        InputError: what is no id, a point that has no such vector, examples without a vector.
    """
    where = stage.lookup_from
    source = collection if where is None else where.collection
    using = stage.using or ""
    name = using if where is None or where.vector is None else where.vector
    mentioned: list[int | str] = []

    def vector(example: Any) -> Any:
        if not _is_id(example):
            return example
        id = check_id(example)
        if source == collection:
            mentioned.append(id)
        return vector_of(source, id, name)

    changes: dict[str, Any] = {
        "query": _with_vectors(stage.query, vector, using, layout),
        "lookup_from": None,
    }
    if mentioned:
        named = models.HasIdCondition(has_id=list(dict.fromkeys(mentioned)))
        changes["filter"] = narrowed(stage.filter, must_not=named)
    if stage.prefetch is not None:
        changes["prefetch"] = [
            resolve(p, collection, layout, vector_of) for p in _prefetches(stage)
        ]
    return stage.model_copy(update=changes)


def _prefetches(stage: models.QueryRequest | models.Prefetch) -> Sequence[models.Prefetch]:
    each = stage.prefetch
    if each is None:
        return []
    return each if isinstance(each, (list, tuple)) else [each]


def _is_id(example: Any) -> bool:
    return isinstance(example, (str, int, np.integer, uuid.UUID)) and not isinstance(example, bool)


def _with_vectors(
    query: Any, vector: Callable[[Any], Any], using: str, layout: VectorSpecs
) -> Any:
    name = type(query).__name__
    if name == "NearestQuery":
        return query.model_copy(update={"nearest": vector(query.nearest)})
    if name == "RecommendQuery":
        return _recommend(query, vector, using, layout)
    if name == "DiscoverQuery":
        content = query.discover
        changes = {
            "target": vector(content.target),
            "context": _pairs(content.context, vector),
        }
        return query.model_copy(update={"discover": content.model_copy(update=changes)})
    if name == "ContextQuery":
        return query.model_copy(update={"context": _pairs(query.context, vector)})
    if name == "RelevanceFeedbackQuery":
        content = query.relevance_feedback
        items = [
            item.model_copy(update={"example": vector(item.example)}) for item in content.feedback
        ]
        changes = {"target": vector(content.target), "feedback": items}
        return query.model_copy(update={"relevance_feedback": content.model_copy(update=changes)})
    return vector(query)


def _pairs(context: Any, vector: Callable[[Any], Any]) -> list[models.ContextPair]:
    pairs = context if isinstance(context, (list, tuple)) else [context]
    return [
        pair.model_copy(
            update={"positive": vector(pair.positive), "negative": vector(pair.negative)}
        )
        for pair in pairs
    ]


def _recommend(
    query: models.RecommendQuery, vector: Callable[[Any], Any], using: str, layout: VectorSpecs
) -> models.RecommendQuery | models.NearestQuery:
    content = query.recommend
    positive = [vector(example) for example in content.positive or []]
    negative = [vector(example) for example in content.negative or []]
    average = models.RecommendStrategy.AVERAGE_VECTOR
    if (content.strategy or average) != average:
        if not positive and not negative:
            raise InputError("a recommendation needs examples: pass positive= or negative=")
        changes = {"positive": positive, "negative": negative}
        return query.model_copy(update={"recommend": content.model_copy(update=changes)})
    if not positive:
        raise InputError(
            "a recommendation by the average vector needs positive examples: pass positive=, or "
            "another strategy"
        )
    middle = _average(
        [check_query_vector(v, using, layout) for v in positive],
        [check_query_vector(v, using, layout) for v in negative],
    )
    return models.NearestQuery.model_construct(nearest=middle)


def _average(positive: list[CheckedVector], negative: list[CheckedVector]) -> CheckedVector:
    """The examples' mean, doubled, less the negative ones' mean where there are any.

    Multivectors have no mean: all their tokens together, the negative ones' turned round.
    """
    if isinstance(positive[0], Sparse):
        return _average_sparse(positive, negative)
    dense: list[Any] = positive
    against: list[Any] = negative
    if dense[0].ndim == 2:
        return np.concatenate([*dense, *(-tokens for tokens in against)])
    mean: NDArray[np.float32] = np.mean(dense, axis=0, dtype=np.float32)
    if against:
        mean = mean + mean - np.mean(against, axis=0, dtype=np.float32)
    return mean


def _average_sparse(positive: Sequence[Any], negative: Sequence[Any]) -> Sparse:
    mean = _mean_sparse(positive)
    if negative:
        against = _mean_sparse(negative)
        mean = {i: 2 * mean.get(i, 0.0) - against.get(i, 0.0) for i in {*mean, *against}}
    indices = sorted(mean)
    return Sparse(
        np.array(indices, dtype=np.uint32),
        np.array([mean[i] for i in indices], dtype=np.float32),
    )


def _mean_sparse(vectors: Sequence[Sparse]) -> dict[int, float]:
    mean: dict[int, float] = {}
    for vector in vectors:
        for i, value in zip(vector.indices.tolist(), vector.values.tolist(), strict=True):
            mean[i] = mean.get(i, 0.0) + value / len(vectors)
    return mean
