"""The asynchronous client: QdrantEdge's answers, an event loop that never waits, and every end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.http.exceptions import UnexpectedResponse

from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.edge.worker.channel import Message, loads
from m3qdrant.edge.worker.process import InWorkerError
from m3qdrant.edge.worker.serving import _portable
from m3qdrant.errors import (
    CollectionNotFoundError,
    EngineError,
    InputError,
    M3QdrantError,
    PointError,
    StoreClosedError,
    StoreDamagedError,
    StoreLockedError,
    UnsupportedError,
)
from tests.edge.heavy import DIM, NAME, SPARSE, TOKEN_DIM, VECTORS, fill, points
from tests.edge.small import named


def in_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 multivectors of 48 tokens: a scan of them is real work."""
    path = tmp_path_factory.mktemp("large") / "data"
    fill(path, 2000, tokens=48)
    return path


# the same answers


def color(value: str) -> models.Filter:
    return models.Filter(
        must=[models.FieldCondition(key="color", match=models.MatchValue(value=value))]
    )


def a_session() -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls that write, read and fail, each with its arguments."""
    rng = np.random.default_rng(5)
    dense, colbert = rng.normal(size=DIM).tolist(), rng.normal(size=(4, TOKEN_DIM)).tolist()
    sparse = models.SparseVector(indices=[3, 101], values=[0.5, 1.5])
    prefetch = [
        models.Prefetch(query=dense, using="dense", limit=20),
        models.Prefetch(query=sparse, using="sparse", limit=20),
    ]
    yield "create_collection", (NAME, VECTORS, SPARSE), {"metadata": {"model": "bge-m3"}}
    yield "create_collection", (NAME, VECTORS, SPARSE), {}
    yield "collection_exists", (NAME,), {}
    yield "get_collections", (), {}
    yield "upsert", (NAME, points(0, 90)), {"wait": True}
    ids: list[Any] = list(range(90, 100))
    batch = models.Batch(
        ids=ids,
        vectors={"dense": rng.normal(size=(10, DIM)).tolist()},
        payloads=[{"n": i} for i in ids],
    )
    yield "upsert", (NAME, batch), {}
    yield "create_payload_index", (NAME, "color", models.PayloadSchemaType.KEYWORD), {}
    yield "optimize", (NAME,), {}
    yield "flush", (), {}
    yield "count", (NAME,), {"count_filter": color("red")}
    yield "facet", (NAME, "color"), {"exact": True}
    yield "retrieve", (NAME, [5, 3, 95]), {"with_vectors": True}
    yield "scroll", (NAME,), {"limit": 7, "with_vectors": ["dense"], "offset": 50}
    yield "query_points", (NAME, dense), {"using": "dense", "query_filter": color("blue")}
    yield "query_points", (NAME, np.array(colbert)), {"using": "colbert", "with_vectors": True}
    yield "query_points", (NAME, sparse), {"using": "sparse", "limit": 3, "with_payload": False}
    fusion = models.FusionQuery(fusion=models.Fusion.DBSF)  # by ranks, there would be ties
    yield "query_points", (NAME, fusion), {"prefetch": prefetch}
    formula = models.FormulaQuery(formula=models.SumExpression(sum=["$score[0]", "$score[1]"]))
    yield "query_points", (NAME, formula), {"prefetch": prefetch, "score_threshold": 0.5}
    requests = [models.QueryRequest(query=colbert, using="colbert", limit=3, with_payload=True)]
    yield "query_batch_points", (NAME, requests * 3), {}
    yield "set_payload", (NAME, {"new": [1, 2.5, "x"]}, [1, 2]), {}
    yield "overwrite_payload", (NAME, {"other": None}, color("green")), {}
    yield "delete_payload", (NAME, ["n"], [4]), {}
    yield "clear_payload", (NAME, [7]), {}
    yield "delete", (NAME, models.PointIdsList(points=[8, 9])), {}
    yield "delete", (NAME, [8, 1_000]), {}
    yield "scroll", (NAME,), {"limit": 200, "with_vectors": True}
    yield "update_collection", (NAME,), {"metadata": {"more": 1}}
    yield "get_collection", (NAME,), {}
    # and what is refused
    yield "upsert", (NAME, [*points(0, 1), models.PointStruct(id=4, vector={"dense": [1.0]})]), {}
    yield "upsert", (NAME, []), {}
    yield "set_payload", (NAME, {}, [123456]), {}
    yield "facet", (NAME, "n"), {}
    yield "query_points", (NAME, [1.0, 2.0]), {"using": "dense"}
    yield "query_points", (NAME, dense), {"using": "dense", "limit": 2**70}
    yield "count", ("nope",), {}
    yield "count", (NAME,), {"shard_key_selector": "x"}
    yield "count", (NAME,), {"unheard_of": 1}
    yield "count", (), {}
    yield "cluster_status", (), {}
    yield "delete_collection", (NAME,), {}
    yield "get_collections", (), {}


async def outcome(client: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a call returns, or the error that it raises, with all that is known of it."""
    try:
        answer = getattr(client, method)(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        return type(error), str(error).replace(str(client.path), "PATH"), vars(error)


@in_a_loop
async def test_results_and_errors_equal_those_of_the_direct_client(tmp_path: Path) -> None:
    errors = set()
    with QdrantEdge(tmp_path / "a") as direct:
        async with AsyncQdrantEdge(tmp_path / "b") as client:
            for method, args, kwargs in a_session():
                expected = await outcome(direct, method, args, kwargs)
                found = await outcome(client, method, args, kwargs)
                assert type(found) is type(expected), method
                assert found == expected, (method, kwargs)
                if isinstance(expected, tuple) and isinstance(expected[0], type):
                    errors.add(expected[0].__name__)
    assert {"PointError", "InputError", "UnsupportedError", "TypeError"} <= errors
    assert {"CollectionNotFoundError", "CollectionExistsError"} <= errors


PLAIN = ("get_embedding_size", "migrate", "upload_collection", "upload_points")
"""Those that are no coroutines in qdrant-client's class either."""

METHODS = sorted(n for n, _ in inspect.getmembers(QdrantEdge, inspect.isfunction) if n[0] != "_")


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_there_to_await(name: str) -> None:
    method = getattr(AsyncQdrantEdge, name)
    assert inspect.iscoroutinefunction(method) or name in PLAIN
    assert method.__doc__
    if name not in ("close", "upload_points", "upload_collection"):  # these are written out
        assert inspect.signature(method).parameters.keys() == (
            inspect.signature(getattr(QdrantEdge, name)).parameters.keys()
        )


def test_none_of_qdrant_clients_methods_is_left_unimplemented() -> None:
    names = {n for n in vars(AsyncQdrantBase) if n[0] != "_"}
    assert names <= set(METHODS)


@in_a_loop
async def test_upload_points_takes_any_iterable(path: Path) -> None:
    async with AsyncQdrantEdge(path) as client:
        stored: list[int] = []
        answer = client.upload_points(NAME, iter(points(100, 250)), batch_size=40)
        stored.append((await client.count(NAME)).count)
        await answer
        await asyncio.gather(answer, client.count(NAME))
        await client.upload_points(NAME, iter(points(250, 260)), batch_size=40)
        stored.append((await client.count(NAME)).count)
        await asyncio.to_thread(client.upload_points, NAME, points(260, 270), None)  # type: ignore[arg-type]
        stored.append((await client.count(NAME)).count)
        assert stored == [170, 180, 190]
        client.upload_points(NAME, points=iter(()), batch_size=40, parallel=2)
        uploads: dict[str, Callable[[], Any]] = {
            "batch_size: value 0": lambda: client.upload_points(NAME, [], batch_size=0),
            "batch_size is 'many'": lambda: client.upload_points(NAME, [], "many"),  # type: ignore[arg-type]
            "upload_points: unknown": lambda: client.upload_points(NAME, [], nonsense=1),
            "parallel: value -1": lambda: client.upload_points(NAME, [], parallel=-1),
            "nowhere not found": lambda: client.upload_points("nowhere", points(0, 9)),
            "point 1: ": lambda: client.upload_points(
                NAME, [models.PointStruct(id=1, vector={"dense": [1.0]})]
            ),
            "upload_collection: unknown": lambda: client.upload_collection(NAME, [], nonsense=1),
            "ids": lambda: client.upload_collection(NAME, [{}], ids=[]),
        }
        for words, upload in uploads.items():
            with pytest.raises(UnexpectedResponse, match=words) as refusal:
                upload()  # refused here, not when it is awaited
            assert isinstance(refusal.value, M3QdrantError)
        columns = points(300, 310)
        client.upload_collection(
            NAME,
            {name: [named(p)[name] for p in columns] for name in named(columns[0])},
            payload=(p.payload or {} for p in columns),
            ids=itertools.count(300),
            batch_size=4,
        )
        assert (await client.retrieve(NAME, [309]))[0].payload == columns[9].payload
        await client.upsert(NAME, points=(p for p in points(250, 260)))  # type: ignore[arg-type]
        found = await client.retrieve(NAME, {255: "a", 3: "b"}.keys())  # type: ignore[arg-type]
        assert [r.id for r in found] == [255, 3]


@in_a_loop
async def test_each_call_sees_the_writes_before_it(path: Path) -> None:
    async with AsyncQdrantEdge(path) as client:
        calls: list[Awaitable[Any]] = []
        for i in range(30):
            calls.append(client.upsert(NAME, points(100 + i, 101 + i)))
            calls.append(client.count(NAME))
        answers = await asyncio.gather(*calls)
        assert [a.count for a in answers[1::2]] == list(range(21, 51))


# errors


@in_a_loop
async def test_errors_keep_their_class_attributes_and_cause(path: Path) -> None:
    async with AsyncQdrantEdge(path) as client:
        bad = models.PointStruct.model_construct(id=77, vector={"dense": np.full(DIM, np.nan)})
        with pytest.raises(PointError, match="must be finite") as refused:
            await client.upsert(NAME, [*points(50, 55), bad])
        assert (refused.value.id, refused.value.field) == ("77", "dense")
        assert "position 0 is nan" in refused.value.reason
        assert isinstance(refused.value.__cause__, InWorkerError)
        assert "check_points.py" in str(refused.value.__cause__)
        assert (await client.count(NAME)).count == 20
        with pytest.raises(LookupError) as missing:
            await client.count("nope")
        assert isinstance(missing.value, CollectionNotFoundError)
        assert isinstance(missing.value, UnexpectedResponse)
        assert missing.value.status_code == 404
        with pytest.raises(UnsupportedError):
            await client.cluster_status()


@in_a_loop
async def test_a_collection_that_is_open_elsewhere_is_said_to_be(path: Path) -> None:
    with QdrantEdge(path) as direct:
        direct.count(NAME)
        async with AsyncQdrantEdge(path) as client:
            with pytest.raises(StoreLockedError, match="open in another process") as locked:
                await client.count(NAME)
            assert "BlockingIOError" in str(locked.value.__cause__)
            direct.close()
            assert (await client.count(NAME)).count == 20


@in_a_loop
async def test_damage_that_the_worker_meets(path: Path) -> None:
    (path / NAME / "collection.json").write_text("{")
    async with AsyncQdrantEdge(path) as client:
        with pytest.raises(StoreDamagedError, match=r"collection\.json"):
            await client.count(NAME)


def test_a_foreign_path_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreDamagedError, match="is a file"):
        AsyncQdrantEdge(tmp_path / "file")


