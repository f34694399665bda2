"""Pages, thresholds, groups, batches, diversity, vectors and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from m3qdrant.names import MODES
from tests.views import documents, random_views

Agree = Callable[[Callable[[Any], Any]], Any]
N = 60


def filled(open_store: Any) -> Any:
    store = open_store()
    store.add(documents(N), embeddings=random_views(N, seed=31))
    return store


def ids(hits: Any) -> list[str]:
    return [hit["id"] if isinstance(hit, dict) else hit.id for hit in hits]


@pytest.mark.parametrize("mode", MODES)
def test_pages_add_up(agree: Agree, mode: str) -> None:
    query = random_views(1, seed=32)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        whole = store.search(query, mode, limit=20, candidates=N)
        pages = [
            store.search(query, mode, limit=6, offset=offset, candidates=N)
            for offset in (0, 6, 12, 18)
        ]
        return [whole, pages]

    whole, pages = agree(use)
    joined = [hit for page in pages for hit in page]
    assert ids(joined[: len(whole)]) == ids(whole)
    assert all(len(page) <= 6 for page in pages)


@pytest.mark.parametrize("mode", MODES)
def test_a_threshold_is_on_the_score_that_hits_have(agree: Agree, mode: str) -> None:
    query = random_views(1, seed=33)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        whole = store.search(query, mode, limit=20)
        middle = (whole[9].score + whole[10].score) / 2
        return [whole, store.search(query, mode, limit=20, score_threshold=middle)]

    whole, above = agree(use)
    assert ids(above) == ids(whole)[:10]


@pytest.mark.parametrize("mode", MODES)
def test_groups(agree: Agree, mode: str) -> None:
    query = random_views(1, seed=34)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        options = {"candidates": N, "group_by": "lang"}
        return [
            store.search(query, mode, limit=N, candidates=N),
            store.search(query, mode, limit=3, group_size=2, **options),
            store.search(query, mode, limit=2, offset=1, **options),
        ]

    whole, two_each, second_page = agree(use)
    best: dict[str, list[str]] = {}
    for hit in whole:
        best.setdefault(hit["payload"]["lang"], []).append(hit["id"])
    assert [hit["group"] for hit in two_each] == [lang for lang in best for _ in range(2)]
    assert ids(two_each) == [id for found in best.values() for id in found[:2]]
    assert ids(second_page) == [found[0] for found in list(best.values())[1:3]]
    assert all(hit["scores"] for hit in two_each)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_its_queries_one_by_one(agree: Agree, mode: str) -> None:
    queries = random_views(5, seed=35)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        return [
            store.search_batch(queries, mode, limit=4),
            [store.search(queries[i], mode, limit=4) for i in range(5)],
        ]

    batch, singly = agree(use)
    assert [ids(hits) for hits in batch] == [ids(hits) for hits in singly]


def test_diversity(agree: Agree) -> None:
    query = random_views(1, seed=36)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        return [
            [
                store.search(query, mode, limit=8, candidates=30, diversity=diversity)
                for diversity in (0.0, 0.6)
            ]
            + [store.search(query, mode, limit=8, candidates=30)]
            for mode in MODES
        ]

    def spread(hits: list[dict[str, Any]]) -> float:
        views = random_views(N, seed=31).dense
        assert views is not None
        rows = views[[int(hit["id"][1:]) for hit in hits]].numpy()
        return float(np.triu(rows @ rows.T, 1).sum())

    for none, some, plain in agree(use):
        assert ids(none) == ids(plain)
        assert ids(some)[0] == ids(plain)[0]
        assert spread(some) <= spread(plain)
        assert "vectors" not in some[0]


def test_stored_vectors_come_along_when_asked_for(agree: Agree) -> None:
    views, query = random_views(N, seed=31), random_views(1, seed=37)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        return [
            store.search(query, limit=2, with_vectors=True),
            store.search(query, limit=2, with_vectors=["sparse"], diversity=0.2),
            store.search(query, limit=2, group_by="lang", with_vectors=["colbert"]),
        ]

    everything, sparse, grouped = agree(use)
    for hit in everything:
        i = int(hit["id"][1:])
        assert set(hit["vectors"]) == {"dense", "sparse", "colbert"}
        assert hit["vectors"]["dense"] == pytest.approx(views.dense[i].tolist(), abs=1e-6)
        assert hit["vectors"]["sparse"]["indices"] == views.sparse[i].indices.tolist()
        stored = np.array(hit["vectors"]["colbert"])
        assert stored == pytest.approx(views.colbert[i].numpy(), abs=1e-3)
    assert all(set(hit["vectors"]) == {"sparse"} for hit in sparse)
    assert all(set(hit["vectors"]) == {"colbert"} for hit in grouped)


def test_parameters_of_the_index(agree: Agree) -> None:
    query = random_views(1, seed=38)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        return [
            store.search(query, mode, exact=True, ef=64, oversampling=2.0)
            for mode in ("dense", "weighted", "rrf")
        ]

    assert all(len(hits) == 10 for hits in agree(use))
