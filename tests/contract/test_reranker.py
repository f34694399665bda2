"""A search's candidates scored by a reranker: what the engine gives, and never what was before."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from qdrant_client import models

from m3qdrant import M3Embeddings, M3Encoder, M3Reranker, M3Schema, M3Store, TokenVectors
from m3qdrant.collection import calls
from m3qdrant.errors import InputError, StoreClosedError
from m3qdrant.names import VECTORS, Mode
from tests.contract.answers import assert_same, ids, plain
from tests.contract.test_schema import CASES
from tests.servers.blocking import Blocking, waited
from tests.views import COLBERT_DIM, DIM, documents, random_views
from tests.views import views as views_of

N = 60
RANKED: list[Mode] = ["weighted", "colbert", "rrf", "dbsf"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "filter": {"filter": {"lang": ["de", "en"], "year": {"gte": 2010}}},
    "a page": {"limit": 5, "offset": 5},
    "beyond the end": {"limit": 10, "offset": 1000},
    "threshold": {"score_threshold": 0.02},
    "groups": {"group_by": "lang", "group_size": 2, "limit": 3},
    "diversity": {"diversity": 0.4},
    "vectors": {"with_vectors": ["dense"]},
    "no components": {"components": False},
    "exact": {"exact": True},
}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The ids of the points whose vectors rerankers ask for."""
    found: list[Any] = []

    def retrieve(name: str, ids: Any, **options: Any) -> Any:
        if options.get("with_vectors") == list(VECTORS):
            found.extend(ids)
        return original(name, ids, **options)

    original = calls.retrieve
    monkeypatch.setattr(calls, "retrieve", retrieve)
    return found


Write = Callable[..., Any]


@pytest.fixture
def write(backend: str, request: pytest.FixtureRequest) -> Write:
    """Calls a method of a store's client that writes; what stands in for a server has few."""

    def call(store: Any, method: str, *arguments: Any, **options: Any) -> Any:
        client = store.client
        if backend.startswith("REST"):
            client = request.getfixturevalue("stand_in").backing
            return getattr(client, method)(store.collection, *arguments, **options)
        return waited(store, getattr(client, method)(store.collection, *arguments, **options))

    return call


def filled(open_store: Any, n: int = N, seed: int = 31) -> Any:
    store = open_store()
    store.add(documents(n), embeddings=random_views(n, seed=seed))
    return store


@pytest.mark.thinned(3)
@pytest.mark.filterwarnings("ignore::m3qdrant.errors.RankingEndsWarning")
@pytest.mark.parametrize("mode", RANKED)
def test_it_ranks_as_the_engine(open_store: Any, mode: Mode) -> None:
    store, queries = filled(open_store), random_views(3, seed=50)
    reranker = M3Reranker()
    for name, options in OPTIONS.items():
        asked = {"mode": mode, "candidates": 20, **options}
        expected = plain([store.search(queries[i], **asked) for i in range(3)])
        found = plain([store.search(queries[i], **asked, reranker=reranker) for i in range(3)])
        assert_same(found, expected, name)
        batch = plain(store.search_batch(queries, **asked, reranker=reranker))
        assert_same(batch, expected, f"{name}, together")
        assert name == "beyond the end" or any(expected), name


@pytest.mark.thinned(4)
@pytest.mark.parametrize("weights", [(1, 0.3, 1), (0, 0, 1), (1, 0, 0), (0, 1, 0)])
def test_weights(open_store: Any, weights: Any) -> None:
    store, query = filled(open_store), random_views(1, seed=50)
    expected = plain(store.search(query, weights=weights))
    assert_same(plain(store.search(query, weights=weights, reranker=M3Reranker())), expected, "")
    own = M3Reranker(weights=weights)
    assert_same(plain(store.search(query, reranker=own)), expected, "the reranker's own")
    assert_same(plain(store.search(query, weights=weights, reranker=own)), expected, "both")
    with pytest.raises(InputError, match=r"the search's weights are .* the reranker's"):
        store.search(query, weights=(2, 1, 5), reranker=own)
    for mode in ("rrf", "colbert"):  # which have none
        found = plain(store.search(query, mode, reranker=own))
        assert_same(found, plain(store.search(query, mode)), mode)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("case", CASES)
