"""Pure functions from an embedded query to Qdrant requests. No I/O, so sync and async share them.

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

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from qdrant_client import models

from m3qdrant.collection import points as convert
from m3qdrant.collection.filters import as_filter
from m3qdrant.collection.schema import Layout
from m3qdrant.encode.embeddings import M3Embeddings
from m3qdrant.encode.pooling import pool_query
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DEFAULT_WEIGHTS, DENSE, MODES, SPARSE
from m3qdrant.scoring import check_weights

__all__ = [
    "EmbeddedQuery",
    "Search",
    "SearchOptions",
    "check_queries",
    "component_requests",
    "component_scores",
    "group_arguments",
    "one_query",
    "search_request",
]

# Qdrant scores a rank r (from 0) as 1 / (r + k); the usual 1 / (60 + rank from 1) is its k = 61
_RRF_K = 61


class SearchOptions(TypedDict, total=False):
    """The less common arguments of a search, by keyword."""

    offset: int
    """Hits (with `group_by`: groups) to skip. Each page ranks all before it again."""
    score_threshold: float | None
    """The least score of a hit, on the mode's own scale."""
    group_by: str | None
    """A payload field: only the best `group_size` hits for each of its values; `limit` counts the
    values. Hits come group by group, and say theirs in `Hit.group`."""
    group_size: int
    """Hits a group, 1 by default."""
    diversity: float | None
    """From 0 to 1: maximal marginal relevance over the first `candidates` of the ranking."""
    with_vectors: bool | Sequence[str]
    """Stored vectors to give out in `Hit.vectors`: all, or those named."""
    exact: bool
    """Compare the dense query with every document, without the index and without quantization."""
    ef: int | None
    """How many neighbours the HNSW search keeps in sight: more finds better and takes longer."""
    oversampling: float | None
    """On quantized vectors: how many times the limit is taken before the originals rank again."""
    components: bool
    """Ask for each hit's three exact scores, `Hit.scores`: one more request. True by default."""


@dataclass(frozen=True)
class Search:
    """What is asked beside the query, checked when it is made: the arguments of `M3Store.search`.

    Raises:
        InputError: names the argument and what is allowed.
    """

    mode: str = "weighted"
    limit: int = 10
    candidates: int = 100
    weights: Sequence[float] = DEFAULT_WEIGHTS
    filter: models.Filter | Mapping[str, Any] | None = None
    offset: int = 0
    score_threshold: float | None = None
    group_by: str | None = None
    group_size: int = 1
    diversity: float | None = None
    with_vectors: bool | Sequence[str] = False
    exact: bool = False
    ef: int | None = None
    oversampling: float | None = None
    components: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"unknown mode {self.mode!r}; the modes are {', '.join(MODES)}")
        for name, least in (("limit", 1), ("candidates", 1), ("offset", 0), ("group_size", 1)):
            _check_whole(name, getattr(self, name), least)
        if self.ef is not None:
            _check_whole("ef", self.ef, 1)
        for name, least_number, most in (
            ("score_threshold", -math.inf, math.inf),
            ("diversity", 0, 1),
            ("oversampling", 1, math.inf),
        ):
            _check_number(name, getattr(self, name), least_number, most)
        object.__setattr__(self, "weights", check_weights(self.weights))
        object.__setattr__(self, "filter", as_filter(self.filter))  # refuses what is none
        if isinstance(self.with_vectors, str) or not isinstance(
            self.with_vectors, bool | Sequence
        ):
            raise InputError(
                f"with_vectors is {self.with_vectors!r}: give True or a list of names"
            )
        if not isinstance(self.with_vectors, bool):
            unknown = set(self.with_vectors) - {DENSE, SPARSE, COLBERT}
            if unknown:
                raise InputError(
                    f"with_vectors names {sorted(map(str, unknown))}: "
                    f"there are {DENSE}, {SPARSE} and {COLBERT}"
                )
        if self.group_by is not None and (not isinstance(self.group_by, str) or not self.group_by):
            raise InputError(f"group_by is {self.group_by!r}: give the key of a payload field")
        if self.group_by is not None and self.diversity is not None:
            raise InputError("group_by and diversity can't be combined: choose one")
        if self.group_by is None and self.group_size != 1:
            raise InputError("group_size needs group_by, the payload field to group by")

    @property
    def condition(self) -> models.Filter | None:
        """The filter, as Qdrant takes it."""
        return as_filter(self.filter)

    @property
    def depth(self) -> int:
        """How many hits, or groups, have to be ranked: those before the page, and the page."""
        depth = self.offset + self.limit
        return max(depth, self.candidates) if self.diversity is not None else depth

    @property
    def paged_here(self) -> bool:
        """Whether the page is cut on our side: from groups, or from a diversified ranking."""
        return self.group_by is not None or self.diversity is not None

    @property
    def wanted_vectors(self) -> bool | list[str]:
        """The vectors to fetch: those asked for, and the dense ones where hits are diversified."""
        if isinstance(self.with_vectors, bool):
            return self.with_vectors or ([DENSE] if self.diversity is not None else False)
        return [*self.with_vectors, *([DENSE] if self.diversity is not None else [])]

    def vectors_of(self, point: models.ScoredPoint) -> dict[str, Any] | None:
        """The vectors that were asked for, of a point that may hold more."""
        if not self.with_vectors or not isinstance(point.vector, dict):
            return None
        names = point.vector if self.with_vectors is True else self.with_vectors
        return {name: point.vector[name] for name in names if name in point.vector}


