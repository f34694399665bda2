"""M3Store, the same tests on the embedded engine and in memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from qdrant_client import QdrantClient, models

from m3qdrant import (
    Document,
    Hit,
    M3Embeddings,
    M3Encoder,
    M3Schema,
    M3Store,
    QdrantEdge,
    SparseVectors,
    TokenVectors,
)
from m3qdrant.errors import (
    CollectionNotFoundError,
    DocumentError,
    EngineError,
    InputError,
    RankingEndsWarning,
    SchemaMismatchError,
    StoreClosedError,
)
from m3qdrant.names import MODES, Mode
from tests.views import COLBERT_DIM, DIM, documents, random_views, scores_by_hand
from tests.views import views as views_of

Open = Callable[..., M3Store]


@pytest.fixture(params=["embedded", "memory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens stores at one place: one directory, or in memory one client for all of them."""
    client = QdrantClient(":memory:") if request.param == "memory" else None
    stores: list[M3Store] = []

    def open_one(encoder: M3Encoder | None = None, **options: Any) -> M3Store:
        for store in stores:
            store.close()
        stores.append(M3Store(client or tmp_path / "data", "c", encoder, **options))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


# -- search


@pytest.mark.parametrize("datatype", ["float32", "float16"])
def test_weighted_is_the_formula_over_the_candidates(
    open_store: Open, datatype: Literal["float32", "float16"]
) -> None:
    n, candidates = 80, 12
    views = random_views(n, seed=1)
    half = ["colbert"] if datatype == "float16" else []
    with open_store(schema=M3Schema(colbert_datatype=datatype)) as store:
        store.add(documents(n), embeddings=views)
        for seed, weights in ((2, (0.4, 0.2, 0.4)), (3, (1, 0.3, 1)), (4, (0, 5, 0.5))):
            query = random_views(1, seed, tokens=9)
            scores = [scores_by_hand(query, views[i], half) for i in range(n)]
            dense = sorted(range(n), key=lambda i: -scores[i]["dense"])[:candidates]
            sparse = sorted(range(n), key=lambda i: -scores[i]["sparse"])[:candidates]
            union = {*dense, *(i for i in sparse if scores[i]["sparse"] > 0)}
            assert candidates < len(union) < n
            total = {
                i: np.dot(weights, list(scores[i].values())) / math.fsum(weights) for i in union
            }
            expected = sorted(union, key=lambda i: -total[i])[:10]
            hits = store.search(query, candidates=candidates, weights=weights)
            assert [hit.id for hit in hits] == [f"d{i}" for i in expected]
            for hit, i in zip(hits, expected, strict=True):
                assert hit.score == pytest.approx(total[i], abs=1e-5)
                assert hit.scores == pytest.approx(scores[i], abs=1e-5)
                assert hit.payload == documents(n)[i].payload


def test_both_engines_rank_alike_in_every_mode(tmp_path: Path) -> None:
    views = random_views(120, seed=5)
    stores = [M3Store(place, "c") for place in (":memory:", tmp_path / "data")]
    for store in stores:
        store.add(documents(120), embeddings=views)
    for seed in range(20, 24):
        query = random_views(1, seed)
        for mode in MODES:
            for filter in (None, {"lang": ["de", "en"], "year": {"gte": 2030}}):
                memory, embedded = (
                    store.search(query, mode, limit=7, candidates=20, filter=filter)
                    for store in stores
                )
                assert len(memory) == 7
                assert [hit.id for hit in memory] == [hit.id for hit in embedded], (mode, seed)
                for a, b in zip(memory, embedded, strict=True):
                    assert a.score == pytest.approx(b.score, abs=1e-5)
                    assert a.scores == pytest.approx(b.scores, abs=1e-5)
                if filter:
                    assert all(
                        hit.payload["lang"] != "fr" and hit.payload["year"] >= 2030
                        for hit in memory
                    )
    for store in stores:
        store.close()


