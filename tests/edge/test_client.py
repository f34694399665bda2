"""A directory of collections: what is kept, who may open it, and what a crash or damage does."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase

from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    EngineError,
    InputError,
    PointError,
    StoreClosedError,
    StoreDamagedError,
    StoreLockedError,
    UnsupportedError,
)
from tests.edge.small import (
    DIM,
    METADATA,
    NAME,
    SPARSE,
    VECTORS,
    copy_directory,
    create,
    environment,
    named,
    points,
    run,
)

# what is kept


def test_nothing_is_made_before_the_first_collection(path: Path) -> None:
    with QdrantEdge(path) as client:
        assert client.get_collections().collections == []
        assert not client.collection_exists(NAME)
        assert not client.delete_collection(NAME)
        with pytest.raises(CollectionNotFoundError, match=r"Collection docs not found.*has none"):
            client.count(NAME)
        assert not path.exists()
        create(client)
        assert sorted(os.listdir(path)) == [NAME, "meta.json"]
        assert sorted(os.listdir(path / NAME)) == ["collection.json", "lock", "shard"]


def test_everything_survives_closing(client: QdrantEdge, path: Path) -> None:
    client.create_payload_index(NAME, "n", models.PayloadSchemaType.INTEGER)
    before = client.get_collection(NAME)
    records = client.scroll(NAME, limit=99, with_vectors=True)
    client.close()
    with QdrantEdge(path) as again:
        after = again.get_collection(NAME)
        assert after == before
        assert after.points_count == 20
        assert after.status == models.CollectionStatus.GREEN
        assert after.payload_schema["n"].data_type == models.PayloadSchemaType.INTEGER
        assert after.config.metadata == METADATA
        assert after.config.params.vectors == VECTORS
        assert after.config.params.sparse_vectors == SPARSE
        assert again.scroll(NAME, limit=99, with_vectors=True) == records


def test_the_info_is_shaped_as_in_memory_mode(client: QdrantEdge) -> None:
    memory = QdrantClient(":memory:")
    create(memory, metadata=METADATA)
    memory.upsert(
        NAME, [models.PointStruct(id=i, vector={"dense": [1.0] * DIM}) for i in range(20)]
    )
    ours, theirs = client.get_collection(NAME), memory.get_collection(NAME)
    assert type(ours) is type(theirs)
    assert ours.points_count == theirs.points_count
    assert ours.config.params.vectors == theirs.config.params.vectors
    assert ours.config.params.sparse_vectors == theirs.config.params.sparse_vectors
    assert ours.config.metadata == theirs.config.metadata
    assert ours.config.hnsw_config.m == 16


def test_metadata_can_be_updated(client: QdrantEdge, path: Path) -> None:
    client.update_collection(NAME, metadata={"model": "other", "new": 1, "text": None})
    client.close()
    with QdrantEdge(path) as again:
        expected = {"model": "other", "nested": METADATA["nested"], "new": 1}
        assert again.get_collection(NAME).config.metadata == expected
        with pytest.raises(InputError, match="metadata: a is nan"):
            again.update_collection(NAME, metadata={"a": float("nan")})


def test_several_collections(client: QdrantEdge, path: Path) -> None:
    create(client, "another one")
    create(client, "日本語")
    client.upsert("日本語", points(0, 3))
    names = [c.name for c in client.get_collections().collections]
    assert names == ["another one", NAME, "日本語"]
    assert [client.count(n).count for n in names] == [0, 20, 3]
    with pytest.raises(CollectionExistsError, match="Collection `docs` already exists!"):
        create(client)
    with pytest.raises(CollectionNotFoundError, match=r"`doc`.* has 'another one', 'docs', '日"):
        client.count("doc")
    assert client.delete_collection("another one")
    assert not client.collection_exists("another one")
    client.close()
    with QdrantEdge(path) as again:  # a deletion may also come before the first use
        assert again.delete_collection(NAME)
        assert [c.name for c in again.get_collections().collections] == ["日本語"]
        create(again)
        assert again.count(NAME).count == 0
    assert sorted(os.listdir(path)) == [NAME, "meta.json", "日本語"]


def test_opening_is_lazy(client: QdrantEdge, path: Path) -> None:
    create(client, "broken")
    client.close()
    (path / "broken" / "collection.json").write_text("{")
    with QdrantEdge(path) as again:
        assert again.count(NAME).count == 20
        with pytest.raises(StoreDamagedError, match="broken"):
            again.count("broken")


NAMES = ["", ".", "..", ".hidden", "a/b", "a\\b", "/etc", "../up", "a\0b", "a\nb", "a:b", "a?"]
NAMES += ["dot.", "space ", "x" * 201, "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_stays_in_the_directory(tmp_path: Path, name: str) -> None:
    with QdrantEdge(tmp_path / "data") as client:
        for call in (create, QdrantEdge.collection_exists, QdrantEdge.count):
            with pytest.raises(InputError, match="collection name"):
                call(client, name)
    assert os.listdir(tmp_path) == []


def test_a_creation_that_fails_leaves_nothing(path: Path) -> None:
    nothing = models.VectorParams(size=0, distance=models.Distance.DOT)
    with QdrantEdge(path) as client:
        with pytest.raises(InputError, match=r"vectors\.a\.size: value 0 invalid"):
            client.create_collection(NAME, {"a": nothing})
        with pytest.raises(InputError, match="metadata: a is inf"):
            create(client, metadata={"a": float("inf")})
        with pytest.raises(InputError, match="unknown arguments: vector_config"):
            client.create_collection(NAME, vector_config={})
        broken = {"a": models.VectorParams(size=0, distance=models.Distance.DOT)}
        with pytest.raises((InputError, EngineError)):
            client.create_collection(NAME, broken)
        assert client.get_collections().collections == []
        assert not path.exists() or os.listdir(path) == ["meta.json"]
        create(client, shard_number=2, replication_factor=1, timeout=10)
        assert (
            client.upsert(
                NAME, points(0, 1), wait=True, ordering=models.WriteOrdering.STRONG
            ).status
            == "completed"
        )


def test_a_path_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        QdrantEdge(tmp_path / "file" / "data") as client,
        pytest.raises(EngineError, match="could not create the collection 'docs'"),
    ):
        create(client)


def test_optimize_and_flush(client: QdrantEdge) -> None:
    client.upsert(NAME, points(20, 400))
    query = np.ones(DIM)
    before = client.query_points(NAME, query, using="dense").points
    client.optimize(NAME)
    assert client.optimize(NAME) is False
    client.flush()
    client.flush(NAME)
    assert client.count(NAME).count == 400
    after = client.query_points(NAME, query, using="dense").points
    assert [p.id for p in after] == [p.id for p in before]


def test_upload_points(client: QdrantEdge) -> None:
    client.upload_points(NAME, iter(points(20, 90)), batch_size=32, parallel=2)
    assert client.count(NAME).count == 90


def test_the_quantizations(path: Path) -> None:
    kinds: list[Any] = [
        models.ProductQuantization(
            product=models.ProductQuantizationConfig(compression=models.CompressionRatio.X8)
        ),
        models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
    ]
    with QdrantEdge(path) as client:
        for i, kind in enumerate(kinds):
            dense = models.VectorParams(size=DIM, distance=models.Distance.DOT)
            client.create_collection(f"q{i}", dense, quantization_config=kind)
            client.upsert(f"q{i}", [models.PointStruct(id=1, vector=[1.0] * DIM)])
            client.optimize(f"q{i}")
            params = models.SearchParams(
                quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0)
            )
            found = client.query_points(f"q{i}", [1.0] * DIM, search_params=params).points
            assert found[0].score == pytest.approx(DIM)
            assert client.get_collection(f"q{i}").config.quantization_config == kind


# who may open it


def test_a_second_process_is_told(client: QdrantEdge, path: Path) -> None:
    code = """
