"""A collection's configuration: what is checked, what is changed, what `get_collection` says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.migrate.migrate import migrate

from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import InputError, UnsupportedError
from tests.edge.small import MORE, NAME, create, points

DOT = models.Distance.DOT
ONE = models.VectorParams(size=8, distance=DOT)
INT8 = models.ScalarQuantization(
    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
)


def fill(client: QdrantEdge, name: str, n: int = 1200) -> None:
    rng = np.random.default_rng()
    client.upsert(
        name,
        [
            models.PointStruct.model_construct(
                id=i, vector=rng.normal(size=8).astype("f4"), payload={"n": i}
            )
            for i in range(n)
        ],
    )


def segments(path: Path, name: str) -> list[dict[str, Any]]:
    """What the engine itself says about the unnamed vector, for each segment that has points."""
    files = (path / name / "shard/segments").glob("*/segment.json")
    return [json.loads(f.read_text())["config"]["vector_data"][""] for f in files]


def flat(record: models.Record) -> list[float]:
    """All numbers of all of a point's dense vectors."""
    vectors = record.vector if isinstance(record.vector, dict) else {}
    dense = [v for _, v in sorted(vectors.items()) if isinstance(v, list)]
    return [x for v in dense for x in np.ravel(v).tolist()]


# what is checked


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"vectors_config": models.VectorParams(size=0, distance=DOT)}, "vectors.size"),
        ({"vectors_config": models.VectorParams(size=65537, distance=DOT)}, "vectors.size"),
        ({"vectors_config": {"a": models.VectorParams(size=-1, distance=DOT)}}, "vectors.a.size"),
        ({"hnsw_config": models.HnswConfigDiff(ef_construct=3)}, "hnsw_config.ef_construct"),
        ({"hnsw_config": models.HnswConfigDiff(m=-1)}, "hnsw_config.m"),
        (
            {"optimizers_config": models.OptimizersConfigDiff(deleted_threshold=1.5)},
            "optimizers_config.deleted_threshold",
        ),
        (
            {"optimizers_config": models.OptimizersConfigDiff(vacuum_min_vector_number=99)},
            "optimizers_config.vacuum_min_vector_number",
        ),
        (
            {"optimizers_config": models.OptimizersConfigDiff(indexing_threshold=-1)},
            "optimizers_config.indexing_threshold",
        ),
        ({"wal_config": models.WalConfigDiff(wal_capacity_mb=0)}, "wal_config.wal_capacity_mb"),
        (
            {
                "quantization_config": models.ScalarQuantization(
                    scalar=models.ScalarQuantizationConfig(
                        type=models.ScalarType.INT8, quantile=0.4
                    )
                )
            },
            "quantization_config.quantile",
        ),
        ({"shard_number": 0}, "shard_number"),
    ],
)
def test_a_setting_out_of_its_range(
    client: QdrantEdge, settings: dict[str, Any], place: str
) -> None:
    for make in (client.create_collection, client.recreate_collection):
        name = NAME if make == client.recreate_collection else "new"
        with pytest.raises(InputError, match=f"^{place}: value .* invalid, must be") as refused:
            make(name, **{"vectors_config": ONE, **settings})
        assert isinstance(refused.value, UnexpectedResponse)
        assert refused.value.status_code == 422
    assert not client.collection_exists("new")
    assert client.count(NAME).count == 20, "recreating checks before it deletes"
    key = "collection_params" if place == "shard_number" else next(iter(settings))
    if key in ("hnsw_config", "optimizers_config", "quantization_config"):
        with pytest.raises(InputError, match=place):
            client.update_collection(NAME, **settings)


