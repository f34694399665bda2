"""Operations on a collection, and what it holds after each: to be compared with the disk."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from qdrant_client import models

from m3qdrant.edge import QdrantEdge, updates
from tests.edge.small import named

DIM, TOKEN_DIM, IDS, BATCH = 32, 8, 600, 60
MAIN, SIDE = "docs", "side"


class State(NamedTuple):
    """What the collections should hold.

    A point is (the number of the operation that wrote its vectors, its payload); `side` is None
    where the second collection doesn't exist.
    """

    main: dict[int, tuple[int, dict[str, Any]]]
    side: dict[int, tuple[int, dict[str, Any]]] | None
    indexed: bool
    metadata: dict[str, Any]


class Operation(NamedTuple):
    """One call: its number, which seeds everything random in it, and its name."""

    number: int
    name: str

    def ids(self) -> list[int]:
        """The points that it is about; a third of a batch replaces points that exist."""
        rng = random.Random(f"{self.number}-ids")
        start = rng.randrange(IDS)
        return sorted({(start + rng.randrange(2 * BATCH)) % IDS for _ in range(BATCH)})


def after(state: State, operation: Operation) -> State:
    """The state that an operation leads to."""
    k, name = operation
    ids = operation.ids()
    main = dict(state.main)
    if name == "upsert":
        return state._replace(main=main | {i: (k, payload(i, k)) for i in ids})
    if name == "delete":
        return state._replace(main={i: v for i, v in main.items() if i not in set(ids)})
    if name == "delete_where":
        return state._replace(main={i: v for i, v in main.items() if v[1].get("group") != k % 7})
    if name in ("set", "clear"):
        for i in set(ids) & main.keys():
            version, old = main[i]
            main[i] = (version, {} if name == "clear" else {**old, "set": k})
        return state._replace(main=main)
    if name == "toggle":
        return state._replace(side={} if state.side is None else None)
    if name == "upsert_side":
        if state.side is None:
            return state
        return state._replace(side=state.side | {i: (k, payload(i, k)) for i in ids})
    if name in ("index", "drop_index"):
        return state._replace(indexed=name == "index")
    if name == "metadata":
        return state._replace(metadata={"k": k})
    assert name == "optimize"
    return state


def payload(id: int, k: int) -> dict[str, Any]:
    return {"n": id, "k": k, "group": (id * 31 + k) % 7, "text": f"{id} in {k} " * (id % 5)}


def vectors(id: int, k: int) -> dict[str, Any]:
    """A point's vectors; some lack the multivector, and token counts differ."""
    rng = np.random.default_rng((id, k))
    terms = np.sort(rng.choice(500, size=6, replace=False))
    made: dict[str, Any] = {
        "dense": rng.normal(size=DIM).astype(np.float32),
        "sparse": models.SparseVector(
            indices=[int(t) for t in terms],
            values=[float(np.float32(v)) for v in rng.uniform(0.1, 2, 6)],
        ),
    }
    if id % 5:
        made["colbert"] = rng.normal(size=(1 + id % 4, TOKEN_DIM)).astype(np.float32)
    return made


def create(client: QdrantEdge, name: str) -> None:
    client.create_collection(
        name,
        {  # by dot product, which stores the numbers as they are
            "dense": models.VectorParams(
                size=DIM,
                distance=models.Distance.DOT,
                hnsw_config=models.HnswConfigDiff(m=8, ef_construct=32),
            ),
            "colbert": models.VectorParams(
                size=TOKEN_DIM,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                hnsw_config=models.HnswConfigDiff(m=0),
            ),
        },
        {"sparse": models.SparseVectorParams()},
        # so little that `optimize` has work at this size: indexing, vacuum, merging
        optimizers_config=models.OptimizersConfigDiff(
            indexing_threshold=10, vacuum_min_vector_number=100, deleted_threshold=0.1
        ),
    )


def call(client: QdrantEdge, operation: Operation, state: State) -> None:
    k, name = operation
    ids = operation.ids()
    if name in ("upsert", "upsert_side"):
        if name == "upsert_side" and state.side is None:
            return
        points = [
            models.PointStruct.model_construct(id=i, vector=vectors(i, k), payload=payload(i, k))
            for i in ids
        ]
        client.upsert(MAIN if name == "upsert" else SIDE, points)
    elif name == "delete":
        client.delete(MAIN, [*ids])
    elif name == "delete_where":
        client.delete(MAIN, models.FilterSelector(filter=matches("group", k % 7)))
    elif name in ("set", "clear"):
        existing = [i for i in ids if i in state.main]
        if existing and name == "set":
            client.set_payload(MAIN, {"set": k}, [*existing])
        elif existing:
            client.clear_payload(MAIN, [*existing])
    elif name == "toggle":
        if state.side is None:
            create(client, SIDE)
        else:
            assert client.delete_collection(SIDE)
    elif name == "index":
        client.create_payload_index(MAIN, "group", models.PayloadSchemaType.INTEGER)
    elif name == "drop_index":
        client.delete_payload_index(MAIN, "group")
    elif name == "metadata":
        client.update_collection(MAIN, metadata={"k": k})
    else:
        assert name == "optimize"
        client.optimize(MAIN)


