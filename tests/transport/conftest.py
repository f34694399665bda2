"""Stand-ins for servers, and one way to ask them from either world."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient

from m3qdrant import transport
from tests.transport.grpc_server import GrpcServer
from tests.transport.server import RestServer


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QDRANT_API_KEY", "QDRANT_GRPC_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


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


class Caller:
    """A client of either world, with one way to use it."""

    def __init__(self, kind: str, location: Any, timeout_s: float = 20) -> None:
        self.kind = kind
        self.loop = None if kind == "sync" else asyncio.new_event_loop()
        self.client: Any
        if self.loop is None:
            self.client, self.owned = transport.connect(location, timeout_s=timeout_s)
        else:

            async def connect() -> tuple[Any, bool]:
                return await transport.aconnect(location, timeout_s=timeout_s)

            self.client, self.owned = self.loop.run_until_complete(connect())

    def run(self, steps: Any, *, where: str = "collection 'x'", **options: Any) -> Any:
        if self.loop is None:
            return transport.run(self.client, steps, where=where, **options)
        return self.loop.run_until_complete(
            transport.arun(self.client, steps, where=where, **options)
        )

    def close(self) -> None:
        if self.loop is None:
            self.client.close()
        else:
            self.loop.run_until_complete(self.client.close())
            self.loop.close()


class Callers:
    """Makes `Caller`s of one kind, and closes them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.made: list[Caller] = []

    def __call__(self, location: Any, **options: Any) -> Caller:
        caller = Caller(self.kind, location, **options)
        self.made.append(caller)
        return caller


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Iterator[Callers]:
    callers = Callers(request.param)
    yield callers
    for made in callers.made:
        made.close()
