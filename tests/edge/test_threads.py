"""One client, many threads; and forked children, which must not touch it."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant.edge import QdrantEdge, updates
from m3qdrant.errors import EngineError, StoreClosedError, StoreLockedError
from tests.edge.small import DIM, NAME, create, environment, named, points

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def client(path: Path) -> Iterator[QdrantEdge]:
    with QdrantEdge(path) as client:
        create(client)
        client.upsert(NAME, points(0, 20))
        yield client


# threads


def in_threads(works: list[Callable[[], Any]]) -> list[BaseException]:
    """Run all at once; what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> None:
        try:
            start.wait()
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    return raised


def test_everything_at_once_until_somebody_closes(path: Path) -> None:
    """Each thread works until told that the client is closed; what was acknowledged stays."""
    client = QdrantEdge(path)
    create(client)
    create(client, "other")
    acknowledged: dict[int, str] = {}
    calls = {
        "upsert": 0,
        "query": 0,
        "scroll": 0,
        "optimize": 0,
        "create": 0,
        "snapshot": 0,
        "flush": 0,
    }

    def until_closed(name: str, work: Callable[[int], Any]) -> Callable[[], None]:
        def loop() -> None:
            for i in range(10**6):
                try:
                    work(i)
                except StoreClosedError:
                    return
                calls[name] += 1

        return loop

    def writer(k: int) -> Callable[[int], None]:
        def work(i: int) -> None:
            start, name = 10**6 * k + 30 * i, random.choice([NAME, "other"])
            client.upsert(name, points(start, start + 30))
            acknowledged.update(dict.fromkeys(range(start, start + 30), name))

        return work

    def query(i: int) -> None:
        client.query_points(NAME, np.ones(DIM), using="dense", with_vectors=True)

    def scroll(i: int) -> None:
        records, _ = client.scroll(NAME, limit=50, with_vectors=True)
        assert all(r.payload == {"n": r.id} and len(named(r)) == 3 for r in records)

    def creation(i: int) -> None:
        create(client, f"of-{i}")
        client.upsert(f"of-{i}", points(0, 3))
        assert client.delete_collection(f"of-{i}")

    def snapshot(i: int) -> None:
        made = client.create_snapshot("other")
        assert client.delete_snapshot("other", made.name)

    def optimize(i: int) -> None:
        time.sleep(0.2)
        client.optimize(NAME)

    def close() -> None:
        time.sleep(3)
        client.close()

    raised = in_threads(
        [
            *(until_closed("upsert", writer(k)) for k in range(1, 4)),
            until_closed("query", query),
            until_closed("scroll", scroll),
            until_closed("optimize", optimize),
            until_closed("create", creation),
            until_closed("snapshot", snapshot),
            until_closed("flush", lambda i: client.flush(NAME)),
            close,
            close,
        ]
    )
    assert raised == []
    assert all(calls.values()), calls
    with QdrantEdge(path) as again:
        for name in (NAME, "other"):
            ids = {i for i, where in acknowledged.items() if where == name}
            records, _ = again.scroll(name, limit=10**6)
            assert ids <= {r.id for r in records}
            assert len(records) % 30 == 0


def test_many_threads_open_one_collection(client: QdrantEdge) -> None:
    client.close()
    with QdrantEdge(client.path) as again:
        assert in_threads([lambda: again.count(NAME)] * 16) == []


def test_many_threads_create_and_delete_one_collection(client: QdrantEdge) -> None:
    answers: list[bool] = []
    assert in_threads([lambda: answers.append(client.delete_collection(NAME))] * 8) == []
    assert sorted(answers) == [False] * 7 + [True]
    raised = in_threads([lambda: create(client)] * 8)
    assert [type(error).__name__ for error in raised] == ["CollectionExistsError"] * 7
    assert client.count(NAME).count == 0


