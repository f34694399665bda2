"""What `run` and `arun` make of a server's faults over REST: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3qdrant import transport
from m3qdrant.collection import Steps
from m3qdrant.errors import (
    AccessDeniedError,
    CollectionExistsError,
    CollectionNotFoundError,
    EngineError,
    M3QdrantError,
    RequestRejectedError,
    ServerUnavailableError,
)
from m3qdrant.transport import Retries
from m3qdrant.transport.retries import Tries
from tests.servers.rest import SERVE, Drip, Garbage, Reset, RestServer, Stall, Status
from tests.transport.callers import Callers
from tests.transport.calls import NAME, PATIENT, QUICK, call, count, create, delete, query, upsert

POINTS = "/points$"

PASSING = {
    "reset-before": Reset(),
    "reset-after": Reset(applied=True),
    "garbage": Garbage(),
    "408": Status(408),
    "429": Status(429),
    "500": Status(500),
    "502": Status(502),
    "503": Status(503),
    "504": Status(504),
}
TIMEOUTS = {"timeout-before": Stall(3), "timeout-after": Stall(3, applied=True)}


def by_name(faults: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", faults.values(), ids=faults.keys())


@pytest.fixture
def filled(rest_server: RestServer) -> RestServer:
    """Ten points in it, without a fault."""
    transport.run(rest_server.backing, create(), where="the test")
    transport.run(rest_server.backing, upsert(range(10)), where="the test")
    return rest_server


@by_name(PASSING)
def test_a_passing_fault_is_not_noticed(caller: Callers, filled: RestServer, fault: Any) -> None:
    for method, path in (("PUT", POINTS), ("POST", "/count$"), ("POST", "/batch$")):
        filled.script(method, path, fault)
    filled.script("POST", "/delete$", fault)
    asked = caller(filled.url)
    asked.run(upsert(range(8, 14)), retries=QUICK)
    asked.run(delete([0, 1]), retries=QUICK)
    assert asked.run(count(), retries=QUICK) == 12
    assert asked.run(query(), retries=QUICK) == [(13, 13.0), (12, 12.0), (11, 11.0)]
    for method, path in (("PUT", POINTS), ("POST", "/delete$"), ("POST", "/batch$")):
        assert [r.action for r in filled.seen(method, path)] == [fault, SERVE]


@by_name(TIMEOUTS)
def test_a_time_out_is_not_noticed(caller: Callers, filled: RestServer, fault: Any) -> None:
    filled.script("PUT", POINTS, fault)
    asked = caller(filled.url, timeout_s=1)
    asked.run(upsert(range(8, 14)), retries=QUICK)
    assert asked.run(count(), retries=QUICK) == 14
    assert [r.action for r in filled.seen("PUT", POINTS)] == [fault, SERVE]


@by_name(PASSING)
def test_a_lasting_fault_says_how_often_it_was_tried(
    caller: Callers, filled: RestServer, fault: Any
) -> None:
    filled.script("PUT", POINTS, *[fault] * 9)
    asked = caller(filled.url)
    with pytest.raises(ServerUnavailableError) as caught:
        asked.run(upsert([11]), where=f"collection 'x' at {filled.url}", retries=QUICK)
    message = str(caught.value)
    assert message.startswith(f"upsert of collection 'x' at {filled.url} failed (tried 4 times in")
    assert caught.value.__cause__ is not None
    assert len(filled.seen("PUT", POINTS)) == QUICK.attempts


def test_a_lasting_time_out_ends_within_the_budget(caller: Callers, filled: RestServer) -> None:
    filled.script("PUT", POINTS, *[Stall(3)] * 9)
    asked = caller(filled.url, timeout_s=1)
    with pytest.raises(ServerUnavailableError, match="no answer in time"):
        asked.run(upsert([11]), retries=Retries(budget_s=1.5, first_wait_s=0.01))
    assert len(filled.seen("PUT", POINTS)) == 2


REFUSALS: dict[str, tuple[Status, type[M3QdrantError], str]] = {
    "400": (Status(400, "Wrong input: vector"), RequestRejectedError, "Wrong input: vector"),
    "401": (Status(401), AccessDeniedError, "QDRANT_API_KEY"),
    "403": (Status(403, "Forbidden: read-only"), AccessDeniedError, "read-only.*QDRANT_API_KEY"),
    "404": (
        Status(404, "Not found: Collection `x` doesn't exist!"),
        CollectionNotFoundError,
        "`x` doesn't exist",
    ),
    "404-proxy": (Status(404, "nginx"), EngineError, "check that the URL"),
    "405": (Status(405), RequestRejectedError, "405"),
    "409": (Status(409), CollectionExistsError, "exists already"),
    "413": (Status(413), RequestRejectedError, "too large.*32 MB"),
    "422": (Status(422, "must be < 1048576"), RequestRejectedError, "must be < 1048576"),
    "307": (Status(307, "", {"Location": "http://h/"}), EngineError, "sends us to http://h/"),
    "507": (Status(507), EngineError, "full"),
}


@pytest.mark.parametrize(("fault", "kind", "match"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_is_not_repeated(
    caller: Callers, filled: RestServer, fault: Status, kind: type[M3QdrantError], match: str
) -> None:
    filled.script("PUT", POINTS, fault)
    asked = caller(filled.url)
    with pytest.raises(kind, match=match) as caught:
        asked.run(upsert([11]), retries=QUICK)
    assert type(caught.value).__name__ == kind.__name__
    assert caught.value.__cause__ is not None
    assert "tried" not in str(caught.value)
    assert len(filled.seen("PUT", POINTS)) == 1
    assert asked.run(count()) == 10


def test_a_body_over_the_limit_is_refused_in_qdrants_words(
    caller: Callers, filled: RestServer
) -> None:
    filled.limit_bytes = 20_000
    asked = caller(filled.url)
    with pytest.raises(RequestRejectedError, match=r"too large \(400\).*limit: 20000 bytes"):
        asked.run(upsert(range(20, 30), "x" * 3_000), retries=QUICK)
    asked.run(upsert(range(20, 25), "x" * 3_000), retries=QUICK)
    assert asked.run(count()) == 15
    sizes = [r.bytes for r in filled.seen("PUT", POINTS)]
    assert len(sizes) == 2
    assert sizes[1] < 20_000 < sizes[0]


def test_a_missing_collection(caller: Callers, rest_server: RestServer) -> None:
    with pytest.raises(CollectionNotFoundError, match="upsert of collection 'x' failed"):
        caller(rest_server.url).run(upsert([1]), retries=QUICK)


def test_a_slow_body_is_waited_for(caller: Callers, filled: RestServer) -> None:
    filled.script("POST", "/batch$", Drip(pieces=8, pause_s=0.2))  # each pause < the time-out
    assert caller(filled.url, timeout_s=1).run(query(), retries=QUICK)[0] == (9, 9.0)
    assert len(filled.seen("POST", "/batch$")) == 1


# -- a call that can't be repeated


@by_name({"reset-after": Reset(applied=True), "500": Status(500), "garbage": Garbage()})
def test_a_creation_that_may_have_happened_is_not_repeated(
    caller: Callers, rest_server: RestServer, fault: Any
) -> None:
    rest_server.script("PUT", "/collections/x$", fault)
    with pytest.raises(ServerUnavailableError):
        caller(rest_server.url).run(create(), retries=QUICK)
    assert len(rest_server.seen("PUT", "/collections/x$")) == 1


@by_name({"429": Status(429), "503": Status(503)})
def test_a_creation_that_did_not_happen_is_repeated(
    caller: Callers, rest_server: RestServer, fault: Any
) -> None:
    rest_server.script("PUT", "/collections/x$", fault, fault)
    assert caller(rest_server.url).run(create(), retries=QUICK) is True
    assert len(rest_server.seen("PUT", "/collections/x$")) == 3


def test_a_creation_while_the_server_restarts(caller: Callers, rest_server: RestServer) -> None:
    asked = caller(rest_server.url)
    rest_server.stop()
    timer = threading.Timer(0.3, rest_server.start)
    timer.start()
    assert asked.run(create(), retries=PATIENT) is True
    timer.join()


def make_or_take() -> Steps[str]:
    try:
        yield from create()
    except CollectionExistsError:
        yield from upsert([1])
        return "taken"
    return "made"


def test_an_operation_handles_its_error_and_goes_on(
    caller: Callers, rest_server: RestServer
) -> None:
    asked = caller(rest_server.url)
    assert asked.run(make_or_take()) == "made"
    assert asked.run(make_or_take()) == "taken"
    assert asked.run(count()) == 1


# -- waits


@pytest.mark.thinned(3)
@by_name(
    {
        "429": Status(429, headers={"Retry-After": "1"}),
        "503": Status(503, headers={"Retry-After": "1"}),
        "503-date": None,  # made when it runs
    }
)
def test_retry_after_is_waited(caller: Callers, filled: RestServer, fault: Any) -> None:
    if fault is None:
        date = datetime.now(timezone.utc) + timedelta(seconds=2.5)  # whole seconds are kept
        fault = Status(503, headers={"Retry-After": format_datetime(date, usegmt=True)})
    filled.script("PUT", POINTS, fault)
    caller(filled.url).run(upsert([11]), retries=QUICK)
    first, second = filled.seen("PUT", POINTS)
    assert 0.9 < second.seconds - first.seconds < 15


def test_a_429_with_a_date_is_tried_again(caller: Callers, filled: RestServer) -> None:
    # qdrant-client can't read it, and raises the base class of its exceptions
    filled.script("PUT", POINTS, Status(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00"}))
    caller(filled.url).run(upsert([11]), retries=QUICK)
    assert len(filled.seen("PUT", POINTS)) == 2


def test_a_retry_after_beyond_the_budget_fails_at_once(
    caller: Callers, filled: RestServer
) -> None:
    filled.script("PUT", POINTS, Status(429, "rate limit", {"Retry-After": "3600"}))
    began = time.monotonic()
    with pytest.raises(ServerUnavailableError, match=r"no more requests.*rate limit"):
        caller(filled.url).run(upsert([11]), retries=QUICK)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("attempt", [1, 2, 3, 7, 40])
def test_waits_double_up_to_a_bound(attempt: int) -> None:
    retries = Retries(first_wait_s=0.5, longest_wait_s=20)
    tries = Tries("x", passing=True, idempotent=True, retries=retries)
    tries.last = ValueError("something")
    state: Any = type("State", (), {"attempt_number": attempt})
    waits = [tries._wait(state) for _ in range(200)]
    bound = min(0.5 * 2 ** (attempt - 1), 20)
    assert all(0 <= wait <= bound for wait in waits)
    assert max(waits) > 0.8 * bound
    assert min(waits) < 0.2 * bound


def test_tries_are_logged(
    caller: Callers, filled: RestServer, caplog: pytest.LogCaptureFixture
) -> None:
    filled.script("PUT", POINTS, Status(503))
    asked = caller(filled.url)
    with caplog.at_level(logging.INFO, "m3qdrant.transport"):
        asked.run(upsert([11]), retries=QUICK)
    assert [r.getMessage()[:50] for r in caplog.records if "again" in r.getMessage()] == [
        "upsert of collection 'x' failed, trying again in 0"
    ]


# -- ends


class Watched:
    """An operation that notes how it ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def steps(self) -> Steps[Any]:
        try:
            return (yield from upsert([11]))
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        finally:
            self.ended.append("finally")


