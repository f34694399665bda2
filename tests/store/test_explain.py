"""No word is named that might be another's: where tokens can't be recovered, it says so."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from qdrant_client import QdrantClient, models

from m3qdrant import (
    Explanation,
    Hit,
    M3Embeddings,
    M3Encoder,
    M3Reranker,
    M3Schema,
    M3Store,
)
from m3qdrant.collection import Hits, point_id
from m3qdrant.errors import DocumentNotFoundError, InputError
from m3qdrant.names import COLBERT, DENSE, MODES

TEXT = "one red kite, two blue kites; a third one is green"
QUERY = "a red kite"


@pytest.fixture
def client() -> QdrantClient:
    return QdrantClient(":memory:")


def tokens(explained: Explanation) -> list[str]:
    return [token.text for vector in explained.vectors for token in vector.tokens]


def filled(client: QdrantClient, encoder: M3Encoder, **options: Any) -> M3Store:
    store = M3Store(client, "c", encoder, options.pop("schema", None))
    store.add([{"id": "a", "text": TEXT}], **options)
    return store


@pytest.mark.parametrize("max_length", [8192, 9, 77])
@pytest.mark.parametrize("long_documents", ["pool", "truncate", "error"])
def test_the_options_are_found(
    client: QdrantClient, encoder: M3Encoder, max_length: int, long_documents: Any
) -> None:
    store = filled(client, encoder, max_length=max_length, long_documents=long_documents)
    found = store.explain(QUERY, "a")
    (spans,) = encoder.token_spans(TEXT, max_length)
    assert tokens(found) == [span.text for span in spans]
    cut = len(spans) < len(encoder.token_spans(TEXT)[0])
    assert any("first 9 tokens" in note for note in found.notes) == cut


def test_too_many_vectors_are_merged_or_cut(
    client: QdrantClient, encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3qdrant.limits.MULTIVECTOR_LIMIT", 10 * encoder.colbert_dim + 1)
    store = filled(client, encoder, schema=M3Schema(token_pooling=2))
    store.add([{"id": "cut", "text": TEXT}], long_documents="truncate")
    n = len(encoder.token_spans(TEXT)[0])
    assert n > 20
    merged, cut = (store.explain(QUERY, id) for id in ("a", "cut"))
    assert len(merged.vectors) == len(cut.vectors) == 10
    assert sorted(t.index for v in merged.vectors for t in v.tokens) == list(range(n))
    assert sorted(t.index for v in cut.vectors for t in v.tokens) == list(range(20))
    assert any(f"first 20 of {n} tokens" in note for note in cut.notes)
    assert merged.merged


def test_a_long_query_is_merged(
    client: QdrantClient, encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(client, encoder, schema=M3Schema(token_pooling=9))
    monkeypatch.setattr("m3qdrant.limits.MULTIVECTOR_LIMIT", 6 * encoder.colbert_dim + 1)
    found = store.explain(TEXT, "a")
    n = len(encoder.token_spans(TEXT)[0])
    assert len(found.matches) == 6
    assert sorted(t.index for m in found.matches for t in m.query_tokens) == list(range(n))
    colbert = found.component("colbert")
    assert sum(m.contribution for m in found.matches) == pytest.approx(colbert.score, abs=1e-6)
    assert any("merged into 6 vectors" in note for note in found.notes)


def changed_text(client: QdrantClient) -> None:
    client.set_payload("c", {"text": TEXT.upper()}, [point_id("a")])


def no_text(client: QdrantClient) -> None:
    client.delete_payload("c", ["text"], [point_id("a")])


def no_record(client: QdrantClient) -> None:
    client.delete_payload("c", ["_m3"], [point_id("a")])


def another_model(client: QdrantClient) -> None:
    (record,) = client.retrieve("c", [point_id("a")])
    assert record.payload is not None
    ours = {**record.payload["_m3"], "model": "another"}
    client.set_payload("c", {"_m3": ours}, [point_id("a")])


def stored(client: QdrantClient) -> dict[str, Any]:
    (record,) = client.retrieve("c", [point_id("a")], with_vectors=True)
    assert isinstance(record.vector, dict)
    return dict(record.vector)


def rewritten(client: QdrantClient, name: str, vector: Any) -> None:
    client.update_vectors("c", [models.PointVectors(id=point_id("a"), vector={name: vector})])


def other_order(client: QdrantClient) -> None:
    rewritten(client, COLBERT, stored(client)[COLBERT][::-1])


def fewer_vectors(client: QdrantClient) -> None:
    rewritten(client, COLBERT, stored(client)[COLBERT][:-1])


def other_dense(client: QdrantClient) -> None:
    rewritten(client, DENSE, [-x for x in stored(client)[DENSE]])


def other_terms(client: QdrantClient) -> None:
    sparse = stored(client)["sparse"]
    values = [2 * value for value in sparse.values]
    rewritten(client, "sparse", models.SparseVector(indices=sparse.indices, values=values))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed_text, "its text was changed"),
        (no_text, "no text"),
        (no_record, "another program wrote it"),
        (another_model, "another model"),
        (other_order, "other ColBERT vectors"),
        (fewer_vectors, "another number of vectors"),
        (other_dense, "another dense vector"),
        (other_terms, "other lexical weights"),
    ],
)
def test_what_is_not_certain_has_no_words(
    client: QdrantClient, encoder: M3Encoder, change: Any, why: str
) -> None:
    store = filled(client, encoder)
    change(client)
    id = point_id("a") if change is no_record else "a"
    found = store.explain(QUERY, id)
    assert any(why in note for note in found.notes), found.notes
    assert tokens(found) == []
    assert found.highlights == ()
    assert all(match.document_vector is not None for match in found.matches)
    assert all(not match.document_tokens for match in found.matches)
    assert all(term.spans == () for term in found.terms)
    # the query's own are known all the same
    assert [t.text for m in found.matches for t in m.query_tokens] == [
        span.text for span in encoder.token_spans(QUERY)[0]
    ]
    (hit,) = store.search(QUERY, explain=True)
    assert hit.explanation is not None
    assert hit.explanation.notes == found.notes


def test_embeddings_that_are_the_models_own_have_words(
    client: QdrantClient, encoder: M3Encoder
) -> None:
    with M3Store(client, "c", encoder) as store:
        store.add([{"id": "a", "text": TEXT}], embeddings=encoder.encode([TEXT]))
        store.add([{"id": "b", "text": TEXT}], embeddings=encoder.encode(["kites of another"]))
        assert tokens(store.explain(QUERY, "a"))
        assert not tokens(store.explain(QUERY, "b"))


def test_a_point_without_vectors(client: QdrantClient, encoder: M3Encoder) -> None:
    store = filled(client, encoder)
    client.delete_vectors("c", [COLBERT], [point_id("a")])
    found = store.explain(QUERY, "a")
    assert found.component("colbert").score == 0
    assert (found.matches, found.vectors, found.alignment) == ((), (), None)
    assert any("no colbert vector" in note for note in found.notes)
    client.delete_vectors("c", [DENSE, "sparse"], [point_id("a")])
    with pytest.raises(InputError, match=r"document 'a' .* has no vectors"):
        store.explain(QUERY, "a")


def test_a_collection_that_is_not_there_yet() -> None:
    with M3Store(":memory:", "c") as store, pytest.raises(DocumentNotFoundError):
        store.explain(M3Embeddings(dense=torch.ones(1, 3)), "a")


def test_a_document_of_another_program_goes_by_its_points_id(
    client: QdrantClient, encoder: M3Encoder
) -> None:
    store = filled(client, encoder)
    vectors = stored(client)
    client.upsert("c", [models.PointStruct(id=7, vector=vectors, payload={"text": TEXT})])
    assert store.explain(QUERY, 7).id == "7"
    for hit in store.search(QUERY, explain=True):
        assert hit.explanation is not None
        assert hit.explanation.id == hit.id


class Mute:
    """An encoder that names no tokens."""

    def __init__(self, encoder: M3Encoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        if name in ("token_spans", "count_tokens"):
            raise AttributeError(name)
        return getattr(self._encoder, name)


def test_an_encoder_that_names_no_tokens(client: QdrantClient, encoder: M3Encoder) -> None:
    filled(client, encoder)
    with M3Store(client, "c", Mute(encoder)) as store:
        found = store.explain(QUERY, "a")
    assert tokens(found) == []
    assert all(not match.query_tokens for match in found.matches)
    assert any("names no tokens" in note for note in found.notes)


def test_queries_that_come_once_are_read_once(client: QdrantClient, encoder: M3Encoder) -> None:
    store = filled(client, encoder)
    queries: Sequence[str] = (word for word in ("red", "blue"))  # type: ignore[assignment]
    found = store.search_batch(queries, explain=True)
    assert [hits[0].explanation.query for hits in found if hits[0].explanation] == ["red", "blue"]


def test_what_a_reranker_scored(client: QdrantClient, encoder: M3Encoder) -> None:
    store = filled(client, encoder)
    store.add([{"id": str(i), "text": f"kite {i}"} for i in range(5)])
    reranker = M3Reranker(encoder)
    for mode in MODES[2:]:
        for hit in store.search(QUERY, mode, reranker=reranker, explain=True):
            found = hit.explanation
            assert found is not None
            assert sum(c.share for c in found.components) == pytest.approx(hit.score, abs=1e-6)
            assert all(abs(c.unexplained) < 1e-5 for c in found.components)
            assert tokens(found)


@pytest.mark.parametrize(
    "options",
    [
        {"colbert_datatype": "turbo8"},
        {"colbert_datatype": "turbo4", "token_pooling": 2},
        {"dense_datatype": "float16", "sparse_datatype": "uint8"},
        {"dense_quantization": "int8", "colbert_quantization": "int8"},
    ],
    ids=str,
)
def test_however_they_are_stored(
    tmp_path: Path, encoder: M3Encoder, options: dict[str, Any]
) -> None:
    """On the embedded engine, which stores them so: the words are known, the sums hold."""
    with M3Store(tmp_path, "c", encoder, M3Schema(**options)) as store:
        store.add([{"id": str(i), "text": f"{TEXT} {i}"} for i in range(3)])
        for hit in store.search(QUERY, explain=True):
            found = hit.explanation
            assert found is not None
            assert tokens(found), found.notes
            assert sum(c.share for c in found.components) == pytest.approx(hit.score, abs=1e-6)
            colbert = found.component("colbert")
            given = sum(match.contribution for match in found.matches)
            assert given + colbert.unexplained == pytest.approx(colbert.score, abs=1e-9)
            coarse = options.get("colbert_datatype") == "turbo4"
            assert abs(colbert.unexplained) < (0.02 if coarse else 1e-5)


def test_no_warning_for_a_text_that_is_encoded_again(
    client: QdrantClient, encoder: M3Encoder
) -> None:
    store = M3Store(client, "c", encoder)
    store.add([{"id": "a", "text": "word " * 500}])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Local mode")
        assert tokens(store.explain("word", "a"))


# -- the list of hits


def test_hits_are_a_list(client: QdrantClient, encoder: M3Encoder) -> None:
    store = filled(client, encoder)
    store.add([{"id": str(i), "text": f"kite {i}"} for i in range(5)])
    hits = store.search(QUERY)
    assert isinstance(hits, list)
    assert hits == list(hits)
    assert repr(hits) == repr(list(hits))
    assert type(hits[1:3]) is Hits
    assert hits[1:3] == list(hits)[1:3]
    assert hits[0] is next(iter(hits))
    assert isinstance(hits[0], Hit)
    assert json.dumps([h.id for h in hits])
    for other in (copy.copy(hits), copy.deepcopy(hits), pickle.loads(pickle.dumps(hits))):
        assert type(other) is Hits
        assert other == hits
    assert all(type(each) is Hits for each in store.search_batch([QUERY, QUERY]))
    (explained,) = store.search(QUERY, limit=1, explain=True)
    assert pickle.loads(pickle.dumps(explained)) == explained


def test_a_list_of_hits_shows_itself_escaped(client: QdrantClient, encoder: M3Encoder) -> None:
    store = M3Store(client, "c", encoder)
    bad = "<script>alert('kite')</script>"
    store.add([{"id": bad, "text": f"{bad} " + "far " * 200 + "a red kite", "kind": bad}])
    for options in ({}, {"explain": True}, {"group_by": "kind"}, {"components": False}):
        html = store.search(QUERY, **options)._repr_html_()  # type: ignore[attr-defined]
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    found = store.search(QUERY, explain=True)
    assert "<mark" in found._repr_html_()  # type: ignore[attr-defined]
    assert "no hits" in Hits()._repr_html_()


def test_a_hits_snippet(client: QdrantClient) -> None:
    text = "It is far away. " * 20 + "Compress a file. " + "And further on. " * 5
    store = M3Store(client, "c", M3Encoder.from_pretrained("m3-tiny"))
    store.add([{"id": "a", "text": text}])
    for mode in MODES:
        (plain,) = store.search("compress", mode)
        (explained,) = store.search("compress", mode, explain=True)
        assert plain.explanation is None
        assert plain.snippet(50).startswith("It is far away.")
        assert "Compress a file." in explained.snippet(50)
