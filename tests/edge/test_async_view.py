"""A view of an open engine: its answers, in order, beside the engine's own calls, and its end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from qdrant_client.async_client_base import AsyncQdrantBase

from m3qdrant.edge import AsyncQdrantEdge, AsyncQdrantEdgeView, QdrantEdge
from m3qdrant.errors import (
    CollectionNotFoundError,
    EngineError,
    InputError,
    StoreClosedError,
    UnsupportedError,
)
from tests.edge.small import DIM, NAME, VECTORS, points
from tests.edge.test_async_client import in_a_loop


@pytest.fixture
def view(client: QdrantEdge) -> AsyncQdrantEdgeView:
    return AsyncQdrantEdgeView(client)


@in_a_loop
async def test_both_see_what_either_wrote(client: QdrantEdge, view: AsyncQdrantEdgeView) -> None:
    assert isinstance(view, AsyncQdrantBase)
    await view.upsert(NAME, points(20, 30))
    assert client.count(NAME).count == 30
    client.delete(NAME, [0, 1, 2])
    assert (await view.count(NAME)).count == 27
    await view.create_collection("other", vectors_config=VECTORS)
    assert client.collection_exists("other")
    query = np.random.default_rng().normal(size=DIM).tolist()
    ours = await view.query_points(NAME, query, using="dense", limit=7, with_payload=True)
    assert ours == client.query_points(NAME, query, using="dense", limit=7, with_payload=True)
    assert len(ours.points) == 7


@in_a_loop
async def test_calls_run_in_the_order_in_which_they_were_made(view: AsyncQdrantEdgeView) -> None:
    writes, reads = [], []
    for i in range(50):
        writes.append(asyncio.ensure_future(view.set_payload(NAME, {"last": i}, [3])))
        reads.append(asyncio.ensure_future(view.retrieve(NAME, [3])))
    payloads = [records[0].payload for records in await asyncio.gather(*reads)]
    assert payloads == [{"n": 3, "last": i} for i in range(50)]


@in_a_loop
async def test_the_loop_goes_on_while_a_call_waits(
    client: QdrantEdge, view: AsyncQdrantEdgeView
) -> None:
    with client._shard(NAME).use("hold"):  # its turn, in this thread
        waiting = asyncio.ensure_future(view.count(NAME))
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert not waiting.done()
    assert (await waiting).count == 20


@in_a_loop
async def test_a_cancelled_wait_harms_nothing(
    client: QdrantEdge, view: AsyncQdrantEdgeView
) -> None:
    with client._shard(NAME).use("hold"):
        begun, later = (asyncio.ensure_future(view.delete(NAME, [i])) for i in (0, 1))
        await asyncio.sleep(0.05)
        for call in (begun, later):
            call.cancel()
        # the loop tells the thread, before the first call can end and the next one begin
        answers = await asyncio.gather(begun, later, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    left = {record.id for record in (await view.scroll(NAME, limit=100))[0]}
    assert left == set(range(1, 20))  # the one that had begun is done


@in_a_loop
async def test_its_errors_are_the_engines(view: AsyncQdrantEdgeView) -> None:
    with pytest.raises(CollectionNotFoundError, match="not found"):
        await view.count("nowhere")
    with pytest.raises(UnsupportedError, match="cluster_status"):
        await view.cluster_status()
    with pytest.raises(AttributeError, match="nothing_like_it"):
        getattr(view, "nothing_like_it")  # noqa: B009


@in_a_loop
async def test_uploads_read_any_iterable(client: QdrantEdge, view: AsyncQdrantEdgeView) -> None:
    view.upload_points(NAME, (p for p in points(100, 170)), batch_size=9)
    assert client.count(NAME).count == 90
    await view.upload_collection(NAME, [{}] * 7, ({"n": i} for i in range(9)))
    assert client.count(NAME).count == 97


@in_a_loop
async def test_closing_a_view_leaves_the_engine_open(client: QdrantEdge) -> None:
    async with AsyncQdrantEdgeView(client) as view:
        calls = [asyncio.ensure_future(view.upsert(NAME, points(i, i + 1))) for i in range(20, 40)]
        await asyncio.sleep(0)
    assert all(call.done() for call in calls)
    await view.close()
    with pytest.raises(StoreClosedError, match="is closed: make a new one"):
        await view.count(NAME)
    assert client.count(NAME).count == 40
    assert (await AsyncQdrantEdgeView(client).count(NAME)).count == 40


@in_a_loop
async def test_closing_the_engine_ends_its_views(
    client: QdrantEdge, view: AsyncQdrantEdgeView
) -> None:
    assert (await view.count(NAME)).count == 20
    client.close()
    with pytest.raises(StoreClosedError):
        await view.count(NAME)
    await view.close()


def test_it_serves_loops_one_after_the_other_and_at_once(view: AsyncQdrantEdgeView) -> None:
    counts: list[int] = []

    async def ask() -> None:
        for _ in range(20):
            counts.append((await view.count(NAME)).count)

    loops = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(3)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    asyncio.run(ask())
    assert counts == [20] * 80


def view_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("AsyncQdrantEdgeView")]


def test_a_view_that_is_dropped_ends_its_thread(client: QdrantEdge) -> None:
    others = view_threads()  # of a test before, that its garbage still holds
    view = AsyncQdrantEdgeView(client)
    asyncio.run(view.count(NAME))
    (thread,) = [thread for thread in view_threads() if thread not in others]
    del view
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert client.count(NAME).count == 20


def test_a_forked_child_is_refused(view: AsyncQdrantEdgeView) -> None:
    asyncio.run(view.count(NAME))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(view.close())
            asyncio.run(view.count(NAME))
        except EngineError:
            code = 0
        except BaseException as error:
            print(repr(error))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(view.count(NAME)).count == 20


def test_it_says_what_it_is_a_view_of(client: QdrantEdge, view: AsyncQdrantEdgeView) -> None:
    assert view.edge is client
    assert repr(client) in repr(view)
    assert view.worker_pid is None


@pytest.mark.parametrize("other", ["data", None, AsyncQdrantEdge])
def test_a_view_is_of_an_engine(other: object, path: Path) -> None:
    with pytest.raises(InputError, match="a view is one of a QdrantEdge, not of"):
        AsyncQdrantEdgeView(other)  # type: ignore[arg-type]