def waiting(server: RestServer) -> None:
    """Make the next upsert wait for half a minute."""
    server.script("PUT", POINTS, Status(429, headers={"Retry-After": "30"}))


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("fault", [None, Stall(25)], ids=["in-the-wait", "in-the-request"])
def test_ctrl_c_ends_at_once(filled: RestServer, fault: Any) -> None:
    if fault is None:
        waiting(filled)
    else:
        filled.script("PUT", POINTS, fault)
    client, _ = transport.connect(filled.url)
    operation = Watched()
    main = threading.get_ident()

    def interrupt() -> None:
        wait_for(lambda: filled.seen("PUT", POINTS))
        time.sleep(0.2)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        transport.run(client, operation.steps(), where="the test")
    thread.join()
    client.close()
    assert time.monotonic() - began < 15
    assert operation.ended == ["GeneratorExit", "finally"]
    assert len(filled.seen("PUT", POINTS)) == 1


def test_stop_ends_the_wait_of_another_thread(filled: RestServer) -> None:
    waiting(filled)
    client, _ = transport.connect(filled.url)
    stop = threading.Event()

    def end() -> None:
        wait_for(lambda: filled.seen("PUT", POINTS))
        stop.set()

    thread = threading.Thread(target=end)
    thread.start()
    began = time.monotonic()
    with pytest.raises(ServerUnavailableError, match="no more requests"):
        transport.run(client, upsert([11]), where="the test", stop=stop)
    thread.join()
    client.close()
    assert time.monotonic() - began < 15
    assert len(filled.seen("PUT", POINTS)) == 1


