"""qdrant-client's models to the engine's types. Pure: nothing here touches a collection.

What the engine can't express raises `UnsupportedError` with what to use instead; what no engine
could take raises `InputError`. Models are told apart by their class's name, because the newer ones
don't exist in every version of qdrant-client that this package runs with.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.checks import (
    CheckedPoint,
    CheckedVector,
    Sparse,
    VectorSpecs,
    check_ids,
    check_query_vector,
)
from m3qdrant.edge.filters import as_filter
from m3qdrant.errors import InputError, UnsupportedError
from m3qdrant.limits import MAX_NESTING
from m3qdrant.scalars import check_json

__all__ = [
    "count",
    "hnsw_settings",
    "index_schema",
    "order_by",
    "payload_selector",
    "point",
    "point_vectors",
    "query_request",
    "shard_config",
    "to_filter",
    "update_mode",
    "vector_selector",
]

DEFAULT_LIMIT = 10
"""The server's own limit where a request or a prefetch names none."""

DEFAULT_RRF_K = 2
"""The server's own k of reciprocal rank fusion."""

_E = TypeVar("_E", bound=Enum)


# configuration


def shard_config(config: models.CreateCollection) -> edge.EdgeConfig:
    """The engine's configuration of a collection."""
    vectors: dict[str, edge.EdgeVectorParams] | edge.EdgeVectorParams | None = None
    if isinstance(config.vectors, models.VectorParams):
        vectors = _dense_params(config.vectors, config.hnsw_config)
    elif config.vectors:
        vectors = {n: _dense_params(p, config.hnsw_config) for n, p in config.vectors.items()}
    payload = getattr(config, "payload", None)
    id_tracker = getattr(config, "id_tracker", None)
    return edge.EdgeConfig(
        vectors=vectors,
        sparse_vectors={n: _sparse_params(p) for n, p in (config.sparse_vectors or {}).items()},
        on_disk_payload=config.on_disk_payload,
        hnsw_config=_hnsw(config.hnsw_config),
        quantization_config=_quantization(config.quantization_config),
        optimizers=_optimizers(config.optimizers_config),
        payload_memory=_memory(payload),
        id_tracker_memory=_memory(id_tracker),
    )


def _dense_params(
    params: models.VectorParams, shared: models.HnswConfigDiff | None
) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        size=params.size,
        distance=_member(edge.Distance, params.distance),
        on_disk=params.on_disk,
        multivector_config=None
        if params.multivector_config is None
        else edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
        datatype=_member(edge.VectorStorageDatatype, params.datatype),
        quantization_config=_quantization(params.quantization_config),
        hnsw_config=None if params.hnsw_config is None else _hnsw(params.hnsw_config, shared),
        memory=_memory(params),
    )


def _sparse_params(params: models.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    index = params.index
    modifier = None if params.modifier == models.Modifier.NONE else params.modifier
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.full_scan_threshold if index else None,
        on_disk=index.on_disk if index else None,
        modifier=_member(edge.Modifier, modifier),
        datatype=_member(edge.VectorStorageDatatype, index.datatype if index else None),
        memory=_memory(index),
    )


HNSW_DEFAULTS = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
"""The server's own, for what a configuration leaves open."""


def hnsw_settings(*diffs: models.HnswConfigDiff | None) -> dict[str, Any]:
    """The HNSW settings that several partial configurations add up to, the first one winning."""
    settings: dict[str, Any] = dict(HNSW_DEFAULTS)
    for diff in reversed(diffs):
        if diff is not None:
            settings.update(diff.model_dump(mode="json", exclude_none=True))
    return settings


def _hnsw(*diffs: models.HnswConfigDiff | None) -> edge.HnswIndexConfig | None:
    if all(diff is None for diff in diffs):
        return None
    settings = hnsw_settings(*diffs)
    memory = settings.pop("memory", None)
    return edge.HnswIndexConfig(**settings, memory=_member(edge.Memory, memory))


