"""Stand-ins for servers, and what asks them from either world."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qdrant_client import QdrantClient

from tests.servers import without_environment
from tests.servers.rest import RestServer
from tests.servers.rpc import GrpcServer
from tests.transport.callers import Callers


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_environment(monkeypatch)


@pytest.fixture
def rest_server() -> Iterator[RestServer]:
    """A stand-in over REST, with in-memory mode behind it: an engine on a disk is slower."""
    with RestServer(QdrantClient(":memory:")) as server:
        yield server


@pytest.fixture
def grpc_server(rest_server: RestServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[GrpcServer]:
    """A stand-in over gRPC for the same data, which `connect(rest_server.url)` finds."""
    with GrpcServer(rest_server.backing) as server:
        monkeypatch.setenv("QDRANT_GRPC_PORT", str(server.port))
        yield server


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Iterator[Callers]:
    callers = Callers(request.param)
    yield callers
    for made in callers.made:
        made.close()
