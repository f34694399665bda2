"""`Together`: several calls under way at once, what becomes of each, and what ends them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from m3qdrant import transport
from m3qdrant.collection import Call, Steps, calls
from m3qdrant.errors import EngineError, M3QdrantError, RequestRejectedError
from tests.servers.rest import RestServer, Status
from tests.transport.callers import Callers
from tests.transport.calls import NAME, QUICK, count, create, points

Outcomes = list[Any]


def numbered(n: int) -> Steps[Outcomes]:
    """Calls that are told apart by their only argument."""
    made: list[Call[Any]] = [Call("m", {"number": i}) for i in range(n)]
    return (yield from calls.together(made))


@pytest.fixture(params=["sync", "async"])
def drive(request: pytest.FixtureRequest) -> Callable[..., Outcomes]:
    """Carries `numbered` out, with a function that answers a number after a while."""

    def run(n: int, answer: Callable[[int], Any], seconds: float, at_once: bool) -> Outcomes:
        if request.param == "sync":

            def ask(call: Call[Any]) -> Any:
                with inside:
                    time.sleep(seconds)
                    return answer(call.arguments["number"])

            return transport.drive(numbered(n), ask, lambda asked: at_once)

        async def aask(call: Call[Any]) -> Any:
            with inside:
                await asyncio.sleep(seconds)
                return answer(call.arguments["number"])

        return asyncio.run(transport.adrive(numbered(n), aask, lambda asked: at_once))

    inside = Inside()
    run.inside = inside  # type: ignore[attr-defined]
    return run


class Inside:
    """How many are in the block, and the most that ever were."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1


@pytest.mark.parametrize(("at_once", "most"), [(True, 4), (False, 1)])
def test_answers_come_in_the_order_of_the_questions(drive: Any, at_once: bool, most: int) -> None:
    assert drive(11, lambda number: number * number, 0.05, at_once) == [i * i for i in range(11)]
    assert drive.inside.most == most
    assert drive.inside.now == 0


@pytest.mark.parametrize("at_once", [True, False])
def test_a_refusal_is_its_own_questions(drive: Any, at_once: bool) -> None:
    refused = {2, 5, 6}

    def answer(number: int) -> int:
        if number in refused:
            raise RequestRejectedError(f"not {number}")
        return number

    outcomes = drive(9, answer, 0.001, at_once)
    for i, outcome in enumerate(outcomes):
        assert str(outcome) == (f"not {i}" if i in refused else str(i))


@pytest.mark.parametrize("at_once", [True, False])
def test_after_another_error_nothing_begins(drive: Any, at_once: bool) -> None:
    begun = []

    def answer(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise EngineError("gone")
        return number

    outcomes = drive(30, answer, 0.02, at_once)
    assert outcomes[:3] == [0, 1, 2]
    assert len(begun) < 12
    for i, outcome in enumerate(outcomes):
        if i == 3 or i not in begun:
            assert isinstance(outcome, EngineError)
            assert str(outcome) == "gone"


def test_none_and_one(drive: Any) -> None:
    assert drive(0, str, 0.0, True) == []
    assert drive(1, str, 0.0, True) == ["0"]


def test_a_task_that_is_cancelled_cancels_what_is_under_way() -> None:
    ended = []

    async def aask(call: Call[Any]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(call.arguments["number"])
            raise

    async def main() -> None:
        task = asyncio.create_task(transport.adrive(numbered(9), aask, lambda asked: True))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert sorted(ended) == [0, 1, 2, 3]


def test_a_server_is_asked_several_things_at_once(
    caller: Callers, rest_server: RestServer
) -> None:
    asked = caller(rest_server.url)
    asked.run(create())
    rest_server.script("PUT", "/points$", Status(503), Status(400), Status(503))

    def steps() -> Steps[Outcomes]:
        return (
            yield from calls.together(
                calls.upsert(NAME, points([2 * i, 2 * i + 1])) for i in range(8)
            )
        )

    outcomes = asked.run(steps(), retries=QUICK)
    refused = [isinstance(outcome, RequestRejectedError) for outcome in outcomes]
    assert sum(refused) == 1, "the others' failures passed"
    assert not any(
        isinstance(o, M3QdrantError) for o, no in zip(outcomes, refused, strict=True) if not no
    )
    assert asked.run(count()) == 14
    (place,) = (i for i, no in enumerate(refused) if no)
    there = {p.id for p in rest_server.backing.retrieve(NAME, list(range(16)))}
    assert there == set(range(16)) - {2 * place, 2 * place + 1}


def test_once_stopped_no_call_begins(rest_server: RestServer) -> None:
    client, _ = transport.connect(rest_server.url)
    stop = threading.Event()
    stop.set()
    before = len(rest_server.requests)
    with pytest.raises(EngineError, match="not begun: interrupted"):
        transport.run(client, count(), where="x", stop=stop)
    client.close()
    assert len(rest_server.requests) == before