def _quantization(
    config: models.QuantizationConfig | None,
) -> (
    edge.ScalarQuantizationConfig
    | edge.ProductQuantizationConfig
    | edge.BinaryQuantizationConfig
    | edge.TurboQuantQuantizationConfig
    | None
):
    if config is None:
        return None
    inner: Any
    if isinstance(config, models.ScalarQuantization):
        inner = config.scalar
        return edge.ScalarQuantizationConfig(
            type=_member(edge.ScalarType, inner.type),
            quantile=inner.quantile,
            always_ram=inner.always_ram,
            memory=_memory(inner),
        )
    if isinstance(config, models.ProductQuantization):
        inner = config.product
        return edge.ProductQuantizationConfig(
            compression=_member(edge.CompressionRatio, inner.compression),
            always_ram=inner.always_ram,
            memory=_memory(inner),
        )
    if isinstance(config, models.BinaryQuantization):
        inner = config.binary
        return edge.BinaryQuantizationConfig(
            always_ram=inner.always_ram,
            encoding=_member(edge.BinaryQuantizationEncoding, inner.encoding),
            query_encoding=_member(edge.BinaryQuantizationQueryEncoding, inner.query_encoding),
            memory=_memory(inner),
        )
    inner = getattr(config, "turbo", None)
    if inner is None:
        raise UnsupportedError(f"the embedded engine has no {type(config).__name__}")
    return edge.TurboQuantQuantizationConfig(
        always_ram=inner.always_ram,
        bits=_member(edge.TurboQuantBitSize, inner.bits),
        memory=_memory(inner),
    )


def _optimizers(config: models.OptimizersConfigDiff | None) -> edge.EdgeOptimizersConfig | None:
    if config is None:
        return None
    return edge.EdgeOptimizersConfig(
        deleted_threshold=config.deleted_threshold,
        vacuum_min_vector_number=config.vacuum_min_vector_number,
        default_segment_number=config.default_segment_number,
        max_segment_size=config.max_segment_size,
        indexing_threshold=config.indexing_threshold,
        prevent_unoptimized=getattr(config, "prevent_unoptimized", None),
    )


def _memory(config: Any) -> edge.Memory | None:
    memory: edge.Memory | None = _member(edge.Memory, getattr(config, "memory", None))
    return memory


def _member(kind: type[_E], value: Any) -> Any:
    """The engine's member for one of qdrant-client's: `float16` and `Float16` are the same."""
    if value is None:
        return None
    wanted = _plain(value.value if isinstance(value, Enum) else value)
    for name in dir(kind):
        if _plain(name) == wanted:
            return getattr(kind, name)
    raise UnsupportedError(f"the embedded engine has no {kind.__name__} {value!r}")


def _plain(name: Any) -> str:
    return str(name).replace("_", "").replace("-", "").lower()


# points


def point(checked: CheckedPoint) -> edge.Point:
    """A checked point. The engine reads its arrays in place, row by row."""
    return edge.Point(checked.id, _vectors(checked), checked.payload)


def point_vectors(checked: CheckedPoint) -> edge.PointVectors:
    """A checked point's vectors alone."""
    return edge.PointVectors(checked.id, _vectors(checked))


def _vectors(checked: CheckedPoint) -> Any:
    vectors = {name: vector(v) for name, v in checked.vectors.items()}
    # an unnamed vector goes by itself, unless it has company
    return vectors[""] if len(vectors) == 1 and "" in vectors else vectors


def update_mode(mode: Any) -> edge.UpdateMode | None:
    """Upsert, or only insert, or only update."""
    return _member(edge.UpdateMode, mode)  # type: ignore[no-any-return]


def vector(checked: CheckedVector) -> Any:
    """A checked vector, in the form that the engine reads fastest."""
    if isinstance(checked, Sparse):
        indices: Any = checked.indices.data
        values: Any = checked.values.data
        return edge.SparseVector(indices, values)
    if checked.ndim == 1:
        return checked.data
    # A (tokens, size) array as one flat buffer, cut into rows: half the time of `tolist`, and
    # less than that of the array itself, whose every number the bindings fetch by index.
    rows, stride = checked.reshape(-1).data.cast("B"), checked.shape[1] * checked.itemsize
    return [rows[i : i + stride].cast("f") for i in range(0, len(rows), stride)]


# filters


def to_filter(filter: Any) -> edge.Filter | None:
    """A filter, with all that is nested in it."""
    return None if filter is None else _filter(filter, 0)


def _filter(filter: Any, depth: int) -> edge.Filter:
    filter = as_filter(filter)
    if depth > MAX_NESTING // 4:
        raise InputError(f"the filter nests deeper than {MAX_NESTING // 4} levels: flatten it")
    least = filter.min_should
    return edge.Filter(
        must=_conditions(filter.must, depth),
        should=_conditions(filter.should, depth),
        must_not=_conditions(filter.must_not, depth),
        min_should=None
        if least is None
        else edge.MinShould(_conditions(least.conditions, depth) or [], least.min_count),
    )


