"""Why a hit ranks where it does is the same everywhere, and adds up to its score."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from m3qdrant import M3Encoder, M3Schema
from m3qdrant.errors import DocumentNotFoundError, InputError
from m3qdrant.names import MODES, Mode
from tests.views import documents, random_views

Agree = Callable[[Callable[[Any], Any]], Any]

TEXTS = {
    "en": "A red kite over the hills. A blue kite over the sea.",
    "ja": "ｶﾞｿﾘﾝを東京都で買う。Ｆｕｌｌ　Ｗｉｄｔｈ",
    "ar": "السَّلامُ عَلَيْكُمْ kite",
    "th": "ว่าวสีแดงบินเหนือเนินเขา kite",
    "<b>&": "<script>alert('kite')</script>\r\n\x00 ﬁrst 👩\u200d🔬 cafe\u0301",
    "empty": "",
}
DOCUMENTS = [{"id": id, "text": text} for id, text in TEXTS.items()]
QUERY = "a red kite ﬁrst"


def check(explained: dict[str, Any], text: str) -> None:
    """That all parts add up, and that each token is what stands at its place."""
    shares = [c["share"] for c in explained["components"]]
    assert math.fsum(shares) == pytest.approx(explained["score"], abs=1e-6)
    scores = {c["name"]: c["score"] for c in explained["components"]}
    products = math.fsum(t["product"] for t in explained["terms"])
    assert products == pytest.approx(scores["sparse"], abs=1e-6)
    for parts in ("matches", "vectors"):
        total = math.fsum(part["contribution"] for part in explained[parts])
        assert total == pytest.approx(scores["colbert"], abs=1e-6)
    assert explained["text"] == text
    for vector in explained["vectors"]:
        for token in vector["tokens"]:
            if token["start"] is None:
                assert token["text"] == "</s>"
                continue
            part = text[token["start"] : token["end"]]
            assert part == part.strip()
            if len(part) > 1 and part.isalnum():
                folded = unicodedata.normalize("NFKC", part).casefold()
                assert token["text"].casefold() in folded


@pytest.mark.thinned(3)
@pytest.mark.parametrize("mode", MODES)
def test_hits_are_explained(agree: Agree, encoder: M3Encoder, mode: Mode) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add(DOCUMENTS)
        hits = store.search(QUERY, mode, explain=True)
        alone = [store.explain(QUERY, hit.id, mode) for hit in hits]
        return hits, alone, store.search(QUERY, mode)

    hits, alone, plain = agree(use)
    assert hits
    for rank, (hit, same, without) in enumerate(zip(hits, alone, plain, strict=True), 1):
        explained = hit.pop("explanation")
        assert hit == without
        check(explained, TEXTS[hit["id"]])
        assert explained["notes"] == same["notes"]
        assert explained["rank"] == same["rank"] == rank
        assert explained["score"] == pytest.approx(hit["score"], abs=1e-6)
        assert same["score"] == pytest.approx(hit["score"], abs=1e-6)
        assert explained["matches"] == same["matches"]
        fused = mode in ("rrf", "dbsf")
        for c in explained["components"]:
            assert c["score"] == pytest.approx(hit["scores"][c["name"]], abs=1e-6)
            assert (c["weight"] is None) == fused
            assert (c["rank"] is not None) == (fused and c["share"] != 0)
        if mode == "rrf":
            assert [c["share"] for c in explained["components"] if c["rank"]] == [
                pytest.approx(1 / (60 + c["rank"])) for c in explained["components"] if c["rank"]
            ]


def test_a_document_that_is_not_found_is_explained_too(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add(DOCUMENTS)
        found = [
            store.explain(QUERY, "ja", mode, candidates=1, weights=(1, 1, 2))
            for mode in ("rrf", "weighted")
        ]
        return [*found, store.explain(QUERY, "en", filter={"lang": "de"})]

    rrf, weighted, filtered = agree(use)
    assert rrf["rank"] is weighted["rank"] is filtered["rank"] is None
    assert rrf["score"] == 0
    assert [c["weight"] for c in weighted["components"]] == [0.25, 0.25, 0.5]
    check(weighted, TEXTS["ja"])
    check(filtered, TEXTS["en"])


def test_embeddings_for_a_query(agree: Agree, encoder: M3Encoder) -> None:
    """Nobody knows their tokens: the document's are known all the same."""
    query = encoder.encode(QUERY)

    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add(DOCUMENTS)
        return store.search(query, explain=True), store.explain(query, "en")

    hits, alone = agree(use)
    for explained in (*(hit["explanation"] for hit in hits), alone):
        check(explained, TEXTS[explained["id"]])
        assert explained["query"] is None
        assert any("embeddings" in note for note in explained["notes"])
        assert all(match["query_tokens"] == [] for match in explained["matches"])
        assert all(vector["tokens"] for vector in explained["vectors"])


