"""Requests with their prefetches, as the engine takes them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.translate.check_vectors import check_query_vector
from m3qdrant.edge.translate.filters import to_filter
from m3qdrant.edge.translate.formulas import formula
from m3qdrant.edge.translate.points import vector
from m3qdrant.edge.translate.selectors import count, order_by, payload_selector, vector_selector
from m3qdrant.edge.translate.vector_specs import VectorSpecs
from m3qdrant.errors import InputError, UnsupportedError

__all__ = ["is_similarity", "postprocessed", "query_request", "span"]

DEFAULT_LIMIT = 10
"""The server's own limit where a request or a prefetch names none."""

DEFAULT_RRF_K = 2
"""The server's own k of reciprocal rank fusion."""


def query_request(request: models.QueryRequest, layout: VectorSpecs) -> edge.QueryRequest:
    """A request with its prefetches, each query vector checked as stored vectors are.

    It holds vectors only, no point ids: `examples.resolve` has seen to them.
    """
    limit = DEFAULT_LIMIT if request.limit is None else request.limit
    if request.query is None and request.prefetch:
        raise InputError("prefetches without a query: pass query=, which ranks what they find")
    _check_threshold(request.score_threshold)
    return edge.QueryRequest(
        limit=count("limit", limit, least=1),
        offset=count("offset", request.offset or 0, least=0),
        query=_query(request.query, request.using, layout, limit, request.prefetch),
        prefetches=_prefetches(request.prefetch, layout),
        with_vector=vector_selector(request.with_vector, layout),
        with_payload=payload_selector(request.with_payload),
        filter=to_filter(request.filter),
        score_threshold=request.score_threshold,
        params=_params(request.params),
    )


def span(request: models.QueryRequest) -> tuple[int, int]:
    """Where a request's page begins in its ranking, and where it ends.

    Raises:
        InputError: its limit or its offset is no number of points.
    """
    start = count("offset", request.offset or 0, least=0)
    limit = DEFAULT_LIMIT if request.limit is None else request.limit
    return start, start + count("limit", limit, least=1)


def is_similarity(request: models.QueryRequest, layout: VectorSpecs) -> bool:
    """Whether a vector ranks the points, and more is better: no distance, fusion or field."""
    name = type(request.query).__name__
    if name in _FUSIONS or name in ("OrderByQuery", "TextQuery"):
        return False
    spec = layout.get(request.using or "")
    return name in _BY_EXAMPLES or spec is None or not spec.distance


Finish = Callable[["list[models.ScoredPoint]"], "list[models.ScoredPoint]"]


def postprocessed(request: models.QueryRequest) -> tuple[models.QueryRequest, Finish]:
    """What to ask the engine for, and what of its answer is left to do.

    A server does it after its shards have answered: skips the offset of MMR, and takes away the
    vectors that MMR compared. A random sample's offset counts for nothing.
    """
    # checked here, since it isn't what the engine is asked for
    offset = count("offset", request.offset or 0, least=0)
    if isinstance(request.query, models.SampleQuery):
        return request.model_copy(update={"offset": 0}), lambda points: points
    if not isinstance(request.query, models.NearestQuery) or request.query.mmr is None:
        return request, lambda points: points
    limit = count("limit", DEFAULT_LIMIT if request.limit is None else request.limit, least=1)
    wanted = request.with_vector

    def finish(points: list[models.ScoredPoint]) -> list[models.ScoredPoint]:
        page = points[offset:]
        if not wanted:
            for point in page:
                point.vector = None
        elif isinstance(wanted, list | tuple):
            for point in page:
                if isinstance(point.vector, dict):
                    point.vector = {k: v for k, v in point.vector.items() if k in wanted}
        return page

    return request.model_copy(update={"limit": limit + offset, "offset": 0}), finish


def _prefetches(prefetch: Any, layout: VectorSpecs) -> list[edge.Prefetch]:
    if prefetch is None:
        return []
    each = prefetch if isinstance(prefetch, (list, tuple)) else [prefetch]
    return [_prefetch(p, layout) for p in each]


