"""Reading vectors of the embedded engine as arrays: the same points as `retrieve` and `scroll`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.errors import InputError

NAME = "t"


def point(id: int, generator: np.random.Generator) -> models.PointStruct:
    vector: dict[str, Any] = {
        "dense": generator.standard_normal(5, np.float32),
        "colbert": generator.standard_normal((int(generator.integers(1, 6)), 3), np.float32),
        "sparse": models.SparseVector(indices=[2, 9], values=[0.5, 1.5]),
    }
    if id % 3 == 0:
        del vector[("dense", "colbert", "sparse")[id // 3 % 3]]
    return models.PointStruct.model_construct(id=id, vector=vector, payload={"n": id})


def fill(client: QdrantEdge) -> None:
    config = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    client.create_collection(
        NAME,
        {
            "dense": models.VectorParams(size=5, distance=models.Distance.COSINE),
            "colbert": models.VectorParams(
                size=3,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                multivector_config=config,
            ),
        },
        {"sparse": models.SparseVectorParams()},
    )
    generator = np.random.default_rng()
    client.upsert(NAME, [point(i, generator) for i in range(20)])


def check(found: list[models.Record], wanted: list[models.Record]) -> None:
    """Bit for bit the same numbers, but in arrays."""
    assert [record.id for record in found] == [record.id for record in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.payload == other.payload
        vectors: Any = one.vector
        lists: Any = other.vector
        if lists is None:
            assert vectors is None
            continue
        assert vectors.keys() == lists.keys()
        for name, vector in vectors.items():
            if name == "sparse":
                assert vector == lists[name]
            else:
                assert vector.dtype == np.float32
                assert vector.tolist() == lists[name]


@pytest.mark.parametrize("wanted", [True, False, ["colbert"], ["dense", "sparse"]])
def test_the_same_points(tmp_path: Path, wanted: Any) -> None:
    ids = [7, 0, 3, 19, 7, 99]
    some = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(gte=5))])
    asked: dict[str, Any] = {"scroll_filter": some, "limit": 4, "with_vectors": wanted}
    with QdrantEdge(tmp_path / "data") as client:
        fill(client)
        check(
            client.retrieve_arrays(NAME, ids, with_vectors=wanted),
            client.retrieve(NAME, ids, with_vectors=wanted),
        )
        offset: Any = None
        while True:
            found, following = client.scroll_arrays(NAME, offset=offset, **asked)
            same, offset = client.scroll(NAME, offset=offset, **asked)
            check(found, same)
            assert following == offset
            if offset is None:
                break

    async def over_there() -> Any:
        async with AsyncQdrantEdge(tmp_path / "data") as twin:
            return (
                await twin.retrieve_arrays(NAME, ids, with_vectors=wanted),
                await twin.retrieve(NAME, ids, with_vectors=wanted),
                (await twin.scroll_arrays(NAME, **asked))[0],
                (await twin.scroll(NAME, **asked))[0],
            )

    one, other, three, four = asyncio.run(over_there())
    check(one, other)
    check(three, four)


def test_an_unnamed_vector(tmp_path: Path) -> None:
    with QdrantEdge(tmp_path / "data") as client:
        client.create_collection(NAME, models.VectorParams(size=2, distance=models.Distance.DOT))
        client.upsert(NAME, [models.PointStruct(id=1, vector=[0.5, 2.0])])
        (found,) = client.retrieve_arrays(NAME, [1])
        vector: Any = found.vector
        assert vector.dtype == np.float32
        assert vector.tolist() == [0.5, 2.0]


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with QdrantEdge(tmp_path / "data") as client:
        fill(client)
        with pytest.raises(InputError):
            client.retrieve_arrays(NAME, [-1])
        with pytest.raises(InputError):
            client.scroll_arrays(NAME, limit=0)
        with pytest.raises(InputError):
            client.retrieve_arrays(NAME, [1], with_vectors=["other"])
