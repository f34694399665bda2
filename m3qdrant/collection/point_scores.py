"""Points of any collection with late interaction, not only ours, ranked in a reranker."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from m3kernels.packing import from_lengths
from numpy.typing import NDArray
from qdrant_client import models

from m3qdrant.collection import calls
from m3qdrant.collection.calls import Steps
from m3qdrant.collection.fusion import PointId
from m3qdrant.collection.reranking import Brought, bring, token_rows
from m3qdrant.encode import M3Embeddings, TokenVectors
from m3qdrant.errors import InputError, UnsupportedError
from m3qdrant.names import COLBERT
from m3qdrant.rank import Work
from m3qdrant.scalars import plain_number

if TYPE_CHECKING:
    from m3qdrant.rank import M3Reranker

__all__ = ["PointQuery", "rerank_points"]


@dataclass(frozen=True)
class PointQuery:
    """What is asked, checked when it is made.

    Attributes:
        points: what a query answered, records, or ids; best first, and none twice.
        query: (n, dim) float32, the query's token vectors.
        using: the vector's name; None or "" for a collection's unnamed one.
        distance: what it is compared by; None to look it up.
        limit: how many to give; None for all.
        home: what tells the collection from others, to hold its points' vectors by; None for not.
    """

    points: list[models.ScoredPoint | models.Record]
    query: NDArray[np.float32]
    using: str | None
    distance: models.Distance | None
    limit: int | None
    home: Hashable | None

    @classmethod
    def asked(
        cls,
        points: Any,
        query: Any,
        using: Any,
        distance: Any,
        limit: Any,
        home: Hashable | None,
    ) -> PointQuery:
        """From what a caller gives.

        Raises:
            InputError: names what is wrong.
        """
        limit = plain_number(limit)
        if limit is not None and (
            not isinstance(limit, int) or isinstance(limit, bool) or limit < 1
        ):
            raise InputError(f"limit is {limit!r}: give a whole number from 1, or None for all")
        if using is not None and not isinstance(using, str):
            raise InputError(f"using is {using!r}: give the vector's name")
        if distance is not None:
            distance = _distance(distance)
        return cls(_points(points), _tokens(query), using or None, distance, limit, home)


def _points(given: Any) -> list[models.ScoredPoint | models.Record]:
    given = getattr(given, "points", given)  # a QueryResponse
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__"):
        raise InputError(f"points: {type(given).__name__}; give what a query answered, or ids")
    found: dict[PointId, models.ScoredPoint | models.Record] = {}
    for i, point in enumerate(given):
        if isinstance(point, int | str) and not isinstance(point, bool):
            point = models.Record(id=point)
        if not isinstance(point, models.ScoredPoint | models.Record):
            raise InputError(
                f"points: #{i} is {type(point).__name__}: give a ScoredPoint, a Record, or an id"
            )
        found.setdefault(point.id, point)
    return list(found.values())


def _tokens(given: Any) -> NDArray[np.float32]:
    if isinstance(given, M3Embeddings):
        if given.colbert is None or len(given) != 1:
            raise InputError("query: give embeddings of one text, with its ColBERT vectors")
        given = given.colbert.vectors
    if isinstance(given, torch.Tensor):
        given = given.detach().float().cpu().numpy()
    try:
        query = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"query: give its token vectors, (n, dim) numbers: {error}") from error
    query = query[None] if query.ndim == 1 else query
    if query.ndim != 2 or not query.size:
        raise InputError(f"query: give its token vectors, (n, dim), not {query.shape}")
    if not np.isfinite(query).all():
        raise InputError("query: holds NaN or infinity")
    return query


def _distance(given: Any) -> models.Distance:
    try:
        distance = models.Distance(given)
    except ValueError as error:
        names = ", ".join(each.value for each in models.Distance)
        raise InputError(f"distance is {given!r}: give one of {names}") from error
    if distance not in (models.Distance.DOT, models.Distance.COSINE):
        raise UnsupportedError(
            f"distance {distance.value}: only Dot and Cosine are scored here; Qdrant itself ranks "
            "by the others: query_points(..., prefetch=..., using=...)"
        )
    return distance


def rerank_points(
    name: str, asked: PointQuery, reranker: M3Reranker
) -> Steps[list[models.ScoredPoint]]:
    """The points by Qdrant's MAX_SIM, the sum over the query's vectors, best first.

    Raises:
        InputError: there is no such vector, or it is of another width.
        UnsupportedError: its distance is neither Dot nor Cosine.
    """
    distance, half = asked.distance, False
    if distance is None:
        distance, half = yield from _look_up(name, asked.using)
    tokens = torch.from_numpy(asked.query)
    if distance is models.Distance.COSINE:
        tokens = torch.nn.functional.normalize(tokens, dim=-1)
    if half:
        tokens = tokens.half().float()
    queries = M3Embeddings(colbert=TokenVectors(tokens, from_lengths([len(tokens)])))
    points = asked.points
    if not points:
        return []
    pairs = np.stack([np.zeros(len(points), dtype=np.int64), np.arange(len(points))], 1)
    work = Work(
        reranker.held,
        queries,
        [_key(point, asked) for point in points],
        pairs,
        tokens=[1],
        views=[COLBERT],
    )
    dim = asked.query.shape[1]
    yield from bring(
        name,
        work,
        [_as_it_came(point, asked.using) for point in points],
        True if asked.using is None else [asked.using],
        partial(_views, asked.using, dim),
        4 * dim,
    )
    scores = work.scores[COLBERT]
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if work.has_colbert[i]]
    bad = [i for i in order if not np.isfinite(scores[i])]
    if bad:
        raise InputError(f"point {points[bad[0]].id}: its vectors hold NaN or infinity")
    return [_scored(points[i], float(scores[i])) for i in order[: asked.limit]]


def _as_it_came(
    point: models.ScoredPoint | models.Record, using: str | None
) -> PointId | models.ScoredPoint | models.Record:
    """A point where it has the vector with it, else its id."""
    return point.id if _vector(point, using) is None else point


def _scored(point: models.ScoredPoint | models.Record, score: float) -> models.ScoredPoint:
    return models.ScoredPoint.model_construct(
        id=point.id,
        version=getattr(point, "version", 0),
        score=score,
        payload=point.payload,
        vector=point.vector,
        shard_key=point.shard_key,
        order_value=point.order_value,
    )


def _key(
    point: models.ScoredPoint | models.Record, asked: PointQuery
) -> tuple[Hashable, Hashable] | None:
    """What a point is held by; None where its version says nothing."""
    version = getattr(point, "version", 0)
    if asked.home is None or not version:
        return None
    return (asked.home, asked.using, point.id), version


def _look_up(name: str, using: str | None) -> Steps[tuple[models.Distance, bool]]:
    """The distance of a collection's vector, and whether it is kept in float16."""
    info = yield from calls.get_collection(name)
    vectors = info.config.params.vectors
    named = {"": vectors} if isinstance(vectors, models.VectorParams) else vectors or {}
    vector = named.get(using or "")
    if vector is None:
        there = ", ".join(repr(each) for each in named if each) or "an unnamed one"
        what = "no unnamed vector" if using is None else f"no vector {using!r}"
        raise InputError(f"collection {name!r} has {what}; it has {there}: give using=")
    return _distance(vector.distance), vector.datatype is models.Datatype.FLOAT16


def _views(
    using: str | None, dim: int, points: Sequence[models.Record | models.ScoredPoint]
) -> Brought:
    """The token vectors of points.

    Raises:
        InputError: they are not as wide as the query's.
    """
    rows = [token_rows(_vector(point, using), dim) for point in points]
    for each in rows:
        if each.shape[1] != dim:
            raise InputError(
                f"query: vectors of {dim} numbers, and the collection's have {each.shape[1]}"
            )
    vectors = torch.from_numpy(np.concatenate(rows))
    return M3Embeddings(
        colbert=TokenVectors(vectors, from_lengths([len(each) for each in rows]))
    ), None


def _vector(point: models.ScoredPoint | models.Record, using: str | None) -> Any:
    if isinstance(point.vector, Mapping):
        return point.vector.get(using or "")
    return point.vector if using is None else None