@in_a_loop
async def test_arguments_that_cannot_cross(path: Path) -> None:
    own = types.ModuleType("a_module_that_only_this_process_has")
    exec("class Own: pass", own.__dict__)
    sys.modules[own.__name__] = own
    try:
        async with AsyncQdrantEdge(path) as client:
            with pytest.raises(InputError, match="an argument of set_payload can't be handed"):
                await client.set_payload(NAME, {"f": lambda: None}, [1])
            with pytest.raises(InputError, match="can't be read in the worker") as refused:
                await client.set_payload(NAME, {"own": own.Own()}, [1])
            assert "ModuleNotFoundError" in str(refused.value.__cause__)
            deep: list[Any] = []
            for _ in range(100_000):
                deep = [deep]
            with pytest.raises(InputError):
                await client.set_payload(NAME, {"deep": deep}, [1])
            while deep:  # or its end would overflow the stack
                deep = deep.pop()
            assert (await client.retrieve(NAME, [1]))[0].payload == {"n": 1, "color": "green"}
    finally:
        del sys.modules[own.__name__]


def test_an_error_that_cannot_cross_becomes_an_engine_error() -> None:
    class PanicException(BaseException):  # as the engine has one: a class that can't be imported
        pass

    class OddError(Exception):  # pickles, but can't be put together again
        def __init__(self, a: int, b: int) -> None:
            super().__init__("odd")

    for error in (PanicException("index out of bounds"), OddError(1, 2)):
        with contextlib.suppress(BaseException):
            raise error
        parcel = _portable(error, error)
        pickled = memoryview(b"".join(parcel.pickled))
        found, trace = loads(Message(1, True, pickled, parcel.arrays))
        assert type(found) is EngineError
        assert str(found) == f"{type(error).__name__}: {error}"
        assert "test_async_client.py" in trace


