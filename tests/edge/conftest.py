"""What several tests of the embedded engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from m3qdrant.edge import QdrantEdge
from tests.edge.small import METADATA, NAME, create, points


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def client(path: Path) -> Iterator[QdrantEdge]:
    with QdrantEdge(path) as client:
        create(client, metadata=METADATA)
        client.upsert(NAME, points(0, 20))
        yield client