def test_names_of_vectors(client: QdrantEdge) -> None:
    for name in ("", "a/b", "..", "n" * 201, "m3qdrant-no-vectors"):
        with pytest.raises(InputError, match="vector name"):
            client.create_vector_name(NAME, name, MORE)
    with pytest.raises(InputError, match="'a' is dense and sparse"):
        client.create_collection("x", {"a": ONE}, {"a": models.SparseVectorParams()})
    with pytest.raises(UnsupportedError, match="shard keys"):
        client.create_collection("x", ONE, sharding_method=models.ShardingMethod.CUSTOM)


# what get_collection says


def test_the_whole_answer(path: Path) -> None:
    with QdrantEdge(path) as client:
        client.create_collection("s", sparse_vectors_config={"a": models.SparseVectorParams()})
        client.create_collection(
            "t",
            ONE,
            shard_number=2,
            replication_factor=3,
            wal_config=models.WalConfigDiff(wal_capacity_mb=8),
            strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=5),
            metadata={"a": 1},
        )
        plain, full = client.get_collection("s"), client.get_collection("t")
    assert plain.config.params.vectors == {}
    assert plain.config.params.shard_number == 1
    assert plain.config.wal_config == models.WalConfig(
        wal_capacity_mb=32, wal_segments_ahead=0, wal_retain_closed=1
    )
    assert plain.config.optimizer_config.flush_interval_sec == 5
    assert plain.status == models.CollectionStatus.GREEN
    params = full.config.params
    assert (params.shard_number, params.replication_factor) == (2, 3)
    assert params.write_consistency_factor == 1
    assert params.vectors == ONE
    assert full.config.wal_config is not None
    assert full.config.wal_config.wal_capacity_mb == 8
    assert full.config.strict_mode_config is not None
    assert full.config.strict_mode_config.max_query_limit == 5
    assert full.config.metadata == {"a": 1}


def test_operation_ids_count_up(path: Path) -> None:
    ids = []
    for _ in range(2):  # beyond closing, too
        with QdrantEdge(path) as client:
            if not client.collection_exists(NAME):
                create(client)
            ids.append(client.upsert(NAME, points(0, 3), wait=False).operation_id)
            ids.append(client.create_payload_index(NAME, "n", "integer").operation_id)
            batch = client.batch_update_points(
                NAME,
                [
                    models.SetPayloadOperation(
                        set_payload=models.SetPayload(payload={"a": 1}, points=[1])
                    ),
                    models.DeleteOperation(delete=models.PointIdsList(points=[2])),
                ],
            )
            ids += [result.operation_id for result in batch]
            assert {result.status for result in batch} == {models.UpdateStatus.COMPLETED}
            assert client.batch_update_points(NAME, []) == []
    assert all(type(i) is int for i in ids)
    assert ids == sorted(set(ids))  # type: ignore[type-var]


# what is changed


def test_indexing_off_upload_indexing_on(path: Path) -> None:
    with QdrantEdge(path) as client:
        client.create_collection("t", ONE)
        off = models.OptimizersConfigDiff(indexing_threshold=0)
        on = models.OptimizersConfigDiff(indexing_threshold=1)
        assert client.update_collection("t", optimizers_config=off)
        fill(client, "t")
        client.optimize("t")
        assert client.unindexed("t") == 1200
        assert client.update_collection("t", on)
        assert client.get_collection("t").config.optimizer_config.indexing_threshold == 1
        client.optimize("t")
        assert client.unindexed("t") == 0
        assert client.count("t").count == 1200
    with QdrantEdge(path) as client:
        assert client.get_collection("t").config.optimizer_config.indexing_threshold == 1


