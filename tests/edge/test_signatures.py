"""Both clients have every method of qdrant-client's, with its parameters, in their order."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant.edge import AsyncQdrantEdge, AsyncQdrantEdgeView, QdrantEdge
from m3qdrant.errors import InputError, UnsupportedError
from tests.edge.small import NAME, VECTORS, create, points

Parameters = list[tuple[str, Any, Any]]


def methods(kind: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(kind, inspect.isroutine)
        if name[0] != "_"
    }


def parameters(method: Any) -> Parameters:
    """Names, kinds and defaults, which are all that a caller sees."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


BOTH = [
    (QdrantEdge, QdrantClient),
    (AsyncQdrantEdge, AsyncQdrantClient),
    (AsyncQdrantEdgeView, AsyncQdrantClient),
]
CASES = [
    pytest.param(ours, theirs, name, id=f"{ours.__name__}.{name}")
    for ours, theirs in BOTH
    for name in methods(theirs)
]


@pytest.mark.parametrize(("ours", "theirs", "name"), CASES)
def test_a_method_has_the_clients_parameters(ours: type, theirs: type, name: str) -> None:
    assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name))


@pytest.mark.parametrize(
    ("ours", "base"), [(QdrantEdge, QdrantBase), (AsyncQdrantEdge, AsyncQdrantBase)]
)
def test_a_method_takes_what_the_interface_says(ours: type, base: type) -> None:
    for name, method in methods(base).items():
        # it leaves out what only a connection needs, and the clients make some of it optional
        wanted = [p[:2] for p in parameters(method)]
        found = [p[:2] for p in parameters(getattr(ours, name))]
        assert [p for p in found if p in wanted] == wanted, name


@pytest.mark.parametrize(("ours", "theirs"), BOTH)
def test_what_is_awaited_there_is_awaited_here(ours: type, theirs: type) -> None:
    for name, method in methods(theirs).items():
        here = inspect.iscoroutinefunction(getattr(ours, name))
        assert here == inspect.iscoroutinefunction(method), name


def test_the_fourth_argument_of_a_creation_is_the_number_of_shards(path: Path) -> None:
    with QdrantEdge(path) as client:
        with pytest.raises(InputError, match="shard_number: value 0 invalid, must be 1 or larger"):
            client.create_collection("t", VECTORS, None, 0)
        assert not client.collection_exists("t")
        assert client.create_collection("t", VECTORS, None, 1)


def test_what_waits_is_the_argument_after_the_points(path: Path) -> None:
    with QdrantEdge(path) as client:
        create(client)
        three = points(0, 3)
        client.upsert(NAME, three, True)
        client.set_payload(NAME, {"a": 1}, [0], None, True)
        client.overwrite_payload(NAME, {"a": 1}, [1], False)
        client.delete_payload(NAME, ["a"], [0], True)
        client.clear_payload(NAME, [1], True)
        client.delete_vectors(NAME, ["colbert"], [1], True)
        client.upload_points(NAME, three, 2, 1, None, 3, True)
        client.upload_collection(NAME, [{}], [{"b": 2}], [9], 64, 2, "spawn", 0, True)
        client.delete(NAME, [1], True)
        assert [r.id for r in client.scroll(NAME)[0]] == [0, 2, 9]
        assert client.delete_collection(NAME, 10)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("count", {"timeout": 0}),
        ("count", {"timeout": "soon"}),
        ("scroll", {"consistency": 0}),
        ("scroll", {"consistency": "most"}),
        ("delete", {"points_selector": [1], "ordering": "strongest"}),
        ("create_collection", {"vectors_config": VECTORS, "replication_factor": 0}),
        ("create_collection", {"vectors_config": VECTORS, "write_consistency_factor": -1}),
        ("upload_points", {"points": [], "parallel": -1}),
        ("upload_points", {"points": [], "batch_size": 0}),
    ],
)
def test_what_no_server_takes_is_refused(
    client: QdrantEdge, method: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        getattr(client, method)(NAME, **arguments)


@pytest.mark.parametrize("kind", [QdrantEdge, AsyncQdrantEdge])
@pytest.mark.parametrize("name", ["http", "grpc_points", "search", "query", "set_model"])
def test_an_attribute_that_is_not_there(path: Path, kind: type, name: str) -> None:
    client = kind(path)
    assert not hasattr(client, name)
    assert getattr(client, name, None) is None
    with pytest.raises(UnsupportedError, match=rf"no {name}: (call|make)"):
        getattr(client, name)
    with pytest.raises(AttributeError, match="no attribute 'htpp'"):
        _ = client.htpp


def test_a_method_that_needs_a_model(path: Path) -> None:
    client = QdrantEdge(path)
    for call in (lambda: client.get_embedding_size("x"), QdrantEdge.list_text_models):  # type: ignore[attr-defined]
        with pytest.raises(UnsupportedError, match="make the vectors yourself"):
            call()


@pytest.mark.parametrize("kind", [QdrantEdge, AsyncQdrantEdge, AsyncQdrantEdgeView])
def test_there_are_no_options_that_would_open_something_else(path: Path, kind: type) -> None:
    with QdrantEdge(path) as edge:
        client: Any = kind(edge) if kind is AsyncQdrantEdgeView else kind(path)
        assert not hasattr(client, "init_options")
        with pytest.raises(UnsupportedError, match=r"no init_options: .* AsyncQdrantEdgeView"):
            AsyncQdrantClient(**client.init_options)
    assert not path.exists()
