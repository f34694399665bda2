"""The contract: one function, used on every backend, gives the same everywhere.

In-memory mode is the oracle. The others: the embedded engine, synchronous and in its worker
process; the REST protocol, synchronous and asynchronous, against a local stand-in; and a real
server where QDRANT_URL names one (QDRANT_API_KEY is read too).
"""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient

from m3qdrant import AsyncQdrantEdge, QdrantEdge, transport
from tests.contract.answers import assert_same, plain
from tests.servers.blocking import Loop, opener
from tests.servers.rest import RestServer

ORACLE = "memory"
BACKENDS = [
    "memory, async",
    "embedded",
    "embedded, async",
    "REST stand-in",
    "REST stand-in, async",
]
if os.environ.get("QDRANT_URL"):  # else test_server.py says so
    BACKENDS += ["server", "server, async"]

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    with RestServer(QdrantEdge(tmp_path_factory.mktemp("stand-in"))) as server:
        yield server


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory, loop: Loop) -> Iterator[AsyncQdrantEdge]:
    """An embedded engine in its process, for a collection of each test: processes take seconds."""
    client = AsyncQdrantEdge(tmp_path_factory.mktemp("worker"))
    yield client
    loop.run(client.close())


@pytest.fixture
def own_directory() -> None:
    """For tests that come back to what they closed: the worker's process ends with each store."""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_store(
    backend: str, tmp_path: Path, loop: Loop, request: pytest.FixtureRequest
) -> Iterator[Open]:
    """Opens stores of one new collection on the backend; the last one closes the one before."""
    yield from _openers(backend, tmp_path, loop, request)


@pytest.fixture(scope="session")
def oracles_answers() -> dict[str, Any]:
    """What in-memory mode answered in each test, which is asked once for all backends."""
    return {}


@pytest.fixture
def agree(
    backend: str,
    tmp_path: Path,
    loop: Loop,
    oracles_answers: dict[str, Any],
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[Callable[[Open], Any]], Any]]:
    """Runs a function of `open_store` on the oracle and on the backend, and compares.

    Once a test, since the oracle's answer is kept by the test's name.
    """
    others = _openers(backend, tmp_path / "other", loop, request)
    other = next(others)
    compared = False

    def compare(use: Callable[[Open], Any]) -> Any:
        nonlocal compared
        assert not compared
        compared = True
        test = request.node.nodeid.replace(f"[{backend}", "[")  # the backend is named first
        assert test != request.node.nodeid
        if test not in oracles_answers:
            oracles = _openers(ORACLE, tmp_path / "oracle", loop, request)
            oracles_answers[test] = plain(use(next(oracles)))
            next(oracles, None)
        expected = copy.deepcopy(oracles_answers[test])
        assert_same(plain(use(other)), expected, "answer")
        return expected

    yield compare
    next(others, None)


def _openers(
    backend: str, directory: Path, loop: Loop, request: pytest.FixtureRequest
) -> Iterator[Open]:
    place, _, kind = backend.partition(", ")
    asynchronous = loop if kind == "async" else None
    client: Any = None
    where: Any
    if place == "memory":  # one client for all stores of a test, else each would be empty
        where = client = AsyncQdrantClient(":memory:") if kind else QdrantClient(":memory:")
    elif place == "embedded" and kind and "own_directory" not in request.fixturenames:
        where = request.getfixturevalue("worker")
    elif place == "embedded":
        where = directory / "data"
    elif place == "server":
        where = os.environ["QDRANT_URL"]
    else:
        where = request.getfixturevalue("stand_in").url
    name = f"contract-{uuid.uuid4().hex}"
    open_one = opener(where, asynchronous, name)
    stores: list[Any] = []

    def reopen(*arguments: Any, **options: Any) -> Any:
        if stores:
            stores.pop().close()
        stores.append(open_one(*arguments, **options))
        return stores[-1]

    yield reopen
    if stores:
        stores.pop().close()
    if place == "REST stand-in":
        request.getfixturevalue("stand_in").backing.delete_collection(name)
    elif place == "server":  # which goes on
        remover, _ = transport.connect(where)
        remover.delete_collection(name)
        remover.close()
    elif isinstance(where, AsyncQdrantEdge):
        loop.run(where.delete_collection(name))
    if client is not None:
        loop.run(client.close()) if kind else client.close()
