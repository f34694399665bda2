"""Points, filters and queries of every kind, and how the answers of two engines compare."""

from __future__ import annotations

import uuid
from datetime import date, datetime, timezone
from typing import Any

import numpy as np
from qdrant_client import models

N = 240
DIM, TOKEN_DIM, VOCABULARY = 24, 8, 60
NAME = "docs"

CONFIG: dict[str, Any] = {
    "vectors_config": {
        "dense": models.VectorParams(size=DIM, distance=models.Distance.COSINE),
        "plain": models.VectorParams(size=5, distance=models.Distance.EUCLID),
        "colbert": models.VectorParams(
            size=TOKEN_DIM,
            distance=models.Distance.COSINE,
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
            hnsw_config=models.HnswConfigDiff(m=0),
        ),
    },
    "sparse_vectors_config": {"sparse": models.SparseVectorParams()},
}


def sparse(rng: np.random.Generator) -> models.SparseVector:
    n = int(rng.integers(1, 9))
    indices = rng.choice(VOCABULARY, n, replace=False)
    return models.SparseVector(indices=indices.tolist(), values=rng.random(n).tolist())


def payload(i: int, rng: np.random.Generator) -> dict[str, Any]:
    out: dict[str, Any] = {
        "lang": ["en", "de", "ja"][i % 3],
        "n": i,
        "price": int(rng.integers(-96, 96))
        / 64,  # exact: the engine may read 0.1 back as 0.1 + 1 ulp
        "flag": i % 2 == 0,
        "tags": [f"t{k}" for k in rng.choice(6, int(rng.integers(0, 4)), replace=False)],
        "text": ["the quick brown fox", "a lazy dog", "quick dogs and foxes"][i % 3],
        "at": datetime(2024, 1 + i % 12, 1 + i % 28, i % 24, tzinfo=timezone.utc).isoformat(),
        "where": {k: int(rng.integers(-640, 640)) / 32 for k in ("lon", "lat")},
        "nested": [
            {"k": int(rng.integers(0, 5)), "ok": bool(rng.integers(0, 2))} for _ in range(2)
        ],
        "deep": {"er": {"x": i % 7}},
    }
    if i % 5 == 0:
        out["gone"] = None
    if i % 7 == 0:
        out["empty"] = []
    return out


def make_points() -> list[models.PointStruct]:
    rng = np.random.default_rng(7)
    points = []
    for i in range(N):
        vector: dict[str, Any] = {
            "dense": rng.normal(size=DIM).tolist(),
            "plain": rng.normal(size=5).tolist(),
            "colbert": rng.normal(size=(int(rng.integers(1, 7)), TOKEN_DIM)).tolist(),
        }
        if i % 4:  # a quarter has no sparse vector, and each seventh no multivector
            vector["sparse"] = sparse(rng)
        if i % 7 == 3:
            del vector["colbert"]
        id = i if i % 3 else str(uuid.UUID(int=i + 10**20))
        points.append(models.PointStruct(id=id, vector=vector, payload=payload(i, rng)))
    return points


POINTS = make_points()

RNG = np.random.default_rng(11)
DENSE = RNG.normal(size=DIM).tolist()
PLAIN = RNG.normal(size=5).tolist()
SPARSE = models.SparseVector(indices=[3, 9, 17, 25, 40, 41], values=[1.0, 0.5, 2.0, 0.1, 0.7, 0.3])
TOKENS = RNG.normal(size=(5, TOKEN_DIM)).tolist()


def field(key: str, **condition: Any) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=key, **condition)])