def _conditions(conditions: Any, depth: int) -> list[Any] | None:
    if conditions is None:
        return None
    each = conditions if isinstance(conditions, (list, tuple)) else [conditions]
    return [_condition(c, depth) for c in each]


def _condition(condition: Any, depth: int = 0) -> Any:
    if isinstance(condition, models.Filter):
        return _filter(condition, depth + 1)
    if isinstance(condition, models.FieldCondition):
        return _field_condition(condition)
    if isinstance(condition, models.HasIdCondition):
        return edge.HasIdCondition({_uuid(id) for id in check_ids(condition.has_id)})
    if isinstance(condition, models.IsEmptyCondition):
        return edge.IsEmptyCondition(condition.is_empty.key)
    if isinstance(condition, models.IsNullCondition):
        return edge.IsNullCondition(condition.is_null.key)
    if isinstance(condition, models.HasVectorCondition):
        return edge.HasVectorCondition(condition.has_vector)
    if isinstance(condition, models.NestedCondition):
        nested = condition.nested
        return edge.NestedCondition(nested.key, _filter(nested.filter, depth + 1))
    if type(condition).__name__ == "SliceCondition":
        return edge.SliceCondition(  # type: ignore[attr-defined]
            total=condition.slice.total, index=condition.slice.index
        )
    raise UnsupportedError(
        f"the embedded engine has no condition {type(condition).__name__}: rewrite the filter, "
        "or use a Qdrant server"
    )


def _uuid(id: int | str) -> int | uuid.UUID:
    return uuid.UUID(id) if isinstance(id, str) else id


def _field_condition(c: models.FieldCondition) -> edge.FieldCondition:
    parts = (
        c.match,
        c.range,
        c.geo_bounding_box,
        c.geo_radius,
        c.geo_polygon,
        c.values_count,
        c.is_empty,
        c.is_null,
    )
    if all(part is None for part in parts):
        raise InputError(f"the condition on {c.key!r} says nothing: give it a match or a range")
    box, circle, polygon, values = c.geo_bounding_box, c.geo_radius, c.geo_polygon, c.values_count
    return edge.FieldCondition(
        c.key,
        match=None if c.match is None else _match(c.match),
        range=None if c.range is None else _range(c.range),
        geo_bounding_box=None
        if box is None
        else edge.GeoBoundingBox(_geo(box.top_left), _geo(box.bottom_right)),
        geo_radius=None
        if circle is None
        else edge.GeoRadius(_geo(circle.center), float(circle.radius)),
        geo_polygon=None
        if polygon is None
        else edge.GeoPolygon(
            _ring(polygon.exterior),
            None if polygon.interiors is None else [_ring(r) for r in polygon.interiors],
        ),
        values_count=None
        if values is None
        else edge.ValuesCount(lt=values.lt, gt=values.gt, lte=values.lte, gte=values.gte),
        is_empty=c.is_empty,
        is_null=c.is_null,
    )


class _Truth:
    """A boolean that is no integer.

    The bindings try integers before booleans and take True for 1, which then matches nothing. They
    also take numpy's booleans, which they know by name; but older ones of these are integers, too.
    """

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Truth.__module__, _Truth.__name__ = "numpy", "bool_"


def _match(match: Any) -> Any:
    name = type(match).__name__
    if name == "MatchExcept":
        return edge.MatchExcept(_values(match.except_))
    if name == "MatchAny":
        return edge.MatchAny(_values(match.any))
    field = {
        "MatchValue": "value",
        "MatchText": "text",
        "MatchTextAny": "text_any",
        "MatchPhrase": "phrase",
        "MatchPrefix": "prefix",
        "MatchSubstring": "substring",
    }.get(name)
    if field is None:
        raise UnsupportedError(f"the embedded engine has no {name}: use MatchValue or MatchText")
    value = getattr(match, field)
    if isinstance(value, bool):
        value = _Truth(value)
    return getattr(edge, name)(value)


def _values(values: Sequence[Any]) -> list[Any]:
    each = list(values)
    if any(isinstance(v, str) for v in each) and not all(isinstance(v, str) for v in each):
        raise InputError("a match of any or except takes strings or integers, not both")
    return each


def _range(range: Any) -> edge.RangeFloat | edge.RangeDateTime:
    bounds = {k: getattr(range, k) for k in ("gte", "gt", "lte", "lt")}
    if isinstance(range, models.DatetimeRange):
        return edge.RangeDateTime(**{k: _datetime(v) for k, v in bounds.items() if v is not None})
    for bound in bounds.values():
        if bound is not None and not np.isfinite(bound):
            raise InputError(f"a range can't end at {bound}: leave the bound out")
    return edge.RangeFloat(**bounds)


