"""Resident corpora of any collection, with bad input, and from a folder that lasts."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qdrant_client import QdrantClient, models

from m3qdrant import Cascade, M3Encoder, M3Schema, M3Store, QdrantEdge, ResidentCorpus
from m3qdrant.edge import FileRows, VectorFiles
from m3qdrant.encode import TokenVectors
from m3qdrant.errors import (
    CollectionNotFoundError,
    EngineError,
    InputError,
    SchemaMismatchError,
    StoreClosedError,
    StoreDamagedError,
    StoreLockedError,
    UnsupportedError,
)
from tests.views import COLBERT_DIM, documents, random_views, views

MAX_SIM = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
NO_GRAPH = models.HnswConfigDiff(m=0)


def several(dim: int, distance: str = "Cosine", **options: Any) -> models.VectorParams:
    return models.VectorParams(
        size=dim,
        distance=models.Distance(distance),
        multivector_config=MAX_SIM,
        hnsw_config=NO_GRAPH,
        **options,
    )


@pytest.fixture(params=["memory", "embedded", "server"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        made: Any = QdrantClient(":memory:")
    elif request.param == "embedded":
        made = QdrantEdge(tmp_path / "data")
    elif not (url := os.environ.get("QDRANT_URL")):
        pytest.skip("QDRANT_URL names no server")
    else:
        port = int(os.environ.get("QDRANT_GRPC_PORT", "6334"))
        made = QdrantClient(url, grpc_port=port, prefer_grpc=True)
        made.delete_collection("theirs")
    yield made
    if request.param == "server":
        made.delete_collection("theirs")
    made.close()


# -- collections of others


@pytest.mark.parametrize("distance", ["Cosine", "Dot"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("alone", [True, False])
def test_any_late_interaction_collection(
    client: Any, distance: str, dtype: Any, alone: bool, tmp_path: Path
) -> None:
    """The engine's own ranking of all documents, by the sum; ours by the mean."""
    seed = random.randrange(10**6)
    rng = np.random.default_rng(seed)
    vectors: Any = several(20, distance)
    if not alone:
        small = models.VectorParams(size=3, distance=models.Distance.EUCLID)
        vectors = {"tokens": vectors, "small": small, "other": several(8)}
    client.create_collection("theirs", vectors_config=vectors)
    name = "" if alone else "tokens"

    def point(i: int) -> models.PointStruct:
        rows = (rng.standard_normal((rng.integers(1, 9), 20)) * rng.uniform(0.5, 2)).tolist()
        vector = rows if alone else {"tokens": rows, "small": [1.0, 2.0, float(i)]}
        return models.PointStruct(id=i, vector=vector, payload={"even": i % 2 == 0})

    points = [point(i) for i in range(60)]
    client.upsert("theirs", points)
    folder = tmp_path / "folder"
    with ResidentCorpus.load(client, "theirs", vector=name, dtype=dtype, folder=folder) as corpus:
        for what in (None, {"even": True}):
            for _ in range(3):
                query = rng.standard_normal((5, 20)).astype(np.float32)
                condition = None
                if what is not None:
                    match = models.MatchValue(value=True)
                    condition = models.Filter(
                        must=[models.FieldCondition(key="even", match=match)]
                    )
                theirs = client.query_points(
                    "theirs", query=query.tolist(), using=name or None, limit=12,
                    query_filter=condition,
                    search_params=models.SearchParams(exact=True),
                ).points  # fmt: skip
                for form in (query, torch.from_numpy(query)):
                    found = corpus.search(form, 12, filter=what)
                    assert [hit.id for hit in found] == [str(p.id) for p in theirs], seed
                    assert [5 * hit.score for hit in found] == pytest.approx(
                        [p.score for p in theirs], rel=1e-5
                    )
        client.upsert("theirs", [point(3), point(70)])
        client.delete("theirs", points_selector=[5])
        changes = corpus.refresh()
        assert (changes.added, changes.removed) == (1, 1)
        # in-memory mode scales all vectors once more whenever one is written
        assert changes.updated == 1 or ":memory:" in str(getattr(client, "init_options", ""))
        found = corpus.search(query, 100)
        theirs = client.query_points(
            "theirs", query=query.tolist(), using=name or None, limit=100,
            search_params=models.SearchParams(exact=True),
        ).points  # fmt: skip
        assert [hit.id for hit in found] == [str(p.id) for p in theirs], seed


