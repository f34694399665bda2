"""A copy that was cut off, however it was, goes on where it was: nothing twice, nothing lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient

from m3qdrant import AsyncQdrantEdge, QdrantEdge
from m3qdrant.errors import EngineError, ServerUnavailableError
from m3qdrant.names import MIGRATION
from m3qdrant.transport import Retries
from m3qdrant.upkeep import amigrate, migrate
from tests.servers.rest import SERVE, RestServer, Stall, Status
from tests.upkeep.points import everything, fill, filled, held
from tests.upkeep.worlds import World

FAST = Retries(attempts=3, budget_s=10, first_wait_s=0.01, longest_wait_s=0.05)


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


# -- Ctrl-C, and a task that is cancelled

PAGES = 5
BEFORE = 2 + 4 * 4
"""Points of the first five pages, of 2 and then of 4."""


def interrupt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C, or cancel the task, in the midst of the sixth write to a directory."""
    written = iter(range(1000))
    upsert, aupsert = QdrantEdge.upsert, AsyncQdrantEdge.upsert

    def interrupted(self: QdrantEdge, *arguments: Any, **options: Any) -> Any:
        if next(written) == PAGES:
            signal.raise_signal(signal.SIGINT)
        return upsert(self, *arguments, **options)

    async def cancelled(self: AsyncQdrantEdge, *arguments: Any, **options: Any) -> Any:
        if next(written) == PAGES:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(20)
        return await aupsert(self, *arguments, **options)

    if world.asynchronous:
        monkeypatch.setattr(AsyncQdrantEdge, "upsert", cancelled)
    else:
        monkeypatch.setattr(QdrantEdge, "upsert", interrupted)


@pytest.fixture
def memory(world: World) -> Iterator[QdrantClient | AsyncQdrantClient]:
    """An in-memory client of the world."""
    if world.asynchronous:
        client = AsyncQdrantClient(":memory:")
        yield client
        asyncio.run(client.close())
    else:
        with_it = QdrantClient(":memory:")
        yield with_it
        with_it.close()


@pytest.mark.parametrize("origin", ["directory", "memory"])
def test_interrupted_on_the_way_to_a_directory(
    world: World,
    origin: str,
    memory: QdrantClient | AsyncQdrantClient,
    tmp_path: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = filled(tmp_path / "source", rng, 100)
    source: Any = tmp_path / "source"
    if origin == "memory":
        assert world.migrate(source, memory, "c").verified
        source = memory
    with monkeypatch.context() as patched:
        interrupt(world, patched)
        with pytest.raises(world.interruption):
            world.migrate(source, tmp_path / "target", "c", batch=4)
    with QdrantEdge(tmp_path / "target") as target:
        metadata: Any = target.get_collection("c").config.metadata
        assert metadata[MIGRATION]["points"] == target.count("c").count == BEFORE
    report = world.migrate(source, tmp_path / "target", "c", batch=4)
    assert report.verified
    assert report.resumed
    assert (report.copied, report.unchanged) == (100 - BEFORE, 0)
    with QdrantEdge(tmp_path / "target") as target:
        assert everything(target) == expected
        assert target.get_collection("c").config.metadata == {"whose": "mine"}


def test_interrupted_while_it_waits_for_a_server(
    world: World, tmp_path: Path, server: RestServer, rng: np.random.Generator
) -> None:
    expected = filled(tmp_path / "source", rng, 100)
    server.script("PUT", "/points$", *[SERVE] * PAGES, Stall(60))
    main = threading.get_ident()

    def stalled() -> bool:
        return len(server.seen("PUT", "/points$")) == PAGES + 1

    async def cancelled() -> None:
        task = asyncio.create_task(amigrate(tmp_path / "source", server.url, "c", batch=4))
        while not stalled():
            await asyncio.sleep(0.01)
        task.cancel()
        await task

    def press() -> None:
        while not stalled():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    def interrupted() -> None:
        if world.asynchronous:
            asyncio.run(cancelled())
        else:
            threading.Thread(target=press).start()
            migrate(tmp_path / "source", server.url, "c", batch=4)

    began = time.monotonic()
    with pytest.raises(world.interruption):
        interrupted()
    assert time.monotonic() - began < 40  # not the minute of the server
    metadata: Any = server.backing.get_collection("c").config.metadata
    assert metadata[MIGRATION]["points"] == server.backing.count("c").count == BEFORE
    report = world.migrate(tmp_path / "source", server.url, "c", batch=4)
    assert report.verified
    assert report.resumed
    assert (report.copied, report.unchanged) == (100 - BEFORE, 0)
    assert everything(server.backing) == expected


def test_a_server_that_goes_away_is_resumed(
    world: World, tmp_path: Path, server: RestServer, rng: np.random.Generator
) -> None:
    filled(tmp_path / "source", rng, 100)
    server.script("PUT", "/points$", *[SERVE] * 10, *[Status(503)] * 3)
    with pytest.raises(ServerUnavailableError):
        world.migrate(tmp_path / "source", server.url, "c", batch=5, retries=FAST)
    stored = server.backing.count("c").count
    assert 0 < stored < 100
    report = world.migrate(tmp_path / "source", server.url, "c", batch=5, retries=FAST)
    assert report.verified
    assert report.resumed
    assert report.copied == 100 - stored


def test_a_cursor_of_another_source_is_no_ones(
    source: QdrantEdge, target: QdrantEdge, rng: np.random.Generator
) -> None:
    fill(source, rng, 20)
    migrate(source, target, "c")
    last = max(everything(source))
    target.delete("c", [min(everything(source))])
    target.update_collection(
        "c",
        metadata={
            MIGRATION: {"source": "/elsewhere", "collection": "c", "next": last, "points": 19}
        },
    )
    report = migrate(source, target, "c")
    assert (report.resumed, report.verified, report.copied) == (False, True, 1)


PROGRAM = """
import sys
from m3qdrant import QdrantEdge
from m3qdrant.upkeep import migration
migration._PAGES_A_CURSOR = 2
upsert = QdrantEdge.upsert
def told(self, *arguments, **options):
    result = upsert(self, *arguments, **options)
    print("written", flush=True)
    return result
QdrantEdge.upsert = told
migration.migrate(sys.argv[1], sys.argv[2], "c", batch=3)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes(tmp_path: Path, rng: np.random.Generator) -> None:
    """A process of its own, killed with -9 after some pages, again and again."""
    expected = filled(tmp_path / "source", rng, 400)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "source"), str(tmp_path / "target")]
    stored = [0]
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert process.stdout is not None
        for _ in range(int(rng.integers(1, 30))):
            assert process.stdout.readline() == b"written\n"
        time.sleep(float(rng.uniform(0, 0.02)))  # so that it is in the midst of anything
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        stored.append(len(held(tmp_path / "target")))
        assert stored[-2] < stored[-1] < 400
    report = migrate(tmp_path / "source", tmp_path / "target", "c")
    assert report.verified, report
    assert report.copied == 400 - stored[-1]
    assert held(tmp_path / "target") == expected