def _datetime(value: str | datetime | date) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.isoformat() + "Z"  # as the server reads a time without a zone
    return value.isoformat() + ("" if isinstance(value, datetime) else "T00:00:00Z")


def _geo(at: models.GeoPoint) -> edge.GeoPoint:
    return edge.GeoPoint(float(at.lon), float(at.lat))


def _ring(ring: models.GeoLineString) -> list[edge.GeoPoint]:
    return [_geo(p) for p in ring.points]


# queries


def query_request(request: models.QueryRequest, layout: VectorSpecs) -> edge.QueryRequest:
    """A request with its prefetches, each query vector checked as stored vectors are.

    It holds vectors only, no point ids: `examples.resolve` has seen to them.
    """
    limit = DEFAULT_LIMIT if request.limit is None else request.limit
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


def _prefetches(prefetch: Any, layout: VectorSpecs) -> list[edge.Prefetch]:
    if prefetch is None:
        return []
    each = prefetch if isinstance(prefetch, (list, tuple)) else [prefetch]
    return [_prefetch(p, layout) for p in each]


def _prefetch(p: models.Prefetch, layout: VectorSpecs) -> edge.Prefetch:
    limit = DEFAULT_LIMIT if p.limit is None else p.limit
    return edge.Prefetch(
        limit=count("a prefetch's limit", limit, least=1),
        query=_query(p.query, p.using, layout, limit, p.prefetch),
        prefetches=_prefetches(p.prefetch, layout),
        params=_params(p.params),
        filter=to_filter(p.filter),
        score_threshold=p.score_threshold,
    )


def count(what: str, value: Any, least: int) -> int:
    """A whole number of at least `least`, such as a limit."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise InputError(f"{what} is {value!r}: pass an integer of at least {least}")
    return int(value)


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
    if name in _UNSUPPORTED_QUERIES:
        raise UnsupportedError(
            f"the embedded engine's interface has no {name} yet: {_UNSUPPORTED_QUERIES[name]}"
        )
    if name in _BY_EXAMPLES:
        return _BY_EXAMPLES[name](query, using, layout)
    mmr = None
    if isinstance(query, models.NearestQuery):
        mmr, query = getattr(query, "mmr", None), query.nearest
    checked = check_query_vector(query, using, layout)
    if mmr is None:
        return edge.Query.Nearest(vector(checked), using=using or None)
    diversity = 0.5 if mmr.diversity is None else mmr.diversity
    return edge.Mmr(
        vector(checked),
        lambda_=1.0 - diversity,
        candidates_limit=mmr.candidates_limit or limit,
        using=using or None,
    )


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

_UNSUPPORTED_QUERIES = {"TextQuery": "search with a sparse vector"}


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


def _formula(query: models.FormulaQuery, prefetch: Any) -> edge.Formula:
    defaults = check_json(query.defaults or {}, "the formula's defaults")
    return edge.Formula(_expression(query.formula, 0), defaults)


_FUSIONS: dict[str, Callable[[Any, Any], Any]] = {
    "FusionQuery": _fusion,
    "RrfQuery": _rrf,
    "FormulaQuery": _formula,
}


def _expression(e: Any, depth: int) -> edge.Expression:
    if depth > MAX_NESTING:
        raise InputError(f"the formula nests deeper than {MAX_NESTING} levels: simplify it")
    if isinstance(e, (int, float, np.number)) and not isinstance(e, bool):
        if not np.isfinite(e):
            raise InputError(f"the formula holds {e}: every constant must be finite")
        return edge.Expression.Constant(float(e))
    if isinstance(e, str):
        return edge.Expression.Variable(e)

    def sub(inner: Any) -> edge.Expression:
        return _expression(inner, depth + 1)

    name = type(e).__name__
    if name in ("SumExpression", "MultExpression", "MaxExpression", "MinExpression"):
        kind = name.removesuffix("Expression")
        parts = getattr(e, kind.lower())
        build: Any = getattr(edge.Expression, kind)
        return build([sub(p) for p in parts])  # type: ignore[no-any-return]
    if name in _UNARY:
        build = getattr(edge.Expression, name.removesuffix("Expression"))
        return build(sub(getattr(e, _UNARY[name])))  # type: ignore[no-any-return]
    if isinstance(e, models.DivExpression):
        return edge.Expression.Div(sub(e.div.left), sub(e.div.right), e.div.by_zero_default)
    if isinstance(e, models.PowExpression):
        return edge.Expression.Pow(sub(e.pow.base), sub(e.pow.exponent))
    if isinstance(e, models.GeoDistance):
        return edge.Expression.GeoDistance(_geo(e.geo_distance.origin), e.geo_distance.to)
    if isinstance(e, models.DatetimeExpression):
        return edge.Expression.Datetime(e.datetime)
    if isinstance(e, models.DatetimeKeyExpression):
        return edge.Expression.DatetimeKey(e.datetime_key)
    if name in _DECAYS:
        field, decay_kind = _DECAYS[name]
        decay = getattr(e, field)
        return edge.Expression.Decay(
            decay_kind,
            sub(decay.x),
            target=None if decay.target is None else sub(decay.target),
            midpoint=decay.midpoint,
            scale=decay.scale,
        )
    return edge.Expression.Condition(_condition(e))


_UNARY = {
    "NegExpression": "neg",
    "AbsExpression": "abs",
    "SqrtExpression": "sqrt",
    "ExpExpression": "exp",
    "Log10Expression": "log10",
    "LnExpression": "ln",
    "AcoshExpression": "acosh",
}

_DECAYS = {
    "LinDecayExpression": ("lin_decay", edge.DecayKind.Lin),
    "ExpDecayExpression": ("exp_decay", edge.DecayKind.Exp),
    "GaussDecayExpression": ("gauss_decay", edge.DecayKind.Gauss),
}


def order_by(order: Any) -> edge.OrderBy:
    """An ordering: a field's name, or `models.OrderBy`."""
    if isinstance(order, str):
        return edge.OrderBy(order)
    start = order.start_from
    if isinstance(start, (datetime, date)):
        start = _datetime(start)
    direction = _member(edge.Direction, order.direction)
    return edge.OrderBy(order.key, direction=direction, start_from=start)


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