def test_single_vector_modes_rank_by_their_score(open_store: Open) -> None:
    views = random_views(60, seed=6)
    with open_store() as store:
        store.add(documents(60), embeddings=views)
        query = random_views(1, 7)
        terms = query.lexical_weights()[0].keys()
        sharing = sum(bool(terms & weights.keys()) for weights in views.lexical_weights())
        assert 10 < sharing < 60
        found: dict[Mode, int] = {"dense": 60, "sparse": sharing, "colbert": 60}
        for mode, number in found.items():
            hits = store.search(query, mode, limit=60, candidates=60)
            assert len(hits) == number
            scores = [hit.score for hit in hits]
            assert scores == sorted(scores, reverse=True)
            assert scores == pytest.approx([hit.scores[mode] for hit in hits], abs=1e-6)


def test_a_query_without_lexical_weights(open_store: Open) -> None:
    query = random_views(1, 8)
    none = SparseVectors(torch.tensor([0, 0]), torch.empty(0, dtype=torch.int32), torch.empty(0))
    query = M3Embeddings(dense=query.dense, sparse=none, colbert=query.colbert)
    with open_store() as store:
        store.add(documents(20), embeddings=random_views(20, 9))
        assert store.search(query, "sparse") == []
        others: tuple[Mode, ...] = ("dense", "colbert", "weighted", "rrf", "dbsf")
        for mode in others:
            hits = store.search(query, mode, limit=5)
            assert len(hits) == 5
            assert all(hit.scores["sparse"] == 0 for hit in hits)


def test_a_limit_above_the_candidates_gets_no_more_than_there_are(open_store: Open) -> None:
    with open_store() as store:
        store.add(documents(30), embeddings=random_views(30, 10))
        query = random_views(1, 11)
        of_candidates: tuple[Mode, ...] = ("weighted", "rrf", "dbsf", "colbert")
        for mode in of_candidates:
            for limit in (20, 500):
                with pytest.warns(RankingEndsWarning, match="made of the 5 best by each vector"):
                    found = store.search(query, mode, limit=limit, candidates=5)
                assert 5 <= len({hit.id for hit in found}) == len(found) <= 10
            assert len({hit.id for hit in store.search(query, mode, limit=500)}) == 30


def test_wrong_types(encoder: M3Encoder) -> None:
    wrong: Any = "m3-tiny"
    with pytest.raises(InputError, match=r"encoder is str: make one"):
        M3Store(":memory:", "c", wrong)
    with M3Store(":memory:", "c", encoder) as store:
        for wrong in (None, 5):
            with pytest.raises(InputError, match="documents must be an iterable"):
                store.add(wrong)
        wrong = "x"
        with pytest.raises(InputError, match="embeddings must be M3Embeddings, not str"):
            store.add(["a"], embeddings=wrong)
        wrong = None
        with pytest.raises(InputError, match=r"ids"):
            store.get(wrong)
        with pytest.raises(InputError, match=r"either ids or a filter"):
            store.delete(wrong)


def test_search_in_an_empty_collection(open_store: Open, encoder: M3Encoder) -> None:
    with open_store(encoder) as store:
        for mode in MODES:
            assert store.search("anything", mode) == []
    with M3Store(":memory:", "not made yet") as store:
        assert store.search(random_views(1, 1)) == []
        assert (store.count(), store.get("a"), store.delete("a")) == (0, None, 0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mode": "hybrid"}, "unknown mode 'hybrid'; the modes are dense, sparse"),
        ({"limit": 0}, "limit must be a whole number from 1, not 0"),
        ({"limit": 2.5}, "limit must be a whole number from 1, not 2.5"),
        ({"candidates": -1}, "candidates must be a whole number from 1, not -1"),
        ({"weights": (0, 0, 0)}, "weights are all zero"),
        ({"weights": (1, 1)}, "weights must be three"),
        ({"filter": "lang=de"}, "filter must be a mapping"),
    ],
)
def test_bad_arguments(options: dict[str, Any], complaint: str, encoder: M3Encoder) -> None:
    with M3Store(":memory:", "c", encoder) as store:
        store.add("hello")
        with pytest.raises(InputError, match=complaint):
            store.search("hello", **options)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("", "the query is empty"),
        (" \n", "the query is empty"),
        (None, "not NoneType"),
        (["a"], "not list"),
        (random_views(2, 1), "embeddings of 2"),
        (M3Embeddings(dense=torch.ones(1, DIM)), "missing: sparse, colbert"),
        (random_views(1, 1), "dense vectors have 24 dimensions, the collection 48"),
    ],
)
def test_bad_queries(query: Any, complaint: str, encoder: M3Encoder) -> None:
    with M3Store(":memory:", "c", encoder) as store:
        store.add("hello")
        with pytest.raises(InputError, match=complaint):
            store.search(query)


