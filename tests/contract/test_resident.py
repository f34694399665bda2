"""A resident corpus finds what the store's own MaxSim finds, and follows what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from m3qdrant import Cascade, M3Embeddings, M3Encoder, M3Schema
from m3qdrant.errors import InputError, StoreClosedError
from tests.contract.answers import ids, plain
from tests.contract.residents import resident
from tests.servers.blocking import waited
from tests.views import documents, random_views

Agree = Callable[[Callable[[Any], Any]], Any]
Open = Callable[..., Any]

LANG = {"lang": ["de", "en"], "year": {"gte": 2030}}


def scored(hits: Any) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("datatype", ["float32", "float16"])
@pytest.mark.parametrize("filter", [None, LANG])
def test_finds_what_the_engine_finds(
    open_store: Open, dtype: str, datatype: Any, filter: dict[str, Any] | None
) -> None:
    store = open_store(None, M3Schema(colbert_datatype=datatype))
    store.add(documents(90), embeddings=random_views(90, seed=5))
    corpus = resident(store, dtype=dtype)
    assert corpus.changes.to_dict() == {
        "added": 90, "updated": 0, "removed": 0, "unchanged": 0, "without": 0,
    }  # fmt: skip
    queries = random_views(4, seed=6)
    every = corpus.search_batch(queries, 90, filter=filter)
    for i, found in enumerate(every):
        theirs = store.search(queries[i], "colbert", limit=90, candidates=90, filter=filter)
        assert ids(found) == ids(theirs)
        # in-memory mode keeps queries as they are, and so does not round them
        assert [hit.score for hit in found] == pytest.approx(
            [hit.score for hit in theirs], abs=1e-5
        )
        assert [(hit.text, hit.payload) for hit in found] == [
            (hit.text, hit.payload) for hit in theirs
        ]
        assert all(dict(hit.scores) == {"colbert": hit.score} for hit in found)
        bare = corpus.search(queries[i], 7, filter=filter, documents=False)
        assert scored(bare) == scored(found[:7])
        assert all((hit.text, hit.payload) == ("", {}) for hit in bare)
    corpus.close()


def test_answers_are_the_same_everywhere(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add([{"id": f"{i}", "text": text, "n": i} for i, text in enumerate(TEXTS)])
        corpus = resident(store, dtype="int8")
        return [
            corpus.search("compress a file"),
            corpus.search_batch(["open a socket", "zip"], 2, filter={"n": {"lt": 4}}),
            corpus.search("zip", 3, cascade=Cascade("int8", keep=3)),
            corpus.recall(TEXTS, Cascade(keep=4), 2).mean,
        ]

    (first, *_), several, few, recall = agree(use)
    assert first["text"] == "compress a file with gzip"
    assert [len(hits) for hits in several] == [2, 2]
    assert len(few) == 3
    assert 0.5 < recall <= 1


TEXTS = [
    "compress a file with gzip",
    "open a socket and listen",
    "a zip archive of files",
    "parse the arguments of a program",
    "sort a list in place",
    "a socket's address",
]


def test_equal_documents_come_in_the_order_of_their_ids(agree: Agree) -> None:
    views = M3Embeddings.concat([random_views(1, seed=3)] * 9 + [random_views(5, seed=4)])

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(14), embeddings=views)
        return [
            [hit.id for hit in resident(store, dtype=dtype).search(views[0:1], 6)]
            for dtype in ("float32", "int8")
        ]

    assert agree(use) == [["d0", "d1", "d2", "d3", "d4", "d5"]] * 2


@pytest.mark.parametrize("folder", [False, True])
def test_follows_what_is_written(
    open_store: Open, backend: str, folder: bool, tmp_path: Path
) -> None:
    store = open_store()
    store.add(documents(40), embeddings=random_views(40, seed=1))
    options = {"folder": tmp_path / "resident"} if folder else {}
    corpus = resident(store, **options)
    queries = random_views(3, seed=2)

    def follows(**expected: int) -> None:
        changes = corpus.refresh().to_dict()
        assert changes["without"] == 0
        assert {name: changes[name] for name in expected} == expected
        fresh = resident(store)
        wanted = fresh.search_batch(queries, 50)
        assert plain(corpus.search_batch(queries, 50)) == plain(wanted)
        assert corpus.tokens == fresh.tokens
        assert {hit.id for hit in wanted[0]} == {d.id for d in store.documents()}
        assert corpus.refresh().to_dict() == {
            "added": 0, "updated": 0, "removed": 0, "unchanged": len(wanted[0]), "without": 0,
        }  # fmt: skip

    follows(added=0, updated=0, removed=0, unchanged=40)
    store.add(documents(45)[38:], embeddings=random_views(7, seed=3))
    follows(added=5, updated=2, removed=0, unchanged=38)
    store.delete([f"d{i}" for i in range(4)])
    follows(added=0, removed=4, unchanged=41)
    if backend.startswith("REST stand-in"):  # which knows no other writes
        corpus.close()
        return
    # as somebody does who knows nothing of this package
    point = documents(45)[20].point_id
    client, name = store.client, store.collection
    given = models.PointVectors(id=point, vector={"colbert": [[1.0] + [0.0] * 15]})
    waited(store, client.update_vectors(name, [given]))
    follows(added=0, updated=1, removed=0, unchanged=40)
    store.delete("d20")
    store.add(documents(45)[20:21], embeddings=random_views(1, seed=9))
    follows(updated=1, removed=0, unchanged=40)
    waited(store, client.delete_vectors(name, ["colbert"], [point]))
    changes = corpus.refresh()
    assert (changes.removed, changes.without) == (1, 1)
    assert "d20" not in ids(corpus.search(queries[0:1], 50))
    corpus.close()


@pytest.mark.parametrize("folder", [False, True])
def test_a_collection_that_was_made_again_is_read_again(
    open_store: Open, folder: bool, tmp_path: Path
) -> None:
    """Its points have the same ids and the same versions, and other vectors."""
    store = open_store()
    store.add(documents(30), embeddings=random_views(30, seed=1))
    options = {"folder": tmp_path / "resident"} if folder else {}
    corpus = resident(store, **options)
    client, name = store.client, store.collection
    settings = store._collection.layout.settings()
    waited(store, client.delete_collection(name))
    waited(store, client.create_collection(name, **settings))
    store.add(documents(30), embeddings=random_views(30, seed=2))
    assert corpus.refresh().updated == 30
    query = random_views(1, seed=3)
    wanted = resident(store).search(query, 30)
    assert plain(corpus.search(query, 30)) == plain(wanted)
    corpus.close()


def test_a_folder_is_brought_up_to_date(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    store.add(documents(30), embeddings=random_views(30, seed=1))
    query = random_views(1, seed=3)
    found = None
    for dtype in ("float32", "int8", "float32"):
        corpus = resident(store, folder=tmp_path / "held", dtype=dtype)
        assert corpus.changes.added == (30 if found is None else 0)
        again = scored(corpus.search(query, 30))
        assert found is None or again == found
        found = again
        corpus.close()
    store.add(documents(32)[29:], embeddings=random_views(3, seed=5))
    store.delete("d0")
    corpus = resident(store, folder=tmp_path / "held")
    changes = corpus.changes
    assert (changes.added, changes.updated, changes.removed) == (2, 1, 1)
    assert plain(corpus.search(query, 40)) == plain(resident(store).search(query, 40))
    corpus.close()


def test_an_empty_collection(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        corpus = resident(open_store(encoder))
        return [
            corpus.search("anything"),
            corpus.search_batch(["a", "b"], filter={"x": 1}),
            corpus.search_batch([]),
            corpus.tokens,
            corpus.refresh().to_dict(),
        ]

    nothing = dict.fromkeys(("added", "updated", "removed", "unchanged", "without"), 0)
    assert agree(use) == [[], [[], []], [], 0, nothing]


def test_a_corpus_that_is_closed(open_store: Open) -> None:
    store = open_store()
    store.add(documents(3), embeddings=random_views(3, seed=1))
    corpus = resident(store)
    corpus.close()
    corpus.close()
    with pytest.raises(StoreClosedError, match="the resident corpus is closed"):
        corpus.search(random_views(1, seed=1))
    with pytest.raises(StoreClosedError, match="the resident corpus is closed"):
        corpus.refresh()
    assert store.count() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is 0: give a whole number from 1"),
        ({"limit": True}, "limit is True"),
        ({"limit": 11, "cascade": Cascade(keep=10)}, "the cascade keeps 10 documents of 11"),
        ({"filter": {"year": {"near": 1}}}, "near"),
    ],
)
def test_wrong_arguments_are_named(
    open_store: Open, options: dict[str, Any], message: str
) -> None:
    store = open_store()
    store.add(documents(3), embeddings=random_views(3, seed=1))
    with pytest.raises(InputError, match=message):
        resident(store).search(random_views(1, seed=1), **options)
