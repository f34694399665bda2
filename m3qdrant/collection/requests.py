"""From an embedded query and a `Search` to Qdrant's requests, and its answers as scores.

A search asks for lists of ids first: the best by the dense and by the sparse vector, which are the
candidates of the modes that rank those. Then for the candidates' exact scores by each of the three
vectors, of which `fusion.py` makes the mode's ranking. What is ranked doesn't depend on the page
that is asked for, nor on the order in which an engine gives equal scores.

(All in one request is possible too, a formula over prefetches of nested candidates. It runs the
candidates' stage three times, and its ranks are the engine's.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from qdrant_client import models

from m3qdrant.collection import points
from m3qdrant.collection.fusion import Scores
from m3qdrant.collection.layout import Layout
from m3qdrant.collection.search import DEFAULT_OVERSAMPLING, Search
from m3qdrant.encode import M3Embeddings, pool_query
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE, SPARSE, VECTORS

__all__ = ["EmbeddedQuery", "component_requests", "component_scores", "list_request"]


@dataclass(frozen=True)
class EmbeddedQuery:
    """One query's vectors as Qdrant takes them.

    Attributes:
        views: the embeddings of one text, rounded as the collection's are.
        tokens: n_q, the query's tokens, which the mean divides by; more than there are vectors
            where a query was too long for Qdrant and its most similar tokens were merged.
        layout: the collection's, which decides how it is searched.
    """

    views: M3Embeddings
    tokens: int
    layout: Layout = field(repr=False)

    @classmethod
    def of(cls, embeddings: M3Embeddings, layout: Layout) -> EmbeddedQuery:
        """From the embeddings of one text.

        Raises:
            InputError: a vector that Qdrant could not take.
        """
        for _, name, reason in points.check(embeddings, layout, any_length=True):
            raise InputError(f"query: {name}: {reason}")
        colbert = embeddings.colbert
        assert colbert is not None  # checked above
        tokens = len(colbert.vectors)
        if tokens > layout.max_tokens:
            pooled = pool_query(colbert.vectors.float().cpu(), layout.max_tokens)
            embeddings = points.with_colbert(embeddings, pooled)
        return cls(points.rounded(embeddings, layout), tokens, layout)

    @cached_property
    def dense(self) -> list[float]:
        """The dense vector, dim numbers."""
        assert self.views.dense is not None
        return self.views.dense[0].tolist()

    @cached_property
    def sparse(self) -> models.SparseVector:
        """Lexical weights; without any, sparse search finds nothing."""
        assert self.views.sparse is not None
        return points.sparse_vector(self.views.sparse[0])

    @cached_property
    def colbert(self) -> list[list[float]]:
        """Vectors of colbert_dim numbers, whose MAX_SIM is the sum over the query's tokens."""
        assert self.views.colbert is not None
        return self.views.colbert[0].tolist()

    def vector(self, name: str) -> Any:
        """The query for a named vector, or None where it would find nothing."""
        if name == SPARSE:
            return self.sparse if self.sparse.indices else None
        return self.dense if name == DENSE else self.colbert

    def present(self) -> list[str]:
        """The names of the vectors that can find something."""
        return [name for name in VECTORS if self.vector(name) is not None]


def list_request(
    query: EmbeddedQuery,
    search: Search,
    name: str,
    limit: int,
    *,
    beyond: Sequence[models.ExtendedPointId] | None = None,
    within: models.Condition | None = None,
) -> models.QueryRequest:
    """The best `limit` points by the dense or the sparse vector; ids and scores.

    Args:
        query: it has something to say to this vector.
        search: the filter and the parameters.
        name: the vector's.
        limit: how many.
        beyond: the best but for these, found without the index, so that nothing is missed.
        within: the best of those alone that satisfy this too, likewise.
    """
    condition, params = search.condition, _first(query, search, name)
    if beyond is not None:
        within = models.Filter(must_not=[models.HasIdCondition(has_id=list(beyond))])
    if within is not None:
        condition = models.Filter(must=[within] if condition is None else [condition, within])
        params = _exactly(query, name)
    return models.QueryRequest(
        query=query.vector(name),
        using=name,
        filter=condition,
        params=params,
        limit=limit,
        with_payload=False,
    )


def _first(query: EmbeddedQuery, search: Search, name: str) -> models.SearchParams | None:
    """How the first stage searches the whole collection."""
    quantized = query.layout.schema.is_quantized(name)
    quantization = None
    if quantized and not search.exact:
        quantization = models.QuantizationSearchParams(
            rescore=True, oversampling=search.oversampling or DEFAULT_OVERSAMPLING
        )
    elif quantized:
        quantization = models.QuantizationSearchParams(ignore=True)
    if name == SPARSE or not (search.exact or search.ef or quantization):
        return None
    return models.SearchParams(
        hnsw_ef=search.ef, exact=search.exact or None, quantization=quantization
    )


def _exactly(query: EmbeddedQuery, name: str) -> models.SearchParams | None:
    """How given points are scored: each of them, by the original vectors."""
    if name == SPARSE:  # an inverted index misses nothing
        return None
    quantized = query.layout.schema.is_quantized(name)
    return models.SearchParams(
        exact=True,
        quantization=models.QuantizationSearchParams(ignore=True) if quantized else None,
    )


def component_requests(
    query: EmbeddedQuery, point_ids: Sequence[models.ExtendedPointId]
) -> list[tuple[str, models.QueryRequest]]:
    """For each vector name the request for its exact scores of just these points."""
    hits = models.Filter(must=[models.HasIdCondition(has_id=list(point_ids))])
    return [
        (
            name,
            models.QueryRequest(
                query=query.vector(name),
                using=name,
                filter=hits,
                limit=len(point_ids),
                params=_exactly(query, name),
                with_payload=False,
            ),
        )
        for name in query.present()
    ]


def component_scores(
    query: EmbeddedQuery, answers: Iterable[tuple[str, Sequence[models.ScoredPoint]]]
) -> Scores:
    """By vector the score of each point in the answers to `component_requests`.

    A point is missing where it has no such vector, or shares no term with the query. MAX_SIM sums
    over the query's tokens; the mean is the reference's score.
    """
    scores: Scores = {name: {} for name in VECTORS}
    for name, scored in answers:
        divisor = query.tokens if name == COLBERT else 1
        scores[name] = {point.id: float(point.score) / divisor for point in scored}
    return scores