# the event loop


async def lateness(work: Awaitable[Any]) -> float:
    """The worst delay, in seconds, of a 5 ms heartbeat while `work` is under way."""
    task = asyncio.ensure_future(work)
    worst = 0.0
    while not task.done():
        start = time.perf_counter()
        await asyncio.sleep(0.005)
        worst = max(worst, time.perf_counter() - start - 0.005)
    await task
    return worst


async def steadiest(work: Callable[[], Awaitable[Any]], attempts: int = 5) -> float:
    """The least of a few attempts: a busy machine delays any heartbeat now and then.

    Without Python's own garbage collector, whose look at millions of numbers in lists stalls every
    thread, whoever made them.
    """
    gc.disable()
    try:
        found = [await lateness(work())]
        while found[-1] > 0.05 and len(found) < attempts:
            found.append(await lateness(work()))
        return min(found)
    finally:
        gc.enable()


@pytest.mark.slow
@in_a_loop
async def test_scans_do_not_stall_the_event_loop(large: Path) -> None:
    rng = np.random.default_rng(9)
    batch = [  # all different: the engine answers equal ones once
        models.QueryRequest.model_construct(query=query, using="colbert", limit=10)
        for query in rng.normal(size=(4, 32, TOKEN_DIM)).astype(np.float32)
    ]
    with QdrantEdge(large) as direct:
        expected = direct.query_batch_points(NAME, batch)

        async def in_threads() -> None:
            calls = (asyncio.to_thread(direct.query_batch_points, NAME, batch) for _ in range(4))
            await asyncio.gather(*calls)

        assert await lateness(in_threads()) > 0.05, "the direct client does stall it"

    async with AsyncQdrantEdge(large) as client:
        assert await client.query_batch_points(NAME, batch) == expected

        async def scans() -> None:
            end = time.perf_counter() + 0.5
            while time.perf_counter() < end:
                calls = (client.query_batch_points(NAME, batch) for _ in range(4))
                assert await asyncio.gather(*calls) == [expected] * 4

        assert await steadiest(scans) < 0.05


