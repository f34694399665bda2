"""`run` and `arun` over gRPC, and how `connect` finds gRPC or does without."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from m3qdrant import transport
from m3qdrant.errors import (
    AccessDeniedError,
    CollectionExistsError,
    CollectionNotFoundError,
    EngineError,
    InputError,
    M3QdrantError,
    RequestRejectedError,
    ServerUnavailableError,
    UnsupportedError,
)
from m3qdrant.transport import connecting
from tests.servers.rest import RestServer
from tests.servers.rpc import Abort, GrpcServer
from tests.transport.callers import Callers
from tests.transport.calls import PATIENT, QUICK, call, count, create, delete, query, upsert

Code = grpc.StatusCode

PASSING = [
    Code.ABORTED,
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.INTERNAL,
    Code.RESOURCE_EXHAUSTED,
    Code.UNAVAILABLE,
]


def by_code(codes: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("code", codes, ids=[code.name.lower() for code in codes])


@pytest.fixture
def filled(rest_server: RestServer, grpc_server: GrpcServer) -> GrpcServer:
    """Ten points in it, without a fault."""
    transport.run(rest_server.backing, create(), where="the test")
    transport.run(rest_server.backing, upsert(range(10)), where="the test")
    return grpc_server


def test_grpc_is_preferred(caller: Callers, filled: GrpcServer, rest_server: RestServer) -> None:
    asked = caller(rest_server.url)
    asked.run(upsert([11, 12]))
    asked.run(delete([0]))
    assert asked.run(count()) == 11
    assert asked.run(query(1)) == [(12, 12.0)]
    assert filled.seen == {"HealthCheck": 1, "Upsert": 1, "Delete": 1, "Count": 1, "QueryBatch": 1}
    assert [r.path for r in rest_server.requests] == ["/"]
    options = asked.client.init_options["grpc_options"]
    assert options["grpc.compression_enabled_algorithms_bitset"] == 1, "gzip is not offered"


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@by_code(PASSING)
def test_a_passing_fault_is_not_noticed(
    caller: Callers, filled: GrpcServer, rest_server: RestServer, code: Any, applied: bool
) -> None:
    for method in ("Upsert", "Delete", "QueryBatch"):
        filled.script(method, Abort(code, applied=applied))
    asked = caller(rest_server.url)
    asked.run(upsert(range(8, 14)), retries=QUICK)
    asked.run(delete([0, 1]), retries=QUICK)
    assert asked.run(query(), retries=QUICK) == [(13, 13.0), (12, 12.0), (11, 11.0)]
    assert asked.run(count(), retries=QUICK) == 12
    assert filled.seen["Upsert"] == filled.seen["Delete"] == filled.seen["QueryBatch"] == 2


@by_code(PASSING)
def test_a_lasting_fault_says_how_often_it_was_tried(
    caller: Callers, filled: GrpcServer, rest_server: RestServer, code: Any
) -> None:
    filled.script("Upsert", *[Abort(code, "no luck")] * 9)
    with pytest.raises(ServerUnavailableError, match=f"tried 4 times .*{code.name}.: no luck"):
        caller(rest_server.url).run(upsert([11]), retries=QUICK)
    assert filled.seen["Upsert"] == QUICK.attempts


def test_a_deadline_is_ours(caller: Callers, filled: GrpcServer, rest_server: RestServer) -> None:
    filled.script("Upsert", Abort(Code.OK, applied=True, seconds=3))
    asked = caller(rest_server.url, timeout_s=1)
    asked.run(upsert([11]), retries=QUICK)
    assert asked.run(count()) == 11
    assert filled.seen["Upsert"] == 2


def test_retry_after_is_waited(
    caller: Callers, filled: GrpcServer, rest_server: RestServer
) -> None:
    filled.script("Upsert", Abort(Code.RESOURCE_EXHAUSTED, "rate limit", retry_after="1"))
    asked = caller(rest_server.url)
    began = time.monotonic()
    asked.run(upsert([11]), retries=QUICK)
    assert 0.95 < time.monotonic() - began < 15
    assert filled.seen["Upsert"] == 2


REFUSALS: dict[Any, tuple[type[M3QdrantError], str]] = {
    Code.INVALID_ARGUMENT: (RequestRejectedError, "INVALID_ARGUMENT"),
    Code.OUT_OF_RANGE: (RequestRejectedError, "too large"),
    Code.FAILED_PRECONDITION: (RequestRejectedError, "FAILED_PRECONDITION"),
    Code.NOT_FOUND: (CollectionNotFoundError, "does not exist"),
    Code.ALREADY_EXISTS: (CollectionExistsError, "exists already"),
    Code.UNAUTHENTICATED: (AccessDeniedError, "QDRANT_API_KEY"),
    Code.PERMISSION_DENIED: (AccessDeniedError, "QDRANT_API_KEY"),
    Code.UNIMPLEMENTED: (UnsupportedError, "too old"),
    Code.DATA_LOSS: (EngineError, "DATA_LOSS"),
}


@by_code(list(REFUSALS))
def test_a_refusal_is_not_repeated(
    caller: Callers, filled: GrpcServer, rest_server: RestServer, code: Any
) -> None:
    kind, match = REFUSALS[code]
    filled.script("Upsert", Abort(code, "no good"))
    with pytest.raises(kind, match=f"{match}.*") as caught:
        caller(rest_server.url).run(upsert([11]), retries=QUICK)
    assert type(caught.value).__name__ == kind.__name__
    assert "no good" in str(caught.value)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert filled.seen["Upsert"] == 1


def test_what_a_server_says_itself(
    caller: Callers, grpc_server: GrpcServer, rest_server: RestServer
) -> None:
    asked = caller(rest_server.url)
    with pytest.raises(UnsupportedError, match="scroll"):  # not in the stand-in
        asked.run(call("scroll"))
    asked.run(create())
    # in-memory mode behind it says it in words of its own, which the stand-in passes on as wrong
    with pytest.raises(RequestRejectedError, match="already exists"):
        asked.run(create())


@by_code([Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL])
def test_a_creation_that_may_have_happened_is_not_repeated(
    caller: Callers, grpc_server: GrpcServer, rest_server: RestServer, code: Any
) -> None:
    grpc_server.script("Create", Abort(code, applied=True))
    with pytest.raises(ServerUnavailableError):
        caller(rest_server.url).run(create(), retries=QUICK)
    assert grpc_server.seen["Create"] == 1


def test_a_creation_that_did_not_happen_is_repeated(
    caller: Callers, grpc_server: GrpcServer, rest_server: RestServer
) -> None:
    grpc_server.script("Create", Abort(Code.RESOURCE_EXHAUSTED, retry_after="1"))
    assert caller(rest_server.url).run(create(), retries=QUICK) is True
    assert grpc_server.seen["Create"] == 2


def test_a_creation_while_nothing_listens(
    caller: Callers, rest_server: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GrpcServer(rest_server.backing) as first:
        monkeypatch.setenv("QDRANT_GRPC_PORT", str(first.port))
        asked = caller(rest_server.url)
        asked.run(create(), retries=QUICK)
    rest_server.backing.delete_collection("x")
    with pytest.raises(ServerUnavailableError):  # from here on the client knows that it is alone
        asked.run(count(), retries=QUICK)
    with pytest.raises(ServerUnavailableError, match="tried 4 times"):
        asked.run(create(), retries=QUICK)
    with GrpcServer(rest_server.backing, port=first.port) as second:
        assert asked.run(create(), retries=PATIENT) is True
        assert second.seen["Create"] == 1


# -- the probe


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port where something listens that never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def uses_rest(callers: Callers, server: RestServer) -> bool:
    asked = callers(server.url)
    before = len(server.requests)
    asked.run(create())
    return len(server.requests) == before + 1


@pytest.mark.parametrize("port", ["mute_port", "free_port"])
def test_without_grpc_it_is_rest(
    caller: Callers,
    rest_server: RestServer,
    port: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(request.getfixturevalue(port)))
    began = time.monotonic()
    with caplog.at_level(logging.INFO, "m3qdrant.transport"):
        assert uses_rest(caller, rest_server)
    assert time.monotonic() - began < 15
    assert "using REST" in caplog.text


def test_another_server_at_the_port_is_left_alone(
    caller: Callers, rest_server: RestServer, grpc_server: GrpcServer
) -> None:
    grpc_server.version = "1.18.2"
    assert uses_rest(caller, rest_server)
    assert grpc_server.seen == {"HealthCheck": 1}


def test_a_probe_that_fails_is_no_error(
    caller: Callers, rest_server: RestServer, grpc_server: GrpcServer
) -> None:
    grpc_server.script("HealthCheck", Abort(Code.RESOURCE_EXHAUSTED, retry_after="5"))
    assert uses_rest(caller, rest_server)


def test_beside_another_port_grpc_is_not_guessed(caller: Callers, rest_server: RestServer) -> None:
    assert connecting._grpc_port(6333) == 6334
    assert connecting._grpc_port(rest_server.port) is None
    assert uses_rest(caller, rest_server)


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "6334.0"])
def test_a_wrong_port_in_the_environment(
    caller: Callers, rest_server: RestServer, port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_GRPC_PORT", port)
    with pytest.raises(InputError, match=f"QDRANT_GRPC_PORT is '{port}'"):
        caller(rest_server.url)
    assert rest_server.requests == []


def test_the_key_goes_over_grpc_too(
    caller: Callers,
    rest_server: RestServer,
    grpc_server: GrpcServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "secret-7")
    caller(rest_server.url).run(create())
    assert grpc_server.keys == {"secret-7"}