def matches(key: str, value: int) -> models.Filter:
    return models.Filter(
        must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))]
    )


def leave_unflushed(path: Path) -> None:
    """The end of a process between its writes and their flush."""
    client = QdrantEdge(path)
    shard = client._shard(MAIN)
    assert shard._engine is not None
    for k in range(3, 6):
        points = [
            models.PointStruct.model_construct(id=i, vector=vectors(i, k), payload=payload(i, k))
            for i in Operation(k, "upsert").ids()
        ]
        shard._engine.update(updates.upsert(points, shard.layout).operation)
    os.kill(os.getpid(), signal.SIGKILL)


def compare(client: QdrantEdge, state: State) -> str:
    """What differs between the disk and the state; empty where nothing does."""
    names = [MAIN] if state.side is None else [MAIN, SIDE]
    found = [c.name for c in client.get_collections().collections]
    if found != names:
        return f"the collections are {found}, not {names}"
    info = client.get_collection(MAIN)
    if ("group" in info.payload_schema) != state.indexed:
        return f"the indexes are {sorted(info.payload_schema)}"
    if (info.config.metadata or {}) != state.metadata:
        return f"the metadata is {info.config.metadata}, not {state.metadata}"
    return compare_points(client, MAIN, state.main) or (
        "" if state.side is None else compare_points(client, SIDE, state.side)
    )


def compare_points(
    client: QdrantEdge, name: str, expected: dict[int, tuple[int, dict[str, Any]]]
) -> str:
    records, _ = client.scroll(name, limit=2 * IDS, with_vectors=True)
    ids = [r.id for r in records]
    if ids != sorted(expected):
        missing, extra = sorted(expected.keys() - set(ids)), sorted(set(ids) - expected.keys())
        return f"{name}: {len(ids)} points; missing {missing[:9]}, not expected {extra[:9]}"
    if client.count(name).count != len(ids):
        return f"{name}: count gives {client.count(name).count}, scroll {len(ids)}"
    stored: dict[int, dict[str, Any]] = {}
    for record in records:
        assert isinstance(record.id, int)
        k, fields = expected[record.id]
        found = named(record)
        if (record.payload or {}) != fields:
            return f"{name}: the payload of {record.id} is {record.payload}, not {fields}"
        stored[record.id] = wanted = vectors(record.id, k)
        if found.keys() != wanted.keys():
            return f"{name}: {record.id} has the vectors {sorted(found)}"
        for part in wanted:
            if part == "sparse":
                same = found[part] == wanted[part]
            else:
                same = np.array_equal(np.asarray(found[part], np.float32), wanted[part])
            if not same:
                return f"{name}: {part} of {record.id} isn't what operation {k} wrote"
    for group in range(7):  # through the payload's index, where there is one
        number = client.count(name, matches("group", group)).count
        if number != sum(fields.get("group") == group for _, fields in expected.values()):
            return f"{name}: {number} points match group {group}"
    return compare_queries(client, name, stored)


def compare_queries(client: QdrantEdge, name: str, stored: dict[int, dict[str, Any]]) -> str:
    """The indexes find what is stored: each kind of vector finds itself, with the right score."""
    for id in sorted(stored)[:: max(1, len(stored) // 5)]:
        for part, vector in stored[id].items():
            only = models.Filter(must=[models.HasIdCondition(has_id=[id])])
            hits = client.query_points(name, vector, using=part, query_filter=only, limit=3).points
            right = score(vector)
            if [h.id for h in hits] != [id] or abs(hits[0].score - right) > 1e-4 * right:
                return f"{name}: {part} of {id} finds {hits}, not itself with {right}"
        sparse = stored[id]["sparse"]
        hits = client.query_points(name, sparse, using="sparse", limit=1).points
        best = max(overlap(sparse, other["sparse"]) for other in stored.values())
        if not hits or abs(hits[0].score - best) > 1e-4 * best:
            return f"{name}: the sparse vector of {id} finds {hits}, not {best}"
    return ""


def score(vector: Any) -> float:
    """A vector's score with itself."""
    if isinstance(vector, models.SparseVector):
        return overlap(vector, vector)
    vector = np.atleast_2d(vector).astype(np.float64)
    return float((vector @ vector.T).max(axis=1).sum())


def overlap(a: models.SparseVector, b: models.SparseVector) -> float:
    weights = dict(zip(b.indices, b.values, strict=True))
    return sum(v * weights.get(i, 0.0) for i, v in zip(a.indices, a.values, strict=True))
