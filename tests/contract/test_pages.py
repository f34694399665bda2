"""A page is a slice of one ranking, whatever the page; equal scores are in the order of ids."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from m3qdrant import M3Embeddings, M3Store
from m3qdrant.errors import RankingEndsWarning
from m3qdrant.names import MODES, Mode
from tests.contract.answers import ids
from tests.views import random_views

Agree = Callable[[Callable[[Any], Any]], Any]
N, DIFFERENT = 90, 17
CANDIDATES = 20


def repeated(rng: random.Random) -> tuple[list[dict[str, Any]], M3Embeddings]:
    """Documents of which many have the same vectors, and so the same scores, in any order."""
    texts = [rng.randrange(DIFFERENT) for _ in range(N)]
    names = rng.sample(range(1000), N)
    documents = [
        {"id": f"d{name:03}", "text": f"text {text}", "kind": text % 5}
        for name, text in zip(names, texts, strict=True)
    ]
    return documents, random_views(DIFFERENT, seed=rng.randrange(2**31))[texts]


def pages(store: Any, query: M3Embeddings, sizes: list[int], **options: Any) -> list[Any]:
    """The hits of one page after the other."""
    found: list[Any] = []
    offset = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankingEndsWarning)
        for size in sizes:
            found += store.search(query, limit=size, offset=offset, **options)
            offset += size
    return found


@pytest.mark.thinned(6)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["plain", "threshold", "diversity", "groups"])
def test_pages_of_any_size_are_one_ranking(agree: Agree, mode: Mode, kind: str) -> None:
    rng = random.Random(f"{mode} {kind}")
    documents, embeddings = repeated(rng)
    query = random_views(1, seed=rng.randrange(2**31))
    options: dict[str, Any] = {"mode": mode, "candidates": CANDIDATES, "components": False}
    if kind == "diversity":
        options["diversity"] = 0.4
    if kind == "groups":
        options |= {"group_by": "kind", "group_size": 3}
    sizes: list[int] = []
    while sum(sizes) < N:
        sizes.append(rng.randint(1, 13))

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents, embeddings=embeddings)
        if kind == "threshold":
            some = store.search(query, mode, limit=9, candidates=CANDIDATES)
            options["score_threshold"] = some[-1].score
        return [pages(store, query, [N], **options), pages(store, query, sizes, **options)]

    whole, joined = agree(use)
    assert ids(joined) == ids(whole)
    if kind != "groups":
        assert len(set(ids(whole))) == len(whole)
    if kind == "plain":
        order = [(-hit["score"], hit["id"]) for hit in whole]
        assert order == sorted(order)
        if mode == "dense":
            assert len(whole) == N  # nothing left out
        elif mode != "sparse":
            assert CANDIDATES <= len(whole) <= 2 * CANDIDATES


@pytest.mark.thinned(3)
@pytest.mark.parametrize("mode", MODES)
def test_a_ranking_says_where_it_ends(open_store: Any, mode: Mode) -> None:
    documents, embeddings = repeated(random.Random(mode))
    store = open_store()
    store.add(documents, embeddings=embeddings)
    query = random_views(1, seed=5)
    endless = mode in ("dense", "sparse")

    def warned(**options: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store.search(query, mode, **options)
        return [str(w.message) for w in caught if w.category is RankingEndsWarning]

    assert warned(limit=CANDIDATES, candidates=CANDIDATES) == []
    behind = warned(limit=5, offset=2 * CANDIDATES, candidates=CANDIDATES)
    assert (behind == []) == endless
    assert all("give candidates= a larger number" in message for message in behind)
    assert warned(limit=N + 1, candidates=N) == []  # there are no more documents
    assert len(warned(limit=CANDIDATES + 1, candidates=CANDIDATES, diversity=0.5)) == (
        mode != "sparse" or len(store.search(query, mode, limit=N)) > CANDIDATES
    )


def test_an_index_that_misses_some_repeats_and_omits_none(tmp_path: Any) -> None:
    """HNSW finds the nearest of a number; the pages behind those are searched without it."""
    n = 3_000
    views = random_views(n, seed=9)
    with M3Store(tmp_path / "data", "c") as store:
        store.add([{"id": f"{i}", "text": f"{i}"} for i in range(n)], embeddings=views)
        store.optimize()
        query = random_views(1, seed=10)
        assert query.dense is not None
        found = pages(store, query, [40, 7, 60, 200, n], mode="dense", candidates=50, ef=1)
    assert views.dense is not None
    assert len({hit.id for hit in found}) == len(found) == n
    exact = views.dense @ query.dense[0]
    best = set(torch.topk(exact, 1000).indices.tolist())
    assert len(best & {int(hit.id) for hit in found[:1050]}) == 1000
