"""Pages of points that rank alike: each point once, by id, in whatever order they were written."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant.edge import QdrantEdge, ties
from tests.edge.small import named

N = 97


def by_id(id: Any) -> tuple[bool, Any]:
    return isinstance(id, str), id


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantEdge]:
    """Points of three scores, written in no order, with ids of both kinds."""
    with QdrantEdge(tmp_path_factory.mktemp("ties")) as client:
        client.create_collection(
            "t",
            {
                "dense": models.VectorParams(size=2, distance=models.Distance.DOT),
                "far": models.VectorParams(size=2, distance=models.Distance.EUCLID),
            },
            {"sparse": models.SparseVectorParams()},
        )
        rng = np.random.default_rng()
        for i in rng.permutation(N).tolist():
            one = models.PointStruct(
                id=i if i % 3 else str(uuid.UUID(int=i * 2**100 + 7)),
                vector={
                    "dense": [1.0, float(i % 3)],
                    "far": [0.0, float(i % 3)],
                    "sparse": models.SparseVector(indices=[1], values=[1.0 + i % 3]),
                },
                payload={"n": i % 3, "when": f"2024-01-0{1 + i % 3}T00:00:00Z", "g": i % 5},
            )
            client.upsert("t", [one])
        yield client


QUERIES: dict[str, dict[str, Any]] = {
    "dense": {"query": [0.5, 1.0], "using": "dense"},
    "exact": {
        "query": [0.5, 1.0],
        "using": "dense",
        "search_params": models.SearchParams(exact=True),
    },
    "euclid": {"query": [0.0, 0.0], "using": "far"},
    "sparse": {"query": models.SparseVector(indices=[1], values=[2.0]), "using": "sparse"},
    "filter": {
        "query": [0.5, 1.0],
        "using": "dense",
        "query_filter": models.Filter(
            must=[models.FieldCondition(key="n", range=models.Range(gte=1))]
        ),
    },
    "example": {
        "query": models.RecommendQuery(recommend=models.RecommendInput(positive=[1])),
        "using": "dense",
    },
    "field": {
        "query": models.OrderByQuery(
            order_by=models.OrderBy(key="n", direction=models.Direction.DESC)
        )
    },
    "formula": {
        "query": models.FormulaQuery(formula=models.SumExpression(sum=["$score", "n"])),
        "prefetch": models.Prefetch(query=[0.5, 1.0], using="dense", limit=N),
    },
    "fusion": {
        "query": models.FusionQuery(fusion=models.Fusion.RRF),
        "prefetch": [
            models.Prefetch(
                query=models.OrderByQuery(order_by=models.OrderBy(key="n")),
                filter=models.Filter(
                    must=[models.FieldCondition(key="g", match=models.MatchValue(value=g))]
                ),
                limit=N,
            )
            for g in range(5)
        ],
    },
}


SIMILARITIES = ("dense", "exact", "sparse", "filter", "example")
"""Where the larger id comes first."""


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("size", [1, 10, 64])
def test_pages_of_a_query_are_one_ranking(client: QdrantEdge, name: str, size: int) -> None:
    request = QUERIES[name]
    whole = client.query_points("t", limit=500, **request).points
    assert len({point.id for point in whole}) == len(whole) > 60
    pages: list[models.ScoredPoint] = []
    for offset in range(0, len(whole) + size, size):
        found = client.query_points(
            "t", limit=size, offset=offset, with_vectors=["far"], **request
        ).points
        for point in found:
            assert list(named(point)) == ["far"]
            assert point.payload is not None
            assert point.payload["n"] == named(point)["far"][1]
        pages += found
    assert [(p.id, p.score, p.order_value) for p in pages] == [
        (p.id, p.score, p.order_value) for p in whole
    ]
    for one, after in itertools.pairwise(whole):
        if (one.order_value if name == "field" else one.score) == (
            after.order_value if name == "field" else after.score
        ):
            assert (by_id(one.id) > by_id(after.id)) == (name in SIMILARITIES)


@pytest.mark.parametrize("direction", list(models.Direction))
@pytest.mark.parametrize("key", ["n", "when"])
@pytest.mark.parametrize("limit", [1, 20, 33, 500])
def test_an_order_is_by_value_and_id(
    client: QdrantEdge, direction: models.Direction, key: str, limit: int
) -> None:
    order = models.OrderBy(key=key, direction=direction)
    records, following = client.scroll(
        "t", order_by=order, limit=limit, with_payload=["n"], with_vectors=["far"]
    )
    everything = client.scroll("t", limit=N, with_payload=["n"], with_vectors=["far"])[0]
    sign = 1 if direction is models.Direction.ASC else -1
    wanted = sorted(
        everything, key=lambda r: (sign * (r.payload or {"n": None})["n"], by_id(r.id))
    )
    assert following is None
    assert [r.id for r in records] == [r.id for r in wanted[:limit]]
    assert [(r.payload, r.vector) for r in records] == [
        (r.payload, r.vector) for r in wanted[:limit]
    ]
    assert all(r.order_value is not None for r in records)


def test_an_order_is_walked_to_its_end(client: QdrantEdge) -> None:
    seen: list[models.Record] = []
    while True:
        start: Any = seen[-1].order_value if seen else None
        done = [r.id for r in seen if r.order_value == start]
        page, _ = client.scroll(
            "t",
            models.Filter(must_not=[models.HasIdCondition(has_id=done)]),
            limit=10,
            order_by=models.OrderBy(key="n", start_from=start),
        )
        if not page:
            break
        seen += page
    ids = [r.id for r in seen]
    assert len(ids) == len(set(ids)) == N


@pytest.mark.parametrize("distance", list(models.Distance))
def test_the_order_is_local_modes(tmp_path: Path, distance: models.Distance) -> None:
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path / "data") as edge:
        for client in (memory, edge):
            client.create_collection("t", models.VectorParams(size=2, distance=distance))
            client.upsert("t", [models.PointStruct(id=i, vector=[1.0, 2.0]) for i in range(9)])
        for limit in (1, 4, 9):
            expected, found = (
                c.query_points("t", [2.0, 1.0], limit=limit).points for c in (memory, edge)
            )
            assert [point.id for point in found] == [point.id for point in expected]


def test_groups_of_points_that_score_alike_hold_the_first(client: QdrantEdge) -> None:
    found = client.query_points_groups("t", "g", [0.5, 1.0], using="dense", limit=5, group_size=3)
    everything = client.scroll("t", limit=N)[0]
    for group in found.groups:
        best = sorted(
            (r for r in everything if r.payload and r.payload["g"] == group.id),
            key=lambda r: ((r.payload or {})["n"], by_id(r.id)),
            reverse=True,
        )
        assert [hit.id for hit in group.hits] == [r.id for r in best[:3]]


def test_limits_may_be_larger_than_any_collection(client: QdrantEdge) -> None:
    for limit in (2**32, 2**63 - 1, 2**64 - 1):
        assert len(client.query_points("t", [0.5, 1.0], using="dense", limit=limit).points) == N
        assert client.query_points("t", [0.5, 1.0], using="dense", offset=limit).points == []
        assert len(client.scroll("t", order_by="n", limit=limit)[0]) == N
    grouped = client.query_points_groups(
        "t", "g", [0.5, 1.0], using="dense", limit=2**63, group_size=2**63
    )
    assert sorted(len(group.hits) for group in grouped.groups) == [19, 19, 19, 20, 20]


def test_there_is_an_end_to_what_is_looked_at() -> None:
    asked: list[int] = []

    def more(limit: int) -> list[Any]:
        asked.append(limit)
        return [models.Record.model_construct(id=i, order_value=1) for i in range(limit)]

    hits = more(ties.asked_for(10))
    assert len(ties.page(hits, 0, 10, ties.order_value, more)) == 10
    assert asked[-1] == 10 + ties.MOST


def test_a_field_is_empty_where_all_of_its_values_are(tmp_path: Path) -> None:
    payloads: list[dict[str, Any]] = [
        {"a": [{"b": 1}, {"b": []}]},
        {"a": [{"b": 1}, {}]},
        {"a": [{"b": None}, {"b": []}]},
        {"a": []},
        {},
        {"a": [{"b": 0}]},
    ]
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path / "data") as edge:
        for client in (memory, edge):
            client.create_collection("t", {})
            client.upsert(
                "t",
                [
                    models.PointStruct(id=i, vector={}, payload=payload)
                    for i, payload in enumerate(payloads)
                ],
            )
        for indexed in (False, True):
            if indexed:
                edge.create_payload_index("t", "a[].b", models.PayloadSchemaType.INTEGER)
            for empty, expected in ((True, [2, 3, 4]), (False, [0, 1, 5])):
                wanted = models.Filter(
                    must=[models.FieldCondition(key="a[].b", is_empty=empty, match=None)]
                )
                for client in (memory, edge):
                    assert [r.id for r in client.scroll("t", wanted)[0]] == expected
