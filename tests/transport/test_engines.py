"""capabilities_of: what each kind of client can do, whichever world it is of."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal
from qdrant_client.local.qdrant_local import QdrantLocal

from m3qdrant import AsyncQdrantEdge, QdrantEdge
from m3qdrant.collection import EMBEDDED, MEMORY, SERVER, Capabilities
from m3qdrant.transport import capabilities_of

CLIENTS: dict[str, tuple[Callable[[Path], QdrantBase | AsyncQdrantBase], Capabilities]] = {
    "memory": (lambda path: QdrantClient(":memory:"), MEMORY),
    "path": (lambda path: QdrantClient(path=str(path)), MEMORY),
    "local": (lambda path: QdrantLocal(":memory:"), MEMORY),
    "local path": (lambda path: QdrantLocal(str(path)), MEMORY),
    "URL": (lambda path: QdrantClient("http://127.0.0.1:9", check_compatibility=False), SERVER),
    "host": (lambda path: QdrantClient(host="127.0.0.1", check_compatibility=False), SERVER),
    "gRPC": (
        lambda path: QdrantClient(
            "http://127.0.0.1:9", prefer_grpc=True, check_compatibility=False
        ),
        SERVER,
    ),
    "embedded": (QdrantEdge, EMBEDDED),
    "memory, async": (lambda path: AsyncQdrantClient(":memory:"), MEMORY),
    "path, async": (lambda path: AsyncQdrantClient(path=str(path)), MEMORY),
    "local, async": (lambda path: AsyncQdrantLocal(":memory:"), MEMORY),
    "URL, async": (
        lambda path: AsyncQdrantClient("http://127.0.0.1:9", check_compatibility=False),
        SERVER,
    ),
    "embedded, async": (AsyncQdrantEdge, EMBEDDED),
}


@pytest.mark.parametrize(("make", "expected"), CLIENTS.values(), ids=CLIENTS)
def test_what_each_client_can_do(
    make: Callable[[Path], QdrantBase | AsyncQdrantBase], expected: Capabilities, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is asked, so nothing is said either
        client = make(tmp_path / "data")
        assert capabilities_of(client) is expected
    if isinstance(client, QdrantBase):
        client.close()
    else:
        asyncio.run(client.close())


def test_what_the_engines_differ_in() -> None:
    """Each difference once, since what is asked of an engine follows from these alone."""
    assert {c.engine for c in (EMBEDDED, MEMORY, SERVER)} == {"embedded", "memory", "server"}
    differences = {
        name: [getattr(c, name) for c in (EMBEDDED, MEMORY, SERVER)]
        for name in vars(EMBEDDED)
        if name != "engine"
    }
    assert differences == {
        "remote": [False, False, True],
        "indexes": [True, False, True],
        "optimizes": [True, False, False],
        "alters": [False, False, True],
        "threads": [True, False, True],
        "arrays": [True, False, False],
        "versions": [True, False, True],
        "files": [True, False, False],
    }
