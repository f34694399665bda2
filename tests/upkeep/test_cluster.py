"""A cluster of three real nodes that loses one, in the middle of an ingest, a search, a pull.

It takes minutes, and a program of a Qdrant server: QDRANT_BIN.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant import AsyncM3Store, M3Embeddings, M3Schema, M3Store, QdrantEdge, Retries, transport
from m3qdrant.errors import InputError, M3QdrantError, ServerUnavailableError
from m3qdrant.upkeep import aexamine, examine, pull
from m3qdrant.upkeep.replicas import Replica, judge_replicas
from m3qdrant.upkeep.sampling import embedded
from tests.servers.cluster import NEEDS_BINARY, Cluster

DIM, TOKEN_DIM = 32, 16
PATIENT = Retries(attempts=60, budget_s=90, longest_wait_s=2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def _grpc(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, _environment: None) -> None:
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(cluster.grpc))


def documents(first: int, count: int) -> list[tuple[dict[str, Any], M3Embeddings]]:
    rng = np.random.default_rng([first, time.time_ns() % 2**32])

    def unit(*shape: int) -> Any:
        found = rng.normal(size=shape)
        return found / np.linalg.norm(found, axis=-1, keepdims=True)

    made = []
    for number in range(first, first + count):
        vectors = {
            "dense": unit(DIM),
            "colbert": unit(6, TOKEN_DIM),
            "sparse": models.SparseVector(indices=[number % 100, 100 + number % 7], values=[1, 2]),
        }
        made.append(({"id": f"d{number}", "text": f"text {number}"}, embedded(vectors)))
    return made


class Ingest:
    """Documents added in small portions, in a thread, until told to stop."""

    def __init__(self, location: Any, collection: str, consistency: int) -> None:
        self.acknowledged: list[str] = []
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._store = M3Store(
            location,
            collection,
            schema=M3Schema(shards=3, replicas=2, write_consistency=consistency),
            retries=PATIENT,
        )
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Ingest:
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            for first in range(0, 100_000, 10):
                if self._stop.is_set():
                    return
                portion = documents(first, 10)
                views = M3Embeddings.concat([views for _, views in portion])
                self._store.add([fields for fields, _ in portion], embeddings=views)
                self.acknowledged += [fields["id"] for fields, _ in portion]
        except BaseException as error:
            self.failure = error

    def until(self, more: int) -> None:
        """Wait until so many more are acknowledged."""
        goal = len(self.acknowledged) + more
        Cluster.wait(lambda: self.failure is not None or len(self.acknowledged) >= goal)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._store.close()


class Searches:
    """Searches, one after the other, in a thread."""

    def __init__(self, location: Any, collection: str) -> None:
        self.done = 0
        self.failures: list[M3QdrantError] = []
        self._stop = threading.Event()
        self._store = M3Store(location, collection, create=False, retries=PATIENT)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Searches:
        self._thread.start()
        return self

    def _run(self) -> None:
        ((_, query),) = documents(0, 1)
        while not self._stop.is_set():
            try:
                assert self._store.search(query, mode="weighted")
                self.done += 1
            except M3QdrantError as error:
                self.failures.append(error)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._store.close()


def whole(cluster: Cluster, collection: str, acknowledged: list[str]) -> None:
    """Nothing acknowledged is lost, and all replicas are equal."""
    acknowledged = list(dict.fromkeys(acknowledged))
    cluster.wait(lambda: cluster.settled(collection))
    with M3Store(cluster.location, collection, create=False) as store:
        assert store.count() >= len(acknowledged)
        for start in range(0, len(acknowledged), 500):
            assert None not in store.get(acknowledged[start : start + 500])
    findings = examine(cluster.location, collection)
    assert not [f for f in findings if f.severity == "error"]
    assert any("3 shards, 2 replicas each, all active" in f.what for f in findings)
    for node in cluster.nodes:  # each answers for all of it
        with M3Store(node.url, collection, create=False) as store:
            assert store.count() >= len(acknowledged)


@NEEDS_BINARY
@pytest.mark.usefixtures("_grpc")
@pytest.mark.parametrize("consistency", [1, 2])
@pytest.mark.parametrize("victim", [0, 2], ids=["contacted", "another"])
def test_a_node_is_killed_and_restarted_during_an_ingest(
    cluster: Cluster, consistency: int, victim: int
) -> None:
    name = f"killed-{consistency}-{victim}"
    with Ingest(cluster.location, name, consistency) as ingest:
        ingest.until(100)
        with Searches(cluster.location, name) as searches:
            cluster.nodes[victim].kill()
            # one acknowledgement of two is still to be had while one node of three is away; two
            # are not, of the shards that it holds: the ingest waits for it
            if consistency == 1:
                ingest.until(200)
            else:
                time.sleep(3)
            searched = searches.done
            assert searched > 0
            cluster.nodes[victim].start()
            ingest.until(100)
            assert searches.done > searched
    assert ingest.failure is None
    assert searches.failures == []
    whole(cluster, name, ingest.acknowledged)


@NEEDS_BINARY
@pytest.mark.usefixtures("_grpc")
def test_a_node_is_away_for_a_whole_ingest(cluster: Cluster) -> None:
    with Ingest(cluster.location, "away", 1) as ingest:
        ingest.until(10)
    first = ingest.acknowledged
    cluster.wait(lambda: cluster.settled("away"))
    cluster.nodes[1].kill()
    with Ingest(cluster.location, "away", 1) as ingest:
        ingest.until(300)
    assert ingest.failure is None
    findings = examine(cluster.location, "away")
    assert any("is away" in f.what and f.severity == "error" for f in findings)
    assert any("Dead" in f.what for f in findings)
    cluster.nodes[1].start()
    whole(cluster, "away", [*first, *ingest.acknowledged])


@NEEDS_BINARY
@pytest.mark.usefixtures("_grpc")
def test_the_contacted_node_dies_under_an_asynchronous_store(cluster: Cluster) -> None:
    urls = [node.url for node in cluster.nodes]

    async def use() -> int:
        schema = M3Schema(shards=3, replicas=2)
        async with AsyncM3Store(urls, "async", schema=schema, retries=PATIENT) as store:
            portion = documents(0, 40)
            views = M3Embeddings.concat([views for _, views in portion])
            await store.add([fields for fields, _ in portion[:20]], embeddings=views[:20])
            await asyncio.to_thread(cluster.nodes[0].kill)
            await store.add([fields for fields, _ in portion[20:]], embeddings=views[20:])
            assert await store.search(views[3:4][0], mode="rrf")
            return await store.count()

    assert asyncio.run(use()) == 40
    # it is away from the beginning
    with M3Store(urls, "async", create=False) as store:
        assert store.count() == 40
    cluster.nodes[0].start()
    cluster.wait(lambda: cluster.settled("async"))
    findings = asyncio.run(aexamine(urls, "async"))
    assert any("all active" in f.what for f in findings)


@NEEDS_BINARY
@pytest.mark.usefixtures("_grpc")
def test_a_pull_takes_shards_from_all_nodes(cluster: Cluster, tmp_path: Path) -> None:
    with M3Store(cluster.location, "pulled", schema=M3Schema(shards=3, replicas=1)) as store:
        portion = documents(0, 120)
        views = M3Embeddings.concat([views for _, views in portion])
        store.add([fields for fields, _ in portion], embeddings=views)
    report = pull(cluster.location, tmp_path / "all", "pulled")
    assert (report.way, report.shards, report.points) == ("whole", 3, 120)
    part = pull(cluster.nodes[0].url, tmp_path / "one", "pulled")
    assert (part.way, part.points, part.verified) == ("points", 120, True)
    assert "lie on other nodes" in part.reason
    with QdrantEdge(tmp_path / "all") as client:
        assert client.count("pulled").count == 120


def test_what_is_said_of_replicas() -> None:
    active = ("Active",)
    fine = {0: [Replica("a", active, 10), Replica("b", active, 10)]}
    (finding,) = judge_replicas(fine, 2, 0)
    assert finding.severity == "ok"
    assert "points a shard: 10" in finding.what
    uneven = {0: [Replica("a", active, 10), Replica("b", active, 9)]}
    assert [f.severity for f in judge_replicas(uneven, 2, 0)] == ["warning"]
    dead = {0: [Replica("a", active, 10), Replica("b", ("Dead",), None)]}
    (finding,) = judge_replicas(dead, 2, 0)
    assert "Dead on b" in finding.what
    lost = {0: [Replica("b", ("Dead",), None)]}
    assert {f.severity for f in judge_replicas(lost, 2, 1)} == {"error", "warning", "note"}


def test_several_locations_are_urls() -> None:
    with pytest.raises(InputError, match="nodes of one cluster"):
        transport.connect(["http://127.0.0.1:9", "data"])
    with pytest.raises(ServerUnavailableError, match="none of the nodes"):
        transport.connect("http://127.0.0.1:9,http://127.0.0.2:9")
    assert transport.describe(["http://u:p@a:1", "http://b:2"]) == "http://...@a:1,http://b:2"
