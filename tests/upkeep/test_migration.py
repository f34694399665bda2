"""migrate: every kind of collection, resumption after any end, and a verification that sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant import M3Encoder, M3Schema, M3Store, QdrantEdge
from m3qdrant.errors import (
    CollectionNotFoundError,
    EngineError,
    InputError,
    SchemaMismatchError,
    ServerUnavailableError,
)
from m3qdrant.names import MIGRATION
from m3qdrant.transport import Retries
from m3qdrant.upkeep import MigrationReport, migrate, migration
from m3qdrant.upkeep.sides import Directed
from tests.servers.rest import SERVE, Garbage, Reset, RestServer, Status

SIZE = 6


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


def fill(
    client: Any,
    rng: np.random.Generator,
    points: int,
    *,
    datatype: str = "float32",
    distance: str = "Dot",
    ids: str = "uuid",
) -> None:
    """A collection "c" with a dense, a sparse and a multivector, which not every point has."""
    client.create_collection(
        "c",
        {
            "a": models.VectorParams(
                size=SIZE,
                distance=models.Distance(distance),
                datatype=models.Datatype(datatype),
                hnsw_config=models.HnswConfigDiff(m=5),
            ),
            "multi": models.VectorParams(
                size=SIZE,
                distance=models.Distance(distance),
                datatype=models.Datatype(datatype),
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                hnsw_config=models.HnswConfigDiff(m=0),
            ),
        },
        {"s": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={"whose": "mine"},
    )
    written = [point(rng, i, ids) for i in range(points)]
    for start in range(0, points, 64):
        client.upsert("c", written[start : start + 64])


def point(rng: np.random.Generator, i: int, ids: str = "uuid") -> models.PointStruct:
    terms = rng.choice(1_000, size=rng.integers(0, 5), replace=False)
    vectors: dict[str, Any] = {
        "a": rng.standard_normal(SIZE).tolist(),
        "s": models.SparseVector(
            indices=terms.tolist(), values=rng.random(len(terms)).astype(np.float32).tolist()
        ),
        "multi": rng.standard_normal((rng.integers(1, 9), SIZE)).tolist(),
    }
    if rng.random() < 0.3:
        del vectors[rng.choice(["a", "s", "multi"])]
    payload = {"n": i, "text": "é" * int(rng.integers(0, 30)), "x": {"deep": [1.5, None, True]}}
    return models.PointStruct(
        id=str(uuid.UUID(bytes=rng.bytes(16))) if ids == "uuid" else 3 * i,
        vector=vectors,
        payload=payload if rng.random() < 0.9 else {},
    )


def everything(client: Any, name: str = "c") -> dict[str, Any]:
    records, rest = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
    assert rest is None
    return {str(record.id): (record.payload or {}, record.vector) for record in records}


@pytest.mark.parametrize("ids", ["uuid", "int"])
@pytest.mark.parametrize("distance", ["Dot", "Cosine"])
@pytest.mark.parametrize("datatype", ["float32", "float16"])
def test_embedded_to_embedded(
    source: QdrantEdge,
    target: QdrantEdge,
    rng: np.random.Generator,
    datatype: str,
    distance: str,
    ids: str,
) -> None:
    fill(source, rng, 150, datatype=datatype, distance=distance, ids=ids)
    source.create_payload_index("c", "n", models.PayloadSchemaType.INTEGER)
    report = migrate(source, target, "c", "d", batch=32)
    assert report.verified
    assert (report.copied, report.unchanged, report.source_points) == (150, 0, 150)
    if (datatype, distance) != ("float16", "Cosine"):  # which is normalised once more
        assert everything(source) == everything(target, "d")
        assert report.rounded == 0
        assert report.source_checksum == report.target_checksum
    one, two = source.get_collection("c"), target.get_collection("d")
    assert one.config == two.config
    assert list(two.payload_schema) == ["n"]
    # a second run finds it all there
    again = migrate(source, target, "c", "d")
    assert again.verified
    assert (again.copied, again.unchanged) == (0, 150)
    assert again.target_checksum == report.target_checksum


@pytest.mark.parametrize("distance", ["Dot", "Cosine"])
@pytest.mark.parametrize("datatype", ["float32", "float16", "turbo8", "turbo4"])
def test_through_memory_and_back(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator, datatype: str, distance: str
) -> None:
    """In-memory mode keeps float32 and normalises once more: the same but for rounding."""
    fill(source, rng, 80, datatype=datatype, distance=distance)
    memory = QdrantClient(":memory:")
    with pytest.warns(UserWarning, match="turbo4") if datatype == "turbo4" else nullcontext():
        there = migrate(source, memory, "c")
    assert (there.verified, there.copied) == (True, 80)
    with pytest.warns(UserWarning, match="turbo4") if datatype == "turbo4" else nullcontext():
        back = migrate(memory, target, "c")
    assert (back.verified, back.copied) == (True, 80)


@pytest.mark.parametrize("distance", ["Dot", "Cosine"])
def test_numbers_that_are_rounded_on_arrival(
    target: QdrantEdge, rng: np.random.Generator, distance: str
) -> None:
    memory = QdrantClient(":memory:")
    fill(memory, rng, 40, datatype="float16", distance=distance)
    report = migrate(memory, target, "c")
    assert report.verified
    assert report.rounded > 20
    assert report.source_checksum != report.target_checksum
    assert "but for rounding" in str(report)
    assert migrate(memory, target, "c").copied == 0


def test_an_unnamed_vector(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    source.create_collection("c", models.VectorParams(size=3, distance=models.Distance.EUCLID))
    source.upsert(
        "c",
        [models.PointStruct(id=i, vector=rng.random(3).tolist()) for i in range(20)],
    )
    assert migrate(source, target, "c").verified
    assert everything(source) == everything(target)


def test_a_store_opens_where_it_was_copied_to(tmp_path: Path, encoder: M3Encoder) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with M3Store(here, "docs", encoder, M3Schema(payload_indexes={"year": "integer"})) as store:
        store.add([{"id": str(i), "text": f"text {i}", "year": i} for i in range(30)])
        best = store.search("text 7")[0]
    report = migrate(here, there, "docs")
    assert (report.verified, report.copied) == (True, 30)
    with M3Store(there, "docs", encoder) as store:
        found = store.search("text 7")[0]
        assert (found.id, found.text, found.payload) == (best.id, best.text, best.payload)
        assert found.scores == pytest.approx(best.scores, abs=1e-6)
        assert store.info().schema.payload_indexes == {"year": "integer"}


def test_an_empty_collection(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    fill(source, rng, 0)
    report = migrate(source, target, "c")
    assert (report.verified, report.copied) == (True, 0)


def test_a_target_that_does_not_fit_is_left_alone(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    fill(source, rng, 5)
    target.create_collection(
        "c", {"a": models.VectorParams(size=SIZE + 1, distance=models.Distance.DOT)}
    )
    with pytest.raises(SchemaMismatchError) as error:
        migrate(source, target, "c")
    assert error.value.differences == [
        f"vector 'a' has size {SIZE} at the source, {SIZE + 1} at the target",
        "vector 'multi' is not in the target",
        "vector 's' is not in the target",
    ]
    assert target.count("c").count == 0


def test_what_can_not_be(tmp_path: Path, source: QdrantEdge, rng: np.random.Generator) -> None:
    fill(source, rng, 5)
    with pytest.raises(CollectionNotFoundError, match="nothing to copy"):
        migrate(source, tmp_path / "t", "nope")
    with pytest.raises(InputError, match="both source and target"):
        migrate(source, tmp_path / "source" / ".", "c")
    with pytest.raises(InputError, match="':memory:' ends with the call"):
        migrate(source, ":memory:", "c")
    with pytest.raises(InputError, match="batch must be"):
        migrate(source, tmp_path / "t", "c", batch=0)
    assert not (tmp_path / "t").exists()
    assert migrate(source, source, "c", "copy").verified  # beside it is fine


class _FailingEdge(QdrantEdge):
    """An embedded engine whose disk is full after some writes."""

    writes = 10

    def upsert(self, *arguments: Any, **options: Any) -> Any:
        self.writes -= 1
        if self.writes < 0:
            raise EngineError("no space left on device")
        return super().upsert(*arguments, **options)


@pytest.mark.parametrize("writes", [0, 1, 9, 20])
def test_a_copy_that_failed_resumes(
    source: QdrantEdge, tmp_path: Path, rng: np.random.Generator, writes: int
) -> None:
    fill(source, rng, 200)
    failing = _FailingEdge(tmp_path / "t")
    failing.writes = writes
    with failing:
        with pytest.raises(EngineError, match="no space"):
            migrate(source, failing, "c", batch=6)
        stored = failing.count("c").count
        assert (stored > 0) == (writes > 0)
        assert MIGRATION in (failing.get_collection("c").config.metadata or {})
    with QdrantEdge(tmp_path / "t") as target:
        report = migrate(source, target, "c", batch=6)
        assert report.verified
        assert report.copied == 200 - stored  # what was there was not written again
        assert report.resumed == (writes >= 8)  # the cursor is written every 8 pages
        assert target.get_collection("c").config.metadata == {"whose": "mine"}
        assert everything(source) == everything(target)


def test_ctrl_c_leaves_the_cursor_where_it_was(
    source: QdrantEdge,
    target: QdrantEdge,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(source, rng, 100)
    upsert, calls = QdrantEdge.upsert, iter(range(100))

    def interrupted(self: QdrantEdge, *arguments: Any, **options: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return upsert(self, *arguments, **options)

    monkeypatch.setattr(QdrantEdge, "upsert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        migrate(source, target, "c", batch=4)
    stored = target.count("c").count
    metadata: Any = target.get_collection("c").config.metadata
    assert metadata[MIGRATION]["points"] == stored == 2 + 4 * 4
    report = migrate(source, target, "c", batch=4)
    assert report.verified
    assert report.resumed
    assert (report.copied, report.unchanged) == (100 - stored, 0)


def test_a_cursor_of_another_source_is_no_ones(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    fill(source, rng, 20)
    migrate(source, target, "c")
    last = max(everything(source))
    target.delete("c", [min(everything(source))])
    target.update_collection(
        "c",
        {MIGRATION: {"source": "/elsewhere", "collection": "c", "next": last, "points": 19}},
    )
    report = migrate(source, target, "c")
    assert (report.resumed, report.verified, report.copied) == (False, True, 1)


def _tamper(target: QdrantEdge, how: str, id: Any, rng: np.random.Generator) -> None:
    if how == "missing":
        target.delete("c", [id])
    elif how == "extra":
        target.upsert("c", [models.PointStruct(id=str(uuid.UUID(int=7)), vector={})])
    elif how == "payload":
        target.set_payload("c", {"n": 1.0}, [id])
    else:
        (record,) = target.retrieve("c", [id], with_vectors=True)
        vectors: Any = record.vector
        if how == "a bit of a vector":
            vectors["multi"][-1][-1] = float(
                np.nextafter(np.float32(vectors["multi"][-1][-1]), np.float32(9))
            )
        else:
            vectors["s"].values[0] *= 2
        target.upsert("c", [models.PointStruct(id=id, vector=vectors, payload=record.payload)])


@pytest.mark.parametrize(
    "how", ["missing", "extra", "payload", "a bit of a vector", "a sparse weight"]
)
def test_the_verification_sees_each_difference(
    source: QdrantEdge,
    target: QdrantEdge,
    rng: np.random.Generator,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(source, rng, 60)
    whole = [
        id
        for id, (payload, vectors) in everything(source).items()
        if payload and {"a", "s", "multi"} <= vectors.keys() and vectors["s"].indices
    ]
    id = whole[int(rng.integers(len(whole)))]
    copy = migration._Migration._copy

    def tampered(*arguments: Any) -> Directed[None]:
        yield from copy(*arguments)
        _tamper(target, how, id, rng)

    with monkeypatch.context() as patched:
        patched.setattr(migration._Migration, "_copy", tampered)
        report = migrate(source, target, "c")
    assert not report.verified
    found = {"missing": report.missing, "extra": report.extra}.get(how, report.different)
    assert found == ([str(uuid.UUID(int=7))] if how == "extra" else [id])
    assert len(report.missing) + len(report.extra) + len(report.different) == 1
    assert "NOT the same" in str(report)
    if how == "extra":
        assert report.source_checksum == report.target_checksum
    else:
        assert report.source_checksum != report.target_checksum
        # a further run puts it right
        again = migrate(source, target, "c")
        assert (again.verified, again.copied) == (True, 1)


def test_a_writer_at_the_source_is_noticed_and_caught_up_with(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    fill(source, rng, 40)
    migrate(source, target, "c")
    source.set_payload("c", {"new": 1}, [min(everything(source))])
    source.upsert("c", [point(rng, 1_000)])
    report = migrate(source, target, "c")
    assert (report.verified, report.copied) == (True, 2)


def test_killed_at_any_moment_it_resumes(tmp_path: Path, rng: np.random.Generator) -> None:
    """A process of its own, killed with -9 again and again until one run gets through."""
    with QdrantEdge(tmp_path / "source") as source:
        fill(source, rng, 400)
        expected = everything(source)
    code = (
        "import sys\n"
        "from m3qdrant.upkeep import migration as module\n"
        "module._PAGES_A_CURSOR = 2\n"
        "print('started', flush=True)\n"
        "print(module.migrate(sys.argv[1], sys.argv[2], 'c', batch=3).verified)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "source"), str(tmp_path / "target")]
    stored = []
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(rng.uniform(0.02, 0.3)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with QdrantEdge(tmp_path / "target") as target:
            if target.collection_exists("c"):
                stored.append(target.count("c").count)
    assert stored == sorted(stored)
    report = migrate(tmp_path / "source", tmp_path / "target", "c")
    assert report.verified, report
    with QdrantEdge(tmp_path / "target") as target:
        assert everything(target) == expected


FAST = Retries(attempts=3, budget_s=10, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RestServer]:
    """Qdrant's engine behind a stand-in for its server, which fails on demand."""
    for name in ("QDRANT_API_KEY", "QDRANT_GRPC_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    with RestServer(QdrantEdge(tmp_path / "server")) as server:
        yield server


def test_to_a_server_and_back_whatever_happens_on_the_way(
    source: QdrantEdge, target: QdrantEdge, server: RestServer, rng: np.random.Generator
) -> None:
    fill(source, rng, 120, datatype="float16")
    source.create_payload_index("c", "n", models.PayloadSchemaType.INTEGER)
    server.script("PUT", "/c$", Reset(applied=True))  # made, and nobody knows
    server.script("PUT", "/points$", Status(503), Reset(applied=True), SERVE, Garbage())
    server.script("POST", "/points$", Status(429, headers={"Retry-After": "0"}), Reset())
    there = migrate(source, server.url, "c", batch=20, retries=FAST)
    assert (there.verified, there.copied) == (True, 120)
    assert there.source_checksum == there.target_checksum
    server.script("POST", "/scroll$", Status(500), Garbage(), SERVE, Reset())
    back = migrate(server.url, target, "c", "back", batch=20, retries=FAST)
    assert (back.verified, back.copied) == (True, 120)
    assert back.target_checksum == there.source_checksum
    assert everything(source) == everything(target, "back")
    assert list(target.get_collection("back").payload_schema) == ["n"]
    assert target.get_collection("back").config.metadata == {"whose": "mine"}


def test_a_server_that_goes_away_is_resumed(
    source: QdrantEdge, server: RestServer, rng: np.random.Generator
) -> None:
    fill(source, rng, 100)
    server.script("PUT", "/points$", *[SERVE] * 10, *[Status(503)] * 3)
    with pytest.raises(ServerUnavailableError):
        migrate(source, server.url, "c", batch=5, retries=FAST)
    stored = server.backing.count("c").count
    assert 0 < stored < 100
    report = migrate(source, server.url, "c", batch=5, retries=FAST)
    assert report.verified
    assert report.resumed
    assert report.copied == 100 - stored


def test_large_points_stay_below_the_limit_of_a_body(
    source: QdrantEdge, server: RestServer, rng: np.random.Generator
) -> None:
    size = 1024
    source.create_collection(
        "c",
        {
            "multi": models.VectorParams(
                size=size,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                hnsw_config=models.HnswConfigDiff(m=0),
            )
        },
    )
    for i in range(12):
        tokens = 2 if i < 10 else 400  # small ones first: the page is large when large ones come
        source.upsert(
            "c",
            [
                models.PointStruct.model_construct(
                    id=i, vector={"multi": rng.standard_normal((tokens, size), np.float32)}
                )
            ],
        )
    assert migrate(source, server.url, "c").verified
    assert all(request.bytes < 32e6 for request in server.requests)


def test_the_report_in_words() -> None:
    report = MigrationReport("A", "B", copied=3, source_points=9, target_points=7)
    report.missing = [*range(7)]
    assert "7 missing at the target (0, 1, 2, 3, 4, ...): run it again" in str(report)
    assert report.to_dict()["verified"] is False
    report = MigrationReport("A", "B", source_points=9, target_points=8)
    assert not report.verified
    assert "during the verification: run it again" in str(report)