def test_points_without_the_vector_are_no_documents(client: Any) -> None:
    config = {
        "tokens": several(4),
        "one": models.VectorParams(size=2, distance=models.Distance.DOT),
    }
    client.create_collection("theirs", vectors_config=config)
    client.upsert(
        "theirs",
        [
            models.PointStruct(id=1, vector={"tokens": [[1.0, 0, 0, 0]], "one": [1.0, 0.0]}),
            models.PointStruct(id=2, vector={"one": [1.0, 0.0]}),
            models.PointStruct(id=3, vector={"tokens": [[0.0, 1, 0, 0]]}),
        ],
    )
    with ResidentCorpus.load(client, "theirs", vector="tokens") as corpus:
        assert (len(corpus), corpus.changes.added, corpus.changes.without) == (2, 2, 1)
        hits = corpus.search(np.eye(4, dtype=np.float32)[:1], 5)
        assert [(hit.id, hit.score) for hit in hits] == [("1", 1.0), ("3", 0.0)]


@pytest.mark.parametrize(
    ("vector", "error", "message"),
    [
        ("colbert", InputError, "'colbert' is not there; .* those there are 'far', 'tokens'"),
        ("one", InputError, "'one' is no multivector; .* those there are 'far', 'tokens'"),
        ("far", UnsupportedError, "has the distance Euclid; MaxSim is of Dot or Cosine"),
    ],
)
def test_what_is_no_late_interaction(
    client: Any, vector: str, error: type[Exception], message: str
) -> None:
    config = {
        "tokens": several(4),
        "far": several(4, "Euclid"),
        "one": models.VectorParams(size=2, distance=models.Distance.DOT),
    }
    client.create_collection("theirs", vectors_config=config)
    with pytest.raises(error, match=message):
        ResidentCorpus.load(client, "theirs", vector=vector)


def test_a_collection_that_is_not_there(client: Any) -> None:
    with pytest.raises(CollectionNotFoundError):
        ResidentCorpus.load(client, "theirs")
    with pytest.raises(InputError, match="give the collection's name"):
        ResidentCorpus.load(client)


def test_a_place_is_opened_and_closed(tmp_path: Path, encoder: M3Encoder) -> None:
    with M3Store(tmp_path / "data", "c", encoder) as store:
        store.add(["compress a file", "open a socket"])
    with ResidentCorpus.load(tmp_path / "data", "c", encoder=encoder) as corpus:
        assert corpus.search("zip it")[0].text == "compress a file"
        with pytest.raises(StoreLockedError), M3Store(tmp_path / "data", "c"):
            pass
    with M3Store(tmp_path / "data", "c") as store:
        assert store.count() == 2
        with pytest.raises(InputError, match="a collection and an encoder of its own"):
            ResidentCorpus.load(store, "other")
        with ResidentCorpus.load(store) as corpus:
            with pytest.raises(InputError, match="there is no encoder for queries"):
                corpus.search("zip it")
            store.close()
            with pytest.raises(StoreClosedError, match="the store of 'c' is closed"):
                corpus.search(encoder.encode_queries(["zip it"]))


# -- queries


@pytest.fixture
def store() -> Any:
    with M3Store(":memory:", "c") as opened:
        opened.add(documents(8), embeddings=random_views(8, 1))
        yield opened


ROWS = np.ones((2, COLBERT_DIM), np.float32)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (ROWS[:, :5], f"vectors have 5 dimensions, the collection {COLBERT_DIM}"),
        (ROWS * np.nan, "holds NaN or infinity"),
        (ROWS * np.inf, "holds NaN or infinity"),
        (ROWS[:0], "has no vectors"),
        (ROWS[0], r"of shape \(16,\)"),
        (ROWS.astype(int), "dtype torch.int64"),
        (TokenVectors(torch.ones(3, COLBERT_DIM), torch.tensor([0, 1, 3])), "one query, not 2"),
        (random_views(2, 1), "embeddings of 2: use search_batch"),
        ("", "the query is empty"),
        (None, "a text or its embeddings, not NoneType"),
    ],
)
def test_queries_that_are_none(store: M3Store, query: Any, message: str) -> None:
    with ResidentCorpus.load(store) as corpus, pytest.raises(InputError, match=message):
        corpus.search(query)


def test_a_query_of_another_model_is_refused(encoder: M3Encoder) -> None:
    with M3Store(":memory:", "c", encoder) as store:
        store.add(["a", "b"])
        query = encoder.encode_queries(["a"])
        with ResidentCorpus.load(store) as corpus:
            assert corpus.search(query)[0].text == "a"
            foreign = replace(query, fingerprint="another")
            with pytest.raises(InputError, match="come from another model"):
                corpus.search(foreign)


