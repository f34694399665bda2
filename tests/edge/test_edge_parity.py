"""QdrantEdge answers as qdrant-client's in-memory mode does.

The same ids in the same order and the same scores, for every kind of query and filter; points of
equal score may change places.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import date, datetime, timezone
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant.edge import QdrantEdge

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


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[QdrantClient, QdrantEdge]]:
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path_factory.mktemp("parity") / "data") as embedded:
        for client in (memory, embedded):
            client.create_collection(NAME, **CONFIG)
            for i in range(0, N, 50):
                client.upsert(NAME, POINTS[i : i + 50])
        yield memory, embedded


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
    "is-empty": models.Filter(must=[models.IsEmptyCondition(is_empty={"key": "tags"})]),
    "is-null": models.Filter(must=[models.IsNullCondition(is_null={"key": "gone"})]),
    "field-is-empty": field("tags", is_empty=True),
    "values-count": field("tags", values_count=models.ValuesCount(gte=2)),
    "values-count-lt": field("tags", values_count=models.ValuesCount(lt=2, gt=0)),
    "geo-box": field(
        "where",
        geo_bounding_box=models.GeoBoundingBox(
            top_left={"lon": -10, "lat": 10}, bottom_right={"lon": 10, "lat": -10}
        ),
    ),
    "geo-radius": field(
        "where", geo_radius=models.GeoRadius(center={"lon": 1, "lat": 2}, radius=900_000.0)
    ),
    "geo-polygon": field(
        "where",
        geo_polygon=models.GeoPolygon(
            exterior={
                "points": [
                    {"lon": -15, "lat": -15},
                    {"lon": 15, "lat": -15},
                    {"lon": 0, "lat": 15},
                    {"lon": -15, "lat": -15},
                ]
            }
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
    terms = [
        models.MultExpression(mult=[w1, "$score[0]"]),
        models.MultExpression(mult=[w2, "$score[1]"]),
        models.MultExpression(mult=[w3 / len(TOKENS), "$score[2]"]),
    ]
    return models.FormulaQuery(
        formula=models.SumExpression(sum=terms), defaults={f"$score[{i}]": 0.0 for i in range(3)}
    )


RRF, DBSF = models.Fusion.RRF, models.Fusion.DBSF
GEO_DISTANCE = models.GeoDistance(
    geo_distance=models.GeoDistanceParams(origin={"lon": 0, "lat": 0}, to="where")
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


@pytest.mark.parametrize("name", QUERIES)
def test_query(clients: tuple[QdrantClient, QdrantEdge], name: str) -> None:
    memory, embedded = clients
    assert_same(
        memory.query_points(NAME, **QUERIES[name]).points,
        embedded.query_points(NAME, **QUERIES[name]).points,
        ties=name.startswith(("rrf", "no-query")),
    )


@pytest.mark.parametrize("name", FILTERS)
def test_filter(clients: tuple[QdrantClient, QdrantEdge], name: str) -> None:
    memory, embedded = clients
    filter = FILTERS[name]
    expected = memory.count(NAME, filter).count
    assert embedded.count(NAME, filter).count == expected
    assert expected == 0 or expected < N, "the filter should split the points"
    ids = {p.id for p in memory.scroll(NAME, filter, limit=N)[0]}
    assert {p.id for p in embedded.scroll(NAME, filter, limit=N)[0]} == ids
    for query, using in ((DENSE, "dense"), (SPARSE, "sparse"), (TOKENS, "colbert")):
        kwargs: dict[str, Any] = {"query": query, "using": using, "query_filter": filter}
        assert_same(
            memory.query_points(NAME, **kwargs).points,
            embedded.query_points(NAME, **kwargs).points,
        )


def test_batch(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    memory, embedded = clients
    requests = [
        models.QueryRequest(query=DENSE, using="dense", limit=5, with_payload=True),
        models.QueryRequest(query=SPARSE, using="sparse", limit=3, filter=FILTERS["value-str"]),
        models.QueryRequest(query=models.FusionQuery(fusion=RRF), prefetch=prefetches(), limit=7),
        models.QueryRequest(query=TOKENS, using="colbert", with_vector=["dense"]),
    ]
    expected = memory.query_batch_points(NAME, requests)
    got = embedded.query_batch_points(NAME, requests)
    assert len(got) == 4
    for x, y in zip(expected, got, strict=True):
        assert_same(x.points, y.points, ties=x is expected[2])
        for p, q in zip(x.points, y.points, strict=True):
            assert (p.payload is None) == (q.payload is None)
            assert (p.vector is None) == (q.vector is None)
    assert embedded.query_batch_points(NAME, []) == []


@pytest.mark.parametrize(
    "selector",
    [
        True,
        False,
        ["lang", "deep.er"],
        models.PayloadSelectorInclude(include=["n", "nested[].k"]),
        models.PayloadSelectorExclude(exclude=["text", "nested", "deep"]),
    ],
    ids=["all", "none", "list", "include", "exclude"],
)
def test_with_payload(clients: tuple[QdrantClient, QdrantEdge], selector: Any) -> None:
    results = []
    for client in clients:
        found = client.query_points(NAME, DENSE, using="dense", with_payload=selector).points
        read = client.retrieve(NAME, [p.id for p in found], with_payload=selector)
        assert [p.payload for p in found] == [r.payload for r in read]
        results.append([(p.id, p.payload) for p in found])
    assert results[0] == results[1] or selector is False
    if selector is False:
        assert all(payload is None for _, payload in results[1])


@pytest.mark.parametrize("selector", [True, ["dense"], ["colbert", "sparse"]], ids=str)
def test_with_vectors(clients: tuple[QdrantClient, QdrantEdge], selector: Any) -> None:
    memory, embedded = clients
    ids = [p.id for p in POINTS[:40]]
    expected = memory.retrieve(NAME, ids, with_vectors=selector)
    got = embedded.retrieve(NAME, ids, with_vectors=selector)
    assert [r.id for r in expected] == [r.id for r in got] == ids
    for x, y in zip(expected, got, strict=True):
        assert x.vector.keys() == y.vector.keys()
        for name, v in x.vector.items():
            if name == "sparse":
                weights = [
                    dict(zip(s.indices, s.values, strict=True)) for s in (v, y.vector[name])
                ]
                assert weights[0] == pytest.approx(weights[1])
            else:
                np.testing.assert_allclose(y.vector[name], v, atol=1e-6)


def test_scroll_pages(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    memory, embedded = clients
    for filter in (None, FILTERS["value-str"]):
        pages: list[list[Any]] = []
        for client in (memory, embedded):
            ids, offset = [], None
            while True:
                records, offset = client.scroll(NAME, filter, limit=17, offset=offset)
                assert len(records) <= 17
                ids += [r.id for r in records]
                if offset is None:
                    break
            pages.append(ids)
        assert pages[0] == pages[1]
        assert len(set(pages[1])) == len(pages[1])


INDEXES: list[Any] = [
    models.KeywordIndexParams(type="keyword", is_tenant=True, on_disk=False),
    models.TextIndexParams(
        type="text",
        tokenizer="word",
        lowercase=True,
        min_token_len=2,
        max_token_len=20,
        stopwords=models.StopwordsSet(languages=["english", "german"], custom=["fox"]),
        stemmer=models.SnowballParams(type="snowball", language="english"),
    ),
    models.TextIndexParams(type="text", tokenizer="multilingual", stopwords="japanese"),
]


def test_order_by_and_facet_with_an_index(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    _, embedded = clients
    embedded.create_payload_index(NAME, "lang", models.PayloadSchemaType.KEYWORD)
    embedded.create_payload_index(NAME, "n", models.IntegerIndexParams(type="integer", range=True))
    schema = embedded.get_collection(NAME).payload_schema
    assert schema["lang"].data_type == models.PayloadSchemaType.KEYWORD
    assert schema["n"].points == N
    facets = [
        {(h.value, h.count) for h in client.facet(NAME, "lang", FILTERS["value-bool"]).hits}
        for client in clients
    ]
    assert facets[0] == facets[1]
    for order in ("n", models.OrderBy(key="n", direction="desc", start_from=100)):
        ids = [
            [r.id for r in client.scroll(NAME, limit=30, order_by=order)[0]] for client in clients
        ]
        assert ids[0] == ids[1]
    query = models.OrderByQuery(order_by=models.OrderBy(key="n", direction="desc"))
    ids = [[p.id for p in client.query_points(NAME, query).points] for client in clients]
    assert ids[0] == ids[1]
    for params in INDEXES:
        embedded.create_payload_index(NAME, "text", params)
        assert embedded.get_collection(NAME).payload_schema["text"].params == params
    embedded.delete_payload_index(NAME, "lang")
    assert "lang" not in embedded.get_collection(NAME).payload_schema


def test_weighted_formula_is_the_reference(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    """w1 dense + w2 sparse + w3 colbert / n_q over the union of two top lists, against numpy."""

    def unit(x: Any) -> Any:
        x = np.asarray(x, dtype=np.float64)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def scores(point: models.PointStruct) -> tuple[float, float | None, float]:
        v = point.vector
        dense = float(unit(v["dense"]) @ unit(DENSE))
        lexical = None
        if "sparse" in v:
            row = dict(zip(v["sparse"].indices, v["sparse"].values, strict=True))
            shared = [
                w * row[i] for i, w in zip(SPARSE.indices, SPARSE.values, strict=True) if i in row
            ]
            lexical = sum(shared) if shared else None
        late = 0.0
        if "colbert" in v:
            late = float((unit(TOKENS) @ unit(v["colbert"]).T).max(axis=1).sum())
        return dense, lexical, late

    table = {p.id: scores(p) for p in POINTS}
    by_dense = sorted(table, key=lambda i: -table[i][0])[:25]
    with_sparse = [i for i in table if table[i][1] is not None]
    by_sparse = sorted(with_sparse, key=lambda i: -table[i][1])[:25]
    expected = {
        i: 0.4 * table[i][0] + 0.2 * (table[i][1] or 0.0) + 0.4 * table[i][2] / len(TOKENS)
        for i in {*by_dense, *by_sparse}
    }
    assert any(table[i][1] is None for i in expected), "some candidate should lack a sparse score"
    for client in clients:
        hits = client.query_points(NAME, **QUERIES["weighted"]).points
        assert {h.id for h in hits} == set(expected)
        for hit in hits:
            assert hit.score == pytest.approx(expected[hit.id], abs=1e-6)


def test_sample(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    hits = clients[1].query_points(NAME, models.SampleQuery(sample=models.Sample.RANDOM)).points
    assert len({h.id for h in hits}) == 10


@pytest.mark.parametrize("after_optimize", [False, True], ids=["as-written", "optimized"])
def test_writes(tmp_path: Any, after_optimize: bool) -> None:
    """A sequence of writes leaves both engines with the same points."""
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path) as embedded:
        for client in (memory, embedded):
            client.create_collection(NAME, **CONFIG)
            client.upsert(NAME, POINTS)
            if client is embedded and after_optimize:
                embedded.optimize(NAME)
            client.delete(NAME, [1, 2, POINTS[3].id, 9999])
            client.delete(NAME, models.PointIdsList(points=[4]))
            client.delete(NAME, models.Filter(must=[match("n", 50)]))
            client.delete(NAME, models.FilterSelector(filter=models.Filter(must=[match("n", 52)])))
            client.upsert(NAME, POINTS[1:2])
            client.upsert(
                NAME,
                models.Batch(
                    ids=[1001, 1002],
                    vectors={"dense": [DENSE, DENSE], "sparse": [SPARSE, SPARSE]},
                    payloads=[{"n": -1}, {"n": -2}],
                ),
            )
            client.set_payload(NAME, {"new": 1, "n": -7}, [7, 8])
            client.set_payload(NAME, {"x": 70}, [10], key="deep.er")
            client.set_payload(NAME, {"filtered": True}, FILTERS["value-str"])
            client.overwrite_payload(NAME, {"only": "this"}, [11])
            client.delete_payload(NAME, ["text", "nested"], [13, 14])
            client.clear_payload(NAME, models.PointIdsList(points=[16]))
        every = [
            {r.id: r.payload or {} for r in client.scroll(NAME, limit=1000)[0]}
            for client in (memory, embedded)
        ]
        assert every[0] == every[1]
        assert_same(
            memory.query_points(NAME, DENSE, using="dense", limit=30).points,
            embedded.query_points(NAME, DENSE, using="dense", limit=30).points,
        )


def test_unnamed_vector(tmp_path: Any) -> None:
    memory = QdrantClient(":memory:")
    params = models.VectorParams(size=5, distance=models.Distance.DOT)
    with QdrantEdge(tmp_path) as embedded:
        for client in (memory, embedded):
            client.create_collection(NAME, params)
            client.upsert(NAME, [models.PointStruct(id=1, vector=PLAIN, payload={"a": 1})])
            client.upsert(NAME, models.Batch(ids=[2, 3], vectors=[[1.0] * 5, [0.5] * 5]))
        assert_same(
            memory.query_points(NAME, PLAIN).points, embedded.query_points(NAME, PLAIN).points
        )
        read = embedded.retrieve(NAME, [1, 2], with_vectors=True)
        assert read[0].vector == pytest.approx(PLAIN)
        assert read[1].vector == [1.0] * 5