def test_clients_of_one_process_take_turns(client: QdrantEdge) -> None:
    """Eight clients want one collection: each gets it or is told, and it is never damaged."""
    client.close()
    path, written = client.path, []

    def work(k: int) -> None:
        for i in range(20):
            with QdrantEdge(path) as mine:
                start = 10_000 * k + 10 * i
                try:
                    mine.upsert(NAME, points(start, start + 10))
                except StoreLockedError:
                    time.sleep(0.001 * random.random())
                else:
                    written.append(start)

    assert in_threads([lambda k=k: work(k) for k in range(1, 9)]) == []  # type: ignore[misc]
    assert written
    with QdrantEdge(path) as again:
        assert again.count(NAME).count == 20 + 10 * len(written)


# forks


def calls_of(client: QdrantEdge, tmp: Path) -> dict[str, Callable[[], Any]]:
    """Every method that touches the disk."""
    query = np.ones(DIM)
    return {
        "create_collection": lambda: create(client, "x"),
        "collection_exists": lambda: client.collection_exists(NAME),
        "get_collections": lambda: client.get_collections(),
        "get_collection": lambda: client.get_collection(NAME),
        "update_collection": lambda: client.update_collection(NAME, metadata={"a": 1}),
        "delete_collection": lambda: client.delete_collection(NAME),
        "optimize": lambda: client.optimize(NAME),
        "unindexed": lambda: client.unindexed(NAME),
        "flush": lambda: client.flush(),
        "flush one": lambda: client.flush(NAME),
        "create_snapshot": lambda: client.create_snapshot(NAME),
        "list_snapshots": lambda: client.list_snapshots(NAME),
        "delete_snapshot": lambda: client.delete_snapshot(NAME, "x"),
        "recover_snapshot": lambda: client.recover_snapshot(NAME, tmp / "x"),
        "upsert": lambda: client.upsert(NAME, points(0, 1)),
        "upload_points": lambda: client.upload_points(NAME, points(0, 1)),
        "delete": lambda: client.delete(NAME, [1]),
        "set_payload": lambda: client.set_payload(NAME, {"a": 1}, [1]),
        "overwrite_payload": lambda: client.overwrite_payload(NAME, {"a": 1}, [1]),
        "delete_payload": lambda: client.delete_payload(NAME, ["n"], [1]),
        "clear_payload": lambda: client.clear_payload(NAME, [1]),
        "create_payload_index": lambda: client.create_payload_index(NAME, "n", "integer"),
        "delete_payload_index": lambda: client.delete_payload_index(NAME, "n"),
        "retrieve": lambda: client.retrieve(NAME, [1]),
        "scroll": lambda: client.scroll(NAME),
        "count": lambda: client.count(NAME),
        "facet": lambda: client.facet(NAME, "n"),
        "query_points": lambda: client.query_points(NAME, query, using="dense"),
        "query_batch_points": lambda: client.query_batch_points(
            NAME, [models.QueryRequest(query=[1.0] * DIM, using="dense")]
        ),
    }


def refusals(client: QdrantEdge, tmp: Path) -> dict[str, str]:
    said = {}
    for name, call in calls_of(client, tmp).items():
        try:
            call()
            said[name] = "it worked"
        except EngineError as error:
            said[name] = str(error)
        except BaseException as error:
            said[name] = f"{type(error).__name__}: {error}"
    client.close()
    return said


def check_refusals(said: dict[str, str]) -> None:
    wrong = {k: v for k, v in said.items() if "a fork of it" not in v or "'spawn'" not in v}
    assert said
    assert not wrong


def in_forked_child(client: QdrantEdge, tmp: Path, out: Any) -> None:
    out.put(refusals(client, tmp))
    del client
    gc.collect()


@forks
def test_a_child_of_multiprocessing_is_refused(client: QdrantEdge, tmp_path: Path) -> None:
    client.query_points(NAME, np.ones(DIM), using="dense")
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    child = context.Process(target=in_forked_child, args=(client, tmp_path, out))
    child.start()
    said = out.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    check_refusals(said)
    client.upsert(NAME, points(20, 30))
    assert client.count(NAME).count == 30


