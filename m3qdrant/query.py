"""Pure functions from an embedded query to Qdrant requests. No I/O, so sync and async share them.

The modes
    dense, sparse   that one vector's own search
    colbert         MaxSim over the candidates
    weighted        (w1 dense + w2 lexical + w3 MaxSim / n_q) / (w1 + w2 + w3) over the candidates
    rrf             reciprocal rank fusion of the three rankings, 1 / (60 + rank)
    dbsf            distribution-based score fusion of the three rankings

The candidates are the union of the dense and the sparse top list, each `candidates` long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from qdrant_client import models

from m3qdrant import convert
from m3qdrant.embeddings import M3Embeddings
from m3qdrant.errors import InputError
from m3qdrant.schema import COLBERT, DENSE, SPARSE, Layout
from m3qdrant.scoring import check_weights

__all__ = [
    "DEFAULT_WEIGHTS",
    "MODES",
    "EmbeddedQuery",
    "Mode",
    "check_search",
    "component_requests",
    "component_scores",
    "search_request",
]

Mode = Literal["dense", "sparse", "colbert", "rrf", "dbsf", "weighted"]
MODES: tuple[str, ...] = get_args(Mode)

DEFAULT_WEIGHTS = (0.4, 0.2, 0.4)

# Qdrant scores a rank r (from 0) as 1 / (r + k); the usual 1 / (60 + rank from 1) is its k = 61
_RRF_K = 61


@dataclass(frozen=True)
class EmbeddedQuery:
    """One query's vectors as Qdrant takes them.

    Attributes:
        dense: dim numbers.
        sparse: lexical weights; without any, sparse search finds nothing.
        colbert: n_q vectors of colbert_dim numbers.
    """

    dense: list[float]
    sparse: models.SparseVector
    colbert: list[list[float]]

    @classmethod
    def of(cls, embeddings: M3Embeddings, layout: Layout) -> EmbeddedQuery:
        """From the embeddings of one text.

        Raises:
            InputError: not one text, or a vector that Qdrant could not take.
        """
        if len(embeddings) != 1:
            raise InputError(f"a query is one text, but these are embeddings of {len(embeddings)}")
        for _, field, reason in convert.check(embeddings, layout):
            raise InputError(f"query: {field}: {reason}")
        named = next(convert.vectors(embeddings, layout))
        return cls(named[DENSE], named[SPARSE], named[COLBERT])

    def vector(self, name: str) -> Any:
        """The query for a named vector, or None where it would find nothing."""
        if name == SPARSE:
            return self.sparse if self.sparse.indices else None
        return self.dense if name == DENSE else self.colbert


def check_search(mode: str, limit: int, candidates: int) -> None:
    """Check what does not depend on the query.

    Raises:
        InputError: names the argument and what is allowed.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; the modes are {', '.join(MODES)}")
    for name, value in (("limit", limit), ("candidates", candidates)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} must be a whole number from 1, not {value!r}")


def search_request(
    query: EmbeddedQuery,
    mode: str = "weighted",
    limit: int = 10,
    candidates: int = 100,
    weights: Sequence[float] = DEFAULT_WEIGHTS,
    filter: models.Filter | None = None,
) -> models.QueryRequest | None:
    """The request that answers a search, or None where nothing can be found.

    That is the sparse search of a query without lexical weights; in the other modes such a query
    has a lexical score of 0 everywhere.

    Args:
        query: the embedded query.
        mode: one of `MODES`.
        limit: hits to return.
        candidates: length of the dense and of the sparse top list; at least `limit` is used.
        weights: of the dense, the lexical and the ColBERT score, in mode "weighted".
        filter: what a document must satisfy.

    Raises:
        InputError: names the argument and what is allowed.
    """
    check_search(mode, limit, candidates)
    weights = check_weights(weights)
    common: dict[str, Any] = {"limit": limit, "with_payload": True}
    if mode in (DENSE, SPARSE):
        vector = query.vector(mode)
        if vector is None:
            return None
        return models.QueryRequest(query=vector, using=mode, filter=filter, **common)

    candidates = max(candidates, limit)
    top = [
        models.Prefetch(query=vector, using=name, limit=candidates, filter=filter)
        for name in (DENSE, SPARSE)
        if (vector := query.vector(name)) is not None
    ]
    if mode == COLBERT:
        # MAX_SIM sums over the query's tokens; the order is that of the mean, `component_scores`
        # and the store divide
        return models.QueryRequest(prefetch=top, query=query.colbert, using=COLBERT, **common)
    if mode == "weighted":
        return models.QueryRequest(
            prefetch=[
                models.Prefetch(
                    prefetch=top, query=vector, using=name, limit=len(top) * candidates
                )
                for name in (DENSE, SPARSE, COLBERT)
                if (vector := query.vector(name)) is not None
            ],
            query=_weighted_formula(query, weights),
            **common,
        )
    late = models.Prefetch(prefetch=top, query=query.colbert, using=COLBERT, limit=candidates)
    return models.QueryRequest(
        prefetch=[*top, late],
        query=models.RrfQuery(rrf=models.Rrf(k=_RRF_K))
        if mode == "rrf"
        else models.FusionQuery(fusion=models.Fusion.DBSF),
        **common,
    )


def _weighted_formula(
    query: EmbeddedQuery, weights: tuple[float, float, float]
) -> models.FormulaQuery:
    total = sum(weights)
    factors = {
        DENSE: weights[0] / total,
        SPARSE: weights[1] / total,
        COLBERT: weights[2] / total / len(query.colbert),  # MAX_SIM sums, the formula has the mean
    }
    present = [name for name in factors if query.vector(name) is not None]
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
                query=vector,
                using=name,
                # so narrow a filter makes Qdrant scan just these points, so the scores are exact
                filter=hits,
                limit=len(point_ids),
            ),
        )
        for name in (DENSE, SPARSE, COLBERT)
        if (vector := query.vector(name)) is not None
    ]


def component_scores(
    query: EmbeddedQuery,
    point_ids: Sequence[models.ExtendedPointId],
    answers: Iterable[tuple[str, Sequence[models.ScoredPoint]]],
) -> list[dict[str, float]]:
    """For each point {"dense", "sparse", "colbert"} from the answers to `component_requests`.

    A point that an answer lacks scores 0.0 there: it shares no term with the query.
    """
    scores = {id: {DENSE: 0.0, SPARSE: 0.0, COLBERT: 0.0} for id in point_ids}
    for name, points in answers:
        divisor = len(query.colbert) if name == COLBERT else 1
        for point in points:
            scores[point.id][name] = point.score / divisor
    return [scores[id] for id in point_ids]