# -- documents in and out


def test_add_get_count_delete(open_store: Open, encoder: M3Encoder) -> None:
    with open_store(encoder) as store:
        report = store.add(
            [
                {"id": "a", "text": "compress a file", "lang": "en", "year": 2019},
                Document("b", "Datei packen", {"lang": "de", "year": 2021}),
                "a plain string",
            ]
        )
        assert (report.received, report.stored, report.failed) == (3, 3, [])
        assert str(report).startswith("3 of 3 documents stored")
        assert store.count() == 3
        assert store.count({"lang": "de"}) == 1
        assert store.get("a") == Document("a", "compress a file", {"lang": "en", "year": 2019})
        found = store.get(["b", "nope", "a"])
        assert [item.id if item else None for item in found] == ["b", None, "a"]
        assert store.get("nope") is None
        assert store.get([]) == []
        store.add({"id": 5, "text": "five"})
        assert store.get(5) == store.get("5") == Document("5", "five", {})
        assert store.delete(5) == 1
        assert store.delete(["a", "nope"]) == 1
        assert store.delete(filter={"year": {"gte": 2020}}) == 1
        assert store.count() == 1
        hits = store.search("a plain string")
        assert [hit.text for hit in hits] == ["a plain string"]
        assert store.get(hits[0].id) == Document.of("a plain string")


def test_adding_again_replaces_and_changes_nothing_else(
    open_store: Open, encoder: M3Encoder
) -> None:
    with open_store(encoder) as store:
        store.add([{"id": "a", "text": "one", "old": 1}, {"id": "b", "text": "two"}])
        store.add([{"id": "a", "text": "three"}])
        assert store.count() == 2
        assert store.get("a") == Document("a", "three", {})
        both = [{"id": "a", "text": "three"}, {"id": "b", "text": "two"}]
        store.add(both)
        before = store.search("three")
        assert len(before) == 2
        store.add(both)
        assert store.search("three") == before
        assert store.count() == 2


def test_the_same_id_twice_in_one_call(open_store: Open, encoder: M3Encoder) -> None:
    with open_store(encoder) as store:
        report = store.add(
            [
                {"id": "a", "text": "first"},
                {"id": "b", "text": "other"},
                {"id": "a", "text": "last"},
            ]
        )
        assert (report.received, report.stored, report.duplicates) == (3, 2, 1)
        assert store.get("a") == Document("a", "last", {})


def test_bad_documents_are_left_out_and_reported(open_store: Open, encoder: M3Encoder) -> None:
    items: list[Any] = [
        {"id": "good", "text": "fine"},
        {"id": "no-text"},
        {"text": "x", "score": math.inf},
        17,
        {"id": "late", "text": "fine too"},
    ]
    with open_store(encoder) as store:
        report = store.add(items)
        assert [(e.id, e.field) for e in report.failed] == [
            ("no-text", "text"),
            ("#2", "payload"),
            ("#3", "text"),
        ]
        assert report.stored == store.count() == 2
        assert {"id": "#3", "field": "text"}.items() <= report.to_dict()["failed"][2].items()
        with pytest.raises(DocumentError, match="no-text"):
            report.raise_for_failed()


def test_any_iterable_in_bounded_memory(open_store: Open, encoder: M3Encoder) -> None:
    alive: list[int] = []
    most = 0

    class Text(str):
        __slots__ = ()

        def __del__(self) -> None:
            alive.pop()

    def endless() -> Iterator[str]:
        nonlocal most
        for i in range(1_000):
            alive.append(i)
            most = max(most, len(alive))
            yield Text(f"text number {i}")

    with open_store(encoder) as store:
        report = store.add(endless())
        assert report.stored == store.count() == 1_000
    assert most < 400  # some chunks, not the whole input


