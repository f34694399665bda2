"""Groups answer as in-memory mode does, where the two mean the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import InputError
from tests.edge.corpus import (
    CONFIG,
    DENSE,
    NAME,
    POINTS,
    QUERIES,
    SPARSE,
    N,
    assert_same,
    prefetches,
)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[QdrantClient, QdrantEdge]]:
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path_factory.mktemp("groups")) as embedded:
        for client in (memory, embedded):
            client.create_collection(NAME, **CONFIG)
            client.upsert(NAME, POINTS)
        yield memory, embedded


KEYS = ["lang", "tags", "nested[].k", "deep.er.x", "flag", "n", "price", "nope", "gone", "empty"]
KINDS: dict[str, dict[str, Any]] = {
    name: {k: v for k, v in QUERIES[name].items() if k != "limit"}
    for name in ("dense", "euclid", "sparse", "colbert", "threshold", "no-query-filter")
}
KINDS["by-id"] = {"query": POINTS[9].id, "using": "dense"}
# in-memory mode lets every prefetch find everything, so that only then the two compare
KINDS["rerank"] = {**QUERIES["rerank"], "prefetch": prefetches(N)}
KINDS["formula"] = {**QUERIES["formula-payload"], "prefetch": prefetches(N)[0]}


def assert_same_groups(expected: models.GroupsResult, got: models.GroupsResult) -> None:
    assert [g.id for g in expected.groups] == [g.id for g in got.groups]
    for x, y in zip(expected.groups, got.groups, strict=True):
        assert_same(x.hits, y.hits, ties=True)
        for a in x.hits:
            for b in y.hits:
                if a.id == b.id:
                    assert a.payload == b.payload
                    assert (a.vector or {}).keys() == (b.vector or {}).keys()  # type: ignore[union-attr]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", KINDS)
def test_groups(clients: tuple[QdrantClient, QdrantEdge], kind: str, key: str) -> None:
    for limit, group_size in ((1, 1), (2, 3), (10, 4)):
        results = [
            client.query_points_groups(
                NAME,
                key,
                limit=limit,
                group_size=group_size,
                with_payload=["n"],
                with_vectors=["plain"],
                **KINDS[kind],
            )
            for client in clients
        ]
        assert_same_groups(*results)


@pytest.mark.parametrize("limit", [1, 3, 40])
@pytest.mark.parametrize("seed", [1, 2])
def test_lopsided_groups(tmp_path: Path, seed: int, limit: int) -> None:
    """One group holds most of the points, the others a few: some can never be filled."""
    rng = np.random.default_rng(seed)
    points = []
    for i in range(400):
        of: Any = int(rng.integers(30)) if rng.random() < 0.2 else "big"
        if rng.random() < 0.1:
            of = [of, "big", True] if rng.random() < 0.3 else [of, "big"]
        points.append(
            models.PointStruct(id=i, vector=rng.normal(size=4).tolist(), payload={"a": {"of": of}})
        )
    memory = QdrantClient(":memory:")
    params = models.VectorParams(size=4, distance=models.Distance.DOT)
    with QdrantEdge(tmp_path) as embedded:
        results = []
        for client in (memory, embedded):
            client.create_collection(NAME, params)
            client.upsert(NAME, points)
            results.append(
                client.query_points_groups(
                    NAME, "a.of", [1.0, 2.0, -1.0, 0.5], limit=limit, group_size=5
                )
            )
        assert_same_groups(*results)


def test_prefetches_find_more_as_on_a_server(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    """`group_size` times their limits, among the points that have the field."""
    _, embedded = clients
    rrf = models.FusionQuery(fusion=models.Fusion.RRF)
    got = embedded.query_points_groups(
        NAME, "lang", rrf, prefetch=prefetches(10), group_size=3, limit=9
    )
    flat = embedded.query_points(NAME, rrf, prefetch=prefetches(30), limit=N).points
    by_lang: dict[int | str, list[Any]] = {}
    for hit in flat:
        by_lang.setdefault(hit.payload["lang"], []).append(hit)  # type: ignore[index]
    assert {g.id for g in got.groups} == set(by_lang)
    best = [g.hits[0].score for g in got.groups]
    assert best == sorted(best, reverse=True)  # equal ones come in any order
    for group in got.groups:
        assert_same(by_lang[group.id][:3], group.hits, ties=True)


def test_mmr(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    mmr = models.Mmr(diversity=0.5, candidates_limit=60)
    query = models.NearestQuery(nearest=DENSE, mmr=mmr)
    results = [c.query_points_groups(NAME, "lang", query, using="dense") for c in clients]
    assert_same_groups(*results)
    free = models.NearestQuery(nearest=DENSE, mmr=models.Mmr(diversity=0.5))
    groups = clients[1].query_points_groups(NAME, "lang", free, using="dense", limit=2).groups
    assert [len(g.hits) <= 3 for g in groups] == [True, True]


def test_lookup(tmp_path: Path) -> None:
    memory = QdrantClient(":memory:")
    owner = str(uuid.UUID(int=7))
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    payloads: list[dict[str, Any]] = [{"of": 1}, {"of": owner}, {"of": 1}, {"of": 5}]
    with QdrantEdge(tmp_path) as embedded:
        results = []
        for client in (memory, embedded):
            for name in ("chunks", "whole"):
                client.create_collection(name, params)
            client.upsert(
                "chunks",
                [
                    models.PointStruct(id=i, vector=[1.0, i], payload=p)
                    for i, p in enumerate(payloads)
                ],
            )
            client.upsert(
                "whole",
                [
                    models.PointStruct(id=1, vector=[1.0, 1.0], payload={"title": "one"}),
                    models.PointStruct(id=owner, vector=[1.0, 2.0], payload={"title": "seven"}),
                ],
            )
            for lookup in ("whole", models.WithLookup(collection="whole", with_vectors=True)):
                found = client.query_points_groups(
                    "chunks", "of", [1.0, 1.0], with_lookup=lookup
                ).groups
                results.append(
                    [(g.id, g.lookup and (g.lookup.payload, g.lookup.vector)) for g in found]
                )
        assert results[:2] == results[2:]
        assert results[0] == [
            (5, None),
            (1, ({"title": "one"}, None)),
            (owner, ({"title": "seven"}, None)),
        ]
        embedded.upsert(
            "chunks", [models.PointStruct(id=9, vector=[9.0, 9.0], payload={"of": "x"})]
        )
        again = embedded.query_points_groups("chunks", "of", [1.0, 1.0], with_lookup="whole")
        assert again.groups[0].id == "x"
        assert again.groups[0].lookup is None


def test_numbers_beyond_a_filter(tmp_path: Path) -> None:
    """A group may be named by a number that no filter can hold."""
    with QdrantEdge(tmp_path) as client:
        client.create_collection(NAME, models.VectorParams(size=1, distance=models.Distance.DOT))
        ids = [2**64 - 1, 2**63, -(2**63)]
        client.upsert(
            NAME,
            [
                models.PointStruct(id=i, vector=[float(i)], payload={"of": ids[i % 3]})
                for i in range(12)
            ],
        )
        found = client.query_points_groups(NAME, "of", [1.0], limit=2, group_size=5).groups
        assert [(g.id, [h.id for h in g.hits]) for g in found] == [
            (ids[2], [11, 8, 5, 2]),
            (ids[1], [10, 7, 4, 1]),
        ]


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"group_size": 0}, {"group_by": "a..b"}])
def test_wrong_arguments(clients: tuple[QdrantClient, QdrantEdge], wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"is 0: pass|invalid JSON path"):
        clients[1].query_points_groups(
            NAME, **{"group_by": "lang", "query": SPARSE, "using": "sparse", **wrong}
        )
