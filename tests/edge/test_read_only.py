"""Opened for reading, a directory stays as it is, every byte, date and name; answers are right."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.edge.disk import copies, holes, space
from m3qdrant.edge.disk.holes import data_parts
from m3qdrant.edge.disk.lock import DirectoryLock
from m3qdrant.errors import (
    CollectionNotFoundError,
    EngineError,
    InputError,
    StoreDamagedError,
    StoreLockedError,
    UnsupportedError,
)
from tests.edge import histories, small
from tests.edge.histories import Operation, State, after, call, compare
from tests.edge.small import NAME

forked = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL") or "forkserver" not in multiprocessing.get_all_start_methods(),
    reason="this system has no SIGKILL or no fork server",
)


class Entry(NamedTuple):
    """A file or directory, down to what a rewrite with the same content changes."""

    inode: int
    size: int
    modified: int
    changed: int
    checksum: int


def survey(root: Path) -> dict[str, Entry]:
    """Everything under a directory, and the directory itself."""
    found = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        found[str(path)] = Entry(
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            checksum(path) if path.is_file() else 0,
        )
    return found


def checksum(file: Path) -> int:
    """Of the parts that hold data, and where they are."""
    found = 0
    with file.open("rb") as stream:
        for start, length in list(data_parts(stream.fileno(), file.stat().st_size)):
            stream.seek(start)
            found = zlib.crc32(f"{start}:{length}".encode() + stream.read(length), found)
    return found


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where copies are made; they are gone in the end."""
    # multiprocessing keeps its sockets where it did before: their paths must be short
    multiprocessing.util.get_temp_dir()
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert copies_in(directory) == []


def copies_in(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith("m3qdrant-")]


def history(path: Path, *names: str) -> State:
    """A collection with a past, and what it should hold."""
    state = State({}, None, False, {})
    with QdrantEdge(path) as client:
        histories.create(client, histories.MAIN)
        for operation in (Operation(k, name) for k, name in enumerate(names)):
            call(client, operation, state)
            state = after(state, operation)
    return state


PAST = ("upsert", "index", "upsert", "delete", "set", "metadata", "optimize", "upsert", "delete")


def reads(client: QdrantEdge) -> dict[str, Any]:
    """What `doctor` asks, and every other call that reads."""
    ones = [1.0] * histories.DIM
    return {
        "get_collections": client.get_collections(),
        "collection_exists": client.collection_exists(NAME),
        "get_collection": client.get_collection(NAME),
        "count": client.count(NAME),
        "scroll": client.scroll(NAME, limit=200),
        "vectors": client.scroll(NAME, limit=16, with_payload=False, with_vectors=["colbert"]),
        "unindexed": client.unindexed(NAME),
        "retrieve": client.retrieve(NAME, [3, 7], with_vectors=True),
        "facet": client.facet(NAME, "group"),
        "query_points": client.query_points(NAME, ones, using="dense"),
        "query_points_groups": client.query_points_groups(NAME, "group", ones, using="dense"),
        "list_snapshots": client.list_snapshots(NAME),
        "info": client.info(),
    }


# nothing changes, and the answers are right