def test_the_engine_applies_what_is_changed_when_it_is_optimised(path: Path) -> None:
    with QdrantEdge(path) as client:
        on = models.OptimizersConfigDiff(indexing_threshold=1)
        client.create_collection("t", ONE, optimizers_config=on, quantization_config=INT8)
        fill(client, "t")
        client.optimize("t")
        before = client.scroll("t", limit=2000, with_vectors=True)
        client.update_collection("t", hnsw_config=models.HnswConfigDiff(m=7))
        client.update_collection("t", quantization_config=models.Disabled.DISABLED)
        client.update_collection(
            "t",
            collection_params=models.CollectionParamsDiff(on_disk_payload=False),
            vectors_config={
                "": models.VectorParamsDiff(
                    on_disk=True, hnsw_config=models.HnswConfigDiff(ef_construct=50)
                )
            },
        )
        config = client.get_collection("t").config
        assert config.hnsw_config.m == 7
        assert config.hnsw_config.ef_construct == 100
        assert config.quantization_config is None
        assert config.params.on_disk_payload is False
        assert isinstance(config.params.vectors, models.VectorParams)
        assert config.params.vectors.on_disk
        client.optimize("t")
        client.flush("t")
        found = segments(path, "t")
        built = [v["index"]["options"] for v in found if v["index"]["type"] == "hnsw"]
        assert [(o["m"], o["ef_construct"]) for o in built] == [(7, 50)]
        assert all(v["quantization_config"] is None for v in found)
        assert client.scroll("t", limit=2000, with_vectors=True) == before
    with QdrantEdge(path) as client:
        assert client.get_collection("t").config == config
        assert client.scroll("t", limit=2000, with_vectors=True) == before
        client.update_collection("t", quantization_config=INT8)
        client.optimize("t")
        client.flush("t")
        assert any(v["quantization_config"] for v in segments(path, "t"))


