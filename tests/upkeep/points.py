"""A collection of any program's, with every kind of vector, and all that it holds."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import models

from m3qdrant import QdrantEdge

__all__ = ["SIZE", "everything", "fill", "filled", "held", "point"]

SIZE = 6


def fill(
    client: Any,
    rng: np.random.Generator,
    points: int,
    *,
    datatype: str = "float32",
    distance: str = "Dot",
    ids: str = "uuid",
) -> None:
    """A collection "c" with a dense, a sparse and a multivector, which not every point has."""
    client.create_collection(
        "c",
        {
            "a": models.VectorParams(
                size=SIZE,
                distance=models.Distance(distance),
                datatype=models.Datatype(datatype),
                hnsw_config=models.HnswConfigDiff(m=5),
            ),
            "multi": models.VectorParams(
                size=SIZE,
                distance=models.Distance(distance),
                datatype=models.Datatype(datatype),
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                hnsw_config=models.HnswConfigDiff(m=0),
            ),
        },
        {"s": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={"whose": "mine"},
    )
    written = [point(rng, i, ids) for i in range(points)]
    for start in range(0, points, 64):
        client.upsert("c", written[start : start + 64])


def point(rng: np.random.Generator, i: int, ids: str = "uuid") -> models.PointStruct:
    terms = rng.choice(1_000, size=rng.integers(0, 5), replace=False)
    vectors: dict[str, Any] = {
        "a": rng.standard_normal(SIZE).tolist(),
        "s": models.SparseVector(
            indices=terms.tolist(), values=rng.random(len(terms)).astype(np.float32).tolist()
        ),
        "multi": rng.standard_normal((rng.integers(1, 9), SIZE)).tolist(),
    }
    if rng.random() < 0.3:
        del vectors[rng.choice(["a", "s", "multi"])]
    payload = {"n": i, "text": "é" * int(rng.integers(0, 30)), "x": {"deep": [1.5, None, True]}}
    return models.PointStruct(
        id=str(uuid.UUID(bytes=rng.bytes(16))) if ids == "uuid" else 3 * i,
        vector=vectors,
        payload=payload if rng.random() < 0.9 else {},
    )


def everything(client: Any, name: str = "c") -> dict[str, Any]:
    records, rest = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
    assert rest is None
    return {str(record.id): (record.payload or {}, record.vector) for record in records}


def filled(path: Path, rng: np.random.Generator, points: int, **options: str) -> dict[str, Any]:
    """`fill` in a directory, which is closed again; all that it holds."""
    with QdrantEdge(path) as client:
        fill(client, rng, points, **options)
        client.create_payload_index("c", "n", models.PayloadSchemaType.INTEGER)
        return everything(client)


def held(path: Path, name: str = "c") -> dict[str, Any]:
    """All that a collection in a directory holds that nothing has open."""
    with QdrantEdge(path) as client:
        return everything(client, name)