def test_truncated_texts_are_counted_not_warned_of(open_store: Open, encoder: M3Encoder) -> None:
    with open_store(encoder) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        report = store.add(["word " * 500, "short", "word " * 501], max_length=20)
    assert report.truncated == 2
    assert "2 cut at max_length" in str(report)


def test_an_empty_text_and_odd_ones_are_stored_and_found(
    open_store: Open, encoder: M3Encoder
) -> None:
    texts = ["", " ", "\x00\x07", "</s><pad>", "👩‍👩‍👧", "a" * 5000]
    with open_store(encoder) as store:
        report = store.add([{"id": i, "text": text} for i, text in enumerate(texts)])
        assert report.stored == len(texts)
        found = store.get([str(i) for i in range(len(texts))])
        assert [item and item.text for item in found] == texts
        assert len(store.search("a", limit=10)) == len(texts)


def test_embeddings_of_ones_own(open_store: Open) -> None:
    views = random_views(4, 12)
    with open_store() as store:
        with pytest.raises(InputError, match="no encoder for documents"):
            store.add("text")
        with pytest.raises(InputError, match="no encoder for queries"):
            store.search("text")
        with pytest.raises(InputError, match="3 documents, but embeddings of 4"):
            store.add(documents(3), embeddings=views)
        with pytest.raises(InputError, match="unknown number"):
            store.add(iter(documents(4)), embeddings=views)
        with pytest.raises(InputError, match="missing: sparse, colbert"):
            store.add(documents(4), embeddings=M3Embeddings(dense=views.dense))
        assert not store.client.collection_exists("c")
        # a bad document in the middle must not shift the embeddings of those after it
        bad: list[Any] = [*documents(2), {"id": "bad"}, *documents(4)[3:]]
        assert store.add(bad, embeddings=views).stored == 3
        assert store.search(views[3], "dense", limit=1)[0].id == "d3"
        wide = M3Embeddings(torch.ones(1, 9), views[0].sparse, views[0].colbert)
        with pytest.raises(InputError, match="dense vectors have 9 dimensions, the collection 24"):
            store.add("x", embeddings=wide)


# -- vectors that would do harm


def spoilt(fault: str) -> M3Embeddings:
    """Embeddings of three texts, of which the one in the middle is bad."""
    dense, sparse, colbert = views_of(random_views(3, 13))
    indices, values = sparse.indices.clone(), sparse.values.clone()
    tokens, offsets = colbert.vectors.clone(), colbert.cu_seqlens
    first, last = sparse.indptr[1:3].tolist()
    assert last - first >= 2
    if fault == "dense NaN":
        dense[1, 3] = math.nan
    elif fault == "dense inf":
        dense[1, 0] = -math.inf
    elif fault == "colbert NaN":
        tokens[offsets[1], 2] = math.nan
    elif fault == "colbert inf":
        tokens[offsets[2] - 1, 0] = math.inf
    elif fault == "colbert none":
        keep = torch.ones(len(tokens), dtype=torch.bool)
        keep[offsets[1] : offsets[2]] = False
        tokens = tokens[keep]
        offsets = torch.tensor([0, offsets[1], offsets[1], offsets[3] - offsets[2] + offsets[1]])
    elif fault == "colbert too many":
        limit = 1_048_576 // COLBERT_DIM
        middle = torch.full((limit, COLBERT_DIM), 0.25)
        tokens = torch.cat([tokens[: offsets[1]], middle, tokens[offsets[2] :]])
        after = offsets[1] + limit
        offsets = torch.tensor([0, offsets[1], after, after + offsets[3] - offsets[2]])
    elif fault == "sparse NaN":
        values[first] = math.nan
    elif fault == "sparse zero":
        values[first] = 0
    elif fault == "sparse negative":
        values[first] = -0.5
    elif fault == "sparse duplicate":
        indices[first + 1] = indices[first]
    elif fault == "sparse descending":
        indices[first : first + 2] = indices[first : first + 2].flip(0)
    elif fault == "sparse id":
        indices[first] = -1
    else:
        raise AssertionError(fault)
    return M3Embeddings(
        dense,
        SparseVectors(sparse.indptr, indices, values),
        TokenVectors(tokens, offsets),
    )