def test_more_tokens_than_qdrant_takes_are_merged_as_the_store_does(
    store: M3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3qdrant.limits.MULTIVECTOR_LIMIT", 10 * COLBERT_DIM + 1)
    _, _, rows = views(random_views(1, 3, tokens=1))
    generator = torch.Generator().manual_seed(4)
    long = torch.nn.functional.normalize(
        rows.vectors[:1] + torch.randn(37, COLBERT_DIM, generator=generator), dim=1
    )
    query = random_views(1, 3)
    asked = replace(query, colbert=TokenVectors(long, torch.tensor([0, 37])))
    with ResidentCorpus.load(store) as corpus:
        ours = corpus.search(asked)
    theirs = store.search(asked, "colbert")
    assert [hit.id for hit in ours] == [hit.id for hit in theirs]
    assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-5)


# -- room


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype is 'int4': give one of 'float32', 'bfloat16', 'int8'"),
        ({"device": "abacus"}, "device is 'abacus', which is not to be had here"),
        ({"device": "cuda:99"}, "device is 'cuda:99', which is not to be had here"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"max_bytes": True}, "max_bytes is True"),
    ],
)
def test_options_that_are_none(store: M3Store, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ResidentCorpus.load(store, **options)


def test_what_does_not_fit_is_refused_with_figures(
    store: M3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read = 0
    retrieve = store.client.retrieve

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal read
        read += 1
        return retrieve(*arguments, **options)

    monkeypatch.setattr(store.client, "retrieve", counted)
    with pytest.raises(InputError) as raised:
        ResidentCorpus.load(store, dtype="float32", max_bytes=100)
    said = str(raised.value)
    assert "8 documents with about" in said
    assert "as float32, and 0.00 MB are there" in said
    assert "dtype='int8' takes" in said
    assert read == 1  # the sample
    monkeypatch.setattr("m3qdrant.rank.room._available", lambda: (256 << 20) + 1000)
    with pytest.raises(InputError, match=r"in memory as float32, and .*dtype='int8' takes"):
        ResidentCorpus.load(store, device="cpu")
    with pytest.raises(InputError, match=r"in memory as int8.*folder= keeps the"):
        ResidentCorpus.load(store, device="cpu", dtype="int8")
    monkeypatch.setattr("m3qdrant.rank.room._available", lambda: None)
    monkeypatch.setattr("m3qdrant.rank.room._free_disk", lambda folder: 17)
    with pytest.raises(InputError, match="on the disk as float32"):
        ResidentCorpus.load(store, folder=tmp_path / "x")
    assert not (tmp_path / "x").exists()


# -- the folder


def test_a_folder_of_another_collection_is_refused(store: M3Store, tmp_path: Path) -> None:
    with (
        ResidentCorpus.load(store, folder=tmp_path / "f"),
        pytest.raises(StoreLockedError, match="open in this process"),
    ):
        ResidentCorpus.load(store, folder=tmp_path / "f")
    with M3Store(":memory:", "d") as other:
        other.add(documents(3), embeddings=random_views(3, 2))
        with pytest.raises(SchemaMismatchError, match="collection is 'c' there, and 'd' here"):
            ResidentCorpus.load(other, folder=tmp_path / "f")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file: give a folder"):
        ResidentCorpus.load(store, folder=tmp_path / "file")
    with pytest.raises(EngineError, match="can't be made"):
        ResidentCorpus.load(store, folder=tmp_path / "file" / "x")
    rows = next((tmp_path / "f").glob("rows-*.bin"))
    os.truncate(rows, 8)
    with pytest.raises(StoreDamagedError, match="has 8 bytes and had"):
        ResidentCorpus.load(store, folder=tmp_path / "f")
    with pytest.raises(StoreDamagedError, match="has 8 bytes and had"):  # its lock was let go
        ResidentCorpus.load(store, folder=tmp_path / "f")


CHILD = """
import sys, time
from m3qdrant import ResidentCorpus
from m3qdrant.collection import multivectors
from m3qdrant.rank import RowsFile

multivectors._PAGE_BYTES = 3000
append = RowsFile.append

def slowly(self, page):
    append(self, page)
    time.sleep(0.03)

RowsFile.append = slowly
ResidentCorpus.load(sys.argv[1], "c", folder=sys.argv[2])
"""


def test_killed_while_it_is_filled_it_loses_nothing(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    n, place, folder = 400, tmp_path / "data", tmp_path / "held"
    with M3Store(place, "c") as store:
        store.add(documents(n), embeddings=random_views(n, seed))
    pages = 0
    for round in range(3):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(place), str(folder)])
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and child.poll() is None:
            log = folder / "index.log"
            there = log.read_bytes().count(b"\n") if log.exists() else 0
            if there > pages + 4 + round:
                break
            time.sleep(0.005)
        assert child.poll() is None, "it ended before it was killed"
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert there > pages
        pages = there
    with M3Store(place, "c") as store, ResidentCorpus.load(store, folder=folder) as corpus:
        changes = corpus.changes
        assert changes.unchanged >= pages - 1  # each page was one document or more
        assert (changes.added, changes.updated) == (n - changes.unchanged, 0)
        with ResidentCorpus.load(store) as fresh:
            for i in range(5):
                query = random_views(1, seed + i)
                assert corpus.search(query, 20) == fresh.search(query, 20), seed


WRITER = """
import sys
from m3qdrant import M3Store
from tests.views import documents, random_views
with M3Store(sys.argv[1], "c") as store:
    store.add(documents(12)[5:], embeddings=random_views(7, 8))
    store.delete("d1")
"""


def test_what_another_process_wrote_is_followed(tmp_path: Path) -> None:
    """Between two loads: an embedded collection has one process at a time."""
    place, folder = tmp_path / "data", tmp_path / "held"
    with M3Store(place, "c") as store:
        store.add(documents(10), embeddings=random_views(10, 1))
        ResidentCorpus.load(store, folder=folder).close()
    subprocess.run([sys.executable, "-c", WRITER, str(place)], check=True)
    query = random_views(1, 2)
    with M3Store(place, "c") as store, ResidentCorpus.load(store, folder=folder) as corpus:
        changes = corpus.changes
        assert (changes.added, changes.updated, changes.removed) == (2, 5, 1)
        with ResidentCorpus.load(store) as fresh:
            assert corpus.search(query, 20) == fresh.search(query, 20)


def test_what_is_written_while_files_are_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a document may be the new one by the time that it is copied."""
    with M3Store(tmp_path / "data", "c") as store:
        store.add(documents(300), embeddings=random_views(300, 1))
        read, written = VectorFiles.read, 0

        def changing(self: VectorFiles, ids: Any) -> FileRows:
            nonlocal written
            found = read(self, ids)
            if len(ids) > 8:  # not the sample
                found.rows[:] = 0.25
                for i in range(3):
                    store.add(documents(300)[i::3], embeddings=random_views(100, 7 + i))
                store.delete([f"d{written}"])
                written += 1
            return found

        monkeypatch.setattr(VectorFiles, "read", changing)
        with ResidentCorpus.load(store, dtype="float32") as corpus:
            assert written == 1
            monkeypatch.undo()
            with ResidentCorpus.load(store, dtype="float32") as fresh:
                assert len(fresh) == len(corpus) == 299
                query = random_views(1, 3)
                assert corpus.search(query, 300) == fresh.search(query, 300)
            assert corpus.refresh().unchanged == 299


@pytest.mark.parametrize("wrong", ["a number", "an error", "unknown"])
def test_files_that_are_not_trusted_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Then the engine is asked, with a word."""
    said: list[str] = []
    monkeypatch.setattr("m3qdrant.progress._listeners", [said.append])
    read = VectorFiles.read

    def changed(self: VectorFiles, ids: Any) -> FileRows:
        found = read(self, ids)
        if wrong == "an error":
            raise UnsupportedError("the engine's files have changed")
        found.rows[3, 5] += 0.5
        return found

    with M3Store(tmp_path / "data", "c") as store:
        store.add(documents(300), embeddings=random_views(300, 1))
        with ResidentCorpus.load(store) as corpus:
            expected = corpus.search(random_views(1, 3), 300)
        assert said == []
        if wrong == "unknown":
            monkeypatch.setattr("m3qdrant.edge.vector_files.version", lambda name: "0.10.0")
        else:
            monkeypatch.setattr(VectorFiles, "read", changed)
        with ResidentCorpus.load(store) as corpus:
            assert corpus.search(random_views(1, 3), 300) == expected
        (word,) = said
        assert word.startswith("reading the vectors from the engine, not from its files: ")


def test_a_collection_of_another_kind_is_not_followed(tmp_path: Path) -> None:
    with M3Store(tmp_path / "data", "c") as store:
        store.add(documents(5), embeddings=random_views(5, 1))
        with ResidentCorpus.load(store, folder=tmp_path / "f") as corpus:
            store.client.delete_collection("c")
            pooled = M3Schema(token_pooling=2)
            with M3Store(store.client, "c", schema=pooled) as other:
                other.add(documents(5), embeddings=random_views(5, 1))
                with pytest.raises(SchemaMismatchError, match="token_pooling was 1, is 2"):
                    corpus.refresh()


def test_a_cascade_needs_what_it_looks_at(store: M3Store) -> None:
    query = random_views(1, 1)
    with ResidentCorpus.load(store, dtype="bfloat16") as corpus:
        with pytest.raises(InputError, match="held as bfloat16"):
            corpus.search(query, cascade=Cascade("int8"))
        assert corpus.recall(query, Cascade(keep=10)).mean == 1.0
        assert repr(corpus).startswith("ResidentCorpus('c', 8 documents, ")
