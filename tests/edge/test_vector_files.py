"""Multivectors read from the engine's files: those that it gives, or none at all."""

from __future__ import annotations

import asyncio
import pickle
import random
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant import AsyncQdrantEdge, QdrantEdge
from m3qdrant.edge import VectorFiles
from m3qdrant.edge.vector_files import locate
from m3qdrant.errors import CollectionNotFoundError, InputError, UnsupportedError

DIM = 24


def several(datatype: Any = None, distance: str = "Dot", **options: Any) -> models.VectorParams:
    return models.VectorParams(
        size=DIM,
        distance=models.Distance(distance),
        datatype=datatype,
        multivector_config=models.MultiVectorConfig(
            comparator=models.MultiVectorComparator.MAX_SIM
        ),
        hnsw_config=models.HnswConfigDiff(m=0),
        **options,
    )


def drawn(rng: np.random.Generator) -> Any:
    return rng.standard_normal((rng.integers(1, 30), DIM)).astype(np.float32)


def compare(client: QdrantEdge, name: str = "tokens") -> VectorFiles:
    """All that the files hold is what the engine gives, and the other way round."""
    files: VectorFiles = client.vector_files("c", name)
    records, _ = client.scroll_arrays("c", limit=10_000, with_vectors=True)
    given: dict[Any, Any] = {}
    for record in records:
        vector: Any = record.vector
        vector = vector if name == "" else (vector or {}).get(name)
        if vector is not None and len(vector):
            given[record.id] = vector
    assert files.places.keys() == given.keys()
    found = files.read([*given, 10**6])
    starts = np.concatenate([[0], np.cumsum(found.lengths)])
    for i, id in enumerate(found.ids):
        rows = found.rows[starts[i] : starts[i + 1]]
        assert np.array_equal(rows.astype(np.float32), given[id]), id
    ids = [*given]
    if ids:
        asked = models.Filter(must=[models.HasIdCondition(has_id=ids)])
        sample = models.FormulaQuery(formula=models.MultExpression(mult=[1.0]))
        first = models.Prefetch(filter=asked, limit=len(ids))
        answer = client.query_points("c", query=sample, prefetch=first, limit=len(ids))
        versions = {point.id: point.version for point in answer.points}
        assert dict(zip(found.ids, found.versions, strict=True)) == versions
    return files


@pytest.mark.parametrize("datatype", [None, models.Datatype.FLOAT16])
@pytest.mark.parametrize("distance", ["Dot", "Cosine"])
@pytest.mark.parametrize("alone", [True, False])
def test_what_is_in_the_files_is_what_the_engine_gives(
    tmp_path: Path, datatype: Any, distance: str, alone: bool
) -> None:
    """Written, replaced by more and by fewer, deleted, without the vector; before and after."""
    seed = random.randrange(10**6)
    rng = np.random.default_rng(seed)
    vectors: Any = several(datatype, distance)
    if not alone:
        single = models.VectorParams(size=2, distance=models.Distance.DOT)
        vectors = {"tokens": vectors, "one": single, "other": several()}
    name = "" if alone else "tokens"

    def put(client: QdrantEdge, ids: Any) -> None:
        points = []
        for id in ids:
            vector: Any = drawn(rng)
            if not alone:
                vector = {"tokens": vector, "one": [1.0, 2.0], "other": drawn(rng)}
                if rng.random() < 0.1:
                    del vector["tokens"]
            points.append(models.PointStruct(id=id, vector=vector, payload={}))
        client.upsert("c", points)

    ids: list[Any] = [
        *range(700),
        *(str(uuid.UUID(int=int(rng.integers(2**60)))) for _ in range(100)),
    ]
    with QdrantEdge(tmp_path) as client:
        client.create_collection("c", vectors_config=vectors)
        compare(client, name)
        for i in range(0, len(ids), 400):
            put(client, ids[i : i + 400])
        compare(client, name)
        for change in range(3):
            put(client, rng.choice(700, 50, replace=False).tolist())
            gone = rng.choice(700, 40, replace=False).tolist()
            client.delete("c", models.PointIdsList(points=[*gone, ids[700 + change]]))
            there = [r.id for r in client.scroll("c", limit=10_000)[0]]
            some = random.sample(there, 20)
            client.set_payload("c", {"a": 1}, points=some)
            if not alone:
                client.delete_vectors("c", ["tokens"], some[:5])
            compare(client, name)
            if change == 1:
                client.optimize("c")
                compare(client, name)
    with QdrantEdge(tmp_path) as client:
        compare(client, name)
        client.optimize("c")
        compare(client, name)


