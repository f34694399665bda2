"""failures.py: what is left when a whole server isn't needed."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
import pytest
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3qdrant import transport
from m3qdrant.errors import EngineError, InputError, ServerUnavailableError
from m3qdrant.transport import Retries
from m3qdrant.transport.failures import Failure, as_ours
from tests.transport.calls import upsert


@pytest.fixture
def unread() -> Iterator[str]:
    """The URL of a server that hangs up without reading a body, as one with a limit may."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.recv(100)
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(("megabytes", "hint"), [(33, True), (1, False)])
def test_a_large_body_is_suspected_where_a_server_hangs_up(
    unread: str, megabytes: int, hint: bool
) -> None:
    client = QdrantClient(url=unread, check_compatibility=False)
    operation = upsert([1], "x" * (megabytes * 2**20))
    with pytest.raises(ServerUnavailableError, match="the connection broke") as caught:
        transport.run(client, operation, where="the test", retries=Retries(attempts=1))
    assert (f"its body has {megabytes} MB" in str(caught.value)) is hint
    client.close()


def test_ours_stay_as_they_are() -> None:
    error = InputError("mine")
    assert as_ours(error, "count of x") is error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("client has been closed"), ValueError("any"), KeyError("k"), Exception()],
    ids=repr,
)
def test_what_nobody_knows_is_an_engine_error(error: Exception) -> None:
    ours = as_ours(error, "count of x")
    assert type(ours) is EngineError
    assert str(ours) == f"count of x failed: {str(error) or 'Exception'}"
    assert Failure.of(ResponseHandlingException(error)).again == "never"


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout(""),
        httpx.WriteTimeout("w"),
        httpx.ReadError("r"),
        httpx.WriteError("w"),
        httpx.RemoteProtocolError("p"),
        httpx.DecodingError("d"),
        ConnectionResetError("c"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_answer_that_may_be_lost_is_repeatable_only(error: Any) -> None:
    failure = Failure.of(ResponseHandlingException(error))
    assert failure.kind is ServerUnavailableError
    assert failure.again == "repeatable"


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("c"), httpx.ConnectTimeout("c"), httpx.PoolTimeout("p")],
    ids=lambda error: type(error).__name__,
)
def test_what_was_never_sent_may_always_be_sent_again(error: Any) -> None:
    assert Failure.of(ResponseHandlingException(error)).again == "always"


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"budget_s": -1},
        {"first_wait_s": float("nan")},
        {"longest_wait_s": float("inf")},
        {"longest_wait_s": "20"},
    ],
    ids=str,
)
def test_retries_are_checked(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"{name} is "):
        Retries(**options)


@pytest.mark.parametrize(
    ("words", "argument", "schema"),
    [
        ('"file" of one of the following types: [keyword].', "file=keyword", '"file": "keyword"'),
        ('"a b" of one of the following types: [uuid, keyword].', "'a b=keyword'", '"a b": "key'),
        ('"n" of one of the following types: [float, integer].', "n=integer", '"n": "integer"'),
        ('"at" of one of the following types: [datetime].', "at=datetime", '"at": "datetime"'),
        ('"lang".', "lang=keyword (or integer", '"lang": "keyword"'),
    ],
)
@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_a_filter_that_strict_mode_refuses_says_what_to_index(
    words: str, argument: str, schema: str, protocol: str
) -> None:
    said = f"Bad request: Index required but not found for {words} Help: Create an index."
    error: Exception = _Refusal(said)
    if protocol == "REST":
        body = json.dumps({"status": {"error": said}}).encode()
        error = UnexpectedResponse(400, "Bad Request", body, httpx.Headers())
    message = str(as_ours(error, "count of x"))
    assert f"by m3qdrant index {argument}" in message
    assert f'{{"payload_indexes": {{{schema}' in message


class _Refusal(grpc.RpcError):  # type: ignore[misc]
    """What gRPC raises."""

    def __init__(self, words: str) -> None:
        self._words = words

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INVALID_ARGUMENT

    def details(self) -> str:
        return self._words
