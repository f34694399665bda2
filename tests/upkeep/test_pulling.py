"""A server's collection taken over by a directory, from a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant import M3Embeddings, M3Store, QdrantEdge, Retries, transport
from m3qdrant.errors import (
    CollectionNotFoundError,
    InputError,
    ServerUnavailableError,
    StoreLockedError,
)
from m3qdrant.upkeep import amigrate, apull, examine, migrate, pull, pulling
from m3qdrant.upkeep.sampling import embedded
from tests.servers import certificates
from tests.servers.cluster import NEEDS_BINARY, NEEDS_URL
from tests.servers.node import node as started

DIM, TOKEN_DIM = 24, 16


@pytest.fixture(autouse=True)
def _grpc(monkeypatch: pytest.MonkeyPatch, _environment: None) -> None:
    if port := os.environ.get("QDRANT_GRPC_PORT"):
        monkeypatch.setenv("QDRANT_GRPC_PORT", port)


@pytest.fixture
def remote() -> Iterator[QdrantClient]:
    client, _ = transport.connect(os.environ["QDRANT_URL"])
    assert isinstance(client, QdrantClient)
    yield client
    client.close()


@pytest.fixture
def name(remote: QdrantClient) -> Iterator[str]:
    """A collection of three shards with BGE-M3's vectors, and 400 points."""
    name = f"pull-{uuid.uuid4().hex}"
    make(remote, name)
    yield name
    remote.delete_collection(name)


def make(client: QdrantClient, name: str, count: int = 400, shards: int = 3) -> None:
    client.create_collection(
        name,
        vectors_config={
            "dense": models.VectorParams(size=DIM, distance=models.Distance.DOT),
            "colbert": models.VectorParams(
                size=TOKEN_DIM,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                hnsw_config=models.HnswConfigDiff(m=0),
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
            ),
        },
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
        shard_number=shards,
        metadata={"owner": "tests", "nested": {"a": [1, 2.5]}},
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10),
    )
    client.create_payload_index(name, "year", models.PayloadSchemaType.INTEGER, wait=True)
    write(client, name, range(count))
    # a server that is still at its indexes has other files a moment later
    until = time.monotonic() + 60
    while client.get_collection(name).status is not models.CollectionStatus.GREEN:
        assert time.monotonic() < until
        time.sleep(0.2)


def write(client: Any, name: str, ids: Any, word: str = "first") -> None:
    rng = np.random.default_rng(time.time_ns() % 2**32)

    def unit(*shape: int) -> Any:
        found = rng.normal(size=shape)
        return (found / np.linalg.norm(found, axis=-1, keepdims=True)).tolist()

    ids = list(ids)
    for start in range(0, len(ids), 100):
        points = [
            models.PointStruct(
                id=id,
                payload={"year": id % 50, "text": f"{word} {id}"},
                vector={
                    "dense": unit(DIM),
                    "colbert": unit(int(rng.integers(1, 9)), TOKEN_DIM),
                    "sparse": models.SparseVector(
                        indices=sorted(rng.choice(500, 5, replace=False).tolist()),
                        values=rng.uniform(0.1, 1, 5).tolist(),
                    ),
                },
            )
            for id in ids[start : start + 100]
        ]
        client.upsert(name, points, wait=True)


