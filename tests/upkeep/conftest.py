"""Collections to copy and to look at, and one way to do it in either world."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from m3qdrant import QdrantEdge
from tests.servers import without_environment
from tests.servers.rest import RestServer
from tests.upkeep.worlds import WORLDS, World


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_environment(monkeypatch)


@pytest.fixture(params=WORLDS, ids=lambda world: world.name)
def world(request: pytest.FixtureRequest) -> World:
    """Blocking, and for asyncio."""
    found: World = request.param
    return found


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    seed = time.time_ns() % 2**32
    request.node.add_report_section("setup", "seed", str(seed))
    return np.random.default_rng(seed)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[QdrantEdge]:
    with QdrantEdge(tmp_path / "source") as client:
        yield client


@pytest.fixture
def target(tmp_path: Path) -> Iterator[QdrantEdge]:
    with QdrantEdge(tmp_path / "target") as client:
        yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RestServer]:
    """Qdrant's engine behind a stand-in for its server, which fails on demand."""
    with RestServer(QdrantEdge(tmp_path / "server")) as server:
        yield server