@pytest.mark.parametrize("fault", [None, Stall(25)], ids=["in-the-wait", "in-the-request"])
def test_a_cancelled_task_ends_at_once(filled: RestServer, fault: Any) -> None:
    if fault is None:
        waiting(filled)
    else:
        filled.script("PUT", POINTS, fault)
    operation = Watched()

    async def main() -> None:
        client, _ = await transport.aconnect(filled.url)
        steps = operation.steps()
        task = asyncio.create_task(transport.arun(client, steps, where="the test"))
        while not filled.seen("PUT", POINTS):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 15
    assert operation.ended == ["GeneratorExit", "finally"]
    assert len(filled.seen("PUT", POINTS)) == 1


def test_the_loop_runs_on_while_it_waits(filled: RestServer) -> None:
    filled.script("PUT", POINTS, Status(429, headers={"Retry-After": "1"}))

    async def main() -> int:
        client, _ = await transport.aconnect(filled.url)
        task = asyncio.create_task(transport.arun(client, upsert([11]), where="the test"))
        beats = 0
        while not task.done():
            await asyncio.sleep(0.01)
            beats += 1
        await task
        await client.close()
        return beats

    assert asyncio.run(main()) > 20


def test_an_operations_own_error_passes(caller: Callers, filled: RestServer) -> None:
    def steps() -> Steps[None]:
        yield from count()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        caller(filled.url).run(steps())


def test_a_wrong_call_is_an_error_of_ours(caller: Callers, filled: RestServer) -> None:
    with pytest.raises(EngineError, match=r"retrieve of collection 'x' failed: .*'ids'"):
        caller(filled.url).run(call("retrieve"))


# -- all of it together


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.lists(st.sampled_from([SERVE, *PASSING.values()]), max_size=3), max_size=8),
    data=st.data(),
)
def test_whatever_happens_each_point_is_stored_once(
    filled: RestServer, caller: Callers, faults: list[list[Any]], data: st.DataObject
) -> None:
    filled.forget()  # of an example that failed
    transport.run(filled.backing, delete(range(41)), where="the test")
    asked = caller.made[0] if caller.made else caller(filled.url)
    expected: set[int] = set()
    for actions in faults:
        filled.script("PUT", POINTS, *actions)
        ids = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True))
        # at most three faults in a row, and a connection that one of them closed may cost a try
        asked.run(upsert(ids), retries=replace(QUICK, attempts=6))
        expected |= set(ids)
        filled.forget()
    found, _ = filled.backing.scroll(NAME, limit=100)
    assert [point.id for point in found] == sorted(expected)
    assert all(point.payload == {"n": point.id, "text": ""} for point in found)
