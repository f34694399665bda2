"""Documents in and out: add, get, iterate, count, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from m3qdrant import Document, M3Encoder
from tests.views import documents, random_views

Agree = Callable[[Callable[[Any], Any]], Any]


def test_in_and_out(agree: Agree, encoder: M3Encoder) -> None:
    items = [
        {"id": "a", "text": "compress a file", "lang": "en", "year": 2019},
        Document(
            "b", "Datei packen", {"lang": "de", "tags": ["x", "y"], "deep": {"a": [1, None]}}
        ),
        "a plain string",
        {"id": 5, "text": "five", "flag": True, "ratio": 0.5},
    ]

    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        report = store.add(items)
        return [
            report,
            [vars(d) if d else None for d in store.get(["b", "nope", "a", 5])],
            sorted((d.id, d.text, dict(d.payload)) for d in store.documents()),
            sorted(d.id for d in store.documents({"lang": ["en", "de"]})),
            store.count(),
            store.count({"lang": "de"}),
            store.count({"tags": "y"}),
            store.delete(["a", "nope"]),
            store.delete(filter={"flag": True}),
            store.count(),
        ]

    report, found, everything, *rest = agree(use)
    assert report["added"] == 4
    assert found[1] is None
    assert len(everything) == 4
    assert rest == [["a", "b"], 4, 1, 1, 1, 1, 2]


def test_iterates_more_than_a_page(agree: Agree) -> None:
    views = random_views(600, seed=3, tokens=1)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(600), embeddings=views)
        return sorted(d.id for d in store.documents({"lang": ["de", "en"]}))

    assert len(agree(use)) == 400


@pytest.mark.usefixtures("own_directory")
def test_reopening_keeps_everything(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        open_store(encoder).add(["one", "two", "three"])
        store = open_store(encoder, create=False)
        return [store.count(), store.search("two"), store.info().documents]

    assert agree(use)[0] == 3


def test_an_empty_collection(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        return [
            store.search("anything"),
            store.search_batch(["a", "b"]),
            store.count(),
            store.get("a"),
            list(store.documents()),
            store.delete("a"),
        ]

    assert agree(use) == [[], [[], []], 0, None, [], 0]