@pytest.mark.slow
@in_a_loop
async def test_large_messages_do_not_stall_the_event_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    matrices = rng.normal(size=(200, 300, TOKEN_DIM)).astype(np.float32)  # 31 MB
    kept: list[Any] = []  # letting go of a large answer takes a while, too: that is the caller's

    def batch(as_lists: bool, n: int) -> list[models.PointStruct]:
        return [
            models.PointStruct.model_construct(
                id=i, vector={"colbert": m.tolist() if as_lists else m}, payload={"n": i}
            )
            for i, m in enumerate(matrices[:n])
        ]

    async with AsyncQdrantEdge(tmp_path) as client:
        await client.create_collection(NAME, VECTORS, sparse_vectors_config=SPARSE)
        as_arrays, as_lists = batch(False, 200), batch(True, 30)
        assert await steadiest(lambda: client.upsert(NAME, as_arrays)) < 0.05
        assert await steadiest(lambda: client.upsert(NAME, as_lists)) < 0.05

        async def read() -> None:
            kept.append(
                await client.query_points(
                    NAME, matrices[7, :2], using="colbert", limit=200, with_vectors=True
                )
            )

        assert await steadiest(read) < 0.05
        assert len(kept[0].points) == 200
        for point in kept[0].points[:20]:
            np.testing.assert_array_equal(point.vector["colbert"], matrices[point.id])


@in_a_loop
async def test_cancelled_calls_leave_nothing_behind(path: Path) -> None:
    async with AsyncQdrantEdge(path) as client:
        await client.count(NAME)
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(client.scroll(NAME, limit=20)) for _ in range(50)
        ]
        tasks += [asyncio.ensure_future(client.upsert(NAME, points(100, 150)))]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(d, asyncio.CancelledError) for d in done)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.upsert(NAME, points(200, 700, tokens=50)), 0.001)
        assert (await client.count(NAME)).count in (20, 70, 520, 570)
        assert client._worker is not None
        assert client._worker._waiting == {}


