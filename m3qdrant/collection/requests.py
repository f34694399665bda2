"""From an embedded query and a `Search` to Qdrant's requests, and from its answers to scores.

The modes
    dense, sparse   that one vector's own search
    colbert         MaxSim over the candidates
    weighted        (w1 dense + w2 lexical + w3 MaxSim / n_q) / (w1 + w2 + w3) over the candidates
    rrf             reciprocal rank fusion of the three rankings, 1 / (60 + rank)
    dbsf            distribution-based score fusion of the three rankings

The candidates are the union of the dense and the sparse top list, each `candidates` long.

`weighted` is one request: a formula over three prefetches, each restricted to the same nested
candidates. The other way, the candidates' ids first and then their scores by `has_id`, runs the
candidate stage once instead of three times, but is slower on the embedded engine and one round
trip more on a server. (In-memory mode, which has no index, is faster that way.) `python -m
benchmarks store` measures both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import models

from m3qdrant.collection import points
from m3qdrant.collection.layout import Layout
from m3qdrant.collection.search import Search
from m3qdrant.encode import M3Embeddings, pool_query
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE, SPARSE, VECTORS

__all__ = ["EmbeddedQuery", "component_requests", "component_scores", "search_request"]

# Qdrant scores a rank r (from 0) as 1 / (r + k); the usual 1 / (60 + rank from 1) is its k = 61
_RRF_K = 61

DEFAULT_OVERSAMPLING = 2.0
COLBERT_OVERSAMPLING = 4.0
"""How many times the limit is taken by quantized vectors, before the originals rank again."""


@dataclass(frozen=True)
class EmbeddedQuery:
    """One query's vectors as Qdrant takes them.

    Attributes:
        dense: dim numbers.
        sparse: lexical weights; without any, sparse search finds nothing.
        colbert: vectors of colbert_dim numbers, whose MAX_SIM is the sum over the query's tokens.
        tokens: n_q, the query's tokens, which the mean divides by; more than there are vectors
            where a query was too long for Qdrant and its most similar tokens were merged.
        layout: the collection's, which decides how it is searched.
    """

    dense: list[float]
    sparse: models.SparseVector
    colbert: list[list[float]]
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
        named = next(points.vectors(embeddings, layout))
        return cls(named[DENSE], named[SPARSE], named[COLBERT], tokens, layout)

    def vector(self, name: str) -> Any:
        """The query for a named vector, or None where it would find nothing."""
        if name == SPARSE:
            return self.sparse if self.sparse.indices else None
        return self.dense if name == DENSE else self.colbert

    def present(self) -> list[str]:
        """The names of the vectors that can find something."""
        return [name for name in VECTORS if self.vector(name) is not None]


def search_request(query: EmbeddedQuery, search: Search) -> models.QueryRequest | None:
    """The request that answers a search, or None where nothing can be found.

    That is the sparse search of a query without lexical weights; in the other modes such a query
    has a lexical score of 0 everywhere.
    """
    mode = search.mode
    common: dict[str, Any] = {
        "limit": search.depth if search.paged_here else search.limit,
        "offset": None if search.paged_here else search.offset or None,
        "with_payload": True,
        "with_vector": search.wanted_vectors,
        "score_threshold": search.score_threshold,
    }
    if mode in (DENSE, SPARSE):
        vector = query.vector(mode)
        if vector is None:
            return None
        return models.QueryRequest(
            query=vector,
            using=mode,
            filter=search.condition,
            params=_first(query, search, mode),
            **common,
        )

    candidates = max(search.candidates, search.depth * search.group_size)
    top = [
        models.Prefetch(
            query=query.vector(name),
            using=name,
            limit=candidates,
            filter=search.condition,
            params=_first(query, search, name),
        )
        for name in query.present()
        if name != COLBERT
    ]
    if mode == COLBERT:
        # MAX_SIM sums over the query's tokens, a score of ours is their mean
        if search.score_threshold is not None:
            common["score_threshold"] = search.score_threshold * query.tokens
        return models.QueryRequest(
            prefetch=top,
            query=query.colbert,
            using=COLBERT,
            params=_late(query, search),
            **common,
        )
    if mode == "weighted":
        return models.QueryRequest(
            prefetch=[
                models.Prefetch(
                    prefetch=top,
                    query=query.vector(name),
                    using=name,
                    limit=len(top) * candidates,
                    params=_again(query, name),
                )
                for name in query.present()
            ],
            query=_weighted_formula(query, search.weights),
            **common,
        )
    late = models.Prefetch(
        prefetch=top,
        query=query.colbert,
        using=COLBERT,
        limit=candidates,
        params=_again(query, COLBERT),
    )
    return models.QueryRequest(
        prefetch=[*top, late],
        query=models.RrfQuery(rrf=models.Rrf(k=_RRF_K))
        if mode == "rrf"
        else models.FusionQuery(fusion=models.Fusion.DBSF),
        **common,
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


def _late(query: EmbeddedQuery, search: Search) -> models.SearchParams | None:
    """How candidates are ranked by MaxSim alone: only the best are read from the originals."""
    if not query.layout.schema.is_quantized(COLBERT) or search.exact:
        return _again(query, COLBERT)
    return models.SearchParams(
        quantization=models.QuantizationSearchParams(
            rescore=True, oversampling=search.oversampling or COLBERT_OVERSAMPLING
        )
    )


def _again(query: EmbeddedQuery, name: str) -> models.SearchParams | None:
    """How few given points are scored: by the original vectors, so that the scores are exact."""
    if not query.layout.schema.is_quantized(name):
        return None
    return models.SearchParams(quantization=models.QuantizationSearchParams(ignore=True))


def _weighted_formula(query: EmbeddedQuery, weights: Sequence[float]) -> models.FormulaQuery:
    total = sum(weights)
    factors = {
        DENSE: weights[0] / total,
        SPARSE: weights[1] / total,
        COLBERT: weights[2] / total / query.tokens,  # MAX_SIM sums, the formula has the mean
    }
    present = query.present()
    return models.FormulaQuery(
        formula=models.SumExpression(
            sum=[
                models.MultExpression(mult=[factors[name], f"$score[{i}]"])
                for i, name in enumerate(present)
            ]
        ),
        # a document that shares no term with the query is not among the sparse scores
        defaults={f"$score[{i}]": 0.0 for i in range(len(present))},
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
                # so narrow a filter makes Qdrant scan just these points, so the scores are exact
                filter=hits,
                limit=len(point_ids),
                params=_again(query, name),
            ),
        )
        for name in query.present()
    ]


def component_scores(
    query: EmbeddedQuery,
    point_ids: Sequence[models.ExtendedPointId],
    answers: Iterable[tuple[str, Sequence[models.ScoredPoint]]],
) -> list[dict[str, float]]:
    """For each point {"dense", "sparse", "colbert"} from the answers to `component_requests`.

    A point that an answer lacks scores 0.0 there: it shares no term with the query.
    """
    scores = {id: dict.fromkeys(VECTORS, 0.0) for id in point_ids}
    for name, scored in answers:
        divisor = query.tokens if name == COLBERT else 1
        for point in scored:
            scores[point.id][name] = point.score / divisor
    return [scores[id] for id in point_ids]
