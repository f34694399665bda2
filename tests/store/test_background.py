"""What is written behind the encoder's back: in order, bounded, and nothing after a failure."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from m3qdrant.collection import EMBEDDED, SERVER, Steps
from m3qdrant.errors import EngineError
from m3qdrant.ingest import BYTES_BEHIND, chunks_behind
from m3qdrant.store import async_work, sync_work

MOST = chunks_behind(SERVER)


def steps(number: int) -> Steps[int]:
    yield from ()
    return number


def finished(operation: Steps[int]) -> int:
    """What an operation without calls returns."""
    try:
        next(operation)
    except StopIteration as end:
        return int(end.value)
    raise AssertionError


class Written:
    """Operations that have begun, and a gate that each of them waits at."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.gate = threading.Semaphore(0)
        self.bad: set[int] = set()

    def run(self, operation: Steps[Any]) -> None:
        number = finished(operation)
        self.begun.append(number)
        assert self.gate.acquire(timeout=30)
        if number in self.bad:
            raise EngineError(f"{number} failed")

    async def arun(self, operation: Steps[Any]) -> None:
        await asyncio.to_thread(self.run, operation)


Check = Callable[[Any, Written], Any]


@pytest.fixture(params=["sync", "async"])
def behind(request: pytest.FixtureRequest) -> Callable[[int, Check], None]:
    """Runs a check with a background; the check's own steps are awaited in either world."""

    def run(most: int, check: Check) -> None:
        written = Written()
        if request.param == "sync":
            with sync_work.Background(written.run, True, most, threading.Event()) as background:
                for _ in check(background, written):
                    pass
            return

        async def main() -> None:
            async with async_work.Background(written.arun, most) as background:
                for step in check(background, written):
                    await step

        asyncio.run(main())

    return run


def test_one_is_behind_where_the_engine_is_here() -> None:
    assert chunks_behind(EMBEDDED) == 1
    assert MOST > 1


def test_so_many_wait_and_they_keep_their_order(behind: Any) -> None:
    numbers = list(range(MOST + 3))

    def check(background: Any, written: Written) -> Any:
        for number in numbers[:MOST]:  # none of them waits for the writer, which stands still
            yield background.start(steps(number))
        assert written.begun in ([], [0])
        for _ in numbers:
            written.gate.release()
        for number in numbers[MOST:]:
            yield background.start(steps(number))
        yield background.wait()
        assert written.begun == numbers

    behind(MOST, check)


@pytest.mark.parametrize(
    ("most", "bytes"), [(1, 0), (MOST, BYTES_BEHIND // 2 + 1), (MOST, 3 * BYTES_BEHIND)]
)
def test_what_is_too_much_waits(behind: Any, most: int, bytes: int) -> None:
    def check(background: Any, written: Written) -> Any:
        yield background.start(steps(0), bytes)
        threading.Timer(0.2, written.gate.release).start()
        yield background.start(steps(1), bytes)  # waits for the first one's end
        assert written.begun[0] == 0
        assert len(background._pending) == 1
        written.gate.release()
        yield background.wait()
        assert written.begun == [0, 1]

    behind(most, check)


def test_behind_a_failure_nothing_begins(behind: Any) -> None:
    begun: list[int] = []

    def check(background: Any, written: Written) -> Any:
        nonlocal begun
        begun = written.begun
        written.bad = {1}
        for number in range(MOST):
            yield background.start(steps(number))
        for _ in range(MOST):
            written.gate.release()
        yield background.wait()

    with pytest.raises(EngineError, match="1 failed"):
        behind(MOST, check)
    assert begun == [0, 1]


def test_an_error_of_another_lets_all_end(behind: Any) -> None:
    begun: list[int] = []

    def check(background: Any, written: Written) -> Any:
        nonlocal begun
        begun = written.begun
        for number in range(3):
            yield background.start(steps(number))
            written.gate.release()
        raise ValueError("the encoder's")

    with pytest.raises(ValueError, match="the encoder's"):
        behind(MOST, check)
    assert begun == [0, 1, 2]


def test_after_ctrl_c_what_waits_does_not_begin() -> None:
    written, stop = Written(), threading.Event()

    def interrupted() -> None:
        with sync_work.Background(written.run, True, MOST, stop) as background:
            for number in range(3):
                background.start(steps(number))
            while not written.begun:
                time.sleep(0.01)
            threading.Timer(0.2, written.gate.release).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert written.begun == [0]
    assert not stop.is_set()
