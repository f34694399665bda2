"""Every mode ranks alike everywhere, with and without a filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from m3qdrant.names import MODES
from tests.views import documents, random_views

Agree = Callable[[Callable[[Any], Any]], Any]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("filter", [None, {"lang": ["de", "en"], "year": {"gte": 2030}}])
def test_ranks(agree: Agree, mode: str, filter: dict[str, Any] | None) -> None:
    views, queries = random_views(90, seed=5), random_views(3, seed=6)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(90), embeddings=views)
        return [
            store.search(queries[i], mode, limit=7, candidates=20, filter=filter)
            for i in range(len(queries))
        ]

    for hits in agree(use):
        assert len(hits) == 7
        assert all(set(hit["scores"]) == {"dense", "sparse", "colbert"} for hit in hits)
        if filter is not None:
            assert all(
                hit["payload"]["lang"] != "fr" and hit["payload"]["year"] >= 2030 for hit in hits
            )


def test_weights(agree: Agree) -> None:
    views, query = random_views(40, seed=7), random_views(1, seed=8)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(40), embeddings=views)
        return [
            store.search(query, weights=w) for w in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 2, 1))
        ]

    one, two, three, _ = agree(use)
    for hits, name in ((one, "dense"), (two, "sparse"), (three, "colbert")):
        assert [hit["score"] for hit in hits] == pytest.approx(
            [hit["scores"][name] for hit in hits], abs=1e-6
        )


def test_without_components(agree: Agree) -> None:
    views, query = random_views(20, seed=9), random_views(1, seed=10)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(20), embeddings=views)
        return [store.search(query, mode, components=False) for mode in MODES]

    assert all(hit["scores"] == {} for hits in agree(use) for hit in hits)