PARENT = """
import gc, json, os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from m3qdrant.edge import QdrantEdge, updates
from m3qdrant.errors import StoreLockedError
from tests.edge.small import NAME, create, points
from tests.edge.test_threads import refusals

root, how = Path(sys.argv[1]), sys.argv[3]
client = QdrantEdge(root)
create(client)
client.upsert(NAME, points(0, 20))
ready_in, ready_out = os.pipe()
child = os.fork()
if child == 0:
    os.read(ready_in, 1)  # the parent has written meanwhile
    if how != "silent":
        (root.parent / "said.json").write_text(json.dumps(refusals(client, root.parent)))
    if how == "dropped":
        del client
        gc.collect()
    sys.exit(7)  # with atexit, destructors and all
client.upsert(NAME, points(20, 60))
client.optimize(NAME)
client.delete(NAME, [1, 2])
os.write(ready_out, b"x")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert client.count(NAME).count == 58
client.upsert(NAME, points(60, 80))
try:
    with QdrantEdge(root) as second:
        second.count(NAME)
except StoreLockedError:
    pass
else:
    raise AssertionError("the child let go of the parent's lock")
if how == "silent":
    os._exit(0)  # as if killed: what counts is what is on the disk
client.close()
"""


@forks
@pytest.mark.parametrize("how", ["silent", "calls", "dropped"])
def test_a_forked_child_that_ends_normally_harms_nothing(path: Path, how: str) -> None:
    """Its destructors flush nothing over the parent's files, and keep and break no lock."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARENT, str(path), root, how],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if how != "silent":
        check_refusals(json.loads((path.parent / "said.json").read_text()))
    with QdrantEdge(path) as client:
        records, _ = client.scroll(NAME, limit=999, with_vectors=True)
        assert [r.id for r in records] == [0, *range(3, 80)]
        assert all(len(named(r)) == 3 and r.payload == {"n": r.id} for r in records)


@forks
def test_a_fork_while_another_thread_writes(client: QdrantEdge) -> None:
    """The child is refused, though it has a copy of locks that nobody there will release.

    And the end of its copy of the engine, which holds what was not flushed at that moment, writes
    nothing over the parent's files.
    """
    stop = threading.Event()

    def write() -> None:
        start = 1000
        while not stop.is_set():
            client.upsert(NAME, points(start, start + 50))
            start += 50

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                try:
                    client.count(NAME)
                except EngineError:
                    client.close()
                    client._shards.clear()  # destroys the engine, as the end of Python would
                    gc.collect()
                    os._exit(7)
                os._exit(1)
            deadline = time.monotonic() + 30
            ended = status = 0
            while not ended and time.monotonic() < deadline:
                ended, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.005)
            if not ended:
                os.kill(child, 9)
                os.waitpid(child, 0)
            assert ended, "the child hangs"
            assert os.waitstatus_to_exitcode(status) == 7
    finally:
        stop.set()
        writer.join()
    count = client.count(NAME).count
    assert count % 50 == 20
    client.close()
    with QdrantEdge(client.path) as again:
        records, _ = again.scroll(NAME, limit=10**6, with_vectors=True)
        assert [r.id for r in records] == [*range(20), *range(1000, 1000 + count - 20)]
        assert all(len(named(r)) == 3 and r.payload == {"n": r.id} for r in records)


@forks
def test_the_end_of_a_childs_copy_of_the_engine(client: QdrantEdge) -> None:
    """Forked between a write and its flush, the copy would flush over the parent's newer data."""
    first, second = points(100, 105), points(200, 205)
    shard = client._shard(NAME)
    assert shard._engine is not None
    shard._engine.update(updates.upsert(first, shard.layout).operation)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(ready, 1)
        client._shards.clear()
        del shard  # and with it the engine, as at the end of Python
        gc.collect()
        os._exit(7)
    client.flush()
    client.delete(NAME, [101, 102])
    client.upsert(NAME, second)
    os.write(go, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    client.close()
    with QdrantEdge(client.path) as again:
        records, _ = again.scroll(NAME, limit=99, with_vectors=True)
        expected = [*range(20), 100, 103, 104, *range(200, 205)]
        assert [(r.id, r.payload) for r in records] == [(i, {"n": i}) for i in expected]
