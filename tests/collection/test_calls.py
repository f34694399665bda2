"""Every call that calls.py builds is one that clients take, and its answer's type is theirs."""

from __future__ import annotations

import inspect
import typing
import uuid
from collections.abc import Mapping
from types import UnionType
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase
from qdrant_client.grpc import PointId
from qdrant_client.http.models import QueryResponse
from typing_extensions import Unpack

from m3qdrant import AsyncQdrantEdge, QdrantEdge
from m3qdrant.collection import Call, calls

NAME = "docs"
POINT = models.PointStruct(id=1, vector={"dense": [1.0]}, payload={"n": 1})
FILTER = models.Filter(must=[models.HasIdCondition(has_id=[1])])
REQUEST = models.QueryRequest(
    query=[1.0],
    using="dense",
    prefetch=[models.Prefetch(query=[1.0], using="dense", limit=2)],
    filter=FILTER,
    params=models.SearchParams(exact=True),
    limit=3,
    with_vector=True,
    score_threshold=0.5,
)
SELECTED: dict[str, Any] = {"with_payload": ["text"], "with_vectors": True}
SETTINGS: calls.CollectionSettings = {
    "vectors_config": {"dense": models.VectorParams(size=1, distance=models.Distance.DOT)},
    "sparse_vectors_config": {"sparse": models.SparseVectorParams()},
    "on_disk_payload": True,
    "hnsw_config": models.HnswConfigDiff(m=16),
    "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=1),
    "quantization_config": None,
    "metadata": {"a": 1},
    "shard_number": 1,
    "replication_factor": 1,
    "write_consistency_factor": 1,
    "payload": None,
    "id_tracker": None,
}
UPSERT = models.UpsertOperation(upsert=models.PointsList(points=[POINT]))

FILLED: dict[str, Call[Any]] = {
    "batch_update_points": calls.batch_update_points(NAME, [UPSERT]),
    "collection_cluster_info": calls.collection_cluster_info(NAME),
    "cluster_status": calls.cluster_status(),
    "collection_exists": calls.collection_exists(NAME),
    "count": calls.count(NAME, FILTER),
    "create_collection": calls.create_collection(NAME, **SETTINGS),
    "create_payload_index": calls.create_payload_index(
        NAME, "year", models.PayloadSchemaType.INTEGER
    ),
    "delete": calls.delete(NAME, models.PointIdsList(points=[1])),
    "get_collection": calls.get_collection(NAME),
    "get_aliases": calls.get_aliases(),
    "get_collections": calls.get_collections(),
    "info": calls.info(),
    "optimize": calls.optimize(NAME),
    "query_batch_points": calls.query_batch_points(NAME, [REQUEST]),
    "query_points_groups": calls.query_points_groups(
        NAME, REQUEST, group_by="lang", limit=3, group_size=2
    ),
    "retrieve": calls.retrieve(NAME, [1, str(uuid.UUID(int=2))], **SELECTED),
    "scroll": calls.scroll(NAME, limit=5, filter=FILTER, offset=1, **SELECTED),
    "unindexed": calls.unindexed(NAME),
    "update_collection": calls.update_collection(NAME, {"a": None}),
    "upsert": calls.upsert(NAME, [POINT]),
    "vector_files": calls.vector_files(NAME, "colbert"),
}
"""Each builder's call, all of its arguments given."""

EMBEDDED_ONLY = {"optimize", "unindexed", "vector_files"}
NOT_EMBEDDED = {
    # one node needs none of a cluster's
    "create_collection": {"shard_number", "replication_factor", "write_consistency_factor"},
}
OF_NEWER_CLIENTS = {
    # the oldest client that this package runs with passes these on to the server as they are
    "create_collection": {"payload", "id_tracker"},
}
WAITS_BY_ITSELF = {"wait"}
"""What the embedded engine, which answers when it is done, takes and needs not."""

EDGES = (QdrantEdge, AsyncQdrantEdge)
CLIENTS = (QdrantClient, AsyncQdrantClient)
BASES = (QdrantBase, AsyncQdrantBase)


def builders() -> set[str]:
    """The functions of calls.py that make a call; `together` takes some that are made."""
    found = {name: getattr(calls, name) for name in calls.__all__ if name != "together"}
    return {name for name, value in found.items() if inspect.isfunction(value)}