def texts(client: Any, name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    offset = None
    while True:
        records, offset = client.scroll(name, limit=200, offset=offset, with_payload=True)
        found |= {record.id: record.payload for record in records}
        if offset is None:
            return found


def here(root: Path, name: str) -> dict[Any, Any]:
    with QdrantEdge(root) as client:
        return texts(client, name)


def address() -> str:
    return os.environ["QDRANT_URL"]


@NEEDS_URL
def test_a_directory_has_all_of_a_sharded_collection(
    remote: QdrantClient, name: str, tmp_path: Path
) -> None:
    remote.delete(name, [1, 2, 3], wait=True)
    write(remote, name, range(10, 30), "second")
    report = pull(address(), tmp_path / "data", name)
    assert (report.way, report.verified, report.shards, report.points) == ("whole", True, 3, 397)
    assert report.searches >= 27
    assert sorted(os.listdir(tmp_path / "data")) == sorted([name, "meta.json"])
    info = remote.get_collection(name)
    with QdrantEdge(tmp_path / "data") as client:
        assert texts(client, name) == texts(remote, name)
        copied = client.get_collection(name)
        assert copied.config.metadata == info.config.metadata
        assert copied.config.params.vectors == info.config.params.vectors
        assert copied.payload_schema["year"].data_type == models.PayloadSchemaType.INTEGER
        # a directory like any other: it takes writes, before and after it is opened again
        write(client, name, [5, 1000], "third")
    with QdrantEdge(tmp_path / "data") as client:
        client.delete(name, [6])
        write(client, name, [7], "fourth")
    found = here(tmp_path / "data", name)
    assert len(found) == 397
    assert [found[id]["text"] for id in (5, 7, 1000)] == ["third 5", "fourth 7", "third 1000"]
    findings = examine(tmp_path / "data", name)
    assert not [finding for finding in findings if finding.severity == "error"]
    assert any("hold what they held" in finding.what for finding in findings)
    assert not remote.list_snapshots(name)
    for shard in range(3):  # nothing is left at the server
        path = f"{address()}/collections/{name}/shards/{shard}/snapshots"
        assert httpx.get(path, trust_env=False).json()["result"] == []


@NEEDS_URL
def test_a_store_finds_the_same(remote: QdrantClient, name: str, tmp_path: Path) -> None:
    pull(address(), tmp_path, name, "other")
    record = remote.retrieve(name, [17], with_vectors=True)[0]
    assert isinstance(record.vector, dict)
    query: M3Embeddings = embedded(record.vector)
    with M3Store(address(), name, create=False) as one, M3Store(tmp_path, "other") as two:
        for mode in ("dense", "sparse", "colbert", "rrf", "dbsf", "weighted"):
            theirs = one.search(query, mode=mode, exact=True)
            ours = two.search(query, mode=mode, exact=True)
            assert [hit.id for hit in theirs] == [hit.id for hit in ours]
            assert np.allclose([h.score for h in theirs], [h.score for h in ours], atol=1e-4)


@NEEDS_URL
def test_a_later_pull_loads_what_has_changed(
    remote: QdrantClient, name: str, tmp_path: Path
) -> None:
    whole = pull(address(), tmp_path, name)
    assert pull(address(), tmp_path, name).way == "unchanged"
    with QdrantEdge(tmp_path) as client:  # reading isn't writing
        client.query_points(name, [0.1] * DIM, using="dense")
    remote.delete(name, list(range(40, 60)), wait=True)
    write(remote, name, [1000, 1001, 7], "second")
    remote.set_payload(name, {"new": True}, points=[100], wait=True)
    report = pull(address(), tmp_path, name)
    assert (report.way, report.verified, report.points) == ("partial", True, 382)
    assert report.bytes > 0
    assert here(tmp_path, name) == texts(remote, name)
    write(remote, name, [2000], "third")
    assert pull(address(), tmp_path, name).way == "partial"
    assert here(tmp_path, name) == texts(remote, name)
    # who has written to it gets all of it
    with QdrantEdge(tmp_path) as client:
        write(client, name, [3000], "ours")
        write(remote, name, [2001], "fourth")
    assert pull(address(), tmp_path, name).way == "whole"
    assert here(tmp_path, name) == texts(remote, name)
    full = pull(address(), tmp_path, name, full=True)
    assert full.way == "whole"
    assert whole.bytes > 0


@NEEDS_URL
def test_a_collection_that_was_made_anew_is_loaded_as_a_whole(
    remote: QdrantClient, name: str, tmp_path: Path
) -> None:
    pull(address(), tmp_path, name)
    remote.delete_collection(name)
    make(remote, name, 90)
    report = pull(address(), tmp_path, name)
    assert (report.points, report.verified) == (90, True)
    assert here(tmp_path, name) == texts(remote, name)


class Cut:
    """A way to the server that breaks off after so many bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            host, port = address().removeprefix("http://").split(":")
            server = socket.create_connection((host, int(port)))
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client), daemon=True).start()

    def _pass(self, one: socket.socket, two: socket.socket) -> None:
        while piece := one.recv(1 << 16):
            self._most -= len(piece)
            if self._most < 0:
                break
            two.sendall(piece)
        for each in (one, two):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@NEEDS_URL
def test_a_pull_that_broke_off_goes_on(
    remote: QdrantClient, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QDRANT_GRPC_PORT", raising=False)
    write(remote, name, range(1000, 2000))
    pull(address(), tmp_path, name)
    before = here(tmp_path, name)
    write(remote, name, range(3000))
    way = Cut(900_000)
    with pytest.raises(ServerUnavailableError):
        pull(way.url, tmp_path, name, full=True, retries=Retries(attempts=1))
    way.close()
    assert here(tmp_path, name) == before
    parts = [file.stat().st_size for file in (tmp_path / f".pulling-{name}").glob("*.tar")]
    assert sum(parts) > 0
    assert any("a pull that was cut off" in finding.what for finding in examine(tmp_path, name))
    report = pull(address(), tmp_path, name, full=True)
    assert report.resumed
    assert report.verified
    assert here(tmp_path, name) == texts(remote, name)
    assert not (tmp_path / f".pulling-{name}").exists()


@NEEDS_URL
def test_a_killed_pull_leaves_the_old_directory(
    remote: QdrantClient, name: str, tmp_path: Path
) -> None:
    pull(address(), tmp_path, name)
    before = here(tmp_path, name)
    write(remote, name, range(300, 900), "second")
    program = (
        "import sys; from m3qdrant.upkeep import pull; print('begins', flush=True); "
        "pull(*sys.argv[1:], full=True)"
    )
    rng = np.random.default_rng(time.time_ns() % 2**32)
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", program, address(), str(tmp_path), name],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(float(rng.uniform(0, 1.5)))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert here(tmp_path, name) in (before, texts(remote, name))
    assert pull(address(), tmp_path, name, full=True).verified
    assert here(tmp_path, name) == texts(remote, name)


@NEEDS_URL
def test_a_source_that_is_written_to_is_followed(
    remote: QdrantClient, name: str, tmp_path: Path
) -> None:
    writing = threading.Event()
    writing.set()

    def go_on() -> None:
        client, _ = transport.connect(address())
        for start in range(10_000, 13_000, 20):
            if not writing.is_set():
                break
            write(client, name, range(start, start + 20))
            client.delete(name, [start], wait=True)
        client.close()

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        report = pull(address(), tmp_path, name)
    finally:
        writing.clear()
        writer.join()
    assert report.way in ("whole", "partial")
    assert report.points >= 400
    assert pull(address(), tmp_path, name).verified
    assert here(tmp_path, name) == texts(remote, name)


@NEEDS_URL
def test_where_files_do_not_fit_points_are_copied(
    remote: QdrantClient, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "NEWEST_SERVER", (1, 0))
    report = pull(address(), tmp_path, name)
    assert (report.way, report.verified, report.points) == ("points", True, 400)
    assert "newer than what the embedded engine reads" in str(report)
    assert here(tmp_path, name) == texts(remote, name)


@pytest.mark.parametrize("count", [0, 3, 300])
@NEEDS_URL
def test_any_collection(remote: QdrantClient, tmp_path: Path, count: int) -> None:
    name = f"any-{uuid.uuid4().hex}"
    remote.create_collection(
        name,
        models.VectorParams(size=8, distance=models.Distance.COSINE),
        sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
        ),
        shard_number=2,
    )
    try:
        rng = np.random.default_rng(time.time_ns() % 2**32)
        points = [
            models.PointStruct(
                id=str(uuid.uuid4()),
                payload={"n": i, "geo": {"lat": 1.5, "lon": 2}, "deep": {"a": [{"b": i}]}},
                vector={
                    "": rng.normal(size=8).tolist(),
                    "words": models.SparseVector(indices=[i % 7, 10], values=[1.0, 0.5]),
                },
            )
            for i in range(count)
        ]
        for index, kind in {"n": "integer", "geo": "geo", "deep.a[].b": "integer"}.items():
            remote.create_payload_index(name, index, models.PayloadSchemaType(kind), wait=True)
        if points:
            remote.upsert(name, points, wait=True)
        report = pull(address(), tmp_path, name)
        assert (report.way, report.verified, report.points) == ("whole", True, count)
        assert here(tmp_path, name) == texts(remote, name)
        with QdrantEdge(tmp_path) as client:
            info, wanted = client.get_collection(name), remote.get_collection(name)
            assert info.payload_schema.keys() == wanted.payload_schema.keys()
            assert info.config.quantization_config == wanted.config.quantization_config
            assert info.config.params.sparse_vectors == wanted.config.params.sparse_vectors
            more = [models.PointStruct(id=7, vector={"": [1.0] * 8}, payload={"n": -1})]
            client.upsert(name, more)
        assert len(here(tmp_path, name)) == count + 1
    finally:
        remote.delete_collection(name)


@NEEDS_URL
def test_migrate_takes_files(remote: QdrantClient, name: str, tmp_path: Path) -> None:
    report = migrate(address(), tmp_path / "one", name)
    assert (report.verified, report.copied) == (True, 400)
    assert (tmp_path / "one" / name / "pulled.json").exists()
    report = asyncio.run(amigrate(address(), tmp_path / "two", name, "other"))
    assert (report.verified, report.copied) == (True, 400)
    assert (tmp_path / "two" / "other" / "pulled.json").exists()
    assert migrate(address(), tmp_path / "one", name).unchanged == 400
    assert asyncio.run(apull(address(), tmp_path / "one", name)).way == "unchanged"
    assert migrate(address(), tmp_path / "three", name, files=False).verified
    assert not (tmp_path / "three" / name / "pulled.json").exists()


@NEEDS_URL
def test_refusals(remote: QdrantClient, name: str, tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match="nothing to pull"):
        pull(address(), tmp_path, "none-such")
    with pytest.raises(InputError, match="is no server"):
        pull(str(tmp_path), tmp_path / "other", name)
    pull(address(), tmp_path, name)
    write(remote, name, [5000])
    with QdrantEdge(tmp_path) as client:
        client.count(name)
        with pytest.raises(StoreLockedError):
            pull(address(), tmp_path, name)
    assert pull(address(), tmp_path, name).verified


@NEEDS_BINARY
def test_a_key_that_may_only_read_copies_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        "QDRANT__SERVICE__API_KEY": "all",
        "QDRANT__SERVICE__READ_ONLY_API_KEY": "reading",
    }
    monkeypatch.delenv("QDRANT_GRPC_PORT", raising=False)
    (tmp_path / "node").mkdir()
    with started(tmp_path / "node", tls=None, **keys) as node:
        monkeypatch.setenv("QDRANT_API_KEY", "all")
        client, _ = transport.connect(node.url)
        assert isinstance(client, QdrantClient)
        make(client, "docs", 50, shards=1)
        monkeypatch.setenv("QDRANT_API_KEY", "reading")
        report = pull(node.url, tmp_path / "data", "docs")
        assert (report.way, report.points, report.verified) == ("points", 50, True)
        assert "key" in report.reason
        monkeypatch.setenv("QDRANT_API_KEY", "all")
        assert pull(node.url, tmp_path / "other", "docs").way == "whole"
        client.close()
    assert here(tmp_path / "data", "docs") == here(tmp_path / "other", "docs")


@NEEDS_BINARY
def test_a_private_certificate_authority_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("QDRANT_API_KEY", "QDRANT_CA_FILE", "SSL_CERT_FILE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "node").mkdir()
    tls = certificates.make(tmp_path)
    with started(tmp_path / "node", tls=tls) as node:
        monkeypatch.setenv("QDRANT_GRPC_PORT", str(node.grpc_port))
        client, _ = transport.connect(node.url, ca_file=tls.authority)
        assert isinstance(client, QdrantClient)
        make(client, "docs", 50, shards=2)
        client.close()
        report = pull(node.url, tmp_path / "data", "docs", ca_file=tls.authority)
        assert (report.way, report.points, report.verified) == ("whole", 50, True)
        copied = migrate(node.url, tmp_path / "copy", "docs", ca_file=tls.authority)
        assert copied.verified
        with pytest.raises(ServerUnavailableError):
            pull(node.url, tmp_path / "other", "docs", retries=Retries(attempts=1))
    assert here(tmp_path / "data", "docs") == here(tmp_path / "copy", "docs")