def test_several_event_loops_one_after_the_other_and_at_once(path: Path) -> None:
    client = AsyncQdrantEdge(path)

    async def add(start: int) -> int:
        # one that is still waiting when its loop ends
        left = asyncio.ensure_future(client.scroll(NAME, limit=5, with_vectors=True))
        await asyncio.sleep(0)
        await client.upsert(NAME, points(start, start + 10))
        assert left.done() or not left.cancel()
        forgotten = asyncio.ensure_future(client.count(NAME))
        await asyncio.sleep(0)
        assert not forgotten.done()
        return (await client.count(NAME)).count

    assert asyncio.run(add(100)) == 30
    first = client.worker_pid
    assert asyncio.run(add(200)) == 40
    assert client.worker_pid == first
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda s=s: counts.append(asyncio.run(add(s))))
        for s in (300, 400, 500)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(counts) == 70
    asyncio.run(client.close())


# its ends


@in_a_loop
async def test_close_lets_the_calls_under_way_finish(path: Path) -> None:
    client = AsyncQdrantEdge(path)
    calls = [asyncio.ensure_future(client.upsert(NAME, points(i, i + 9))) for i in range(100, 130)]
    await asyncio.sleep(0)
    await asyncio.gather(client.close(), client.close())
    await client.close()
    assert all(call.done() for call in calls)
    assert all(call.result().status == models.UpdateStatus.COMPLETED for call in calls)
    for late in (client.count(NAME), client.get_collections()):
        with pytest.raises(StoreClosedError, match="is closed: open a new one"):
            await late
    with pytest.raises(StoreClosedError, match="is closed: open a new one"):
        client.upload_points(NAME, [])
    with QdrantEdge(path) as direct:
        assert direct.count(NAME).count == 20 + 38


@in_a_loop
async def test_a_client_that_was_never_used_has_no_process(path: Path) -> None:
    async with AsyncQdrantEdge(path) as client:
        assert client.worker_pid is None
        assert repr(client) == f"AsyncQdrantEdge({str(path)!r})"
    with pytest.raises(StoreClosedError):
        await client.count(NAME)


@in_a_loop
async def test_a_worker_that_is_killed(path: Path) -> None:
    client = AsyncQdrantEdge(path)
    await client.upsert(NAME, points(100, 110))
    assert client.worker_pid is not None
    os.kill(client.worker_pid, signal.SIGSTOP)  # so that the calls are surely waiting
    waiting: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(client.count(NAME)) for _ in range(3)
    ]
    waiting.append(asyncio.ensure_future(client.upsert(NAME, points(200, 2000, tokens=20))))
    await asyncio.sleep(0.05)
    assert not any(w.done() for w in waiting)
    os.kill(client.worker_pid, signal.SIGKILL)
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert type(error) is EngineError
        assert "has ended (killed by SIGKILL)" in str(error)
        assert "acknowledged is safe" in str(error)
    with pytest.raises(EngineError, match="open the directory again"):
        await client.count(NAME)
    await client.close()
    async with AsyncQdrantEdge(path) as again:
        assert (await again.count(NAME)).count == 30


@in_a_loop
async def test_a_worker_that_cannot_be_started(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(path / "no-python"))
    client = AsyncQdrantEdge(path)
    for _ in range(2):
        with pytest.raises(EngineError, match="could not be started") as refused:
            await client.count(NAME)
        assert isinstance(refused.value.__cause__, FileNotFoundError)
    await client.close()


def in_child(client: AsyncQdrantEdge, out: Any) -> None:
    said = []
    for call in (client.count(NAME), client.get_collections()):
        try:
            asyncio.run(call)
        except EngineError as error:
            said.append(str(error))
    asyncio.run(client.close())
    out.put(said)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused(path: Path) -> None:
    client = AsyncQdrantEdge(path)
    asyncio.run(client.upsert(NAME, points(20, 30)))
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    child = context.Process(target=in_child, args=(client, out))
    child.start()
    said = out.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert len(said) == 2
    assert all("a fork of it" in s and "'spawn'" in s for s in said)
    assert asyncio.run(client.count(NAME)).count == 30
    asyncio.run(client.close())