def _prefetch(p: models.Prefetch, layout: VectorSpecs) -> edge.Prefetch:
    limit = DEFAULT_LIMIT if p.limit is None else p.limit
    if p.query is None and p.prefetch:
        raise InputError("a prefetch with prefetches needs a query, which ranks what they find")
    _check_threshold(p.score_threshold)
    return edge.Prefetch(
        limit=count("a prefetch's limit", limit, least=1),
        query=_query(p.query, p.using, layout, limit, p.prefetch),
        prefetches=_prefetches(p.prefetch, layout),
        params=_params(p.params),
        filter=to_filter(p.filter),
        score_threshold=p.score_threshold,
    )


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not np.isfinite(threshold):
        raise InputError(f"score_threshold is {threshold}: pass a finite number, or None")


def _query(query: Any, using: str | None, layout: VectorSpecs, limit: int, prefetch: Any) -> Any:
    if query is None:
        return None
    name = type(query).__name__
    fused = _FUSIONS.get(name)
    if fused is not None:
        if not prefetch:
            raise InputError(f"a {name} ranks what prefetches found: pass prefetch=")
        return fused(query, prefetch)
    if name == "OrderByQuery":
        return order_by(query.order_by)
    if name == "SampleQuery":
        return edge.Sample.Random
    if name == "TextQuery":
        return _text(query, using)
    if name in _BY_EXAMPLES:
        return _BY_EXAMPLES[name](query, using, layout)
    mmr = None
    if isinstance(query, models.NearestQuery):
        mmr, query = getattr(query, "mmr", None), query.nearest
    checked = check_query_vector(query, using, layout)
    if mmr is None:
        return edge.Query.Nearest(vector(checked), using=using or None)
    spec = layout.get(using or "")
    if spec is not None and spec.kind == "sparse":
        raise UnsupportedError(
            "the embedded engine has no MMR over sparse vectors: use a dense vector or a "
            "multivector, or no mmr"
        )
    diversity = 0.5 if mmr.diversity is None else mmr.diversity
    if not 0 <= diversity <= 1:
        raise InputError(f"mmr's diversity is {diversity}: pass a number from 0 to 1")
    candidates = limit if mmr.candidates_limit is None else mmr.candidates_limit
    return edge.Mmr(
        vector(checked),
        lambda_=1.0 - diversity,
        candidates_limit=count("mmr's candidates_limit", candidates, least=1),
        using=using or None,
    )


def _text(query: Any, using: str | None) -> Any:
    """BM25 over a text index; `using` names the payload field."""
    if not using:
        raise InputError("a TextQuery needs using=, the payload field whose text index scores")
    asked = query.text
    if isinstance(asked, str):
        return edge.TextQuery(using, asked)
    bm25 = None if asked.scoring is None else asked.scoring.bm25
    if bm25 is not None:
        if bm25.k is not None and not (np.isfinite(bm25.k) and bm25.k >= 0):
            raise InputError(f"BM25's k is {bm25.k}: pass a number of at least 0")
        if bm25.b is not None and not 0 <= bm25.b <= 1:
            raise InputError(f"BM25's b is {bm25.b}: pass a number from 0 to 1")
    scoring = None if bm25 is None else edge.Bm25Params(bm25.k, bm25.b)
    return edge.TextQuery(using, asked.query, scoring)


def _recommend(query: models.RecommendQuery, using: str | None, layout: VectorSpecs) -> edge.Query:
    examples = edge.RecommendQuery(
        [_example(v, using, layout) for v in query.recommend.positive or []],
        [_example(v, using, layout) for v in query.recommend.negative or []],
    )
    if query.recommend.strategy == models.RecommendStrategy.BEST_SCORE:
        return edge.Query.RecommendBestScore(examples, using=using or None)
    if query.recommend.strategy == models.RecommendStrategy.SUM_SCORES:
        return edge.Query.RecommendSumScores(examples, using=using or None)
    raise UnsupportedError(
        f"the embedded engine can't recommend by {query.recommend.strategy!r}: use "
        "average_vector, best_score or sum_scores"
    )


def _discover(query: models.DiscoverQuery, using: str | None, layout: VectorSpecs) -> edge.Query:
    target = _example(query.discover.target, using, layout)
    pairs = _pairs(query.discover.context, using, layout)
    return edge.Query.Discover(edge.DiscoverQuery(target, pairs), using=using or None)


