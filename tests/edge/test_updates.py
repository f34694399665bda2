"""Updates of vectors and batches of updates: as in-memory mode, and all or nothing."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import InputError, PointError, UnsupportedError
from tests.edge.corpus import (
    CONFIG,
    DENSE,
    DIM,
    FILTERS,
    NAME,
    PLAIN,
    POINTS,
    SPARSE,
    TOKENS,
    match,
)
from tests.edge.small import named

FEW = POINTS[:60]
IDS = [p.id for p in FEW]


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[tuple[QdrantClient, QdrantEdge]]:
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path) as embedded:
        for client in (memory, embedded):
            client.create_collection(NAME, **CONFIG)
            client.upsert(NAME, FEW)
        yield memory, embedded


def state(client: Any) -> dict[Any, Any]:
    """Everything that a collection holds, in a form that compares across engines."""
    out = {}
    for record in client.scroll(NAME, limit=1000, with_vectors=True)[0]:
        vectors = {}
        for name, vector in record.vector.items():
            if name == "sparse":
                pairs = zip(vector.indices, vector.values, strict=True)
                vectors[name] = {i: round(v, 5) for i, v in pairs}
            else:
                vectors[name] = np.round(vector, 5).tolist()
        out[record.id] = (record.payload or {}, vectors)
    return out


def assert_same_state(memory: QdrantClient, embedded: QdrantEdge) -> None:
    expected, got = state(memory), state(embedded)
    assert expected.keys() == got.keys()
    for id, (payload, vectors) in expected.items():
        assert payload == got[id][0], id
        assert vectors.keys() == got[id][1].keys(), id
        for name, vector in vectors.items():
            if name == "sparse":
                assert vector == pytest.approx(got[id][1][name], abs=2e-5)
            else:
                np.testing.assert_allclose(got[id][1][name], vector, atol=2e-5)


def vectors(id: Any, **named: Any) -> models.PointVectors:
    return models.PointVectors(id=id, vector=named)


def only_n(value: int) -> models.Filter:
    return models.Filter(must=[match("n", value)])


def test_vectors_are_replaced_and_removed(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    for client in clients:
        client.update_vectors(
            NAME,
            [vectors(1, dense=DENSE, sparse=SPARSE), vectors(IDS[3], colbert=TOKENS)],
        )
        client.update_vectors(NAME, [vectors(2, plain=PLAIN), vectors(2, dense=DENSE)])
        client.update_vectors(
            NAME, [vectors(4, dense=DENSE), vectors(5, dense=DENSE)], update_filter=only_n(5)
        )
        client.delete_vectors(NAME, ["colbert", "sparse"], [7, 8])
        client.delete_vectors(NAME, ["dense"], models.PointIdsList(points=[IDS[9], 10]))
        client.delete_vectors(NAME, ["plain"], FILTERS["value-str"])
        client.delete_vectors(NAME, ["plain"], models.FilterSelector(filter=only_n(11)))
    assert_same_state(*clients)
    arrays = {"dense": np.float32(DENSE), "colbert": np.float32(TOKENS)}
    clients[1].update_vectors(NAME, [models.PointVectors.model_construct(id=13, vector=arrays)])
    clients[0].update_vectors(NAME, [vectors(13, dense=DENSE, colbert=TOKENS)])
    assert_same_state(*clients)


def test_an_unnamed_vector(tmp_path: Path) -> None:
    params = models.VectorParams(size=5, distance=models.Distance.DOT)
    with QdrantEdge(tmp_path) as client:
        client.create_collection(NAME, params)
        client.upload_collection(NAME, np.ones((3, 5), np.float32), ids=itertools.count(1))
        client.update_vectors(NAME, [models.PointVectors(id=2, vector=PLAIN)])
        read = client.retrieve(NAME, [1, 2], with_vectors=True)
        assert read[0].vector == [1.0] * 5
        assert read[1].vector == pytest.approx(PLAIN)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "missing": (
        lambda c: c.update_vectors(NAME, [vectors(1, dense=DENSE), vectors(999, dense=DENSE)]),
        InputError,
        "no points 999: nothing was written",
    ),
    "missing-filtered": (
        lambda c: c.update_vectors(
            NAME, [vectors(1, dense=DENSE), vectors(999, dense=DENSE)], update_filter=only_n(1)
        ),
        InputError,
        "no points 999",
    ),
    "ragged": (
        lambda c: c.update_vectors(
            NAME, [vectors(1, dense=DENSE), vectors(2, colbert=[[1.0] * 8, [1.0] * 7])]
        ),
        PointError,
        "point 2: colbert: token 1: 7 numbers",
    ),
    "unknown-name": (
        lambda c: c.update_vectors(NAME, [vectors(1, dense=DENSE, dence=DENSE)]),
        PointError,
        "point 1: dence: the collection has no vector of this name",
    ),
    "no-points": (lambda c: c.update_vectors(NAME, []), InputError, "at least one"),
    "no-vectors": (
        lambda c: c.update_vectors(NAME, [5]),
        InputError,
        "a int: pass models.PointVectors",
    ),
    "delete-missing": (
        lambda c: c.delete_vectors(NAME, ["dense"], [1, 999]),
        InputError,
        "no points 999",
    ),
    "delete-unknown": (
        lambda c: c.delete_vectors(NAME, ["dense", "dence"], [1]),
        InputError,
        "'dence': the collection has no vector of this name",
    ),
    "delete-unknown-filtered": (
        lambda c: c.delete_vectors(NAME, ["dense", "dence"], only_n(1)),
        InputError,
        "'dence'",
    ),
    "delete-nothing": (lambda c: c.delete_vectors(NAME, [], [1]), InputError, "names is empty"),
    "delete-string": (lambda c: c.delete_vectors(NAME, "dense", [1]), InputError, "pass a list"),
    "shard-key": (
        lambda c: c.delete(NAME, models.PointIdsList(points=[1], shard_key="x")),
        UnsupportedError,
        "no shard keys",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_update_changes_nothing(
    clients: tuple[QdrantClient, QdrantEdge], name: str
) -> None:
    call, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        call(clients[1])
    assert_same_state(*clients)


# batches


def upserted(*ids: Any, **more: Any) -> models.UpsertOperation:
    points = [
        models.PointStruct(id=id, vector={"dense": DENSE}, payload={"n": 1000 + i})
        for i, id in enumerate(ids)
    ]
    return models.UpsertOperation(upsert=models.PointsList(points=points, **more))


def deleted(*ids: Any) -> models.DeleteOperation:
    return models.DeleteOperation(delete=models.PointIdsList(points=list(ids)))


def deleted_where(filter: models.Filter) -> models.DeleteOperation:
    return models.DeleteOperation(delete=models.FilterSelector(filter=filter))


def payload_set(*ids: Any, key: str | None = None, **payload: Any) -> models.SetPayloadOperation:
    content = models.SetPayload(payload=payload, points=list(ids), key=key)
    return models.SetPayloadOperation(set_payload=content)


def vectors_set(*points: models.PointVectors) -> models.UpdateVectorsOperation:
    return models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=list(points)))


GOOD: dict[str, list[Any]] = {
    "every-kind": [
        upserted(1, 501, 502),
        models.UpsertOperation(
            upsert=models.PointsBatch(
                batch=models.Batch(ids=[503], vectors={"sparse": [SPARSE]}, payloads=[{"n": 3}])
            )
        ),
        payload_set(501, 2, a={"b": 1}),
        payload_set(501, key="a", c=2),
        models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload={"only": 1}, points=[4])
        ),
        models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload={"f": 1}, filter=only_n(5))
        ),
        models.DeletePayloadOperation(
            delete_payload=models.DeletePayload(keys=["text", "n"], points=[7])
        ),
        models.DeletePayloadOperation(
            delete_payload=models.DeletePayload(keys=["tags"], filter=FILTERS["value-str"])
        ),
        models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[8])),
        vectors_set(vectors(502, plain=PLAIN), vectors(10, dense=DENSE)),
        models.DeleteVectorsOperation(
            delete_vectors=models.DeleteVectors(vector=["dense"], points=[11, 501])
        ),
        models.DeleteVectorsOperation(
            delete_vectors=models.DeleteVectors(vector=["plain"], filter=only_n(13))
        ),
        deleted(14, 998),
        deleted_where(only_n(16)),
    ],
    "adds-what-it-needs": [upserted(700), payload_set(700, x=1), deleted(700)],
    "again-after-deletion": [deleted(1), upserted(1), payload_set(1, x=1)],
    "update-only": [upserted(1, 999, update_mode="update_only"), payload_set(1, x=1)],
    "insert-only": [upserted(1, 999, update_mode="insert_only"), payload_set(999, x=1)],
    "conditional": [upserted(1, 2, 999, update_filter=only_n(2)), payload_set(999, x=1)],
    "kept-by-a-filter": [deleted_where(only_n(1)), payload_set(2, x=1)],
}


@pytest.mark.parametrize("name", GOOD)
def test_batches(clients: tuple[QdrantClient, QdrantEdge], name: str) -> None:
    for client in clients:
        results = client.batch_update_points(NAME, GOOD[name])
        assert len(results) == len(GOOD[name])
        assert all(r.status == models.UpdateStatus.COMPLETED for r in results)
    assert_same_state(*clients)


def test_an_update_passes_over_what_a_filter_deleted(
    clients: tuple[QdrantClient, QdrantEdge],
) -> None:
    _, embedded = clients
    first = models.Filter(must=[models.HasIdCondition(has_id=[1, 2])])
    embedded.batch_update_points(
        NAME,
        [
            deleted_where(first),
            payload_set(1, 2, 4, x=1),
            vectors_set(vectors(2, dense=DENSE), vectors(5, dense=[1.0] + [0.0] * (DIM - 1))),
            models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[1])),
        ],
    )
    assert embedded.retrieve(NAME, [1, 2]) == []
    assert embedded.retrieve(NAME, [4])[0].payload["x"] == 1  # type: ignore[index]
    assert embedded.retrieve(NAME, [5], with_vectors=["dense"])[0].vector["dense"][0] == 1.0  # type: ignore[index, call-overload]


NAN = models.PointStruct.model_construct(id=3, vector={"dense": [float("nan")] * DIM}, payload={})
BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "vector": (
        models.UpsertOperation.model_construct(
            upsert=models.PointsList.model_construct(points=[NAN])
        ),
        PointError,
        r"point 3: dense: position 0 is nan.*operation 1 of the batch; nothing was written",
    ),
    "missing": (payload_set(4, 999, x=1), InputError, "no points 999: nothing was written"),
    "deleted-before": (payload_set(2, x=1), InputError, "no points 2"),
    "never-added": (payload_set(600, x=1), InputError, "no points 600"),
    "no-selector": (
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1})),
        InputError,
        "operation 1 of the batch, SetPayloadOperation: it has neither points nor a filter",
    ),
    "path": (payload_set(4, key="a..b", x=1), InputError, "operation 1 .*invalid JSON path"),
    "payload": (payload_set(4, x=float("nan")), InputError, "operation 1 .*x is nan"),
    "filter": (
        deleted_where(models.Filter(must=[models.FieldCondition(key="a")])),
        InputError,
        "operation 1 .*says nothing",
    ),
    "vector-name": (
        models.DeleteVectorsOperation(
            delete_vectors=models.DeleteVectors(vector=["dence"], points=[4])
        ),
        InputError,
        "operation 1 .*'dence'",
    ),
    "shard-key": (
        models.DeleteOperation(delete=models.PointIdsList(points=[4], shard_key="x")),
        UnsupportedError,
        "no shard keys",
    ),
    "foreign": ({"delete": [1]}, UnsupportedError, "has no dict"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_operation_means_that_none_is_applied(
    clients: tuple[QdrantClient, QdrantEdge], name: str
) -> None:
    operation, error, words = BAD[name]
    unknown = upserted(600, update_mode="update_only")
    batch = [deleted(2), operation, upserted(601), unknown]
    if name == "never-added":
        batch = [unknown, operation]
    with pytest.raises(error, match=words):
        clients[1].batch_update_points(NAME, batch)
    assert_same_state(*clients)
    assert clients[1].batch_update_points(NAME, []) == []


ANY_ID = st.sampled_from([1, 2, 4, 5, 900, 901])
OPERATION = st.one_of(
    st.lists(ANY_ID, min_size=1, max_size=3).map(lambda ids: upserted(*ids)),
    st.lists(ANY_ID, min_size=1, max_size=3).map(lambda ids: deleted(*ids)),
    st.lists(ANY_ID, min_size=1, max_size=3).map(lambda ids: payload_set(*ids, x=1)),
    ANY_ID.map(lambda one: vectors_set(vectors(one, plain=PLAIN))),
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batch=st.lists(OPERATION, min_size=1, max_size=6))
def test_any_batch_is_applied_whole_or_not_at_all(
    clients: tuple[QdrantClient, QdrantEdge], batch: list[Any]
) -> None:
    memory, embedded = clients
    before = state(embedded)
    try:
        embedded.batch_update_points(NAME, batch)
    except InputError:
        with pytest.raises(KeyError):  # it names a point that isn't there
            memory.batch_update_points(NAME, batch)
        assert state(embedded) == before
        changed = {*IDS, 900, 901}  # in-memory mode applied a part
        memory.delete(NAME, list(changed))
        embedded.delete(NAME, list(changed))
        for client in clients:
            client.upsert(NAME, FEW)
    else:
        memory.batch_update_points(NAME, batch)
    assert_same_state(memory, embedded)


# uploads


def test_upload_collection(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    dense = rng.normal(size=(7, DIM)).astype(np.float32)
    tokens = rng.normal(size=(7, 3, 8)).astype(np.float32)
    payload = [{"n": i} for i in range(7)]
    with QdrantEdge(tmp_path) as client:
        client.create_collection(NAME, **CONFIG)
        client.upload_collection(
            NAME,
            {"dense": dense, "colbert": tokens},
            payload=payload,
            ids=itertools.count(10),
            batch_size=3,
            parallel=2,
            wait=True,
        )
        read = client.retrieve(NAME, range(10, 17), with_vectors=True)
        assert [r.payload for r in read] == payload
        norms = np.linalg.norm(dense, axis=1, keepdims=True)
        got = [named(r)["dense"] for r in read]
        np.testing.assert_allclose(got, dense / norms, atol=1e-6)
        rows = ({"dense": row} for row in dense)
        client.upload_collection(NAME, rows)
        assert client.count(NAME).count == 14
        random = {r.id for r in client.scroll(NAME, limit=99)[0]} - set(range(10, 17))
        assert all(uuid.UUID(id).version == 4 for id in random)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="different lengths: 7 of 'dense', 2 of 'colbert'"):
            client.upload_collection(NAME, {"dense": dense, "colbert": tokens[:2]})
        with pytest.raises(InputError, match="ids ends after 2 points"):
            client.upload_collection(NAME, [{"dense": row} for row in dense], ids=[1, 2])
        with pytest.raises(InputError, match="payload ends after 1 points"):
            client.upload_collection(NAME, [{"dense": row} for row in dense], payload=[{}])
        assert client.count(NAME).count == 14