def match(key: str, value: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


EN, EVEN, LOW = match("lang", "en"), match("flag", True), field("n", range=models.Range(lt=90))

FILTERS: dict[str, models.Filter] = {
    "value-str": models.Filter(must=[EN]),
    "value-int": models.Filter(must=[match("n", 17)]),
    "value-bool": models.Filter(must=[EVEN]),
    "value-one-not-list": models.Filter(must=EN),
    "any-str": field("tags", match=models.MatchAny(any=["t1", "t4"])),
    "any-int": field("n", match=models.MatchAny(any=[1, 2, 3, 500])),
    "except": field("lang", match=models.MatchExcept(**{"except": ["en", "ja"]})),
    "text": field("text", match=models.MatchText(text="quick")),
    "range": field("price", range=models.Range(gte=-0.5, lt=0.9)),
    "range-gt-lte": field("n", range=models.Range(gt=10, lte=20)),
    "datetime": field(
        "at", range=models.DatetimeRange(gte=datetime(2024, 3, 1, tzinfo=timezone.utc))
    ),
    "datetime-naive": field("at", range=models.DatetimeRange(lt=datetime(2024, 6, 1, 5))),
    "datetime-date": field("at", range=models.DatetimeRange(lt=date(2024, 6, 1))),
    "deep-key": models.Filter(must=[match("deep.er.x", 3)]),
    "array-key": models.Filter(must=[match("nested[].k", 2)]),
    "has-id": models.Filter(must=[models.HasIdCondition(has_id=[1, 2, POINTS[3].id, 10**9])]),
    "has-id-empty": models.Filter(must=[models.HasIdCondition(has_id=[])]),
    "has-vector": models.Filter(must=[models.HasVectorCondition(has_vector="sparse")]),
    "is-empty": models.Filter(
        must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="tags"))]
    ),
    "is-null": models.Filter(
        must=[models.IsNullCondition(is_null=models.PayloadField(key="gone"))]
    ),
    "field-is-empty": field("tags", is_empty=True),
    "values-count": field("tags", values_count=models.ValuesCount(gte=2)),
    "values-count-lt": field("tags", values_count=models.ValuesCount(lt=2, gt=0)),
    "geo-box": field(
        "where",
        geo_bounding_box=models.GeoBoundingBox(
            top_left=models.GeoPoint(lon=-10, lat=10),
            bottom_right=models.GeoPoint(lon=10, lat=-10),
        ),
    ),
    "geo-radius": field(
        "where",
        geo_radius=models.GeoRadius(center=models.GeoPoint(lon=1, lat=2), radius=900_000.0),
    ),
    "geo-polygon": field(
        "where",
        geo_polygon=models.GeoPolygon(
            exterior=models.GeoLineString(
                points=[
                    models.GeoPoint(lon=-15, lat=-15),
                    models.GeoPoint(lon=15, lat=-15),
                    models.GeoPoint(lon=0, lat=15),
                    models.GeoPoint(lon=-15, lat=-15),
                ]
            )
        ),
    ),
    "nested": models.Filter(
        must=[
            models.NestedCondition(
                nested=models.Nested(
                    key="nested", filter=models.Filter(must=[match("k", 2), match("ok", True)])
                )
            )
        ]
    ),
    "should": models.Filter(should=[EN, match("n", 4)]),
    "must-not": models.Filter(must_not=[EN, EVEN]),
    "min-should": models.Filter(
        min_should=models.MinShould(conditions=[EN, EVEN, LOW], min_count=2)
    ),
    "filter-in-filter": models.Filter(
        must=[models.Filter(should=[EN, models.Filter(must_not=[EVEN])])], should=[LOW, EVEN]
    ),
    "all-clauses": models.Filter(
        must=[LOW],
        should=[EN, EVEN],
        must_not=[match("n", 4)],
        min_should=models.MinShould(conditions=[EN, EVEN], min_count=1),
    ),
    "nothing": field("no.such.key", match=models.MatchValue(value=1)),
}


def prefetches(limit: int = 25, **common: Any) -> list[models.Prefetch]:
    return [
        models.Prefetch(query=DENSE, using="dense", limit=limit, **common),
        models.Prefetch(query=SPARSE, using="sparse", limit=limit, **common),
    ]


def three(limit: int = 60) -> list[models.Prefetch]:
    """Each of the three views over the same candidates, as the exact weighted score needs them."""
    legs: list[tuple[Any, str]] = [(DENSE, "dense"), (SPARSE, "sparse"), (TOKENS, "colbert")]
    return [
        models.Prefetch(prefetch=prefetches(), query=query, using=using, limit=limit)
        for query, using in legs
    ]


def weighted(w1: float, w2: float, w3: float) -> models.FormulaQuery:
    terms: list[models.Expression] = [
        models.MultExpression(mult=[w1, "$score[0]"]),
        models.MultExpression(mult=[w2, "$score[1]"]),
        models.MultExpression(mult=[w3 / len(TOKENS), "$score[2]"]),
    ]
    return models.FormulaQuery(
        formula=models.SumExpression(sum=terms), defaults={f"$score[{i}]": 0.0 for i in range(3)}
    )


RRF, DBSF = models.Fusion.RRF, models.Fusion.DBSF
GEO_DISTANCE = models.GeoDistance(
    geo_distance=models.GeoDistanceParams(origin=models.GeoPoint(lon=0, lat=0), to="where")
)

