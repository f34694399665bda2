"""rerank_points: points of anybody's collection, as Qdrant's own MAX_SIM ranks them."""

from __future__ import annotations

import asyncio
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from m3qdrant import M3Reranker, QdrantEdge, arerank_points, rerank_points
from m3qdrant.errors import CollectionNotFoundError, InputError, UnsupportedError
from tests.views import COLBERT_DIM, random_views

N, DIM = 40, 16
PLACES = ["memory", "embedded"] + (["server"] if os.environ.get("QDRANT_URL") else [])


@pytest.fixture(params=PLACES)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A client, whose collections are removed."""
    made: Any
    if request.param == "memory":
        made = QdrantClient(":memory:")
    elif request.param == "embedded":
        made = QdrantEdge(tmp_path)
    else:
        made = QdrantClient(os.environ["QDRANT_URL"], check_compatibility=False)
    before = {c.name for c in made.get_collections().collections}
    yield made
    for collection in made.get_collections().collections:
        if collection.name not in before:
            made.delete_collection(collection.name)
    made.close()


def tokens(rng: np.random.Generator, n: int | None = None) -> Any:
    rows = int(rng.integers(1, 9)) if n is None else n
    return rng.standard_normal((rows, DIM)).astype(np.float32)


def filled(client: Any, using: str | None = "late", distance: str = "Cosine", **more: Any) -> str:
    """A collection of N points, with a dense vector beside the named multivector."""
    rng, name = np.random.default_rng(1), f"points-{uuid.uuid4().hex}"
    late = models.VectorParams(
        size=DIM,
        distance=models.Distance(distance),
        multivector_config=models.MultiVectorConfig(
            comparator=models.MultiVectorComparator.MAX_SIM
        ),
        **more,
    )
    plain = models.VectorParams(size=4, distance=models.Distance.DOT)
    config: Any = late if using is None else {using: late, "plain": plain}
    client.create_collection(name, vectors_config=config)
    points = []
    for i in range(N):
        vector: Any = tokens(rng).tolist()
        if using is not None:
            vector = {using: vector, "plain": rng.standard_normal(4).tolist()}
        points.append(models.PointStruct(id=i, vector=vector, payload={"i": i}))
    client.upsert(name, points, wait=True)
    return name


def candidates(client: Any, name: str, limit: int = N, **options: Any) -> Any:
    """The best by the dense vector."""
    return client.query_points(
        name, query=[1.0, 0.5, 0.0, -1.0], using="plain", limit=limit, **options
    )


def exact(client: Any, name: str, query: Any, found: Any, using: str | None = "late") -> Any:
    """What Qdrant makes of them."""
    hits = models.Filter(must=[models.HasIdCondition(has_id=[point.id for point in found])])
    answer = client.query_points(
        name, query=query.tolist(), using=using, query_filter=hits, limit=N
    )
    return answer.points


def assert_as(found: list[Any], expected: list[Any]) -> None:
    assert [point.id for point in found] == [point.id for point in expected]
    scores = [point.score for point in expected]
    assert [point.score for point in found] == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize("distance", ["Cosine", "Dot"])
def test_it_ranks_as_qdrant(client: Any, distance: str) -> None:
    name = filled(client, distance=distance)
    query, found = tokens(np.random.default_rng(2), 5), candidates(client, name, 25)
    expected = exact(client, name, query, found.points)
    assert len(expected) == 25
    best = rerank_points(client, name, found, query, using="late")
    assert_as(best, expected)
    assert all(point.payload == {"i": point.id} for point in best)
    few = rerank_points(client, name, found.points, query, using="late", limit=4)
    assert_as(few, expected[:4])
    told = {"using": "late", "distance": distance}
    assert_as(rerank_points(client, name, found, query.tolist(), **told), expected)  # type: ignore[arg-type]
    by_id = [point.id for point in found.points]
    assert_as(rerank_points(client, name, by_id, torch.tensor(query), using="late"), expected)
    one = rerank_points(client, name, found, query[0], using="late")
    assert_as(one, exact(client, name, query[:1], found.points))


def test_an_unnamed_vector(client: Any) -> None:
    name, query = filled(client, using=None), tokens(np.random.default_rng(3), 3)
    records, _ = client.scroll(name, limit=N)
    expected = exact(client, name, query, records, None)
    assert_as(rerank_points(client, name, records, query), expected)


def test_float16(client: Any) -> None:
    name = filled(client, datatype=models.Datatype.FLOAT16)
    query = tokens(np.random.default_rng(4), 3)
    expected = exact(client, name, query, candidates(client, name).points)
    found = rerank_points(client, name, candidates(client, name), query, using="late")
    scores = {point.id: point.score for point in expected}
    # in-memory mode keeps float32, whatever the configuration says
    assert {p.id: p.score for p in found} == pytest.approx(scores, abs=5e-3)


def test_vectors_that_points_have_with_them_are_not_fetched(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m3qdrant.collection import calls

    asked: list[Any] = []
    original = calls.retrieve

    def retrieve(name: str, ids: Any, **options: Any) -> Any:
        asked.extend(ids)
        return original(name, ids, **options)

    monkeypatch.setattr(calls, "retrieve", retrieve)
    name, query = filled(client), tokens(np.random.default_rng(5), 3)
    found = candidates(client, name, 10, with_vectors=["late"])
    best = rerank_points(client, name, found, query, using="late")
    assert not asked
    assert_as(best, exact(client, name, query, found.points))
    others = candidates(client, name, 10, with_vectors=["plain"])  # which helps nothing
    assert_as(rerank_points(client, name, others, query, using="late"), best)
    assert len(asked) == 10


def test_what_is_held_is_of_the_points_version(client: Any) -> None:
    name, query = filled(client), tokens(np.random.default_rng(6), 3)
    reranker, rng = M3Reranker(), np.random.default_rng(7)
    for point in (None, 3, 7):
        if point is not None:
            vector = {"late": tokens(rng).tolist()}
            client.update_vectors(name, [models.PointVectors(id=point, vector=vector)], wait=True)
        for _ in range(2):
            found = candidates(client, name)
            held = rerank_points(
                client, name, found, query, using="late", reranker=reranker, hold=True
            )
            assert_as(held, exact(client, name, query, found.points))
    loose = M3Reranker()
    rerank_points(client, name, candidates(client, name), query, using="late", reranker=loose)
    assert len(loose.held) == 0


def test_points_that_are_gone_or_lack_the_vector(client: Any) -> None:
    name, query = filled(client), tokens(np.random.default_rng(8), 3)
    found = candidates(client, name)
    client.delete(name, models.PointIdsList(points=[1, 2]), wait=True)
    client.delete_vectors(name, vectors=["late"], points=[5], wait=True)
    best = rerank_points(client, name, [*found.points, 999], query, using="late")
    assert {point.id for point in best} == {*range(N)} - {1, 2, 5}
    assert rerank_points(client, name, [], query, using="late") == []
    assert rerank_points(client, name, [1, 2], query, using="late") == []
    twice = rerank_points(client, name, [3, 4, 3], query, using="late")
    assert sorted(point.id for point in twice) == [3, 4]


def test_a_small_cache(client: Any) -> None:
    name, query = filled(client), tokens(np.random.default_rng(9), 3)
    expected = exact(client, name, query, candidates(client, name).points)
    for cache_bytes in (0, 100, 2_000):
        reranker = M3Reranker(cache_bytes=cache_bytes)
        for _ in range(2):
            found = rerank_points(
                client, name, candidates(client, name), query,
                using="late", reranker=reranker, hold=True,
            )  # fmt: skip
            assert_as(found, expected)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"using": "lete"}, InputError, "has no vector 'lete'; it has 'late', 'plain'"),
        ({"using": None}, InputError, "has no unnamed vector"),
        ({"using": 3}, InputError, "using is 3"),
        ({"distance": "Euclid"}, UnsupportedError, "distance Euclid: only Dot and Cosine"),
        ({"distance": "cosine"}, InputError, "distance is 'cosine': give one of Cosine"),
        ({"query": []}, InputError, "query: give its token vectors"),
        ({"query": "a text"}, InputError, "query: give its token vectors"),
        ({"query": [[math.nan] * DIM]}, InputError, "query: holds NaN"),
        ({"query": [[1.0] * 5]}, InputError, "vectors of 5 numbers, and the collection's have 16"),
        ({"query": random_views(2, seed=1)}, InputError, "embeddings of one text"),
        ({"points": 3}, InputError, "points: int"),
        ({"points": "abc"}, InputError, "points: str"),
        ({"points": [1, None]}, InputError, "points: #1 is NoneType"),
        ({"limit": 0}, InputError, "limit is 0"),
        ({"reranker": "r"}, InputError, "reranker is str: give an M3Reranker"),
        ({"collection_name": "nowhere"}, CollectionNotFoundError, "nowhere"),
    ],
)
def test_a_wrong_argument(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    client = QdrantClient(":memory:")
    name = filled(client)
    asked = {
        "collection_name": name,
        "points": [1, 2],
        "query": [[1.0] * DIM],
        "using": "late",
        **options,
    }
    with pytest.raises(kind, match=message):
        rerank_points(client, **asked)


def test_the_asynchronous_one() -> None:
    async def use() -> None:
        client = AsyncQdrantClient(":memory:")
        with pytest.raises(InputError, match="AsyncQdrantClient: use arerank_points"):
            rerank_points(client, "a", [1], [[1.0]])  # type: ignore[arg-type]
        late = models.VectorParams(
            size=COLBERT_DIM,
            distance=models.Distance.COSINE,
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
        )
        await client.create_collection("a", vectors_config={"late": late})
        rng = np.random.default_rng(1)
        points = [
            models.PointStruct(id=i, vector={"late": tokens(rng).tolist()}) for i in range(9)
        ]
        await client.upsert("a", points)
        query = tokens(rng, 3)
        expected = await client.query_points("a", query=query.tolist(), using="late", limit=9)
        found = await arerank_points(client, "a", list(range(9)), query, using="late")
        assert_as(found, expected.points)

    asyncio.run(use())
    with pytest.raises(InputError, match="QdrantClient: use rerank_points"):
        asyncio.run(arerank_points(QdrantClient(":memory:"), "a", [1], [[1.0]]))  # type: ignore[arg-type]