def test_storage_options(backend: str, open_store: Any, case: str) -> None:
    """Scores by what is stored as it was given are the engine's, of all others nearly so."""
    schema, bounds = CASES[case]
    if backend != "embedded":
        pytest.skip("schemas are the engine's, and tests/contract/test_schema.py has the others")
    views, query = random_views(N, seed=61), random_views(1, seed=62)
    settings = open_store(None, schema)
    settings.add(documents(N), embeddings=views)
    settings.optimize()
    hits = {hit.id: hit.scores for hit in settings.search(query, limit=N, candidates=N)}
    reranker = M3Reranker()
    found = settings.search(query, limit=N, candidates=N, reranker=reranker)
    assert {hit.id for hit in found} == set(hits)
    for hit in found:
        for name in VECTORS:
            error = abs(hit.scores[name] - hits[hit.id][name])
            assert error <= bounds.get(name, 1e-5), (hit.id, name)


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 1e-3), ("int8", 2e-3)])
def test_narrower_dtypes(open_store: Any, dtype: Any, bound: float) -> None:
    store, query = filled(open_store), random_views(1, seed=50)
    exact = {hit.id: hit.score for hit in store.search(query, limit=N, candidates=N)}
    reranker = M3Reranker(dtype=dtype)
    for _ in range(2):
        hits = store.search(query, limit=N, candidates=N, reranker=reranker)
        assert {hit.id: hit.score for hit in hits} == pytest.approx(exact, abs=bound)


def test_what_is_held_is_not_fetched(backend: str, open_store: Any, fetched: list[Any]) -> None:
    store, queries = filled(open_store), random_views(2, seed=50)
    reranker = M3Reranker()
    store.search(queries[0], candidates=20, reranker=reranker)
    first = list(fetched)
    assert 20 <= len(set(first)) == len(first) < N
    assert len(reranker.held) == (0 if backend.startswith("memory") else len(first))
    fetched.clear()
    store.search(queries[0], candidates=20, reranker=reranker)
    # whose versions say nothing, so that nothing is held
    assert fetched == (first if backend.startswith("memory") else [])
    fetched.clear()
    store.search_batch(queries, candidates=20, reranker=reranker)
    assert fetched
    if not backend.startswith("memory"):
        assert not set(fetched) & set(first)
    store.delete("d1")
    store.add(documents(1), embeddings=random_views(1, seed=77))
    fetched.clear()
    store.search_batch(queries, candidates=N, reranker=reranker)
    assert _points(store)["d0"] in fetched


def _points(store: Any) -> dict[str, Any]:
    """The points' ids by their documents'."""
    found, _ = waited(store, store.client.scroll(store.collection, limit=1000, with_payload=True))
    return {point.payload["_m3"]["id"]: point.id for point in found}


def _renewed(store: Any, seed: int, name: str) -> models.PointVectors:
    """Another document's vector of that name for the first one, as any client writes it."""
    point = _points(store)["d0"]
    other = random_views(1, seed=seed)
    dense, sparse, colbert = views_of(other)
    row = sparse[0]
    vector: Any = {
        "dense": dense[0].tolist(),
        "sparse": models.SparseVector(indices=row.indices.tolist(), values=row.values.tolist()),
        "colbert": colbert[0].half().float().tolist(),
    }[name]
    return models.PointVectors(id=point, vector={name: vector})


