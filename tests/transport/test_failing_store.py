"""M3Store against a server that fails: nothing lost, nothing doubled, and errors that say so."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from m3qdrant import Document, M3Encoder, M3Schema, M3Store, QdrantEdge
from m3qdrant.errors import (
    IngestError,
    IngestInterrupted,
    ServerUnavailableError,
    UnsupportedError,
)
from m3qdrant.names import MODES, Mode
from m3qdrant.transport import Retries
from tests.servers.blocking import Loop, opener
from tests.servers.rest import Drip, Garbage, Reset, RestServer, Stall, Status
from tests.views import documents, random_views

N = 300  # three chunks
VIEWS = random_views(N, seed=51)
FAST = Retries(attempts=4, budget_s=20, first_wait_s=0.01, longest_wait_s=0.05)
POINTS = ("PUT", "/points$")

Open = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[RestServer]:
    """A stand-in with in-memory mode behind it, to which bodies of megabytes cost less."""
    with RestServer(QdrantClient(":memory:")) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def open_store(server: RestServer, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens stores of one collection at the server, either kind behind one face."""
    loop = Loop() if request.param == "async" else None
    open_one = opener(server.url, loop, "c")
    stores: list[Any] = []

    def opened(**options: Any) -> Any:
        stores.append(open_one(**{"retries": FAST, "timeout_s": 2, **options}))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()
    if loop is not None:
        loop.close()


def is_complete(store: Any) -> bool:
    """Every document once, with its text."""
    found = {d.id: (d.text, dict(d.payload)) for d in store.documents()}
    return store.count() == N and found == {d.id: (d.text, dict(d.payload)) for d in documents(N)}


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "fault",
    [
        Status(503),
        Status(500),
        Status(429, headers={"Retry-After": "0"}),
        Reset(),
        Reset(applied=True),
        Stall(3, applied=True),
        Garbage(),
        Drip(5, 0.02),
    ],
    ids=lambda fault: str(fault)[:40],
)
def test_passing_faults_of_every_kind(open_store: Open, server: RestServer, fault: Any) -> None:
    store = open_store()
    store.count()
    server.script(*POINTS, fault)
    server.script("POST", "/points$", fault)  # the look-up before a chunk
    report = store.add(documents(N), embeddings=VIEWS)
    assert (report.added, report.replaced, report.failed) == (N, 0, [])
    assert is_complete(store)


def test_a_server_that_goes_away_and_comes_back(open_store: Open, server: RestServer) -> None:
    store = open_store()
    store.add(documents(1), embeddings=VIEWS[:1])

    class Ending(list[Document]):  # a source that takes the server down in the middle
        def __iter__(self) -> Iterator[Any]:
            for i, document in enumerate(documents(N)):
                if i == 290:
                    server.stop()
                yield document

    source = Ending(documents(N))
    with pytest.raises(IngestError, match=r"documents stored.*Run it again") as caught:
        store.add(source, embeddings=VIEWS)
    assert isinstance(caught.value.__cause__, ServerUnavailableError)
    acknowledged = caught.value.report.stored
    server.start()
    again = open_store()
    there = again.count()
    assert acknowledged <= there < N
    report = again.add(documents(N), embeddings=VIEWS)
    assert (report.replaced, report.added) == (there, N - there)
    assert is_complete(again)


def test_a_limit_of_the_server_halves_batches_until_they_fit(tmp_path: Path) -> None:
    limit = 60_000
    with RestServer(QdrantEdge(tmp_path / "server"), limit_bytes=limit) as server:
        with M3Store(server.url, "c", retries=FAST) as store:
            report = store.add(documents(N), embeddings=VIEWS)
            assert (report.added, report.failed) == (N, [])
            assert is_complete(store)
        assert max(request.bytes for request in server.seen(*POINTS)) > limit


def test_a_document_that_the_server_refuses_is_in_the_report(
    open_store: Open, server: RestServer
) -> None:
    limit = 60_000
    server.limit_bytes = limit
    huge = documents(N)
    huge[7] = type(huge[7])("d7", "x" * 2 * limit, huge[7].payload)
    store = open_store()
    report = store.add(huge, embeddings=VIEWS)
    assert (report.added, [(e.id, e.field) for e in report.failed]) == (N - 1, [("d7", "point")])
    assert store.count() == N - 1
    assert store.get("d7") is None