QUERIES: dict[str, dict[str, Any]] = {
    "dense": {"query": DENSE, "using": "dense"},
    "dense-array": {"query": np.asarray(DENSE, dtype=np.float32), "using": "dense"},
    "dense-nearest": {"query": models.NearestQuery(nearest=DENSE), "using": "dense"},
    "euclid": {"query": PLAIN, "using": "plain"},
    "sparse": {"query": SPARSE, "using": "sparse"},
    "colbert": {"query": TOKENS, "using": "colbert"},
    "limit-1": {"query": DENSE, "using": "dense", "limit": 1},
    "limit-beyond": {"query": DENSE, "using": "dense", "limit": 1000},
    "offset": {"query": DENSE, "using": "dense", "offset": 7},
    "offset-beyond": {"query": DENSE, "using": "dense", "offset": 5000},
    "threshold": {"query": DENSE, "using": "dense", "score_threshold": 0.1, "limit": 100},
    "threshold-euclid": {"query": PLAIN, "using": "plain", "score_threshold": 2.5, "limit": 100},
    "threshold-sparse": {"query": SPARSE, "using": "sparse", "score_threshold": 0.9},
    "exact": {
        "query": DENSE,
        "using": "dense",
        "search_params": models.SearchParams(exact=True, hnsw_ef=64),
    },
    "rerank": {"query": TOKENS, "using": "colbert", "prefetch": prefetches()},
    "rerank-one": {"query": TOKENS, "using": "colbert", "prefetch": prefetches()[0]},
    "rerank-dense": {"query": DENSE, "using": "dense", "prefetch": prefetches()[1:]},
    "rerank-filtered": {
        "query": TOKENS,
        "using": "colbert",
        "prefetch": prefetches(filter=models.Filter(must=[EN])),
        "query_filter": models.Filter(must=[EVEN]),
    },
    "prefetch-threshold": {
        "query": TOKENS,
        "using": "colbert",
        "prefetch": prefetches(score_threshold=0.2),
    },
    "prefetch-default-limit": {
        "query": TOKENS,
        "using": "colbert",
        "prefetch": models.Prefetch(query=DENSE, using="dense"),
        "limit": 50,
    },
    "two-levels": {
        "query": DENSE,
        "using": "dense",
        "prefetch": models.Prefetch(
            prefetch=prefetches(40), query=TOKENS, using="colbert", limit=20
        ),
    },
    "rrf": {"query": models.FusionQuery(fusion=RRF), "prefetch": prefetches()},
    "rrf-three": {"query": models.FusionQuery(fusion=RRF), "prefetch": three()},
    "rrf-filtered": {
        "query": models.FusionQuery(fusion=RRF),
        "prefetch": prefetches(),
        "query_filter": models.Filter(must=[EN]),
    },
    "rrf-offset": {"query": models.FusionQuery(fusion=RRF), "prefetch": prefetches(), "offset": 4},
    "rrf-threshold": {
        "query": models.FusionQuery(fusion=RRF),
        "prefetch": prefetches(),
        "score_threshold": 0.2,
    },
    "rrf-k": {"query": models.RrfQuery(rrf=models.Rrf(k=61)), "prefetch": prefetches()},
    "rrf-weights": {
        "query": models.RrfQuery(rrf=models.Rrf(k=5, weights=[3.0, 1.0])),
        "prefetch": prefetches(),
    },
    "dbsf": {"query": models.FusionQuery(fusion=DBSF), "prefetch": prefetches()},
    "dbsf-three": {"query": models.FusionQuery(fusion=DBSF), "prefetch": three()},
    "weighted": {"query": weighted(0.4, 0.2, 0.4), "prefetch": three(), "limit": 60},
    "weighted-filtered": {
        "query": weighted(1.0, 0.3, 1.0),
        "prefetch": three(),
        "query_filter": models.Filter(must=[EVEN]),
    },
    "formula-payload": {
        "query": models.FormulaQuery(
            formula=models.SumExpression(
                sum=[
                    "$score",
                    models.MultExpression(mult=[0.5, "price"]),
                    models.MultExpression(mult=[2.0, EN]),
                    models.NegExpression(neg=models.AbsExpression(abs="missing")),
                ]
            ),
            defaults={"missing": 0.25},
        ),
        "prefetch": prefetches()[0],
    },
    "formula-functions": {
        "query": models.FormulaQuery(
            formula=models.DivExpression(
                div=models.DivParams(
                    left=models.SqrtExpression(sqrt=models.ExpExpression(exp="$score")),
                    right=models.PowExpression(pow=models.PowParams(base=2.0, exponent="price")),
                    by_zero_default=1.0,
                )
            )
        ),
        "prefetch": prefetches()[0],
    },
    "formula-decay": {
        "query": models.FormulaQuery(
            formula=models.SumExpression(
                sum=[
                    "$score",
                    models.GaussDecayExpression(
                        gauss_decay=models.DecayParamsExpression(
                            x=GEO_DISTANCE, scale=1_000_000.0, midpoint=0.3
                        )
                    ),
                ]
            )
        ),
        "prefetch": prefetches()[0],
    },
    "mmr": {
        "query": models.NearestQuery(
            nearest=DENSE, mmr=models.Mmr(diversity=0.4, candidates_limit=30)
        ),
        "using": "dense",
    },
    "no-query": {"limit": 20},
    "no-query-filter": {"query_filter": models.Filter(must=[EN]), "limit": 20},
}


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1.0, abs(a))


def assert_same(
    expected: list[models.ScoredPoint], got: list[models.ScoredPoint], ties: bool = False
) -> None:
    """The same scores in order, and the same ids, where equal scores leave their order open.

    Ranks give ties, as no two inner products do: with `ties` the limit may have cut through the
    last.
    """
    assert len(expected) == len(got)
    for x, y in zip(expected, got, strict=True):
        assert close(x.score, y.score), (x, y)
    i = 0
    while i < len(expected):
        j = i + 1
        while j < len(expected) and close(expected[j].score, expected[i].score):
            j += 1
        same = {p.id for p in expected[i:j]} == {p.id for p in got[i:j]}
        assert same or (ties and j == len(expected)), (i, j, expected[i:j], got[i:j])
        i = j