def _writes(open_store: Any, write: Write) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Names of ways to change what is stored, and functions that do, from a store to a store."""

    def added(store: Any) -> Any:
        store.add(documents(9), embeddings=random_views(9, seed=101))

    def deleted(store: Any) -> Any:
        store.delete(["d0", "d5"])

    def added_again(store: Any) -> Any:
        store.add(documents(6), embeddings=random_views(6, seed=102))

    def deleted_and_added_at_once(store: Any) -> Any:
        store.delete("d3")
        store.add(documents(4), embeddings=random_views(4, seed=103))

    yield "added", added
    yield "deleted", deleted
    yield "added again", added_again
    yield "deleted and added", deleted_and_added_at_once
    for seed, name in enumerate(VECTORS):

        def updated(store: Any, seed: int = seed, name: str = name) -> Any:
            write(store, "update_vectors", [_renewed(store, 200 + seed, name)])

        yield f"{name} by a plain client", updated

    def payload(store: Any) -> Any:
        write(store, "set_payload", {"x": 1}, points=list(_points(store).values()))

    def made_again(seed: int, **same: Any) -> Callable[[Any], Any]:
        def make(store: Any) -> Any:
            write(store, "delete_collection")
            again = open_store()
            views = replace(random_views(N, seed=seed), **same)
            again.add(documents(N), embeddings=views)
            return again

        return make

    yield "payload", payload
    yield "made again", made_again(301)
    # the same but for token vectors, and with the same versions
    dense, sparse, _ = views_of(random_views(N, seed=301))
    yield "made again, of other tokens", made_again(302, dense=dense, sparse=sparse)
    yield "made again, as the first time", made_again(301)


@pytest.mark.usefixtures("own_directory")
def test_what_is_held_is_never_stale(open_store: Any, write: Write) -> None:
    """After each way of writing, a search by what is held is the engine's own."""
    store, queries = filled(open_store), random_views(3, seed=50)
    reranker = M3Reranker()
    before = None
    for name, change in _writes(open_store, write):
        store.search_batch(queries, candidates=N, reranker=reranker)
        store = change(store) or store
        expected = plain(store.search_batch(queries, limit=N, candidates=N))
        found = plain(store.search_batch(queries, limit=N, candidates=N, reranker=reranker))
        assert_same(found, expected, name)
        assert name == "payload" or expected != before, name
        before = expected


def test_another_store_that_writes(
    open_store: Any, backend: str, request: pytest.FixtureRequest
) -> None:
    """As another process does; an embedded collection has one at a time."""
    if not backend.startswith(("REST", "server")):
        pytest.skip("one process at a time has the directory, or the memory")
    where = os.environ.get("QDRANT_URL", "")
    if backend.startswith("REST"):
        where = request.getfixturevalue("stand_in").url
    store, queries = filled(open_store), random_views(2, seed=50)
    reranker = M3Reranker()
    for seed in range(3):
        store.search_batch(queries, candidates=N, reranker=reranker)
        with M3Store(where, store.collection, create=False) as other:
            other.add(documents(20), embeddings=random_views(20, seed=400 + seed))
            other.delete(f"d{30 + seed}")
        expected = plain(store.search_batch(queries, limit=N, candidates=N))
        found = plain(store.search_batch(queries, limit=N, candidates=N, reranker=reranker))
        assert_same(found, expected, f"write {seed}")


def test_two_collections_share_a_reranker(open_store: Any, tmp_path: Path) -> None:
    """The ids and the versions of one are those of the other."""
    reranker, queries = M3Reranker(), random_views(2, seed=50)
    store = filled(open_store)
    with M3Store(tmp_path / "other", store.collection) as other:
        other.add(documents(N), embeddings=random_views(N, seed=99))
        for _ in range(2):
            for one in (store, other):
                expected = plain(one.search_batch(queries, limit=N, candidates=N))
                found = plain(one.search_batch(queries, limit=N, candidates=N, reranker=reranker))
                assert_same(found, expected, one.collection)


def test_vectors_of_another_width(open_store: Any, encoder: M3Encoder, tmp_path: Path) -> None:
    """One cache, two models: each is right, whichever is searched."""
    store, query = filled(open_store), random_views(1, seed=50)
    reranker = M3Reranker()
    with M3Store(tmp_path / "other", "texts", encoder) as texts:
        texts.add(["a cat", "a dog", "a tree"])
        for _ in range(2):
            found = plain(store.search(query, reranker=reranker))
            assert_same(found, plain(store.search(query)), "one")
            found = plain(texts.search("cats", reranker=reranker))
            assert_same(found, plain(texts.search("cats")), "the other")


@pytest.mark.thinned(4)
@pytest.mark.parametrize("cache_bytes", [0, 100, 3_000, 20_000])
def test_a_cache_that_is_too_small(open_store: Any, cache_bytes: int) -> None:
    store, queries = filled(open_store), random_views(3, seed=50)
    expected = plain(store.search_batch(queries, limit=N, candidates=N))
    reranker = M3Reranker(cache_bytes=cache_bytes)
    for _ in range(3):
        found = plain(store.search_batch(queries, limit=N, candidates=N, reranker=reranker))
        assert_same(found, expected, "answer")
    assert reranker.held.used_bytes <= cache_bytes