FAULTS = {
    "dense NaN": "NaN or infinity",
    "dense inf": "NaN or infinity",
    "colbert NaN": "NaN or infinity",
    "colbert inf": "NaN or infinity",
    "colbert none": "no vectors",
    "colbert too many": "at most 65535",
    "sparse NaN": "NaN or infinity",
    "sparse zero": "not positive",
    "sparse negative": "not positive",
    "sparse duplicate": "not ascending and unique",
    "sparse descending": "not ascending and unique",
    "sparse id": "negative token id",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_vector_spoils_its_own_document_only(open_store: Open, fault: str) -> None:
    store = open_store()
    report = store.add(documents(3), embeddings=spoilt(fault), long_documents="error")
    (error,) = report.failed
    assert (error.id, error.field) == ("d1", fault.split()[0])
    assert FAULTS[fault] in error.reason
    assert report.stored == 2
    with open_store() as store:  # the trap: a poisoned collection fails at its next opening
        assert store.count() == 2
        assert store.add(documents(3), embeddings=random_views(3, 14)).stored == 3
        assert len(store.search(random_views(1, 15))) == 3


# too many are merged
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "colbert too many"])
def test_a_bad_query_vector_is_refused(open_store: Open, fault: str) -> None:
    with open_store() as store:
        store.add(documents(3), embeddings=random_views(3, 13))
        with pytest.raises(InputError, match=FAULTS[fault]):
            store.search(spoilt(fault)[1])


# -- opening


def test_reopening_keeps_everything(open_store: Open, encoder: M3Encoder) -> None:
    with open_store(encoder) as store:
        store.add(["one", "two", "three"])
        before = store.search("two")
        assert len(before) == 3
        assert isinstance(before[0], Hit)
    with open_store(encoder, create=False) as store:
        assert store.search("two") == before
        assert store.info().model == encoder.name
    with open_store(create=False) as store:  # without an encoder one can still look
        assert store.count() == 3


def test_a_missing_collection(tmp_path: Path, encoder: M3Encoder) -> None:
    place = tmp_path / "data"
    with pytest.raises(CollectionNotFoundError, match="there are none"):
        M3Store(place, "papers", encoder, create=False)
    assert not place.exists()  # looking must not leave a directory behind
    M3Store(place, "books", encoder).close()
    with pytest.raises(CollectionNotFoundError, match=r"'papers' .* those there are books"):
        M3Store(place, "papers", encoder, create=False)
    with pytest.raises(InputError, match="name is empty"):
        M3Store(place, "", encoder)


def test_a_collection_that_does_not_fit_says_what_differs(
    open_store: Open, encoder: M3Encoder, checkpoint: Path
) -> None:
    open_store().add(documents(2), embeddings=random_views(2, 16))
    with pytest.raises(SchemaMismatchError) as caught:
        open_store(encoder, schema=M3Schema(colbert_datatype="float32"))
    assert caught.value.differences == [
        "the dense width is 24 here, 48 wanted",
        "the ColBERT width is 16 here, 48 wanted",
        "colbert_datatype is float16 here, float32 wanted",
    ]
    assert all(line in str(caught.value) for line in caught.value.differences)
    with open_store() as store:
        assert store.count() == 2


def test_another_model_of_the_same_width_is_refused(
    open_store: Open, encoder: M3Encoder, checkpoint: Path, tmp_path: Path
) -> None:
    import shutil

    open_store(encoder).add("text")
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    same = M3Encoder.from_pretrained(other)
    with open_store(same) as store:  # the same weights under another name are the same model
        assert store.search("text")
    head = torch.load(other / "colbert_linear.pt", weights_only=True)
    torch.save({**head, "bias": head["bias"] + 0.01}, other / "colbert_linear.pt")
    with pytest.raises(SchemaMismatchError, match=r"the vectors come from .*fingerprint"):
        open_store(M3Encoder.from_pretrained(other))


