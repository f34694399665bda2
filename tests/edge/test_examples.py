"""Search by example answers as in-memory mode does: ids, recommendations, discovery, feedback."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import InputError
from tests.edge.corpus import (
    CONFIG,
    DENSE,
    EN,
    EVEN,
    NAME,
    PLAIN,
    POINTS,
    SPARSE,
    TOKENS,
    assert_same,
    match,
)
from tests.edge.small import named

OTHER = "other"
VECTORS: dict[str, Any] = {"dense": DENSE, "sparse": SPARSE, "colbert": TOKENS, "plain": PLAIN}
COMPLETE = [p.id for p in POINTS if {"sparse", "colbert"} <= named(p).keys()]
A, B, C, D, E = COMPLETE[:5]


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[QdrantClient, QdrantEdge]]:
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path_factory.mktemp("examples")) as embedded:
        for client in (memory, embedded):
            for name, points in ((NAME, POINTS), (OTHER, POINTS[:40])):
                client.create_collection(name, **CONFIG)
                client.upsert(name, points)
        yield memory, embedded


def recommend(strategy: Any, **examples: Any) -> models.RecommendQuery:
    return models.RecommendQuery(recommend=models.RecommendInput(strategy=strategy, **examples))


def pair(positive: Any, negative: Any) -> models.ContextPair:
    return models.ContextPair(positive=positive, negative=negative)


def discover(target: Any, context: Any) -> models.DiscoverQuery:
    return models.DiscoverQuery(discover=models.DiscoverInput(target=target, context=context))


def feedback(target: Any, *examples: Any) -> models.RelevanceFeedbackQuery:
    scores = np.linspace(1, 0, len(examples))
    return models.RelevanceFeedbackQuery(
        relevance_feedback=models.RelevanceFeedbackInput(
            target=target,
            feedback=[
                models.FeedbackItem(example=e, score=float(s))
                for e, s in zip(examples, scores, strict=True)
            ],
            strategy=models.NaiveFeedbackStrategy(
                naive=models.NaiveFeedbackStrategyParams(a=0.7, b=0.4, c=0.2)
            ),
        )
    )


def queries(using: str) -> dict[str, Any]:
    own = VECTORS[using]
    out: dict[str, Any] = {
        "id": A,
        "nearest-id": models.NearestQuery(nearest=B),
        "average-default": recommend(None, positive=[A]),
        "discover": discover(A, [pair(B, C), pair(own, D)]),
        "discover-one-pair": discover(own, pair(B, C)),
        "context": models.ContextQuery(context=[pair(B, C), pair(own, D)]),
        "context-one-pair": models.ContextQuery(context=pair(B, C)),
    }
    for strategy in models.RecommendStrategy:
        out[f"{strategy.value}-mixed"] = recommend(strategy, positive=[A, own, B], negative=[C])
        out[f"{strategy.value}-positive"] = recommend(strategy, positive=[A, B])
        if strategy != models.RecommendStrategy.AVERAGE_VECTOR:
            out[f"{strategy.value}-negative"] = recommend(strategy, negative=[A, B])
    if using in ("dense", "plain"):  # in-memory mode has it for dense vectors only
        out["feedback"] = feedback(A, B, own, C)
    return out


CASES = [(using, name) for using in VECTORS for name in queries(using)]


@pytest.mark.parametrize(("using", "name"), CASES, ids=[f"{u}-{n}" for u, n in CASES])
def test_by_example(clients: tuple[QdrantClient, QdrantEdge], using: str, name: str) -> None:
    query = queries(using)[name]
    expected, got = (c.query_points(NAME, query, using=using, limit=30).points for c in clients)
    assert_same(expected, got, ties=True)


FUSED: dict[str, dict[str, Any]] = {
    "prefetches": {
        "query": models.FusionQuery(fusion=models.Fusion.RRF),
        "prefetch": [
            models.Prefetch(query=A, using="dense"),
            models.Prefetch(query=recommend(None, positive=[D]), using="sparse"),
        ],
    },
    "rerank": {
        "query": A,
        "using": "colbert",
        "prefetch": models.Prefetch(
            query=B, using="dense", prefetch=models.Prefetch(query=C, using="sparse", limit=50)
        ),
    },
    "filter": {
        "query": A,
        "using": "dense",
        "query_filter": models.Filter(must_not=EN, should=[EVEN, match("n", 3)]),
        "prefetch": models.Prefetch(
            query=SPARSE, using="sparse", limit=40, filter=models.Filter(must=[EVEN])
        ),
    },
    "mmr": {
        "query": models.NearestQuery(
            nearest=A, mmr=models.Mmr(diversity=0.4, candidates_limit=30)
        ),
        "using": "dense",
    },
    "lookup": {
        "query": POINTS[5].id,
        "using": "dense",
        "lookup_from": models.LookupLocation(collection=OTHER),
    },
    "lookup-here": {
        "query": A,
        "using": "dense",
        "lookup_from": models.LookupLocation(collection=NAME, vector="dense"),
    },
    "lookup-recommend": {
        "query": recommend(None, positive=[POINTS[5].id, POINTS[6].id], negative=[POINTS[8].id]),
        "using": "dense",
        "lookup_from": models.LookupLocation(collection=OTHER, vector="dense"),
    },
    "lookup-prefetch": {
        "query": TOKENS,
        "using": "colbert",
        "prefetch": models.Prefetch(
            query=POINTS[5].id,
            using="dense",
            lookup_from=models.LookupLocation(collection=OTHER),
        ),
    },
}


@pytest.mark.parametrize("name", FUSED)
def test_ids_within_a_request(clients: tuple[QdrantClient, QdrantEdge], name: str) -> None:
    # in-memory mode leaves ids below a stage without a query alone, so each stage has one
    expected, got = (c.query_points(NAME, **FUSED[name]).points for c in clients)
    assert_same(expected, got, ties=name == "prefetches")


def test_an_example_is_left_out_only_where_it_lives(
    clients: tuple[QdrantClient, QdrantEdge],
) -> None:
    _, embedded = clients
    twin = POINTS[5].id
    here = embedded.query_points(NAME, twin, using="dense").points
    assert twin not in {hit.id for hit in here}
    elsewhere = models.LookupLocation(collection=OTHER)
    there = embedded.query_points(NAME, twin, using="dense", lookup_from=elsewhere).points
    assert there[0].id == twin
    assert there[0].score == pytest.approx(1.0, abs=1e-6)


def test_the_request_stays_as_it_was(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    _, embedded = clients
    kept = models.Filter(must_not=[EN])
    query = recommend("best_score", positive=[A], negative=[B])
    request = models.QueryRequest(query=query, using="dense", filter=kept, limit=3)
    before = request.model_dump()
    first, second = embedded.query_batch_points(NAME, [request, request])
    assert [p.id for p in first.points] == [p.id for p in second.points]
    assert request.model_dump() == before


def test_lookups_in_both_directions_never_wait_for_each_other(
    clients: tuple[QdrantClient, QdrantEdge],
) -> None:
    _, embedded = clients

    def ask(i: int) -> int:
        here, there = ((NAME, OTHER), (OTHER, NAME))[i % 2]
        where = models.LookupLocation(collection=there)
        hits = embedded.query_points(here, POINTS[i % 40].id, using="dense", lookup_from=where)
        return len(hits.points)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(200), timeout=60)) == [10] * 200


@pytest.mark.parametrize("using", ["dense", "plain"])
def test_a_size_that_does_not_fit(clients: tuple[QdrantClient, QdrantEdge], using: str) -> None:
    other = {"dense": "plain", "plain": "dense"}[using]
    where = models.LookupLocation(collection=OTHER, vector=other)
    with pytest.raises(InputError, match="numbers, where the collection keeps"):
        clients[1].query_points(NAME, POINTS[5].id, using=using, lookup_from=where)