def test_candidates_that_come_in_several_pages(
    open_store: Any, fetched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from m3qdrant.collection import reranking

    store, queries = filled(open_store), random_views(2, seed=50)
    monkeypatch.setattr(reranking, "_PAGE_BYTES", 7 * COLBERT_DIM * 4 * 3)
    expected = plain(store.search_batch(queries, limit=N, candidates=N))
    for _ in range(2):
        found = plain(store.search_batch(queries, limit=N, candidates=N, reranker=M3Reranker()))
        assert_same(found, expected, "answer")


def test_points_without_a_vector(open_store: Any, write: Write) -> None:
    """Which a plain client can write: what is missing scores nothing, as in the engine."""
    store, queries = filled(open_store), random_views(2, seed=50)
    names = _points(store)
    for id, vectors in (("d0", ["colbert"]), ("d1", ["sparse"]), ("d2", ["dense"])):
        write(store, "delete_vectors", vectors=vectors, points=[names[id]])
    reranker = M3Reranker()
    for mode in RANKED:
        for _ in range(2):
            expected = plain(store.search_batch(queries, mode, limit=N, candidates=N))
            found = plain(
                store.search_batch(queries, mode, limit=N, candidates=N, reranker=reranker)
            )
            assert_same(found, expected, mode)


def test_nothing_to_rank(open_store: Any) -> None:
    store, query = open_store(), random_views(1, seed=50)
    assert store.search(query, reranker=M3Reranker()) == []
    store.add(documents(3), embeddings=random_views(3, seed=1))
    found = store.search(query, filter={"lang": "none"}, reranker=M3Reranker())
    assert found == []


def test_a_query_longer_than_qdrant_takes(open_store: Any) -> None:
    """Its tokens are merged, and the mean is over all of them."""
    width, many = 65_536, 20
    schema = M3Schema(colbert_datatype="float32")

    def late(views: M3Embeddings, tokens: int, seed: int) -> M3Embeddings:

        rows = torch.randn(
            tokens * len(views), width, generator=torch.Generator().manual_seed(seed)
        )
        rows = torch.nn.functional.normalize(rows, dim=-1)
        offsets = torch.arange(len(views) + 1) * tokens
        return replace(views, colbert=TokenVectors(rows, offsets))

    store = open_store(None, schema)
    store.add(documents(3), embeddings=late(random_views(3, seed=1), 2, 1))
    query = late(random_views(1, seed=2), many, 2)
    expected = plain(store.search(query))
    assert_same(plain(store.search(query, reranker=M3Reranker())), expected, "answer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "dense"}, "mode 'dense' ranks by that vector alone"),
        ({"mode": "sparse"}, "a reranker goes with modes colbert, rrf, dbsf, weighted"),
        ({"weights": (0, 0, 0)}, "weights are all zero"),
        ({"reranker": "bge"}, "reranker is str: give an M3Reranker"),
    ],
)
def test_a_wrong_argument(open_store: Any, options: dict[str, Any], message: str) -> None:
    store = filled(open_store, 3)
    with pytest.raises(InputError, match=message):
        store.search(random_views(1, seed=1), **{"reranker": M3Reranker(), **options})
    with pytest.raises(InputError, match=message):
        store.search_batch(random_views(2, seed=1), **{"reranker": M3Reranker(), **options})


def test_a_closed_store(open_store: Any) -> None:
    store = filled(open_store, 3)
    store.close()
    with pytest.raises(StoreClosedError):
        store.search(random_views(1, seed=1), reranker=M3Reranker())


def test_the_rerankers_model_is_the_collections(open_store: Any, encoder: M3Encoder) -> None:
    store = open_store(encoder)
    store.add([{"id": "a", "text": "a cat"}, {"id": "b", "text": "a dog"}])
    found = plain(store.search("cats", reranker=M3Reranker(encoder)))
    assert_same(found, plain(store.search("cats")), "answer")

    class Other:
        name, fingerprint = "another", "another"

        def __getattr__(self, name: str) -> Any:
            return getattr(encoder, name)

    other: Any = Other()
    with pytest.raises(InputError, match=r"the reranker's encoder is another \(another\)"):
        store.search("cats", reranker=M3Reranker(other))


