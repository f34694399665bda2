"""QdrantClient with the embedded engine behind it: its class, its front, and who closes what."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

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
    front.upload_collection("flat", vectors, ({"n": i} for i in range(40)), batch_size=7)
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
    memory.create_collection("moved", vectors_config={"dense": VECTORS["dense"]})
    rng = np.random.default_rng()
    memory.upsert(
        "moved",
        [
            models.PointStruct(id=i, vector={"dense": rng.normal(size=DIM).tolist()})
            for i in range(30)
        ],
    )
    with QdrantEdge(tmp_path / "other") as edge:
        memory.migrate(as_qdrant_client(edge))
        assert edge.count("moved").count == 30


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
