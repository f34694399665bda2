"""Pages, thresholds, groups, batches, diversity, vectors and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from m3qdrant.collection.diversity import diversify
from m3qdrant.names import MODES, Mode
from tests.contract.answers import ids
from tests.views import documents, random_views
from tests.views import views as views_of

Agree = Callable[[Callable[[Any], Any]], Any]
N = 60
QUERY = 50  # a seed: its terms are in nine documents of each language


def filled(open_store: Any) -> Any:
    store = open_store()
    store.add(documents(N), embeddings=random_views(N, seed=31))
    return store


@pytest.mark.thinned(3)
@pytest.mark.parametrize("mode", MODES)
def test_pages_add_up(agree: Agree, mode: Mode) -> None:
    query = random_views(1, QUERY)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        whole = store.search(query, mode, limit=20, candidates=N)
        pages = [
            store.search(query, mode, limit=6, offset=offset, candidates=N)
            for offset in (0, 6, 12, 18)
        ]
        return [whole, pages]

    whole, pages = agree(use)
    assert len(set(ids(whole))) == 20
    assert [len(page) for page in pages] == [6] * 4
    joined = [hit for page in pages for hit in page]
    assert ids(joined[:20]) == ids(whole)
    assert len(set(ids(joined))) == 24


@pytest.mark.thinned(3)
@pytest.mark.parametrize("mode", MODES)
def test_a_threshold_is_on_the_score_that_hits_have(agree: Agree, mode: Mode) -> None:
    query = random_views(1, QUERY)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        whole = store.search(query, mode, limit=20)
        middle = (whole[9].score + whole[10].score) / 2
        return [whole, store.search(query, mode, limit=20, score_threshold=middle)]

    whole, above = agree(use)
    assert len(whole) == 20
    assert len(above) == 10
    assert ids(above) == ids(whole)[:10]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("mode", MODES)
def test_groups(agree: Agree, mode: Mode) -> None:
    query = random_views(1, QUERY)

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
    assert len(best) == 3
    assert all(len(found) > 2 for found in best.values())
    assert [hit["group"] for hit in two_each] == [lang for lang in best for _ in range(2)]
    assert ids(two_each) == [id for found in best.values() for id in found[:2]]
    assert ids(second_page) == [found[0] for found in list(best.values())[1:3]]
    assert all(hit["scores"] for hit in two_each)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_its_queries_one_by_one(agree: Agree, mode: Mode) -> None:
    queries = random_views(5, seed=35)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        return [
            store.search_batch(queries, mode, limit=4),
            [store.search(queries[i], mode, limit=4) for i in range(5)],
        ]

    batch, singly = agree(use)
    assert [len(hits) for hits in batch] == [4] * 5
    assert [ids(hits) for hits in batch] == [ids(hits) for hits in singly]
    assert len({tuple(ids(hits)) for hits in batch}) == 5


def test_diversity(agree: Agree) -> None:
    query = random_views(1, seed=36)
    dense, _, _ = views_of(random_views(N, seed=31))

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        return [
            [
                store.search(query, mode, limit=8, candidates=30, diversity=diversity)
                for diversity in (0.0, 0.6)
            ]
            + [store.search(query, mode, limit=limit, candidates=30) for limit in (8, 30)]
            for mode in MODES
        ]

    def rows(hits: list[dict[str, Any]]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = dense[[int(hit["id"][1:]) for hit in hits]].numpy()
        return found

    def spread(hits: list[dict[str, Any]]) -> float:
        return float(np.triu(rows(hits) @ rows(hits).T, 1).sum())

    answers = agree(use)
    assert len(answers) == len(MODES)
    for none, some, plain, ranking in answers:
        assert len(plain) == len(some) == 8
        assert ids(none) == ids(plain) == ids(ranking)[:8]
        scores = [hit["score"] for hit in ranking]
        taken = diversify(scores, list(rows(ranking)), 0.6, 8)
        assert ids(some) == [ranking[i]["id"] for i in taken]
        assert ids(some)[0] == ids(plain)[0]
        assert ids(some) != ids(plain)
        assert spread(some) <= spread(plain)
        assert "vectors" not in some[0]


def test_stored_vectors_come_along_when_asked_for(agree: Agree) -> None:
    dense, lexical, late = views_of(random_views(N, seed=31))
    query = random_views(1, seed=37)

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        return [
            store.search(query, limit=2, with_vectors=True),
            store.search(query, limit=2, with_vectors=["sparse"], diversity=0.2),
            store.search(query, limit=2, group_by="lang", with_vectors=["colbert"]),
        ]

    everything, sparse, grouped = agree(use)
    assert [len(hits) for hits in (everything, sparse, grouped)] == [2, 2, 2]
    for hit in everything:
        i = int(hit["id"][1:])
        assert set(hit["vectors"]) == {"dense", "sparse", "colbert"}
        assert hit["vectors"]["dense"] == pytest.approx(dense[i].tolist(), abs=1e-6)
        assert hit["vectors"]["sparse"]["indices"] == lexical[i].indices.tolist()
        stored = np.array(hit["vectors"]["colbert"])
        assert stored == pytest.approx(late[i].numpy(), abs=1e-3)
    assert all(set(hit["vectors"]) == {"sparse"} for hit in sparse)
    assert all(set(hit["vectors"]) == {"colbert"} for hit in grouped)


def test_parameters_of_the_index(agree: Agree) -> None:
    query = random_views(1, seed=38)
    options = {"ef": 64, "oversampling": 2.0}

    def use(open_store: Any) -> Any:
        store = filled(open_store)
        return [
            [store.search(query, mode), store.search(query, mode, exact=True, **options)]
            for mode in MODES
        ]

    answers = agree(use)
    assert len(answers) == len(MODES)
    for plain, exact in answers:
        assert len(plain) == 10
        assert ids(exact) == ids(plain)  # of so few documents every search is exact