def test_several_threads_search(open_store: Any, backend: str) -> None:
    if backend.startswith("memory"):
        pytest.skip("in-memory mode bears one thread")
    store, queries = filled(open_store), random_views(8, seed=50)
    expected = plain(store.search_batch(queries, limit=9, candidates=15))
    reranker = M3Reranker(cache_bytes=12_000)
    wrong: list[BaseException] = []

    def use(i: int) -> None:
        try:
            for _ in range(6):
                found = plain(store.search(queries[i], limit=9, candidates=15, reranker=reranker))
                assert_same(found, expected[i], f"query {i}")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(len(queries))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


def test_a_candidate_that_is_deleted_meanwhile(
    open_store: Any, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the lists, before its vectors are fetched."""
    store, query = filled(open_store), random_views(1, seed=50)
    gone = plain(store.search(query, candidates=20))[0]["id"]
    original = calls.retrieve

    def retrieve(name: str, ids: Any, **options: Any) -> Any:
        if options.get("with_vectors") == list(VECTORS):
            point = _points(store).get(gone)
            if point is not None:
                write(store, "delete", models.PointIdsList(points=[point]))
        return original(name, ids, **options)

    if isinstance(store, Blocking):
        pytest.skip("its loop can't wait for itself")
    monkeypatch.setattr(calls, "retrieve", retrieve)
    for mode in RANKED:
        found = store.search(query, mode, candidates=20, reranker=M3Reranker())
        assert len(found) >= 9
        assert gone not in ids(found)


def test_embeddings_without_a_view(open_store: Any) -> None:
    store, query = filled(open_store, 5), random_views(1, seed=1)
    with pytest.raises(InputError, match="missing: colbert"):
        store.search(replace(query, colbert=None), reranker=M3Reranker())
    assert DIM != COLBERT_DIM


def test_a_directory_that_was_set_back(tmp_path: Path) -> None:
    """Other writes have the versions that were held; what is held scores otherwise."""
    data, backup, queries = tmp_path / "data", tmp_path / "backup", random_views(2, seed=50)
    with M3Store(data, "c") as store:
        store.add(documents(N), embeddings=random_views(N, seed=31))
    shutil.copytree(data, backup)
    reranker = M3Reranker()
    for seed in (501, 502):
        shutil.rmtree(data)
        shutil.copytree(backup, data)
        with M3Store(data, "c") as store:
            store.add(documents(20), embeddings=random_views(20, seed=seed))
            expected = plain(store.search_batch(queries, limit=N, candidates=N))
            found = plain(store.search_batch(queries, limit=N, candidates=N, reranker=reranker))
            assert_same(found, expected, f"seed {seed}")
    assert len(reranker.held) == N  # which were its, but for the 20


@pytest.mark.parametrize("change", ["replicas", "no uuid"])
def test_where_versions_say_too_little_nothing_is_held(tmp_path: Path, change: str) -> None:
    schema = M3Schema(replicas=2) if change == "replicas" else None
    with M3Store(tmp_path, "c", schema=schema) as store:
        store.add(documents(N), embeddings=random_views(N, seed=31))
        if change == "no uuid":  # as another client, or an earlier version, makes one
            ours = store.client.get_collection("c").config.metadata
            assert ours is not None
            del ours["m3qdrant"]["uuid"]
            store.client.update_collection("c", metadata=ours)
        query, reranker = random_views(1, seed=50), M3Reranker()
        for _ in range(2):
            expected = plain(store.search(query))
            assert_same(plain(store.search(query, reranker=reranker)), expected, "answer")
        assert len(reranker.held) == 0


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_equal_documents_are_in_the_order_of_their_ids(open_store: Any, dtype: Any) -> None:
    """Whichever of them were held before."""
    store, queries = open_store(), random_views(3, seed=50)
    same = [i // 3 for i in range(N)]
    store.add(documents(N), embeddings=random_views(N // 3, seed=31)[same])
    expected = [ids(store.search(queries[i], limit=N, candidates=N)) for i in range(3)]
    reranker = M3Reranker(dtype=dtype)
    store.search(queries[0], candidates=7, reranker=reranker)
    for i in range(3):
        hits = store.search(queries[i], limit=N, candidates=N, reranker=reranker)
        for first in range(0, N, 3):
            triple = [f"d{first + k}" for k in range(3)]
            found = [id for id in ids(hits) if id in triple]
            assert found == sorted(triple)
        if dtype == "float32":
            assert ids(hits) == expected[i]
