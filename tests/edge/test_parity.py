"""QdrantEdge answers as qdrant-client's in-memory mode does.

The same ids in the same order and the same scores, for every kind of query and filter; points of
equal score may change places.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant.edge import QdrantEdge
from tests.edge.corpus import (
    CONFIG,
    DENSE,
    FILTERS,
    NAME,
    PLAIN,
    POINTS,
    QUERIES,
    RRF,
    SPARSE,
    TOKENS,
    N,
    assert_same,
    match,
    prefetches,
)
from tests.edge.small import named


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[QdrantClient, QdrantEdge]]:
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path_factory.mktemp("parity") / "data") as embedded:
        for client in (memory, embedded):
            client.create_collection(NAME, **CONFIG)
            for i in range(0, N, 50):
                client.upsert(NAME, POINTS[i : i + 50])
        yield memory, embedded


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
        assert named(x).keys() == named(y).keys()
        for name, v in named(x).items():
            if name == "sparse":
                weights = [
                    dict(zip(s.indices, s.values, strict=True)) for s in (v, named(y)[name])
                ]
                assert weights[0] == pytest.approx(weights[1])
            else:
                np.testing.assert_allclose(named(y)[name], v, atol=1e-6)


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
    models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True, on_disk=False),
    models.TextIndexParams(
        type=models.TextIndexType.TEXT,
        tokenizer=models.TokenizerType.WORD,
        lowercase=True,
        min_token_len=2,
        max_token_len=20,
        stopwords=models.StopwordsSet(
            languages=[models.Language.ENGLISH, models.Language.GERMAN], custom=["fox"]
        ),
        stemmer=models.SnowballParams(
            type=models.Snowball.SNOWBALL, language=models.SnowballLanguage.ENGLISH
        ),
    ),
    models.TextIndexParams(
        type=models.TextIndexType.TEXT,
        tokenizer=models.TokenizerType.MULTILINGUAL,
        stopwords=models.Language.JAPANESE,
    ),
]


def test_order_by_and_facet_with_an_index(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    _, embedded = clients
    embedded.create_payload_index(NAME, "lang", models.PayloadSchemaType.KEYWORD)
    embedded.create_payload_index(
        NAME, "n", models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, range=True)
    )
    schema = embedded.get_collection(NAME).payload_schema
    assert schema["lang"].data_type == models.PayloadSchemaType.KEYWORD
    assert schema["n"].points == N
    facets = [
        {(h.value, h.count) for h in client.facet(NAME, "lang", FILTERS["value-bool"]).hits}
        for client in clients
    ]
    assert facets[0] == facets[1]
    for order in ("n", models.OrderBy(key="n", direction=models.Direction.DESC, start_from=100)):
        ids = [
            [r.id for r in client.scroll(NAME, limit=30, order_by=order)[0]] for client in clients
        ]
        assert ids[0] == ids[1]
    query = models.OrderByQuery(order_by=models.OrderBy(key="n", direction=models.Direction.DESC))
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
        v = named(point)
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
    by_sparse = sorted(with_sparse, key=lambda i: -(table[i][1] or 0.0))[:25]
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


@pytest.mark.parametrize("digits", [3, 15, 16, 17])
def test_floats_equal_themselves(tmp_path: Path, digits: int) -> None:
    """The engine reads one in nine floats of 17 digits as its neighbour."""
    rng = random.Random(digits)
    numbers = [float(f"{rng.random() * 10 ** rng.randint(-9, 9):.{digits}g}") for _ in range(400)]
    with QdrantEdge(tmp_path / "floats") as client:
        client.create_collection("c", models.VectorParams(size=1, distance=models.Distance.DOT))
        client.upsert(
            "c",
            [
                models.PointStruct(id=i, vector=[1.0], payload={"x": number})
                for i, number in enumerate(numbers)
            ],
        )

        def found(**bounds: float) -> set[int]:
            inside = models.FieldCondition(key="x", range=models.Range(**bounds))
            answer, _ = client.scroll("c", models.Filter(must=[inside]), limit=1000)
            return {int(point.id) for point in answer}

        for i, number in enumerate(numbers):
            same = {j for j, other in enumerate(numbers) if other == number}
            assert i in found(gte=number, lte=number) <= same
            assert not same & found(gt=number)
            assert not same & found(lt=number)
