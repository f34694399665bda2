"""Small operations that the tests carry out, and quick retries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from m3qdrant.collection import Call, Steps, calls
from m3qdrant.transport import Retries

NAME = "x"

QUICK = Retries(attempts=4, budget_s=30, first_wait_s=0.01, longest_wait_s=0.02)
PATIENT = Retries(attempts=20, budget_s=60, first_wait_s=0.05, longest_wait_s=0.2)


def call(method: str, idempotent: bool = True, **arguments: Any) -> Call[Any]:
    """A call on the collection, of any method."""
    return Call(method, {"collection_name": NAME, **arguments}, idempotent)


def create(name: str = NAME) -> Call[bool]:
    vectors = {"v": models.VectorParams(size=2, distance=models.Distance.DOT)}
    return calls.create_collection(name, vectors_config=vectors)


def points(ids: Sequence[int], extra: str = "") -> list[models.PointStruct]:
    return [
        models.PointStruct(id=i, vector={"v": [float(i), 1.0]}, payload={"n": i, "text": extra})
        for i in ids
    ]


def upsert(ids: Sequence[int], extra: str = "") -> Call[models.UpdateResult]:
    return calls.upsert(NAME, points(ids, extra))


def count() -> Steps[int]:
    return (yield from calls.count(NAME)).count


def delete(ids: Sequence[int]) -> Call[models.UpdateResult]:
    return calls.delete(NAME, models.PointIdsList(points=list(ids)))


def query(limit: int = 3) -> Steps[list[tuple[Any, float]]]:
    request = models.QueryRequest(query=[1.0, 0.0], using="v", limit=limit)
    answers = yield from calls.query_batch_points(NAME, [request])
    return [(point.id, point.score) for point in answers[0].points]
