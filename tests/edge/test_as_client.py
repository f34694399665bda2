"""QdrantClient with the embedded engine behind it: its class, its front, and who closes what."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.migrate.migrate import migrate

from m3qdrant import AsyncQdrantEdge, AsyncQdrantEdgeView, QdrantEdge, as_qdrant_client
from m3qdrant.edge import engine_of
from m3qdrant.errors import InputError, StoreClosedError, UnsupportedError
from m3qdrant.transport import aconnect, capabilities_of, connect
from tests.edge.small import DIM, NAME, VECTORS, points
from tests.edge.test_async_client import in_a_loop


@pytest.fixture
def front(client: QdrantEdge) -> QdrantClient:
    return as_qdrant_client(client)


def test_it_is_a_qdrant_client_of_this_engine(client: QdrantEdge, front: QdrantClient) -> None:
    assert isinstance(front, QdrantClient)
    front.upsert(NAME, points(20, 30))
    assert client.count(NAME).count == front.count(NAME).count == 30
    query = np.random.default_rng().normal(size=DIM)
    ours = client.query_points(NAME, query, using="dense", limit=6)
    assert front.query_points(NAME, query, using="dense", limit=6) == ours
    assert front.get_collection(NAME) == client.get_collection(NAME)
    assert repr(client) in repr(front)


def test_points_of_every_shape_pass(client: QdrantEdge, front: QdrantClient) -> None:
    front.create_collection("flat", models.VectorParams(size=3, distance=models.Distance.DOT))
    vectors = np.random.default_rng().normal(size=(40, 3)).astype(np.float32)
    front.upload_collection("flat", vectors, ({"n": i} for i in range(40)), batch_size=19)
    front.upload_points(
        "flat", (models.PointStruct(id=i, vector=[1.0, 2.0, 3.0]) for i in range(40, 50))
    )
    front.upsert("flat", models.Batch(ids=[50, 51], vectors=[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    assert client.count("flat").count == 52
    (record,) = client.retrieve("flat", [50], with_vectors=True)
    assert record.vector == [0.0, 0.0, 1.0]


def test_what_the_front_refuses_it_refuses(front: QdrantClient) -> None:
    with pytest.raises(AssertionError, match="Unknown arguments"):
        front.count(NAME, nothing_like_it=1)
    with pytest.raises(UnexpectedResponse, match="not found"):
        front.count("nowhere")


@pytest.mark.parametrize("kind", ["http", "grpc_points", "grpc_collections", "init_options"])
def test_what_needs_a_connection_says_so(front: QdrantClient, path: Path, kind: str) -> None:
    other = as_qdrant_client(AsyncQdrantEdge(path))
    for either in (front, other):
        with pytest.raises(UnsupportedError, match=f"no {kind}"):
            getattr(either, kind)
        assert not hasattr(either, kind)


def test_its_methods_have_the_clients_parameters(client: QdrantEdge, front: QdrantClient) -> None:
    view = as_qdrant_client(AsyncQdrantEdgeView(client))
    for ours, theirs in ((front, QdrantClient), (view, AsyncQdrantClient)):
        for name, method in inspect.getmembers(theirs, inspect.isfunction):
            if not name.startswith("_"):
                assert inspect.signature(getattr(type(ours), name)) == inspect.signature(method)


def test_what_the_engine_lacks_is_not_implemented_as_in_local_mode(front: QdrantClient) -> None:
    memory = QdrantClient(":memory:")
    for either in (front, memory):
        with pytest.raises(NotImplementedError):
            either.cluster_status()


def test_dropping_it_leaves_the_engine_open_and_closing_it_closes_it(client: QdrantEdge) -> None:
    front = as_qdrant_client(client)
    twin = copy.copy(front)
    del front
    gc.collect()
    assert client.count(NAME).count == twin.count(NAME).count == 20
    twin.close()
    with pytest.raises(StoreClosedError):
        client.count(NAME)
    twin.close()


def test_collections_migrate_into_it(tmp_path: Path) -> None:
    memory = QdrantClient(":memory:")
    fill(memory)
    with QdrantEdge(tmp_path / "a") as one, QdrantEdge(tmp_path / "b") as other:
        memory.migrate(as_qdrant_client(one))
        migrate(memory, as_qdrant_client(other), batch_size=19)
        for edge in (one, other):
            assert sorted(SHAPES) == [c.name for c in edge.get_collections().collections]
            for name in SHAPES:
                assert_same(stored(edge, name), stored(memory, name))


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_collections_migrate_out_of_it(tmp_path: Path) -> None:
    with QdrantEdge(tmp_path / "a") as source, QdrantEdge(tmp_path / "b") as edge:
        fill(source)
        source.create_payload_index("flat", "n", models.IntegerIndexParams(type="integer"))  # type: ignore[arg-type]
        source.create_payload_index("flat", "k", models.PayloadSchemaType.KEYWORD)
        front, memory = as_qdrant_client(source), QdrantClient(":memory:")
        front.migrate(memory)
        front.migrate(edge, batch_size=19)
        front.migrate(as_qdrant_client(edge), ["many"], recreate_on_collision=True)
        with pytest.raises(ValueError, match="already exist"):
            front.migrate(edge)
        for name in SHAPES:
            assert_same(stored(memory, name), stored(source, name))
            assert_same(stored(edge, name), stored(source, name))
            ours, theirs = edge.get_collection(name), source.get_collection(name)
            assert ours.config == theirs.config
            assert ours.payload_schema == theirs.payload_schema


SHAPES: dict[str, dict[str, Any]] = {
    "flat": {"vectors_config": models.VectorParams(size=DIM, distance=models.Distance.COSINE)},
    "many": {"vectors_config": VECTORS["colbert"], "metadata": {"a": [1, None]}},
    "bytes": {
        "vectors_config": {
            "b": models.VectorParams(
                size=DIM, distance=models.Distance.DOT, datatype=models.Datatype.UINT8
            )
        }
    },
    "beside": {
        "vectors_config": models.VectorParams(size=DIM, distance=models.Distance.EUCLID),
        "sparse_vectors_config": {"s": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    },
    "sparse": {"vectors_config": {}, "sparse_vectors_config": {"s": models.SparseVectorParams()}},
    "bare": {"vectors_config": {}},
}
"""Collections of each shape that a vector has."""


def fill(client: Any) -> None:
    """Fill each with some points: ids of both kinds, some without a vector or a payload."""
    rng = np.random.default_rng()
    for name, config in SHAPES.items():
        client.create_collection(name, **config)
        sparse = models.SparseVector(indices=[3, 70], values=rng.normal(size=2).tolist())
        dense = rng.normal(size=DIM).tolist()
        vector: Any = {
            "flat": dense,
            "many": rng.normal(size=(3, 4)).tolist(),
            "bytes": {"b": [float(i) for i in range(DIM)]},
            "beside": {"": dense, "s": sparse},
            "sparse": {"s": sparse},
            "bare": {},
        }[name]
        client.upsert(
            name,
            [
                models.PointStruct(
                    id=i if i % 2 else str(uuid.UUID(int=i)),
                    vector=vector if i % 5 else {},
                    payload={"n": i, "k": "日本", "deep": {"x": [1, None, {"y": 2**53}]}}
                    if i % 3
                    else None,
                )
                for i in range(40)
            ],
        )


def stored(client: Any, name: str) -> dict[Any, Any]:
    records, _ = client.scroll(name, limit=1000, with_vectors=True)
    return {record.id: (record.payload or {}, record.vector or {}) for record in records}


def assert_same(ours: dict[Any, Any], theirs: dict[Any, Any]) -> None:
    assert len(ours) == 40
    assert ours.keys() == theirs.keys()
    for id, (payload, vector) in ours.items():
        other_payload, other_vector = theirs[id]
        assert payload == other_payload
        assert values(vector) == pytest.approx(values(other_vector), abs=1e-5)


def values(vector: Any, at: str = "") -> dict[str, float]:
    """Each number of a vector, of any shape, by where it stands."""
    if isinstance(vector, models.SparseVector):
        return {f"{at}/{i}": v for i, v in zip(vector.indices, vector.values, strict=True)}
    if isinstance(vector, (dict, list)):
        items = vector.items() if isinstance(vector, dict) else enumerate(vector)
        return {k: v for key, item in items for k, v in values(item, f"{at}/{key}").items()}
    return {at: vector}


def test_documents_become_vectors_before_the_engine_sees_them(
    front: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(query: models.NearestQuery, **kwargs: Any) -> Iterator[models.NearestQuery]:
        assert query.nearest == document
        yield models.NearestQuery(nearest=[1.0] * DIM)

    monkeypatch.setattr(front, "_embed_models", embed)
    document = models.Document(text="a", model="any")
    expected = front.query_points(NAME, [1.0] * DIM, using="dense", limit=5)
    assert front.query_points(NAME, document, using="dense", limit=5) == expected


@pytest.mark.parametrize("kind", ["view", "process"])
def test_an_asynchronous_engine_gives_an_asynchronous_client(
    client: QdrantEdge, path: Path, kind: str
) -> None:
    async def use() -> None:
        if kind == "process":
            client.close()
        engine = AsyncQdrantEdgeView(client) if kind == "view" else AsyncQdrantEdge(path)
        front = as_qdrant_client(engine)
        assert isinstance(front, AsyncQdrantClient)
        assert (await front.count(NAME)).count == 20
        await front.upsert(NAME, points(20, 25))
        front.upload_points(NAME, points(25, 40), batch_size=4)  # it isn't awaited there
        front.upload_collection(
            NAME,
            [{"dense": [1.0] * DIM}] * 3,
            payload=({"n": i} for i in range(3)),
            ids=[100, 101, 102],
        )
        assert (await front.count(NAME)).count == 43
        with pytest.raises(ValueError, match="nowhere"):
            front.upload_points("nowhere", points(0, 3))
        await front.close()
        with pytest.raises(StoreClosedError):
            await front.count(NAME)

    asyncio.run(use())


def test_a_store_takes_the_engine_behind_it(client: QdrantEdge, front: QdrantClient) -> None:
    assert connect(front) == (client, False)
    memory = QdrantClient(":memory:")
    for given, engine in ((front, client), (client, client), (memory, memory)):
        assert engine_of(given) is engine


@in_a_loop
async def test_an_asynchronous_store_takes_it_too(client: QdrantEdge) -> None:
    view = AsyncQdrantEdgeView(client)
    assert await aconnect(as_qdrant_client(view)) == (view, False)
    assert capabilities_of(view) == capabilities_of(client)


@pytest.mark.parametrize("other", ["data", None, QdrantEdge])
def test_anything_else_is_refused(other: Any) -> None:
    with pytest.raises(InputError, match="pass a QdrantEdge, an AsyncQdrantEdge"):
        as_qdrant_client(other)