def _context(query: models.ContextQuery, using: str | None, layout: VectorSpecs) -> edge.Query:
    pairs = _pairs(query.context, using, layout)
    if not pairs:
        raise InputError("a context without pairs says nothing: pass at least one")
    return edge.Query.Context(edge.ContextQuery(pairs), using=using or None)


def _feedback(query: Any, using: str | None, layout: VectorSpecs) -> edge.Query:
    content = query.relevance_feedback
    for item in content.feedback:
        if not np.isfinite(item.score):
            raise InputError(f"a feedback's score is {item.score}: it must be finite")
    weights = getattr(content.strategy, "naive", None)
    if weights is None:
        raise UnsupportedError(
            f"the embedded engine has no {type(content.strategy).__name__}: "
            "use models.NaiveFeedbackStrategy"
        )
    if not np.isfinite([weights.a, weights.b, weights.c]).all():
        raise InputError(f"the weights of the feedback, {weights}, must be finite")
    return edge.Query.FeedbackNaive(
        edge.FeedbackNaiveQuery(
            _example(content.target, using, layout),
            [
                edge.FeedbackItem(_example(item.example, using, layout), float(item.score))
                for item in content.feedback
            ],
            edge.NaiveFeedbackStrategy(weights.a, weights.b, weights.c),
        ),
        using=using or None,
    )


def _pairs(context: Any, using: str | None, layout: VectorSpecs) -> list[edge.ContextPair]:
    return [
        edge.ContextPair(
            _example(pair.positive, using, layout), _example(pair.negative, using, layout)
        )
        for pair in context
    ]


def _example(example: Any, using: str | None, layout: VectorSpecs) -> Any:
    return vector(check_query_vector(example, using, layout))


_BY_EXAMPLES: dict[str, Callable[[Any, str | None, VectorSpecs], edge.Query]] = {
    "RecommendQuery": _recommend,
    "DiscoverQuery": _discover,
    "ContextQuery": _context,
    "RelevanceFeedbackQuery": _feedback,
}


def _fusion(query: models.FusionQuery, prefetch: Any) -> Any:
    if query.fusion == models.Fusion.RRF:
        return edge.Fusion.Rrf(k=DEFAULT_RRF_K)
    if query.fusion == models.Fusion.DBSF:
        return edge.Fusion.Dbsf()
    raise UnsupportedError(f"the embedded engine has no fusion {query.fusion!r}: use rrf or dbsf")


def _rrf(query: Any, prefetch: Any) -> Any:
    k, weights = query.rrf.k, getattr(query.rrf, "weights", None)
    if weights is not None:
        legs = len(prefetch) if isinstance(prefetch, (list, tuple)) else 1
        if len(weights) != legs:
            raise InputError(f"{len(weights)} weights for {legs} prefetches: pass one for each")
        if not all(np.isfinite(w) and w >= 0 for w in weights):
            raise InputError(f"the weights {weights} must be finite and not negative")
        weights = [float(w) for w in weights]
    k = DEFAULT_RRF_K if k is None else k
    return edge.Fusion.Rrf(k=count("k of RRF", k, least=1), weights=weights)


_FUSIONS: dict[str, Callable[[Any, Any], Any]] = {
    "FusionQuery": _fusion,
    "RrfQuery": _rrf,
    "FormulaQuery": lambda query, _: formula(query),
}


def _params(params: Any) -> edge.SearchParams | None:
    if params is None:
        return None
    if isinstance(params, Mapping):
        params = models.SearchParams(**params)
    q, acorn, idf = (
        params.quantization,
        getattr(params, "acorn", None),
        getattr(params, "idf", None),
    )
    if q is not None and q.oversampling is not None and not q.oversampling >= 1:
        raise InputError(f"oversampling is {q.oversampling}: pass a number of at least 1")
    if params.hnsw_ef is not None:
        count("hnsw_ef", params.hnsw_ef, least=0)
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef,
        exact=bool(params.exact),
        quantization=None
        if q is None
        else edge.QuantizationSearchParams(
            ignore=bool(q.ignore), rescore=q.rescore, oversampling=q.oversampling
        ),
        indexed_only=bool(params.indexed_only),
        acorn=None
        if acorn is None
        else edge.AcornSearchParams(
            enable=bool(acorn.enable), max_selectivity=acorn.max_selectivity
        ),
        idf=None if idf is None else edge.IdfParams(to_filter(getattr(idf, "corpus", None))),
    )
