"""A collection whose multivectors make a scan real work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from qdrant_client import models

from m3qdrant.edge import QdrantEdge

NAME = "docs"
DIM, TOKEN_DIM = 8, 128
VECTORS = {
    "dense": models.VectorParams(size=DIM, distance=models.Distance.COSINE),
    "colbert": models.VectorParams(
        size=TOKEN_DIM,
        distance=models.Distance.DOT,
        multivector_config=models.MultiVectorConfig(
            comparator=models.MultiVectorComparator.MAX_SIM
        ),
        hnsw_config=models.HnswConfigDiff(m=0),
    ),
}
SPARSE = {"sparse": models.SparseVectorParams()}


def points(start: int, stop: int, tokens: int = 3, seed: int = 0) -> list[models.PointStruct]:
    rng = np.random.default_rng([seed, start])
    return [
        models.PointStruct.model_construct(
            id=i,
            vector={
                "dense": rng.normal(size=DIM).astype(np.float32),
                "colbert": rng.normal(size=(tokens, TOKEN_DIM)).astype(np.float32),
                "sparse": models.SparseVector(
                    indices=[i % 50, 100 + i % 7], values=rng.random(2).tolist()
                ),
            },
            payload={"n": i, "color": ("red", "green", "blue")[i % 3]},
        )
        for i in range(start, stop)
    ]


def fill(path: Path, n: int = 20, tokens: int = 3) -> None:
    with QdrantEdge(path) as client:
        client.create_collection(NAME, vectors_config=VECTORS, sparse_vectors_config=SPARSE)
        for start in range(0, n, 500):
            client.upsert(NAME, points(start, min(start + 500, n), tokens))