@pytest.mark.parametrize("names", [("upsert", "index"), PAST], ids=["plain", "optimized"])
def test_a_collection_that_was_closed(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "data"
    state = history(path, *names)
    with QdrantEdge(path) as client:
        expected = reads(client)
    before = survey(path)
    with QdrantEdge(path, read_only=True) as client:
        assert survey(path) == before, "opening it isn't lazy"
        found = reads(client)
        assert compare(client, state) == ""
        assert survey(path) == before
    assert survey(path) == before
    for answers in (expected, found):  # the engine counts these anew at each opening
        answers["get_collection"].indexed_vectors_count = None
    assert found == expected
    with QdrantEdge(path) as client:
        assert compare(client, state) == "", "it opens as if nobody had looked"


@forked
def test_a_collection_whose_process_was_killed(tmp_path: Path) -> None:
    """With a log to replay: the answers are those of the recovered collection."""
    path = tmp_path / "data"
    state = history(path, "upsert", "upsert", "upsert")
    child = small.processes().Process(target=histories.leave_unflushed, args=(path,))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert not (path / NAME / "closed.json").exists()
    for k in range(3, 6):
        state = after(state, Operation(k, "upsert"))
    before = survey(path)
    for _ in range(2):
        with QdrantEdge(path, read_only=True) as client:
            assert compare(client, state) == ""
        assert survey(path) == before
    with QdrantEdge(path) as client:
        assert compare(client, state) == ""


def test_what_a_crash_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "data"
    state = history(path, "upsert", "set")
    for folder in (
        f"{NAME}/shard/temp_segments/segment_builder_x",
        f"{NAME}/shard/wal/.atomicwriteX",
        ".making-0123",
        ".deleting-0123",
        ".replaced-other",
    ):
        (path / folder).mkdir(parents=True)
        (path / folder / "file").write_text("x")
    (path / NAME / ".collection.json-0123").write_text("{")
    for name in (".making-0123", ".deleting-0123"):
        os.utime(path / name, (1, 1))
    before = survey(path)
    with QdrantEdge(path, read_only=True) as client:
        assert compare(client, state) == ""
    assert survey(path) == before


def test_a_directory_without_its_lock_file(tmp_path: Path) -> None:
    """As a copy made by hand may be; the look makes none."""
    path = tmp_path / "data"
    state = history(path, "upsert")
    (path / NAME / "lock").unlink()
    before = survey(path)
    with QdrantEdge(path, read_only=True) as client:
        assert compare(client, state) == ""
    assert survey(path) == before


def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "data"
    state = history(path, *PAST)
    places = [path, *path.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        before = survey(path)
        with QdrantEdge(path, read_only=True) as client:
            assert compare(client, state) == ""
        assert survey(path) == before
    finally:
        for place in places:
            place.chmod(0o755)


def test_it_is_as_it_was_when_it_was_first_looked_at(tmp_path: Path) -> None:
    """After the copy the collection is anybody's, and may change."""
    path = tmp_path / "data"
    state = history(path, "upsert")
    with QdrantEdge(path, read_only=True) as looking:
        assert compare(looking, state) == ""
        with QdrantEdge(path) as client, QdrantEdge(path, read_only=True) as late:
            call(client, Operation(1, "upsert"), state)
            assert compare(client, after(state, Operation(1, "upsert"))) == ""
            with pytest.raises(StoreLockedError):
                late.count(NAME)
        assert compare(looking, state) == ""


@pytest.mark.parametrize("kind", ["product", "binary", "scalar"])
def test_quantized_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    kinds: dict[str, models.QuantizationConfig] = {
        "product": models.ProductQuantization(
            product=models.ProductQuantizationConfig(compression=models.CompressionRatio.X8)
        ),
        "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
        "scalar": models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
        ),
    }
    rng = np.random.default_rng(3)
    dense = rng.normal(size=(300, 16)).astype(np.float32)
    with QdrantEdge(tmp_path / "data") as client:
        client.create_collection(
            NAME,
            models.VectorParams(size=16, distance=models.Distance.DOT),
            quantization_config=kinds[kind],
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
        )
        client.upload_collection(NAME, dense, ids=range(300))
        client.optimize(NAME)
        client.upload_collection(NAME, dense[:50], ids=range(300, 350))
        expected = client.query_points(NAME, dense[5], limit=5)
    before = survey(tmp_path / "data")
    with QdrantEdge(tmp_path / "data", read_only=True) as client:
        assert client.query_points(NAME, dense[5], limit=5) == expected
    sizes = space.bytes_on_disk(tmp_path / "data" / NAME)
    monkeypatch.setattr(copies, "LIMIT", sum(sizes.values()) - 1)
    with QdrantEdge(tmp_path / "data", read_only=True) as client:
        assert client.count(NAME).count == len(client.scroll(NAME, limit=400)[0]) == 350
        with pytest.raises(UnsupportedError, match="without its vectors"):
            client.query_points(NAME, dense[5])
    assert survey(tmp_path / "data") == before


# what is refused


def test_a_collection_that_is_open(tmp_path: Path) -> None:
    path = tmp_path / "data"
    history(path, "upsert")
    code = (
        "import sys\n"
        "from m3qdrant.edge import QdrantEdge\n"
        "client = QdrantEdge(sys.argv[1])\n"
        "client.count('docs')\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        env=small.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"open\n"
        before = survey(path)
        with QdrantEdge(path, read_only=True) as client:
            for _ in range(2):
                with pytest.raises(StoreLockedError, match="docs is open in another process"):
                    client.count(NAME)
            assert survey(path) == before
            (path / NAME / "lock").rename(tmp_path / "lock")  # only the engine's own is left
            with pytest.raises(StoreLockedError, match="uses the engine without m3qdrant"):
                client.count(NAME)
            (tmp_path / "lock").rename(path / NAME / "lock")
    finally:
        other.communicate()
    with QdrantEdge(path, read_only=True) as client:
        assert client.count(NAME).count > 0
    with (
        QdrantEdge(path) as ours,
        QdrantEdge(path, read_only=True) as client,
    ):
        ours.count(NAME)
        with pytest.raises(StoreLockedError, match="open in this process already"):
            client.count(NAME)


def test_a_collection_that_is_missing(tmp_path: Path) -> None:
    with QdrantEdge(tmp_path / "data", read_only=True) as client:
        assert client.get_collections().collections == []
        assert not client.collection_exists(NAME)
        with pytest.raises(CollectionNotFoundError):
            client.count(NAME)
    assert not (tmp_path / "data").exists()


def unlink(file: Path) -> Any:
    file.unlink()


def cut(file: Path) -> Any:
    os.truncate(file, file.stat().st_size // 2)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "vectors": (
        lambda d: cut(next(d.rglob("*-colbert/vectors/chunk_0.mmap"))),
        "chunk_0.mmap has",
    ),
    "ids": (lambda d: next(d.rglob("*tracker.mappings")).unlink(), "mappings is missing"),
    "segments": (lambda d: cut(next(d.rglob("segment.json"))), "segment.json has"),
    "record": (lambda d: (d / "closed.json").write_text("{"), r"closed\.json can't be read"),
    "configuration": (lambda d: (d / "collection.json").write_text("{"), "can't be read"),
    "no-record": (
        lambda d: unlink(d / "closed.json") or cut(next(d.rglob("segment.json"))),
        "can't be opened",
    ),
    "nothing": (
        lambda d: unlink(d / "closed.json") or unlink(d / "shard/edge_config.json"),
        "holds no data",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_collection(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data"
    history(path, "upsert")
    damage, words = DAMAGE[name]
    damage(path / NAME)
    before = survey(path)
    with QdrantEdge(path, read_only=True) as client:
        for _ in range(2):
            with pytest.raises(StoreDamagedError, match=words) as caught:
                client.count(NAME)
            assert str(path / NAME) in str(caught.value)
            assert "m3qdrant-look" not in str(caught.value)
    assert survey(path) == before
    assert (path / NAME / "closed.json").exists() == (name not in ("no-record", "nothing"))


WRITES: dict[str, Callable[[QdrantEdge], Any]] = {
    "create_collection": lambda c: small.create(c, "new"),
    "recreate_collection": lambda c: c.recreate_collection(NAME, small.VECTORS),
    "update_collection": lambda c: c.update_collection(NAME, metadata={"a": 1}),
    "update_collection_aliases": lambda c: c.update_collection_aliases([]),
    "create_vector_name": lambda c: c.create_vector_name(NAME, "x", small.MORE),
    "delete_vector_name": lambda c: c.delete_vector_name(NAME, "dense"),
    "delete_collection": lambda c: c.delete_collection(NAME),
    "optimize": lambda c: c.optimize(NAME),
    "vector_files": lambda c: c.vector_files(NAME, "colbert"),  # which lie in a copy
    "create_snapshot": lambda c: c.create_snapshot(NAME),
    "delete_snapshot": lambda c: c.delete_snapshot(NAME, "x"),
    "recover_snapshot": lambda c: c.recover_snapshot(NAME, "x"),
    "adopt": lambda c: c.adopt(NAME, c.path / "x"),
    "create_payload_index": lambda c: c.create_payload_index(NAME, "n", "integer"),
    "delete_payload_index": lambda c: c.delete_payload_index(NAME, "group"),
    "upsert": lambda c: c.upsert(NAME, small.points(0, 1)),
    "upload_points": lambda c: c.upload_points(NAME, []),
    "upload_collection": lambda c: c.upload_collection(NAME, []),
    "update_vectors": lambda c: c.update_vectors(NAME, []),
    "delete_vectors": lambda c: c.delete_vectors(NAME, ["dense"], [1]),
    "delete": lambda c: c.delete(NAME, [1]),
    "set_payload": lambda c: c.set_payload(NAME, {"a": 1}, [1]),
    "overwrite_payload": lambda c: c.overwrite_payload(NAME, {"a": 1}, [1]),
    "delete_payload": lambda c: c.delete_payload(NAME, ["n"], [1]),
    "clear_payload": lambda c: c.clear_payload(NAME, [1]),
    "batch_update_points": lambda c: c.batch_update_points(NAME, []),
    "facet": lambda c: c.facet(NAME, "k"),  # for want of an index
    "scroll": lambda c: c.scroll(NAME, order_by="k"),
}


def test_nothing_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "data"
    history(path, "upsert", "index")
    before = survey(path)
    with QdrantEdge(path, read_only=True) as client:
        for name, write in WRITES.items():
            with pytest.raises(UnsupportedError, match="opened for reading; open it without"):
                write(client)
            assert survey(path) == before, name
        assert client.count(NAME).count > 0


def test_each_method_reads_or_is_refused(tmp_path: Path) -> None:
    """A method that is new has to say which."""
    reading = set(reads_names())
    for name, method in inspect.getmembers(QdrantEdge, inspect.isfunction):
        if name[0] != "_" and not (method.__doc__ or "").startswith("Not in the embedded engine"):
            assert name in {*WRITES, *reading, "close"}, name


def reads_names() -> list[str]:
    return [
        "get_collections",
        "collection_exists",
        "get_collection",
        "count",
        "scroll",
        "unindexed",
        "retrieve",
        "retrieve_arrays",
        "scroll_arrays",
        "facet",
        "query_points",
        "query_batch_points",
        "query_points_groups",
        "search_matrix_pairs",
        "search_matrix_offsets",
        "list_snapshots",
        "get_aliases",
        "get_collection_aliases",
        "migrate",
        "info",
        "flush",
    ]


# what a copy costs


def test_a_large_collection_is_looked_at_without_its_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    path = tmp_path / "data"
    state = history(path, *PAST)
    with QdrantEdge(path) as client:
        expected = reads(client)
    sizes = space.bytes_on_disk(path / NAME)
    monkeypatch.setattr(copies, "LIMIT", sum(sizes.values()) - 1)
    before = survey(path)
    with QdrantEdge(path, read_only=True) as client:
        info = client.get_collection(NAME)
        assert info.payload_schema == expected["get_collection"].payload_schema
        assert info.config == expected["get_collection"].config
        assert client.count(NAME) == expected["count"]
        assert client.scroll(NAME, limit=200) == expected["scroll"]
        assert client.unindexed(NAME) == expected["unindexed"]
        assert client.facet(NAME, "group") == expected["facet"]
        for call_it in (
            lambda: client.scroll(NAME, with_vectors=True),
            lambda: client.retrieve(NAME, [1], with_vectors=["colbert"]),
            lambda: client.query_points(NAME, [1.0] * histories.DIM, using="dense"),
            lambda: client.query_points(NAME, 1, using="dense"),
            lambda: client.query_points_groups(NAME, "group", with_vectors=True),
            lambda: client.search_matrix_pairs(NAME, using="dense"),
        ):
            with pytest.raises(UnsupportedError, match="looked at without its vectors"):
                call_it()
        (copied,) = temporary.iterdir()
        occupied = sum(f.stat().st_blocks * 512 for f in copied.rglob("*.mmap"))
        assert occupied < sum(size for name, size in sizes.items() if name.endswith(".mmap"))
    assert survey(path) == before
    assert len(state.main) == expected["count"].count
    monkeypatch.setattr(copies, "LIMIT", 1000)
    with (
        QdrantEdge(path, read_only=True) as client,
        pytest.raises(UnsupportedError, match=r"MiB beside its vectors.*open it without"),
    ):
        client.count(NAME)
    assert survey(path) == before


def test_no_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    history(path, "upsert")
    before = survey(path)
    monkeypatch.setattr("m3qdrant.edge.disk.space.RESERVE", 1 << 60)
    with (
        QdrantEdge(path, read_only=True) as client,
        pytest.raises(EngineError, match="could not copy, to look at it, the collection at"),
    ):
        client.count(NAME)
    assert survey(path) == before


def test_a_copy_goes_with_its_client(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "data"
    history(path, "upsert")
    client = QdrantEdge(path, read_only=True)
    client.count(NAME)
    assert len(copies_in(temporary)) == 1
    del client
    assert copies_in(temporary) == []
    code = (
        "import os, sys\n"
        "from m3qdrant.edge import QdrantEdge\n"
        "client = QdrantEdge(sys.argv[1], read_only=True)\n"
        "client.count('docs')\n"
        "if os.fork() == 0:\n"
        "    sys.exit()\n"
        "os.wait()\n"
        "print(client.count('docs').count, len(client.scroll('docs', with_vectors=True)[0]))\n"
        "print(len(os.listdir(sys.argv[2])))\n"
    )
    if hasattr(os, "fork"):
        environment = {**small.environment(), "TMPDIR": str(temporary)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(path), str(temporary)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        assert done.stdout.split()[1:] == ["10", "1"]


def test_several_looks_at_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    state = history(path, "upsert")
    wrong: list[str] = []

    def look() -> None:
        with QdrantEdge(path, read_only=True) as client:
            wrong.append(compare(client, state))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [""] * 4


def test_nobody_opens_it_while_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    state = history(path, "upsert")
    original, tried = holes.copy, []

    def copy(*args: Any, **kwargs: Any) -> None:
        with pytest.raises(StoreLockedError):
            DirectoryLock(path / NAME)
        tried.append(1)
        original(*args, **kwargs)

    monkeypatch.setattr(copies, "copy", copy)
    with QdrantEdge(path, read_only=True) as client:
        assert compare(client, state) == ""
    assert tried


# the asynchronous client


def test_the_asynchronous_client(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "data"
    state = history(path, "upsert")
    before = survey(path)

    async def look() -> None:
        async with AsyncQdrantEdge(path, read_only=True) as client:
            assert (await client.count(NAME)).count == len(state.main)
            assert len((await client.scroll(NAME, limit=16, with_vectors=True))[0]) == 16
            with pytest.raises(UnsupportedError, match="opened for reading"):
                await client.upsert(NAME, small.points(0, 1))
            with pytest.raises(InputError, match="unknown arguments"):
                await client.count(NAME, unknown=1)

    asyncio.run(look())
    assert survey(path) == before
