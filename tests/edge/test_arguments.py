"""A call with wrong arguments raises an error that names the method that the user called."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.errors import InputError, UnsupportedError
from tests.edge.small import NAME, SPARSE, VECTORS, points

METHODS = sorted(
    name
    for name, _ in inspect.getmembers(QdrantEdge, inspect.isfunction)
    if name[0] != "_" and name != "close"  # which takes anything, and never fails
)

ARGUMENTS: dict[str, Any] = {
    "collection_name": NAME,
    "vectors_config": VECTORS,
    "sparse_vectors_config": SPARSE,
    "snapshot_name": "x",
    "location": "x",
    "field_name": "n",
    "field_schema": "integer",
    "ids": [1],
    "key": "n",
    "group_by": "n",
    "requests": [],
    "points": points(0, 1),
    "points_selector": [1],
    "vectors": ["dense"],
    "payload": {"a": 1},
    "keys": ["n"],
    "update_operations": [],
}


def complete(name: str) -> dict[str, Any]:
    """Arguments that a method needs."""
    parameters = inspect.signature(getattr(QdrantEdge, name)).parameters.values()
    return {
        p.name: ARGUMENTS[p.name]
        for p in parameters
        if p.name in ARGUMENTS and p.default is inspect.Parameter.empty
    }


def misuses(name: str) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Calls that can't be: with an argument too many, one of that name, and one too few."""
    needed = complete(name)
    yield (), {**needed, "unheard_of": 1}
    if name != "recreate_collection":
        yield tuple(needed.values()) + (None,) * 30, {}
    if needed:
        yield (), {}
        last = list(needed)[-1]
        yield (), {k: v for k, v in needed.items() if k != last}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[QdrantEdge]:
    with QdrantEdge(tmp_path) as client:
        client.create_collection(NAME, VECTORS, SPARSE)
        yield client


@pytest.mark.parametrize("name", METHODS)
def test_the_direct_client_names_the_method(client: QdrantEdge, name: str) -> None:
    for args, kwargs in misuses(name):
        with pytest.raises((TypeError, InputError, UnsupportedError)) as refused:
            getattr(client, name)(*args, **kwargs)
        assert re.search(rf"\b{name}\b", str(refused.value)), (args, kwargs)
        assert client.collection_exists(NAME), "nothing was done"


def test_the_asynchronous_client_names_the_method(tmp_path: Path) -> None:
    async def misuse() -> None:
        async with AsyncQdrantEdge(tmp_path) as client:
            await client.create_collection(NAME, VECTORS, sparse_vectors_config=SPARSE)
            for name in METHODS:
                for args, kwargs in misuses(name):
                    with pytest.raises((TypeError, InputError, UnsupportedError)) as refused:
                        await getattr(client, name)(*args, **kwargs)
                    said = str(refused.value)
                    assert re.search(rf"\b{name}\b", said), (args, kwargs, said)
                    assert "call(" not in said

    asyncio.run(misuse())


def test_recreating_with_wrong_arguments_deletes_nothing(client: QdrantEdge) -> None:
    client.upsert(NAME, points(0, 5))
    with pytest.raises(InputError, match="recreate_collection: unknown arguments: vector_config"):
        client.recreate_collection(NAME, vector_config=VECTORS)
    with pytest.raises(TypeError, match=r"recreate_collection\(\) takes from 2 to 18 positional"):
        client.recreate_collection(NAME, *[None] * 20)
    assert client.count(NAME).count == 5
    assert client.recreate_collection(NAME, VECTORS)
    assert client.count(NAME).count == 0