def test_ctrl_c_while_waiting_for_a_server(tmp_path: Path) -> None:
    patient = Retries(attempts=50, budget_s=100, first_wait_s=30, longest_wait_s=60)
    with (
        RestServer(QdrantEdge(tmp_path / "server")) as server,
        M3Store(server.url, "c", retries=patient) as store,
    ):
        server.script(*POINTS, Status(503, headers={"Retry-After": "60"}))

        def interrupt() -> None:  # once the writer waits
            while not server.seen(*POINTS):
                time.sleep(0.01)
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        begun = time.monotonic()
        with pytest.raises(IngestInterrupted) as caught:
            store.add(documents(N), embeddings=VIEWS)
        assert time.monotonic() - begun < 20  # not the minute that the server asked for
        assert caught.value.report.stored == 0
        # the store is usable afterwards, and a second run completes the first
        assert store.add(documents(N), embeddings=VIEWS).stored == N
        assert is_complete(store)


def test_an_old_server_ranks_by_every_mode_and_is_named_where_it_is_too_old(
    tmp_path: Path,
) -> None:
    query = random_views(1, seed=1)
    backing = QdrantEdge(tmp_path / "server")
    with RestServer(backing, version="1.13.4") as server, M3Store(server.url, "c") as store:
        store.add(documents(5), embeddings=VIEWS[:5])
        for mode in MODES:
            if mode != "sparse":
                assert len(store.search(query, mode)) == 5
        for schema in (M3Schema(token_pooling=2), M3Schema(colbert_datatype="turbo4")):
            with pytest.raises(UnsupportedError, match=r"1\.13\.4 .* is too old for"):
                M3Store(server.url, "other", schema=schema).add(documents(1), embeddings=VIEWS[:1])
    old = RestServer(QdrantEdge(tmp_path / "old"), version="1.9.7")
    with old, pytest.raises(UnsupportedError, match=r"1\.9\.7 .* too old for multivectors"):
        M3Store(old.url, "c")


def test_a_batch_of_searches_is_as_many_requests_as_one_search(
    open_store: Open, server: RestServer
) -> None:
    store = open_store()
    store.add(documents(40), embeddings=VIEWS[:40])
    queries = random_views(7, seed=52)
    # the lists, the candidates' scores where they aren't those of the lists, the documents
    each: list[tuple[Mode, bool, int]] = [
        ("weighted", False, 3),
        ("weighted", True, 3),
        ("rrf", True, 3),
        ("dense", False, 2),
        ("dense", True, 3),
    ]
    for mode, components, requests in each:
        for asked in (queries, queries[:1]):
            before = len(server.requests)
            found = store.search_batch(asked, mode, components=components)
            assert len(server.requests) - before == requests
            assert [len(hits) for hits in found] == [10] * len(asked)


def test_batches_stay_below_the_servers_limit(open_store: Open, server: RestServer) -> None:
    store = open_store(timeout_s=60)
    wide = random_views(60, seed=53, tokens=6_000)
    store.add(documents(60), embeddings=wide)
    sizes = [request.bytes for request in server.seen(*POINTS)]
    assert len(sizes) > 1
    assert max(sizes) < 32 * 2**20
    assert sum(sizes) > 32 * 2**20  # in one body it would have been refused


def test_payloads_alone_are_batched_and_halved_as_points_are(
    server: RestServer, encoder: M3Encoder
) -> None:
    def source(version: int) -> list[dict[str, Any]]:
        blob = "x" * 700_000
        return [{"id": f"d{i}", "text": "t", "v": version, "blob": blob} for i in range(60)]

    with M3Store(server.url, "c", encoder, retries=FAST) as store:
        store.add(source(1))
        before = len(server.requests)
        assert store.add(source(2)).updated == 60
        sizes = [request.bytes for request in server.requests[before:]]
        assert max(sizes) < 32 * 2**20 < sum(sizes)
        # one that the server refuses stands in the report, and the others are written
        server.limit_bytes = 1_000_000
        third = source(3)
        third[7]["blob"] *= 2
        report = store.add(third)
        assert (report.updated, [e.id for e in report.failed]) == (59, ["d7"])
        assert {d.id: d.payload["v"] for d in store.documents()} == {
            f"d{i}": 2 if i == 7 else 3 for i in range(60)
        }
