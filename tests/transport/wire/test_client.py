"""Arrays through `run` and `arun`, where the client was made here, and where it wasn't."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from m3qdrant import transport
from m3qdrant.collection import calls
from m3qdrant.errors import RequestRejectedError, ServerUnavailableError
from tests.servers.rest import RestServer
from tests.servers.rpc import Abort, GrpcServer
from tests.transport.callers import Callers
from tests.transport.calls import NAME, QUICK
from tests.transport.test_grpc import Code
from tests.transport.wire.drawn import as_lists


def fill(server: RestServer) -> None:
    server.backing.create_collection(
        NAME,
        vectors_config={
            "dense": models.VectorParams(size=3, distance=models.Distance.DOT),
            "colbert": models.VectorParams(
                size=2,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
            ),
        },
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
    )


def vectors(generator: np.random.Generator) -> dict[str, Any]:
    return {
        "dense": generator.standard_normal(3, np.float32),
        "colbert": generator.standard_normal((int(generator.integers(1, 5)), 2), np.float32),
        "sparse": models.SparseVector(indices=[3, 70_000], values=[0.5, 0.25]),
    }


def point(id: int, named: dict[str, Any]) -> models.PointStruct:
    return models.PointStruct.model_construct(id=id, vector=named, payload={"n": id})


def test_arrays_go_there_and_come_back(
    caller: Callers, rest_server: RestServer, grpc_server: GrpcServer
) -> None:
    fill(rest_server)
    asked = caller(rest_server.url)
    assert transport.capabilities_of(asked.client).arrays
    generator = np.random.default_rng()
    made = [vectors(generator) for _ in range(5)]
    asked.run(calls.upsert(NAME, [point(i, named) for i, named in enumerate(made)]))
    found = asked.run(calls.retrieve(NAME, range(5), with_vectors=True, arrays=True))
    assert sorted(record.id for record in found) == list(range(5))
    for record in found:
        assert record.vector["colbert"].dtype == np.float32
        assert as_lists(record.vector) == as_lists(made[record.id])
    some = asked.run(
        calls.retrieve(NAME, [3], with_payload=["n"], with_vectors=["dense"], arrays=True)
    )
    assert (some[0].payload, list(some[0].vector)) == ({"n": 3}, ["dense"])
    request = models.QueryRequest(query=made[2]["colbert"].tolist(), using="colbert", limit=5)
    (answer,) = asked.run(calls.query_batch_points(NAME, [request]))
    wanted = rest_server.backing.query_points(
        NAME, made[2]["colbert"].tolist(), using="colbert", limit=5
    )
    assert [p.id for p in answer.points] == [p.id for p in wanted.points]
    scores = [p.score for p in wanted.points]
    assert [p.score for p in answer.points] == pytest.approx(scores, rel=1e-6)
    assert grpc_server.seen == {"HealthCheck": 1, "Upsert": 1, "Get": 2, "QueryBatch": 1}


def test_without_being_asked_for_there_are_lists(
    caller: Callers, rest_server: RestServer, grpc_server: GrpcServer
) -> None:
    fill(rest_server)
    asked = caller(rest_server.url)
    named = vectors(np.random.default_rng())
    asked.run(calls.upsert(NAME, [point(1, named)]))
    (found,) = asked.run(calls.retrieve(NAME, [1], with_vectors=True))
    assert found.vector == as_lists(named)
    assert isinstance(asked.client, QdrantClient | AsyncQdrantClient)


def test_over_rest_and_with_a_client_of_ones_own_there_are_lists(
    caller: Callers, rest_server: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rest_server)
    over_rest = caller(rest_server.url)
    kind = QdrantClient if caller.kind == "sync" else AsyncQdrantClient
    own = caller(kind(rest_server.url, check_compatibility=False))
    named = as_lists(vectors(np.random.default_rng()))
    for asked in (over_rest, own):
        assert not transport.capabilities_of(asked.client).arrays
        asked.run(calls.upsert(NAME, [point(1, named)]))
        (found,) = asked.run(calls.retrieve(NAME, [1], with_vectors=True, arrays=True))
        assert found.vector == named


def test_what_fails_is_told_and_tried_again(
    caller: Callers, rest_server: RestServer, grpc_server: GrpcServer
) -> None:
    fill(rest_server)
    asked = caller(rest_server.url)
    named = vectors(np.random.default_rng())
    grpc_server.script("Upsert", Abort(Code.UNAVAILABLE), Abort(Code.INTERNAL, applied=True))
    asked.run(calls.upsert(NAME, [point(1, named)]), retries=QUICK)
    assert grpc_server.seen["Upsert"] == 3
    grpc_server.script("Get", *[Abort(Code.UNAVAILABLE, "gone")] * 4)
    with pytest.raises(ServerUnavailableError, match=r"retrieve of .* gone"):
        asked.run(calls.retrieve(NAME, [1], with_vectors=True, arrays=True), retries=QUICK)
    named["dense"] = named["dense"][:2]
    with pytest.raises(RequestRejectedError):
        asked.run(calls.upsert(NAME, [point(1, named)]), retries=QUICK)