def foreign(client: Any, **changes: Any) -> None:
    vectors = {
        "dense": models.VectorParams(size=DIM, distance=models.Distance.DOT),
        "colbert": models.VectorParams(
            size=COLBERT_DIM,
            distance=models.Distance.DOT,
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
        ),
    }
    sparse = {"sparse": models.SparseVectorParams(modifier=changes.pop("modifier", None))}
    vectors |= changes
    client.create_collection(
        "c",
        vectors_config={name: vector for name, vector in vectors.items() if vector},
        sparse_vectors_config=sparse,
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"dense": None}, "there is no vector named 'dense'"),
        ({"colbert": None}, "there is no vector named 'colbert'"),
        (
            {"dense": models.VectorParams(size=DIM, distance=models.Distance.EUCLID)},
            "vector 'dense' has distance Euclid, not Dot",
        ),
        (
            {"colbert": models.VectorParams(size=9, distance=models.Distance.DOT)},
            "vector 'colbert' is no multivector",
        ),
        ({"modifier": models.Modifier.IDF}, "modifier"),
    ],
)
def test_a_collection_of_another_program(changes: dict[str, Any], complaint: str) -> None:
    client = QdrantClient(":memory:")
    foreign(client, **changes)
    with pytest.raises(SchemaMismatchError, match=complaint):
        M3Store(client, "c")


def test_a_fitting_collection_and_points_of_another_program() -> None:
    client = QdrantClient(":memory:")
    foreign(client)
    views = random_views(1, 17)
    dense, _, colbert = views_of(views)
    client.upsert(
        "c",
        [
            models.PointStruct(
                id=7,
                vector={
                    "dense": dense[0].tolist(),
                    "sparse": models.SparseVector(indices=[1], values=[0.5]),
                    "colbert": colbert[0].tolist(),
                },
                payload={"title": "theirs"},
            )
        ],
    )
    with M3Store(client, "c") as store:
        (hit,) = store.search(views)
        assert (hit.id, hit.text, hit.payload) == ("7", "", {"title": "theirs"})
        assert store.info().model is None


def test_a_client_of_ones_own_stays_open(tmp_path: Path, encoder: M3Encoder) -> None:
    for client in (QdrantClient(":memory:"), QdrantEdge(tmp_path / "data")):
        with M3Store(client, "c", encoder) as store:
            store.add("text")
        assert client.count("c").count == 1
        client.close()


def test_closed(open_store: Open, encoder: M3Encoder) -> None:
    store = open_store(encoder)
    store.close()
    store.close()
    for use in (
        lambda: store.add("x"),
        lambda: store.search("x"),
        lambda: store.get("x"),
        store.count,
        store.info,
        store.optimize,
    ):
        with pytest.raises(StoreClosedError, match="closed"):
            use()


@pytest.mark.parametrize("location", ["localhost:6333", "", 3, None])
def test_bad_locations(location: Any) -> None:
    with pytest.raises(InputError, match="location"):
        M3Store(location, "c")


def test_an_unreachable_server_is_an_engine_error_with_its_cause() -> None:
    # port 9, "discard": nothing listens there
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:9 failed") as caught:
        M3Store("http://127.0.0.1:9", "c")
    assert caught.value.__cause__ is not None


def test_delete_takes_ids_or_a_filter(open_store: Open, encoder: M3Encoder) -> None:
    with open_store(encoder) as store:
        store.add("text")
        with pytest.raises(InputError, match="either"):
            store.delete()
        with pytest.raises(InputError, match="either"):
            store.delete("a", filter={"a": 1})
        with pytest.raises(InputError, match="every document"):
            store.delete(filter={})
        with pytest.raises(InputError, match="every document"):
            store.delete(filter=models.Filter())
        assert store.delete([]) == 0
        assert store.count() == 1


def test_optimize_and_info(open_store: Open) -> None:
    with open_store() as store:
        assert store.optimize() is False
        store.add(documents(50), embeddings=random_views(50, 18))
        before = store.search(random_views(1, 19))
        assert len(before) == 10
        store.optimize()
        assert store.search(random_views(1, 19)) == before
        info = store.info()
        assert (info.documents, info.dim, info.colbert_dim) == (50, DIM, COLBERT_DIM)
        assert info.colbert_datatype == "float16"
        assert info.engine == ("embedded" if isinstance(store.client, QdrantEdge) else "memory")