def misfit(call: Call[Any], client: type[Any]) -> list[str]:
    """What of a call the client's method has no parameter for, or lacks; nothing where it fits."""
    signature = inspect.signature(getattr(client, call.method))
    try:
        signature.bind(None, **call.arguments)
    except TypeError as error:
        return [str(error)]
    named = {
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return sorted(set(call.arguments) - named)


def answer_of(builder: Any) -> Any:
    """T, where the builder returns Call[T]."""
    hints = typing.get_type_hints(builder, localns={"Unpack": Unpack})  # there for mypy only
    (answer,) = typing.get_args(hints["return"])
    return answer


def same_type(ours: Any, theirs: Any) -> bool:
    """Whether both say the same, but for gRPC's own form of an id, which never comes out."""
    if ours == theirs:
        return True
    unions = (typing.Union, UnionType)
    if typing.get_origin(ours) in unions and typing.get_origin(theirs) in unions:
        return set(typing.get_args(ours)) == set(typing.get_args(theirs)) - {PointId}
    if typing.get_origin(ours) is None or typing.get_origin(ours) != typing.get_origin(theirs):
        return False
    left, right = typing.get_args(ours), typing.get_args(theirs)
    return len(left) == len(right) and all(map(same_type, left, right))


def test_every_builder_is_looked_at_with_all_its_arguments() -> None:
    assert builders() == FILLED.keys()
    assert calls.CollectionSettings.__annotations__.keys() == SETTINGS.keys()
    for name, call in FILLED.items():
        assert call.method == name  # a builder is found by the name of what it calls


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
@pytest.mark.parametrize("name", sorted(FILLED.keys() - EMBEDDED_ONLY))
def test_the_clients_name_each_argument(name: str, client: type[Any]) -> None:
    assert set(misfit(FILLED[name], client)) <= OF_NEWER_CLIENTS.get(name, set())


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
@pytest.mark.parametrize("name", sorted(FILLED.keys() - EMBEDDED_ONLY))
def test_the_interface_takes_each_call(name: str, base: type[Any]) -> None:
    """Where it says **kwargs, the clients' own signatures decide."""
    signature = inspect.signature(getattr(base, name))
    signature.bind(None, **FILLED[name].arguments)


@pytest.mark.parametrize("client", EDGES, ids=lambda client: client.__name__)
@pytest.mark.parametrize("name", sorted(FILLED.keys() - {"cluster_status"}))
def test_the_embedded_engine_names_each_argument(name: str, client: type[Any]) -> None:
    assert set(misfit(FILLED[name], client)) <= NOT_EMBEDDED.get(name, set()) | WAITS_BY_ITSELF


@pytest.mark.parametrize("name", sorted(EMBEDDED_ONLY))
def test_what_the_embedded_engine_alone_has(name: str) -> None:
    assert all(hasattr(client, name) for client in EDGES)
    assert not any(hasattr(client, name) for client in (*CLIENTS, *BASES))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
@pytest.mark.parametrize("name", sorted(FILLED.keys() - EMBEDDED_ONLY))
def test_the_answers_type_is_the_clients(name: str, client: type[Any]) -> None:
    theirs = inspect.signature(getattr(client, name)).return_annotation
    assert same_type(answer_of(getattr(calls, name)), theirs)


@pytest.mark.parametrize("client", EDGES, ids=lambda client: client.__name__)
@pytest.mark.parametrize("name", sorted(EMBEDDED_ONLY))
def test_the_answers_type_is_the_embedded_engines(name: str, client: type[Any]) -> None:
    theirs = typing.get_type_hints(getattr(client, name))["return"]
    assert same_type(answer_of(getattr(calls, name)), theirs)


# -- that these tests can fail


def of_another_type() -> Call[models.CountResult]:
    raise NotImplementedError


def of_a_list() -> Call[list[models.CountResult]]:
    raise NotImplementedError


def of_an_id_too_few() -> Call[tuple[list[models.Record], int | None]]:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("builder", "method"),
    [
        (of_another_type, "upsert"),
        (of_a_list, "count"),
        (of_an_id_too_few, "scroll"),
    ],
)
def test_a_wrong_type_shows(builder: Any, method: str) -> None:
    theirs = inspect.signature(getattr(QdrantClient, method)).return_annotation
    assert not same_type(answer_of(builder), theirs)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"collection_name": NAME, "ids": [1], "with_vector": True}, ["with_vector"]),
        ({"collection_name": NAME}, ["missing a required argument: 'ids'"]),
        ({"collection_name": NAME, "ids": [1], "with_payload": True}, []),
    ],
)
def test_a_wrong_argument_shows(arguments: Mapping[str, Any], found: list[str]) -> None:
    for client in (*CLIENTS, *EDGES):
        complaints = misfit(Call("retrieve", arguments), client)
        assert complaints == found or (
            client in EDGES and complaints == ["got an unexpected keyword argument 'with_vector'"]
        )


def test_a_builder_that_is_not_looked_at_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def facet(name: str) -> Call[QueryResponse]:
        return Call("facet", {"collection_name": name})

    monkeypatch.setattr(calls, "facet", facet, raising=False)
    monkeypatch.setattr(calls, "__all__", [*calls.__all__, "facet"])
    assert builders() - FILLED.keys() == {"facet"}