def free_again(path: Path, within: float = 30.0) -> int:
    """The collection's number of points, as soon as its lock has been released."""
    end = time.monotonic() + within
    while True:
        try:
            with QdrantEdge(path) as client:
                return client.count(NAME).count
        except StoreLockedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def test_a_client_that_was_dropped_lets_go(path: Path) -> None:
    client = AsyncQdrantEdge(path)
    assert asyncio.run(client.count(NAME)).count == 20
    dropped = weakref.ref(client)
    del client
    gc.collect()
    assert dropped() is None
    assert free_again(path) == 20


# Programs without a main guard, as users write them. Each says when it is ready.
HEAD = """
import asyncio, os, signal, sys, time
sys.path.insert(0, sys.argv[2])
from tests.edge.heavy import NAME, points
from m3qdrant.edge import AsyncQdrantEdge
print("main", flush=True)
client = AsyncQdrantEdge(sys.argv[1])
async def add():
    await client.upsert(NAME, points(100, 110))
    print("ready", client.worker_pid, flush=True)
"""
FORGETS = HEAD + "asyncio.run(add())\n"
FAILS = HEAD + "asyncio.run(add())\n1 / 0\n"
FORGETS_BUSY = (
    HEAD
    + """
async def main():
    await add()
    for i in range(20):
        asyncio.ensure_future(client.upsert(NAME, points(110 + i, 111 + i)))
    await asyncio.sleep(0)
asyncio.run(main())
"""
)
STUCK = (
    HEAD
    + """
from m3qdrant.edge.worker import process
process._PATIENCE = 0.2
asyncio.run(add())
os.kill(client.worker_pid, signal.SIGSTOP)
"""
)
SLEEPS = HEAD + "asyncio.run(add())\ntime.sleep(600)\n"
SLEEPS_WITH_A_FORK = (
    HEAD
    + """
asyncio.run(add())
if os.fork() == 0:
    print("fork", os.getpid(), flush=True)
time.sleep(600)
"""
)
INTERRUPTED = (
    HEAD
    + """
async def main():
    async with client:
        await add()
        try:
            await asyncio.sleep(600)
        finally:
            print("count", (await client.count(NAME)).count, flush=True)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
)


def start(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(Path(__file__).parents[2])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [(FORGETS, 0), (FAILS, 1), (FORGETS_BUSY, 0), (STUCK, 0)],
    ids=["forgets", "fails", "forgets-busy", "stuck"],
)
def test_a_program_that_forgets_to_close(path: Path, code: str, status: int) -> None:
    program = start(code, path)
    out, err = program.communicate(timeout=60)
    assert program.returncode == status, err
    assert out.split()[:2] == ["main", "ready"]
    assert out.count("main") == 1
    assert ("ZeroDivisionError" in err) == (status == 1)
    assert status == 1 or err == ""
    if code is STUCK:
        assert free_again(path) == 30
        return
    with QdrantEdge(path) as client:  # its worker has ended before it
        assert client.count(NAME).count >= 30


@pytest.mark.parametrize("code", [SLEEPS, SLEEPS_WITH_A_FORK], ids=["alone", "with-a-fork"])
def test_a_program_that_is_killed_releases_the_lock(path: Path, code: str) -> None:
    program = start(code, path)
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == "main\n"
        assert program.stdout.readline().startswith("ready ")
        if code is SLEEPS_WITH_A_FORK:
            assert program.stdout.readline().startswith("fork ")
        with QdrantEdge(path) as client, pytest.raises(StoreLockedError):
            client.count(NAME)
        program.kill()
        assert free_again(path) == 30
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate(timeout=60)


def test_ctrl_c_is_left_to_the_program(path: Path) -> None:
    program = start(INTERRUPTED, path)
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == "main\n"
        assert program.stdout.readline().startswith("ready ")
        os.killpg(program.pid, signal.SIGINT)
        out, err = program.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    assert out.split() == ["count", "30", "interrupted"]
    assert err == ""
    assert program.returncode == 0
    with QdrantEdge(path) as client:
        assert client.count(NAME).count == 30


def test_importing_it_does_not_import_torch() -> None:
    code = (
        "import sys, m3qdrant.edge\n"
        "assert 'qdrant_edge' not in sys.modules\n"
        "from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge\n"
        "import m3qdrant.edge.worker.serving\n"
        "print({'torch', 'transformers'} & set(sys.modules))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "set()", found.stderr