def _check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number from {least}, not {value!r}")


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        bounds = f"from {least:g}" if math.isfinite(least) else "that is finite"
        bounds += f" to {most:g}" if math.isfinite(most) else ""
        raise InputError(f"{name} must be a number {bounds}, not {value!r}")


def one_query(query: Any) -> Any:
    """A single query in the form of several.

    Raises:
        InputError: embeddings of more or fewer than one text.
    """
    if not isinstance(query, M3Embeddings):
        return [query]
    if len(query) != 1:
        raise InputError(
            f"a query is one text, but these are embeddings of {len(query)}: use search_batch"
        )
    return query


def check_queries(queries: Any) -> list[str] | M3Embeddings:
    """Queries as they can be encoded, or as they are encoded already.

    Raises:
        InputError: names the query that is none.
    """
    if isinstance(queries, M3Embeddings):
        return queries
    if isinstance(queries, str) or not isinstance(queries, Iterable):
        raise InputError(f"queries are texts or their embeddings, not {type(queries).__name__}")
    texts = list(queries)
    for i, text in enumerate(texts):
        which = "the query" if len(texts) == 1 else f"query #{i}"
        if not isinstance(text, str):
            raise InputError(f"{which} is a text or its embeddings, not {type(text).__name__}")
        if not text.strip():
            raise InputError(f"{which} is empty")
    return texts


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
        for _, name, reason in convert.check(embeddings, layout, any_length=True):
            raise InputError(f"query: {name}: {reason}")
        colbert = embeddings.colbert
        assert colbert is not None  # checked above
        tokens = len(colbert.vectors)
        if tokens > layout.max_tokens:
            pooled = pool_query(colbert.vectors.float().cpu(), layout.max_tokens)
            embeddings = convert.with_colbert(embeddings, pooled)
        named = next(convert.vectors(embeddings, layout))
        return cls(named[DENSE], named[SPARSE], named[COLBERT], tokens, layout)

    def vector(self, name: str) -> Any:
        """The query for a named vector, or None where it would find nothing."""
        if name == SPARSE:
            return self.sparse if self.sparse.indices else None
        return self.dense if name == DENSE else self.colbert

    def present(self) -> list[str]:
        """The names of the vectors that can find something."""
        return [name for name in (DENSE, SPARSE, COLBERT) if self.vector(name) is not None]


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


DEFAULT_OVERSAMPLING = 2.0
COLBERT_OVERSAMPLING = 4.0
"""How many times the limit is taken by quantized vectors, before the originals rank again."""


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


def group_arguments(request: models.QueryRequest, search: Search) -> dict[str, Any]:
    """The arguments of `query_points_groups` that group what `request` ranks.

    Qdrant's groups have no offset: groups before the page are asked for too.
    """
    return {
        "group_by": search.group_by,
        "query": request.query,
        "using": request.using,
        "prefetch": request.prefetch,
        "query_filter": request.filter,
        "search_params": request.params,
        "limit": search.depth,
        "group_size": search.group_size,
        "with_payload": True,
        "with_vectors": request.with_vector,
        "score_threshold": request.score_threshold,
    }


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
    scores = {id: {DENSE: 0.0, SPARSE: 0.0, COLBERT: 0.0} for id in point_ids}
    for name, points in answers:
        divisor = query.tokens if name == COLBERT else 1
        for point in points:
            scores[point.id][name] = point.score / divisor
    return [scores[id] for id in point_ids]
