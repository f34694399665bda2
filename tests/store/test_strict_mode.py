"""A collection in strict mode on a real server: all works, or says what to index and how."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from m3qdrant import M3Encoder, M3Schema, M3Store
from m3qdrant.errors import IngestError, RequestRejectedError, UnsupportedError
from m3qdrant.names import MODES
from m3qdrant.upkeep import examine, migrate
from tests.servers.real import real_server

N = 60
ROWS: list[dict[str, Any]] = [
    {
        "id": f"doc {i}",
        "text": f"the {i % 7} word of {i} and of {i * i}",
        "kind": "abc"[i % 3],
        "year": 2000 + i,
    }
    for i in range(N)
]
STRICT = models.StrictModeConfig(
    enabled=True,
    unindexed_filtering_retrieve=False,
    unindexed_filtering_update=False,
    max_query_limit=25,
    search_allow_exact=False,
    upsert_max_batchsize=10,
    search_max_batchsize=4,
    condition_max_size=20,
    search_max_oversampling=1.5,
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=["plain", "quantized", "tenants"])
def store(request: pytest.FixtureRequest, url: str, encoder: M3Encoder) -> Iterator[M3Store]:
    schema = {
        "plain": M3Schema(),
        "quantized": M3Schema(dense_quantization="int8", colbert_quantization="int8"),
        "tenants": M3Schema(tenant="kind"),
    }[request.param]
    with M3Store(url, f"strict-{uuid.uuid4().hex}", encoder, schema) as made:
        made.add(ROWS)
        yield made
        made.client.delete_collection(made.collection)


def strict(store: M3Store, url: str, encoder: M3Encoder) -> M3Store:
    """The same collection in strict mode, opened again."""
    client: Any = store.client
    client.update_collection(store.collection, strict_mode_config=STRICT)
    return M3Store(url, store.collection, encoder)


def test_searches_answer_as_without_it(store: M3Store, url: str, encoder: M3Encoder) -> None:
    tenants = store.schema is not None and store.schema.tenant is not None
    queries = ["the 3 word", "of 49", "nothing of the kind"]
    asked: list[dict[str, Any]] = [
        {"mode": mode, "limit": limit, "candidates": candidates}
        for mode in MODES
        for limit, candidates in ((5, 30), (40, 60))
    ]
    condition = {"kind": "a"} if tenants else None
    before = [store.search_batch(queries, filter=condition, **each) for each in asked]
    with strict(store, url, encoder) as kept:
        after = [kept.search_batch(queries, filter=condition, **each) for each in asked]
    for each, one, two in zip(asked, before, after, strict=True):
        for hits, others in zip(one, two, strict=True):
            assert [hit.id for hit in hits] == [hit.id for hit in others], each
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in others])
            assert [hit.scores for hit in hits] == [pytest.approx(h.scores) for h in others]


def test_reading_and_writing(store: M3Store, url: str, encoder: M3Encoder, tmp_path: Path) -> None:
    with strict(store, url, encoder) as kept:
        assert kept.count() == N
        assert len(list(kept.documents())) == N
        assert kept.info().documents == N
        assert kept.add([{**row, "text": f"{row['text']} now"} for row in ROWS]).replaced == N
        assert kept.delete(["doc 0", "doc 1"]) == 2
        report = migrate(url, tmp_path, kept.collection)
        assert report.verified
        findings = examine(url, kept.collection)
        assert not [f for f in findings if f.severity == "error"]
        (told,) = [f for f in findings if "strict mode" in f.what]
        assert "at most 25 points a request" in told.what


def test_pruning_indexes_what_it_filters_by(url: str, encoder: M3Encoder) -> None:
    with M3Store(url, f"strict-{uuid.uuid4().hex}", encoder) as store:
        store.add(ROWS)
        with strict(store, url, encoder) as kept:
            assert kept.add(ROWS[:50], prune=True).pruned == 10
            assert kept.count() == 50
            assert kept.info().schema.payload_indexes == {}
            with pytest.raises(IngestError, match="m3qdrant index kind=keyword"):
                kept.add(ROWS[:50], prune={"kind": "a"})
        store.client.delete_collection(store.collection)


def test_a_filter_without_an_index_says_which_to_make(url: str, encoder: M3Encoder) -> None:
    with M3Store(url, f"strict-{uuid.uuid4().hex}", encoder) as store:
        store.add(ROWS)
        with strict(store, url, encoder) as kept:
            for asked in (
                lambda: kept.search("word", filter={"kind": "a"}),
                lambda: kept.search("word", mode="dense", group_by="kind"),
                lambda: kept.count({"kind": "a"}),
                lambda: kept.delete(filter={"kind": "a"}),
            ):
                with pytest.raises(RequestRejectedError) as caught:
                    asked()
                assert "m3qdrant index kind=keyword" in str(caught.value)
                assert """--schema '{"payload_indexes": {"kind": "keyword"}}'""" in str(
                    caught.value
                )
            with pytest.raises(RequestRejectedError, match="m3qdrant index year=integer"):
                kept.search("word", filter={"year": {"gte": 2010}})
            assert kept.index({"kind": "keyword", "year": "integer"}) == ["kind", "year"]
            assert kept.index({"kind": "keyword"}) == []
            assert kept.schema is not None
            assert dict(kept.schema.payload_indexes) == {"kind": "keyword", "year": "integer"}
            hits = kept.search("word", filter={"kind": "a", "year": {"gte": 2010}}, limit=50)
            assert {hit.payload["kind"] for hit in hits} == {"a"}
            for mode in MODES:
                grouped = kept.search("the 3 word of", mode=mode, group_by="kind", group_size=2)
                assert {hit.group for hit in grouped} == {"a", "b", "c"}
            assert kept.delete(filter={"kind": "a"}) == N // 3
        store.client.delete_collection(store.collection)


def test_an_exact_search_is_refused_in_words_of_ours(url: str, encoder: M3Encoder) -> None:
    with M3Store(url, f"strict-{uuid.uuid4().hex}", encoder) as store:
        store.add(ROWS)
        with (
            strict(store, url, encoder) as kept,
            pytest.raises(UnsupportedError, match="allows no exact search"),
        ):
            kept.search("word", exact=True)
        store.client.delete_collection(store.collection)
