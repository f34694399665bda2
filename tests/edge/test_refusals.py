"""What the clients refuse is qdrant-client's own error as well as ours."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from m3qdrant import errors
from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from tests.edge.small import DIM, NAME, VECTORS, create, points

Call = Callable[[Any], Any]

Case = tuple[Call, type[Exception], int, str]

REFUSALS: dict[str, Case] = {
    "no such collection": (
        lambda c: c.count("x"),
        errors.CollectionNotFoundError,
        404,
        "Collection x not found",
    ),
    "as a server says it": (
        lambda c: c.scroll("x"),
        errors.CollectionNotFoundError,
        404,
        "Collection `x` doesn't exist!",
    ),
    "it exists": (
        lambda c: c.create_collection(NAME, VECTORS),
        errors.CollectionExistsError,
        409,
        "Collection `docs` already exists!",
    ),
    "a wrong point": (
        lambda c: c.upsert(NAME, [models.PointStruct(id=7, vector={"dense": [1.0]})]),
        errors.PointError,
        400,
        "point 7: dense",
    ),
    "no such point": (
        lambda c: c.delete_payload(NAME, ["a"], [99]),
        errors.InputError,
        404,
        "No point with id 99 found",
    ),
    "no such vector": (
        lambda c: c.query_points(NAME, [1.0], using="nope"),
        errors.InputError,
        400,
        "'nope'",
    ),
    "not a number": (
        lambda c: c.query_points(NAME, [float("nan")] * DIM, using="dense"),
        errors.InputError,
        400,
        "finite",
    ),
    "out of range": (
        lambda c: c.create_collection("t", VECTORS, shard_number=0),
        errors.InputError,
        422,
        "shard_number: value 0 invalid, must be 1 or larger",
    ),
}


def check(error: Exception, case: Case) -> None:
    _, kind, code, words = case
    assert isinstance(error, kind)
    assert isinstance(error, UnexpectedResponse)
    assert isinstance(error, ValueError)
    assert type(error).__name__ == kind.__name__
    assert error.status_code == code
    assert error.reason_phrase
    assert words in str(error)
    assert error.structured()["status"]["error"] == str(error)
    assert dict(error.headers) == {}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_is_an_unexpected_response(client: QdrantEdge, case: Case) -> None:
    with pytest.raises(errors.M3QdrantError) as refused:
        case[0](client)
    check(refused.value, case)
    check(pickle.loads(pickle.dumps(refused.value)), case)


def test_refusals_cross_from_the_worker(path: Path) -> None:
    async def run() -> None:
        async with AsyncQdrantEdge(path) as client:
            await client.create_collection(NAME, VECTORS)
            for case in REFUSALS.values():
                with pytest.raises(errors.M3QdrantError) as refused:
                    await case[0](client)
                check(refused.value, case)
            with pytest.raises(UnexpectedResponse, match="can't be handed to the worker"):
                await client.count(NAME, count_filter=lambda: None)  # type: ignore[arg-type]

    asyncio.run(run())


def test_the_text_and_the_place_stay(client: QdrantEdge) -> None:
    bad = models.PointStruct.model_construct(id=5, vector={"dense": np.full(DIM, np.nan)})
    with pytest.raises(errors.PointError) as refused:
        client.upsert(NAME, [bad])
    assert (refused.value.id, refused.value.field) == ("5", "dense")
    assert Path(refused.traceback[-1].path).name == "check_points.py"


def test_what_is_no_refusal_stays_as_it_is(path: Path) -> None:
    client = QdrantEdge(path)
    create(client)
    client.close()
    with pytest.raises(errors.StoreClosedError) as closed:
        client.upsert(NAME, points(0, 1))
    assert not isinstance(closed.value, UnexpectedResponse)
