"""Small operations that the tests carry out, and quick retries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from m3qdrant.collection.calls import Call, Steps
from m3qdrant.transport.run import Retries

NAME = "x"

QUICK = Retries(attempts=4, budget_s=30, first_wait_s=0.01, longest_wait_s=0.02)
PATIENT = Retries(attempts=20, budget_s=60, first_wait_s=0.05, longest_wait_s=0.2)


def call(method: str, idempotent: bool = True, **arguments: Any) -> Steps[Any]:
    """An operation of one call."""
    return (yield Call(method, {"collection_name": NAME, **arguments}, idempotent))


def create(name: str = NAME) -> Steps[bool]:
    vectors = {"v": models.VectorParams(size=2, distance=models.Distance.DOT)}
    arguments = {"collection_name": name, "vectors_config": vectors}
    return (yield Call("create_collection", arguments, idempotent=False))


def points(ids: Sequence[int], extra: str = "") -> list[models.PointStruct]:
    return [
        models.PointStruct(id=i, vector={"v": [float(i), 1.0]}, payload={"n": i, "text": extra})
        for i in ids
    ]


def upsert(ids: Sequence[int], extra: str = "") -> Steps[Any]:
    return call("upsert", points=points(ids, extra), wait=True)


def count() -> Steps[int]:
    answer = yield Call("count", {"collection_name": NAME})
    return int(answer.count)


def delete(ids: Sequence[int]) -> Steps[Any]:
    return call("delete", points_selector=models.PointIdsList(points=list(ids)), wait=True)


def query(limit: int = 3) -> Steps[list[tuple[Any, float]]]:
    request = models.QueryRequest(query=[1.0, 0.0], using="v", limit=limit)
    answers = yield Call("query_batch_points", {"collection_name": NAME, "requests": [request]})
    return [(point.id, point.score) for point in answers[0].points]