def test_what_cannot_be_changed_changes_nothing(client: QdrantEdge) -> None:
    before = client.get_collection(NAME)
    idf = {"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)}
    with pytest.raises(UnsupportedError, match="modifier of 'sparse'"):
        client.update_collection(
            NAME, hnsw_config=models.HnswConfigDiff(m=4), sparse_vectors_config=idf
        )
    with pytest.raises(InputError, match="Not existing vector name error: nope"):
        client.update_collection(NAME, vectors_config={"nope": models.VectorParamsDiff()})
    with pytest.raises(InputError, match="Not existing vector name error: nope"):
        client.update_collection(NAME, sparse_vectors_config={"nope": models.SparseVectorParams()})
    with pytest.raises(UnsupportedError, match="read_fan_out_factor"):
        client.update_collection(
            NAME, collection_params=models.CollectionParamsDiff(read_fan_out_factor=2)
        )
    assert client.get_collection(NAME) == before
    client.upsert(NAME, points(20, 22))
    assert client.count(NAME).count == 22


def test_settings_of_a_server_are_kept(client: QdrantEdge) -> None:
    assert client.update_collection(
        NAME,
        collection_params=models.CollectionParamsDiff(replication_factor=2),
        strict_mode_config=models.StrictModeConfig(max_timeout=3),
    )
    config = client.get_collection(NAME).config
    assert config.params.replication_factor == 2
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.max_timeout == 3


# without vectors, and vectors added and removed


@pytest.mark.parametrize("vectors", [{}, None])
def test_a_collection_without_vectors(path: Path, vectors: Any) -> None:
    rows = [models.PointStruct(id=i, vector={}, payload={"a": i}) for i in range(4)]
    with QdrantEdge(path) as client:
        assert client.create_collection("t", vectors)
        client.upsert("t", rows)
        client.delete("t", [3])
    with QdrantEdge(path) as client:
        assert client.get_collection("t").config.params.vectors == {}
        assert client.get_collection("t").config.params.sparse_vectors is None
        found = client.scroll("t", with_vectors=True)[0]
        assert [(r.id, r.payload) for r in found] == [(i, {"a": i}) for i in range(3)]
        assert not any(r.vector for r in found)
        with pytest.raises(InputError, match="Not existing vector name error"):
            client.upsert("t", [models.PointStruct(id=9, vector=[0.5])])
        with pytest.raises(InputError, match="none"):
            client.query_points("t", [0.5])
        assert client.count("t").count == 3
        client.optimize("t")
        client.create_vector_name("t", "new", MORE)
        client.update_vectors("t", [models.PointVectors(id=0, vector={"new": [1.0, 2.0, 3.0]})])
    with QdrantEdge(path) as client:
        hits = client.query_points("t", [1.0, 0.0, 0.0], using="new").points
        assert [hit.id for hit in hits] == [0]
        client.delete_vector_name("t", "new")
        client.optimize("t")
    with QdrantEdge(path) as client:
        assert client.get_collection("t").config.params.vectors == {}
        assert client.count("t").count == 3


def test_vector_names_come_and_go(client: QdrantEdge, path: Path) -> None:
    sparse = models.SparseVectorNameConfig(
        sparse=models.SparseVectorConfig(modifier=models.Modifier.IDF)
    )
    assert client.create_vector_name(NAME, "new", MORE).status == "completed"
    client.create_vector_name(NAME, "words", sparse)
    before = client.get_collection(NAME)
    client.create_vector_name(NAME, "new", MORE)
    client.delete_vector_name(NAME, "never")
    assert client.get_collection(NAME) == before, "what is so already is no change"
    with pytest.raises(InputError, match="'dense' already exists with a different"):
        client.create_vector_name(NAME, "dense", MORE)
    with pytest.raises(InputError, match="'new' already exists with a different"):
        client.create_vector_name(NAME, "new", sparse)
    row: dict[str, Any] = {
        "new": [1.0, 2.0, 3.0],
        "words": models.SparseVector(indices=[3, 5], values=[1.0, 2.0]),
    }
    client.update_vectors(NAME, [models.PointVectors(id=7, vector=row)])
    with pytest.raises(InputError, match="3"):
        client.update_vectors(NAME, [models.PointVectors(id=7, vector={"new": [1.0]})])
    params = client.get_collection(NAME).config.params
    assert isinstance(params.vectors, dict)
    assert params.vectors["new"] == models.VectorParams(size=3, distance=DOT)
    assert params.sparse_vectors is not None
    assert params.sparse_vectors["words"].modifier == models.Modifier.IDF
    client.close()
    with QdrantEdge(path) as again:
        assert again.get_collection(NAME).config.params == params
        query = models.SparseVector(indices=[5], values=[1.0])
        assert [p.id for p in again.query_points(NAME, query, using="words").points] == [7]
        assert again.retrieve(NAME, [7], with_vectors=["new"])[0].vector == {"new": row["new"]}
        for name in ("new", "words", "dense"):
            again.delete_vector_name(NAME, name)
        again.delete_vector_name(NAME, "new")
        with pytest.raises(InputError, match="Not existing vector name error: dense"):
            again.query_points(NAME, [1.0] * 8, using="dense")
    with QdrantEdge(path) as again:
        vectors = again.retrieve(NAME, [7], with_vectors=True)[0].vector
        assert isinstance(vectors, dict)
        assert set(vectors) == {"colbert", "sparse"}


def test_named_vectors_beside_the_unnamed(path: Path) -> None:
    with QdrantEdge(path) as client:
        client.create_collection("t", ONE)
        client.upsert("t", [models.PointStruct(id=1, vector=[1.0] * 8)])
        with pytest.raises(InputError, match="Cannot delete the unnamed vector"):
            client.delete_vector_name("t", "")
        client.create_vector_name("t", "new", MORE)
        both: dict[str, Any] = {"": [2.0] * 8, "new": [1.0, 0.0, 0.0]}
        client.upsert("t", [models.PointStruct(id=2, vector=both)])
        client.upsert("t", [models.PointStruct(id=3, vector=[3.0] * 8)])
        assert client.retrieve("t", [2], with_vectors=True)[0].vector == both
    with QdrantEdge(path) as client:
        vectors = client.get_collection("t").config.params.vectors
        assert vectors == {"": ONE, "new": models.VectorParams(size=3, distance=DOT)}
        assert [p.id for p in client.query_points("t", [1.0] * 8).points] == [3, 2, 1]
        assert [p.id for p in client.query_points("t", [1.0] * 3, using="new").points] == [2]
        client.create_collection("copy", vectors)
        client.upsert("copy", [models.PointStruct(id=2, vector=both)])
        assert client.retrieve("copy", [2], with_vectors=True)[0].vector == both
        client.delete_vector_name("t", "new")
    with QdrantEdge(path) as client:
        assert client.get_collection("t").config.params.vectors == {"": ONE}
        assert client.retrieve("t", [1], with_vectors=True)[0].vector == [1.0] * 8


_CUT_OFF = """
import os, sys
from m3qdrant.edge import QdrantEdge
from m3qdrant.edge.disk import configuration
from qdrant_client import models
client = QdrantEdge(sys.argv[1])
client.count("docs")
write, left = configuration.write, int(sys.argv[2])
def cut_off(*args):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    write(*args)
configuration.write = cut_off
{call}
"""


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize(
    "call",
    [
        "client.create_vector_name('docs', 'new', models.DenseVectorNameConfig("
        "dense=models.DenseVectorConfig(size=3, distance='Dot')))",
        "client.delete_vector_name('docs', 'dense')",
        "client.update_collection('docs', hnsw_config=models.HnswConfigDiff(m=5))",
    ],
)
def test_a_change_that_was_cut_off_is_done_or_not(
    client: QdrantEdge, path: Path, call: str, left: int
) -> None:
    before = client.get_collection(NAME).config
    client.close()
    program = _CUT_OFF.replace("{call}", call)
    ended = subprocess.run([sys.executable, "-c", program, str(path), str(left)], check=False)
    assert ended.returncode == 9
    for _ in range(2):
        with QdrantEdge(path) as again:
            after = again.get_collection(NAME).config
            assert again.count(NAME).count == 20
            stored = again.retrieve(NAME, [1], with_vectors=True)[0].vector
            assert isinstance(stored, dict)
            names = {*after.params.vectors, *after.params.sparse_vectors}  # type: ignore[misc]
            assert set(stored) == names - {"new"}
            if left == 0 or "update" in call:
                assert after == before
            else:
                assert after != before
            assert again.upsert(NAME, [models.PointStruct.model_construct(id=1, vector=stored)])


# to another place, and back


def test_migration_there_and_back(tmp_path: Path) -> None:
    with QdrantEdge(tmp_path / "a") as source, QdrantEdge(tmp_path / "b") as target:
        create(source, metadata={"a": [1, None]}, shard_number=2)
        source.upsert(NAME, points(0, 30))
        source.create_payload_index(NAME, "n", models.PayloadSchemaType.INTEGER)
        source.create_collection("bare", {})
        source.upsert("bare", [models.PointStruct(id=1, vector={}, payload={"x": 1})])
        migrate(source, target)
        other = QdrantClient(":memory:")
        source.migrate(other, [NAME])
        with pytest.raises(ValueError, match="already exist"):
            source.migrate(target)
        source.migrate(target, recreate_on_collision=True)
        for name in (NAME, "bare"):
            ours, theirs = source.get_collection(name), target.get_collection(name)
            assert theirs.config == ours.config
            assert theirs.payload_schema == ours.payload_schema
            there, here = (
                c.scroll(name, limit=99, with_vectors=True)[0] for c in (target, source)
            )
            assert [(r.id, r.payload) for r in there] == [(r.id, r.payload) for r in here]
            for one, other_one in zip(there, here, strict=True):
                # normalised a second time, and rounded to float16
                np.testing.assert_allclose(flat(one), flat(other_one), atol=1e-3)
        assert other.count(NAME).count == 30
        source.delete_collection(NAME)
        migrate(other, source, [NAME])
        assert source.count(NAME).count == 30
        assert {r.id: r.payload for r in source.scroll(NAME, limit=99)[0]} == {
            r.id: r.payload for r in target.scroll(NAME, limit=99)[0]
        }