import sys
from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import StoreLockedError
with QdrantEdge(sys.argv[1]) as client:
    for call in (client.count, client.get_collection, client.delete_collection):
        try:
            call("docs")
        except StoreLockedError as error:
            print(error)
    print([c.name for c in client.get_collections().collections])
"""
    client.count(NAME)
    done = run(code, str(path))
    assert done.returncode == 0, done.stderr
    *locked, names = done.stdout.splitlines()
    assert len(locked) == 3
    assert all(f"{path / NAME} is open in another process" in line for line in locked)
    assert names == "['docs']"
    client.upsert(NAME, points(20, 25))  # the engine by itself would fail here, see lock.py
    client.close()
    done = run(code, str(path))
    assert done.stdout == "[]\n", "with the lock gone, the second process deleted it"


def test_a_second_client_in_this_process_is_told(client: QdrantEdge, path: Path) -> None:
    create(client, "other")
    with QdrantEdge(path) as second:
        with pytest.raises(StoreLockedError, match="open in this process already"):
            second.count(NAME)
        with pytest.raises(StoreLockedError, match="in this process"):
            second.delete_collection(NAME)
        assert second.count("other").count == 0, "another collection is free"
        client.close()
        assert second.count(NAME).count == 20


def test_a_client_that_was_dropped_lets_go(path: Path) -> None:
    client = QdrantEdge(path)
    create(client)
    client.upsert(NAME, points(0, 5))
    del client
    with QdrantEdge(path) as again:
        assert again.count(NAME).count == 5


def in_child(client: QdrantEdge, out: Any) -> None:
    said = []
    for call in (lambda: client.count(NAME), lambda: client.get_collections()):
        try:
            call()
        except EngineError as error:
            said.append(str(error))
    client.close()
    out.put(said)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused(client: QdrantEdge) -> None:
    client.query_points(NAME, np.ones(DIM), using="dense")
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    child = context.Process(target=in_child, args=(client, out))
    child.start()
    said = out.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert len(said) == 2
    assert all("a fork of it" in s and "'spawn'" in s for s in said)
    client.upsert(NAME, points(20, 30))
    assert client.count(NAME).count == 30


def test_after_close(client: QdrantEdge) -> None:
    client.close()
    client.close()
    calls: list[Callable[[], Any]] = [
        lambda: client.count(NAME),
        lambda: client.get_collections(),
        lambda: client.collection_exists(NAME),
        lambda: client.upsert(NAME, points(0, 1)),
        lambda: create(client, "x"),
        lambda: client.flush(),
    ]
    for call in calls:
        with pytest.raises(StoreClosedError, match="is closed: open a new one"):
            call()


def test_threads(client: QdrantEdge) -> None:
    """Writers and readers of one client, on two collections, with a creation in between."""
    create(client, "second")
    errors: list[BaseException] = []

    def work(k: int) -> None:
        try:
            name = (NAME, "second")[k % 2]
            for i in range(5):
                start = 1000 * k + 20 * i
                client.upsert(name, points(start, start + 20))
                hits = client.query_points(name, np.ones(DIM), using="dense").points
                assert len(hits) == 10
                client.count(name)
            create(client, f"of-{k}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert client.count(NAME).count == 20 + 300
    assert client.count("second").count == 300
    assert len(client.get_collections().collections) == 8


# what a crash does

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.edge.small import NAME, points
from m3qdrant.edge import QdrantEdge
client = QdrantEdge(sys.argv[1])
start = client.count(NAME).count
for batch in range(10_000):
    client.upsert(NAME, points(start, start + 25))
    start += 25
    print(start, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_kill_9_loses_no_acknowledged_batch(path: Path) -> None:
    with QdrantEdge(path) as client:
        create(client)
    acknowledged = 0
    for trial in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parents[2])],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        for _ in range(3 + 4 * trial):
            line = writer.stdout.readline()
            assert line, "the writer died by itself"
            acknowledged = int(line)
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        with QdrantEdge(path) as client:
            count = client.count(NAME).count
            assert count >= acknowledged
            assert count % 25 == 0, "an unacknowledged batch is there whole, or not at all"
            records, _ = client.scroll(NAME, limit=count, with_vectors=True)
            assert [r.id for r in records] == list(range(count))
            assert all(len(named(r)) == 3 and r.payload == {"n": r.id} for r in records)
            expected = named(points(acknowledged - 25, acknowledged)[-1])["colbert"]
            expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(
                named(records[acknowledged - 1])["colbert"], expected, atol=1e-6
            )


def test_a_creation_or_deletion_that_was_cut_off_is_passed_over(
    client: QdrantEdge, path: Path
) -> None:
    client.close()
    copy_directory(path / NAME, path / ".making-0123")
    copy_directory(path / NAME, path / ".deleting-0123")
    with QdrantEdge(path) as again:
        assert [c.name for c in again.get_collections().collections] == [NAME]


# what damage does


def first(pattern: str) -> Callable[[Path], Path]:
    return lambda shard: sorted(shard.glob(pattern))[0]


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "sidecar-cut": lambda c: (c / "collection.json").write_text(
        (c / "collection.json").read_text()[:50]
    ),
    "sidecar-binary": lambda c: (c / "collection.json").write_bytes(b"\xff\x00\x9f" * 99),
    "sidecar-empty": lambda c: (c / "collection.json").write_text(""),
    "sidecar-list": lambda c: (c / "collection.json").write_text("[]"),
    "sidecar-newer": lambda c: (c / "collection.json").write_text('{"format": 99}'),
    "sidecar-hollow": lambda c: (c / "collection.json").write_text('{"format": 1}'),
    "sidecar-missing": lambda c: (c / "collection.json").unlink(),
    "sidecar-of-another": lambda c: rewrite_size(c / "collection.json"),
    "segment-garbage": lambda c: first("shard/segments/*/segment.json")(c).write_bytes(
        b"\x9f" * 99
    ),
    "status-empty": lambda c: first("shard/segments/*/*/*/status.dat")(c).write_bytes(b""),
    "ids-garbage": lambda c: first("shard/segments/*/*.mappings")(c).write_bytes(b"\xa5" * 999),
    "wal-garbage": lambda c: first("shard/wal/open-*")(c).write_bytes(b"\x5a" * 999),
    "engine-config": lambda c: (c / "shard" / "edge_config.json").write_text("{}}"),
    "no-segments": lambda c: shutil.rmtree(c / "shard" / "segments"),
    "no-shard": lambda c: shutil.rmtree(c / "shard"),
}


def rewrite_size(file: Path) -> None:
    """Twice the token size: the engine would take two tokens for one, without a word."""
    content = json.loads(file.read_text())
    content["config"]["vectors"]["colbert"]["size"] *= 2
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_an_error_that_names_the_place(
    client: QdrantEdge, path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    client.close()
    DAMAGE[name](path / NAME)
    with QdrantEdge(path) as again:
        for call in (again.count, again.get_collection):
            with pytest.raises(StoreDamagedError, match=str(path / NAME)):
                call(NAME)
        with pytest.raises(StoreDamagedError):
            again.upsert(NAME, points(0, 1))
        if name != "sidecar-missing":
            assert again.delete_collection(NAME), "deleting it is the way out"
            create(again)
            assert again.count(NAME).count == 0
        else:
            assert not again.collection_exists(NAME)
            with pytest.raises(StoreDamagedError, match="is in the way"):
                create(again)


def test_damage_that_shows_later_is_an_error_too(client: QdrantEdge, path: Path) -> None:
    client.close()
    (path / NAME / "closed.json").unlink()  # as after a crash: it would show at the opening
    first("docs/shard/segments/*/vector_storage-colbert/offsets/chunk_0.mmap")(path).write_bytes(
        b""
    )
    with (
        QdrantEdge(path) as again,
        pytest.raises(EngineError, match="scroll the collection 'docs'"),
    ):
        again.scroll(NAME, with_vectors=True)  # the engine panics here


def test_directories_of_others(tmp_path: Path, client: QdrantEdge, path: Path) -> None:
    client.close()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreDamagedError, match="is a file"):
        QdrantEdge(tmp_path / "file")
    with pytest.raises(StoreDamagedError, match="is one collection: pass its parent"):
        QdrantEdge(path / NAME)
    with pytest.raises(StoreDamagedError, match="bare qdrant-edge shard"):
        QdrantEdge(path / NAME / "shard")
    theirs = QdrantClient(path=str(tmp_path / "theirs"))
    theirs.create_collection("x", models.VectorParams(size=2, distance=models.Distance.DOT))
    theirs.close()
    with pytest.raises(StoreDamagedError, match=r"QdrantClient\(path=...\), another format"):
        QdrantEdge(tmp_path / "theirs")
    (tmp_path / "home" / "photos").mkdir(parents=True)
    with QdrantEdge(tmp_path / "home") as among:
        assert among.get_collections().collections == []
        with pytest.raises(StoreDamagedError, match=r"photos holds no collection\.json"):
            among.count("photos")
        with pytest.raises(StoreDamagedError, match="photos is in the way"):
            create(among, "photos")


# what isn't here


@pytest.mark.parametrize(
    "name",
    [n for n, m in vars(QdrantBase).items() if callable(m) and not n.startswith("_")],
)
def test_no_method_is_left_unimplemented(path: Path, name: str) -> None:
    method = getattr(QdrantEdge, name)
    assert method.__qualname__ != f"QdrantBase.{name}"
    assert method.__doc__
    if method.__doc__.startswith("Not in the embedded engine"):
        with pytest.raises(UnsupportedError, match=f"has no {name}: "):
            method(QdrantEdge(path), NAME)


def test_it_is_a_qdrant_client(client: QdrantEdge) -> None:
    assert isinstance(client, QdrantBase)
    assert "QdrantEdge(" in repr(client)


def test_a_refused_point_is_an_input_error_and_a_value_error(client: QdrantEdge) -> None:
    bad = models.PointStruct.model_construct(id=1, vector={"dense": [1.0]}, payload=None)
    with pytest.raises(ValueError, match="1 numbers") as caught:
        client.upsert(NAME, [bad])
    assert isinstance(caught.value, (PointError, InputError))
