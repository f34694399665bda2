"""A small collection of every kind of vector, and programs in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

import m3qdrant
from m3qdrant.edge.disk.holes import copy

NAME = "docs"
DIM, TOKEN_DIM = 8, 4
METADATA = {"model": "bge-m3", "nested": {"dims": [1024, 192]}, "text": "日本語", "none": None}

VECTORS = {
    "dense": models.VectorParams(
        size=DIM,
        distance=models.Distance.COSINE,
        datatype=models.Datatype.FLOAT16,
        on_disk=True,
        hnsw_config=models.HnswConfigDiff(m=8),
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        ),
    ),
    "colbert": models.VectorParams(
        size=TOKEN_DIM,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(
            comparator=models.MultiVectorComparator.MAX_SIM
        ),
        hnsw_config=models.HnswConfigDiff(m=0),
    ),
}
SPARSE = {
    "sparse": models.SparseVectorParams(
        index=models.SparseIndexParams(on_disk=False, datatype=models.Datatype.FLOAT16)
    )
}
MORE = models.DenseVectorNameConfig(
    dense=models.DenseVectorConfig(size=3, distance=models.Distance.DOT)
)


def create(client: QdrantBase, name: str = NAME, **kwargs: Any) -> None:
    client.create_collection(name, vectors_config=VECTORS, sparse_vectors_config=SPARSE, **kwargs)


def points(start: int, stop: int) -> list[models.PointStruct]:
    rng = np.random.default_rng(start)
    return [
        models.PointStruct.model_construct(
            id=i,
            vector={
                "dense": rng.normal(size=DIM).astype(np.float32),
                "colbert": rng.normal(size=(3, TOKEN_DIM)).astype(np.float32),
                "sparse": models.SparseVector(indices=[i % 50, 100 + i % 7], values=[1.0, 0.5]),
            },
            payload={"n": i},
        )
        for i in range(start, stop)
    ]


def run(code: str, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        **kwargs,
    )


def processes() -> ForkServerContext:
    """For processes of their own that start fast: a server has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "m3qdrant.edge.client", "tests.edge.histories"])
    return context


def copy_directory(source: Path, target: Path) -> None:
    """Copy a directory with the holes in its files: the engine's are mostly holes."""
    shutil.copytree(source, target, copy_function=lambda s, t: copy(Path(s), Path(t)))


def named(point: models.PointStruct | models.Record | models.ScoredPoint) -> dict[str, Any]:
    """A point's vectors by name."""
    assert isinstance(point.vector, dict)
    return point.vector


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(m3qdrant.__path__[0]).parent)}