def test_in_a_worker_too(tmp_path: Path) -> None:
    """What says where the rows are crosses between processes; each maps them for itself."""
    rng = np.random.default_rng(1)
    rows = [drawn(rng) for _ in range(5)]

    async def main() -> None:
        async with AsyncQdrantEdge(tmp_path) as client:
            await client.create_collection("c", vectors_config={"tokens": several()})
            points = [
                models.PointStruct(id=i, vector={"tokens": row}) for i, row in enumerate(rows)
            ]
            await client.upsert("c", points)
            files = await client.vector_files("c", "tokens")
            for form in (files, pickle.loads(pickle.dumps(files))):
                found = form.read(range(5))
                assert sorted(found.ids) == [0, 1, 2, 3, 4]
                assert np.array_equal(found.rows, np.concatenate([rows[i] for i in found.ids]))

    asyncio.run(main())


@pytest.fixture
def client(tmp_path: Path) -> Any:
    rng = np.random.default_rng(2)
    with QdrantEdge(tmp_path / "data") as opened:
        opened.create_collection("c", vectors_config={"tokens": several()})
        points = [models.PointStruct(id=i, vector={"tokens": drawn(rng)}) for i in range(9)]
        opened.upsert("c", points)
        compare(opened)
        yield opened


def change_setting(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("version.info", "0.6.0", "0.7.0"),
        ("segment.json", '"size":24', '"size":25'),
        ("segment.json", "ChunkedMmap", "Elsewhere"),
        ("segment.json", '"max_sim"', '"mean_sim"'),
        ("vector_storage-tokens/vectors/config.json", '"dim":24', '"dim":12'),
        ("vector_storage-tokens/offsets/config.json", '"dim":1}', '"dim":2}'),
    ],
)
def test_files_that_are_not_known_are_not_read(
    client: QdrantEdge, file: str, old: str, new: str, tmp_path: Path
) -> None:
    (segment,) = (tmp_path / "data" / "c" / "shard" / "segments").iterdir()
    before = (segment / file).read_text()
    change_setting(segment / file, old, new)
    with pytest.raises(UnsupportedError, match="its files are not as this version knows them"):
        locate(tmp_path / "data" / "c", "tokens", DIM)
    (segment / file).write_text(before)
    compare(client)


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_an_id_that_was_cut_off(client: QdrantEdge, tmp_path: Path, cut: int) -> None:
    (segment,) = (tmp_path / "data" / "c" / "shard" / "segments").iterdir()
    mappings = segment / "mutable_id_tracker.mappings"
    before = mappings.read_bytes()
    mappings.write_bytes(before[:-cut])
    with pytest.raises(UnsupportedError, match="cut off"):
        locate(tmp_path / "data" / "c", "tokens", DIM)
    mappings.write_bytes(before)
    compare(client)


def test_other_engines_are_not_known(
    client: QdrantEdge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no multivector 'dense'"):
        client.vector_files("c", "dense")
    with pytest.raises(CollectionNotFoundError):
        client.vector_files("d", "tokens")
    monkeypatch.setattr("m3qdrant.edge.vector_files.version", lambda name: "0.10.1")
    with pytest.raises(UnsupportedError, match=r"the files of qdrant-edge-py 0\.10\.1"):
        client.vector_files("c", "tokens")
    client.close()
    with (
        QdrantEdge(tmp_path / "data", read_only=True) as reader,
        pytest.raises(UnsupportedError, match="opened for reading"),
    ):
        reader.vector_files("c", "tokens")