def test_vectors_without_an_encoder(agree: Agree) -> None:
    views, query = random_views(12, seed=5), random_views(1, seed=6)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(12), embeddings=views)
        return store.search(query, explain=True)

    for hit in agree(use):
        explained = hit["explanation"]
        check(explained, hit["text"])
        assert all(not vector["tokens"] for vector in explained["vectors"])
        assert all(term["text"] is None for term in explained["terms"])
        assert any("no encoder" in note for note in explained["notes"])
        assert explained["snippet"] == hit["text"]


def test_merged_tokens(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder, M3Schema(token_pooling=3))
        store.add([d for d in DOCUMENTS if d["text"]])
        return store.explain(QUERY, "en")

    explained = agree(use)
    check(explained, TEXTS["en"])
    tokens = [t["index"] for v in explained["vectors"] for t in v["tokens"]]
    assert sorted(tokens) == list(range(len(tokens)))
    assert len(explained["vectors"]) == -(-len(tokens) // 3)


def test_pages_groups_and_diversity(agree: Agree, encoder: M3Encoder) -> None:
    rows = [{**d, "kind": i % 2} for i, d in enumerate(DOCUMENTS)]

    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add(rows)
        return [
            store.search(QUERY, limit=2, offset=2, explain=True),
            store.search(QUERY, group_by="kind", group_size=2, explain=True),
            store.search(QUERY, "dense", group_by="kind", explain=True),
            store.search(QUERY, diversity=0.5, limit=3, explain=True),
            *store.search_batch([QUERY, "hills", QUERY], limit=2, explain=True),
        ]

    page, groups, dense, diverse, first, other, again = agree(use)
    for hits in (page, groups, dense, diverse, first, other, again):
        for hit in hits:
            check(hit["explanation"], hit["text"])
    assert [hit["explanation"]["rank"] for hit in page] == [3, 4]
    assert [hit["explanation"]["rank"] for hit in diverse] == [1, 2, 3]
    assert all(hit["explanation"]["rank"] for hit in groups)
    assert first == again
    assert {hit["explanation"]["query"] for hit in other} == {"hills"}


def test_what_can_not_be_explained(open_store: Any, encoder: M3Encoder) -> None:
    store = open_store(encoder)
    store.add(DOCUMENTS)
    with pytest.raises(DocumentNotFoundError, match="no document 'nowhere'"):
        store.explain(QUERY, "nowhere")
    with pytest.raises(LookupError):
        store.explain(QUERY, 7)
    with pytest.raises(InputError, match="the query is empty"):
        store.explain(" \n", "en")
    with pytest.raises(InputError, match="the query is empty"):
        store.search("", explain=True)
    with pytest.raises(InputError, match="components"):
        store.search(QUERY, explain=True, components=False)
    with pytest.raises(InputError, match="explain is 1"):
        store.search(QUERY, explain=1)
    with pytest.raises(InputError, match="unknown mode"):
        store.explain(QUERY, "en", "best")
    other = encoder.encode(QUERY)
    object.__setattr__(other, "fingerprint", "another")
    with pytest.raises(InputError, match="another model"):
        store.explain(other, "en")
    with pytest.raises(InputError, match="embeddings of 2"):
        store.explain(encoder.encode([QUERY, QUERY]), "en")
    assert store.search("kite", filter={"lang": "de"}, explain=True) == []