# what comes back


def payload_selector(with_payload: Any) -> Any:
    """True, False, a list of fields, or models.PayloadSelectorInclude / Exclude."""
    if with_payload is None or isinstance(with_payload, bool):
        return bool(with_payload)
    if isinstance(with_payload, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(list(with_payload.include))
    if isinstance(with_payload, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(list(with_payload.exclude))
    if isinstance(with_payload, Iterable) and not isinstance(with_payload, str):
        return list(with_payload)
    raise InputError(f"with_payload={with_payload!r}: pass True, False or a list of fields")


def vector_selector(with_vectors: Any, layout: VectorSpecs) -> bool | list[str]:
    """True, False, or a list of vector names, each of which must exist."""
    if with_vectors is None or isinstance(with_vectors, bool):
        return bool(with_vectors)
    if isinstance(with_vectors, str) or not isinstance(with_vectors, Iterable):
        raise InputError(f"with_vectors={with_vectors!r}: pass True, False or a list of names")
    names = list(with_vectors)
    for name in names:
        if name not in layout:
            known = ", ".join(repr(n) for n in layout if n) or "only the unnamed vector"
            raise InputError(f"with_vectors names {name!r}, and the collection has {known}")
    return names


# payload indexes


def index_schema(schema: Any) -> Any:
    """A payload index: a type such as "keyword", or parameters such as models.TextIndexParams."""
    if isinstance(schema, str):  # the enum's members are strings as well
        return _member(edge.PayloadSchemaType, schema)
    name = type(schema).__name__
    kind = getattr(edge, name, None)
    if kind is None or not name.endswith("IndexParams"):
        raise InputError(f"{schema!r} is no index schema: pass models.PayloadSchemaType or params")
    settings = {
        field: _index_setting(field, value)
        for field in type(schema).model_fields
        if field != "type" and (value := getattr(schema, field)) is not None
    }
    return kind(**settings)


def _index_setting(field: str, value: Any) -> Any:
    if field == "tokenizer":
        return _member(edge.TokenizerType, value)
    if field == "memory":
        return _member(edge.Memory, value)
    if field == "stopwords":
        if isinstance(value, models.StopwordsSet):
            return edge.StopwordsSet(
                languages={_member(edge.Language, v) for v in value.languages or []},
                custom=set(value.custom or []),
            )
        return _member(edge.Language, value)
    if field == "stemmer":
        if hasattr(value, "language"):
            return edge.SnowballParams(_member(edge.SnowballLanguage, value.language))
        return edge.DisabledStemmer()
    if field == "scoring" and not isinstance(value, bool):
        return edge.TextScoringParams(_member(edge.TextScoringType, value.type))
    return value
