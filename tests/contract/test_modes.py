"""Every mode ranks alike everywhere, with and without a filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from m3qdrant.names import MODES, Mode
from tests.contract.answers import ids, plain
from tests.contract.modes import assert_by_definition
from tests.views import documents, random_views, scores_by_hand

Agree = Callable[[Callable[[Any], Any]], Any]


@pytest.mark.thinned(5)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("filter", [None, {"lang": ["de", "en"], "year": {"gte": 2030}}])
def test_ranks(agree: Agree, mode: Mode, filter: dict[str, Any] | None) -> None:
    views, queries = random_views(90, seed=5), random_views(3, seed=6)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(90), embeddings=views)
        return [
            store.search(queries[i], mode, limit=7, candidates=20, filter=filter)
            for i in range(len(queries))
        ]

    answers = agree(use)
    assert [len(hits) for hits in answers] == [7, 7, 7]
    for hits in answers:
        assert len(set(ids(hits))) == 7
        assert all(set(hit["scores"]) == {"dense", "sparse", "colbert"} for hit in hits)
        if filter is not None:
            assert all(
                hit["payload"]["lang"] != "fr" and hit["payload"]["year"] >= 2030 for hit in hits
            )


def test_modes_differ_in_what_they_find(agree: Agree) -> None:
    """Each mode's hits beside the exact scores of all documents: which are found, which not."""
    n, candidates = 90, 12
    views, query = random_views(n, seed=5), random_views(1, seed=11)
    exact = {f"d{i}": scores_by_hand(query, views[i], ["colbert"]) for i in range(n)}

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(n), embeddings=views)
        return {mode: store.search(query, mode, limit=6, candidates=candidates) for mode in MODES}

    found = agree(use)

    def best(name: str, among: set[str], limit: int) -> list[str]:
        return sorted(among, key=lambda each: -exact[each][name])[:limit]

    everything, sharing = set(exact), {id for id, parts in exact.items() if parts["sparse"]}
    dense, sparse = (best("dense", everything, candidates), best("sparse", sharing, candidates))
    union = {*dense, *sparse}
    assert candidates < len(sharing)
    assert candidates < len(union) < n
    assert [len(found[mode]) for mode in MODES] == [6] * len(MODES)
    assert ids(found["dense"]) == dense[:6]
    assert ids(found["sparse"]) == sparse[:6]
    assert ids(found["colbert"]) == best("colbert", union, 6)
    assert ids(found["colbert"]) != best("colbert", everything, 6)  # it has candidates only
    total = {
        id: 0.4 * p["dense"] + 0.2 * p["sparse"] + 0.4 * p["colbert"] for id, p in exact.items()
    }
    assert ids(found["weighted"]) == sorted(union, key=total.__getitem__, reverse=True)[:6]
    assert set(ids(found["rrf"])) | set(ids(found["dbsf"])) <= union
    # no two of them are one and the same
    assert len({tuple(ids(found[mode])) for mode in MODES}) == len(MODES)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("mode", MODES)
def test_a_score_is_what_the_mode_defines(open_store: Any, mode: Mode) -> None:
    views, query = random_views(40, seed=5), random_views(1, seed=11)
    exact = {f"d{i}": scores_by_hand(query, views[i], ["colbert"]) for i in range(40)}
    store = open_store()
    store.add(documents(40), embeddings=views)
    assert_by_definition(mode, plain(store.search(query, mode, limit=40, candidates=40)), exact)


def test_weights(agree: Agree) -> None:
    views, query = random_views(40, seed=7), random_views(1, seed=8)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(40), embeddings=views)
        return [
            store.search(query, weights=w) for w in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 2, 1))
        ]

    answers = agree(use)
    assert [len(hits) for hits in answers] == [10] * 4
    assert len({tuple(ids(hits)) for hits in answers}) == 4
    one, two, three, mixed = answers
    for hits, name in ((one, "dense"), (two, "sparse"), (three, "colbert")):
        assert [hit["score"] for hit in hits] == pytest.approx(
            [hit["scores"][name] for hit in hits], abs=1e-6
        )
    for hit in mixed:
        parts = hit["scores"]
        assert hit["score"] == pytest.approx(
            (3 * parts["dense"] + 2 * parts["sparse"] + parts["colbert"]) / 6, abs=1e-5
        )


def test_without_components(agree: Agree) -> None:
    views, query = random_views(20, seed=9), random_views(1, seed=10)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(20), embeddings=views)
        return [
            [store.search(query, mode, components=components) for mode in MODES]
            for components in (True, False)
        ]

    with_them, without = agree(use)
    terms = query.lexical_weights()[0].keys()
    sharing = sum(bool(terms & weights.keys()) for weights in views.lexical_weights())
    assert sharing
    for mode, some, none in zip(MODES, with_them, without, strict=True):
        assert len(none) == (min(sharing, 10) if mode == "sparse" else 10)
        assert [hit | {"scores": {}} for hit in some] == none
        assert all(hit["scores"] for hit in some)
