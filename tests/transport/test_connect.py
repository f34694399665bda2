"""`connect` and `aconnect`: what a location may be, and what stands in the way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from m3qdrant import transport
from m3qdrant.collection import Steps, calls
from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.errors import (
    AccessDeniedError,
    CollectionExistsError,
    CollectionNotFoundError,
    EngineError,
    InputError,
    PointError,
    ServerUnavailableError,
)
from m3qdrant.transport import connecting
from tests.servers.rest import Garbage, Reset, RestServer, Status
from tests.transport.callers import Callers
from tests.transport.calls import QUICK, call, count, create, upsert

SECRET = "secret-4f1c"


def names() -> Steps[list[str]]:
    answer = yield from calls.get_collections()
    return [collection.name for collection in answer.collections]


# -- locations


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("location", "engine", "kinds"),
    [
        (":memory:", "memory", (QdrantClient, AsyncQdrantClient)),
        ("directory", "embedded", (QdrantEdge, AsyncQdrantEdge)),
        (Path("directory"), "embedded", (QdrantEdge, AsyncQdrantEdge)),
        ("URL", "server", (QdrantClient, AsyncQdrantClient)),
        ("URL/", "server", (QdrantClient, AsyncQdrantClient)),
    ],
    ids=["memory", "directory", "path", "url", "url-slash"],
)
def test_a_location_gives_its_client(
    caller: Callers,
    rest_server: RestServer,
    location: Any,
    engine: str,
    kinds: tuple[type, type],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if isinstance(location, str):
        location = location.replace("URL", rest_server.url)
    asked = caller(location)
    assert transport.capabilities_of(asked.client).engine == engine
    assert isinstance(asked.client, kinds[caller.kind == "async"])
    assert asked.owned
    assert asked.run(names()) == []
    asked.run(create())
    asked.run(upsert([1, 2]))
    assert asked.run(count()) == 2


def test_a_client_is_taken_as_it_is(caller: Callers, rest_server: RestServer) -> None:
    client: type[QdrantClient] | type[AsyncQdrantClient] = (
        QdrantClient if caller.kind == "sync" else AsyncQdrantClient
    )
    clients: list[tuple[QdrantClient | AsyncQdrantClient, str]] = [
        (client(":memory:"), "memory"),
        (client(url=rest_server.url, check_compatibility=False), "server"),
    ]
    for given, engine in clients:
        asked = caller(given)
        assert asked.client is given
        assert not asked.owned
        assert transport.capabilities_of(given).engine == engine
        assert asked.run(names()) == []


def test_the_other_worlds_client_is_refused(tmp_path: Path) -> None:
    sync, other = QdrantClient(":memory:"), AsyncQdrantClient(":memory:")
    with pytest.raises(InputError, match="AsyncQdrantClient is a client for AsyncM3Store"):
        transport.connect(other)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="QdrantClient is a client for M3Store"):
        asyncio.run(transport.aconnect(sync))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="QdrantEdge is a client for M3Store"):
        asyncio.run(transport.aconnect(QdrantEdge(tmp_path)))  # type: ignore[arg-type]
    sync.close()
    asyncio.run(other.close())


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("http://", "names no host"),
        ("http://:6333", "names no host"),
        ("http://a b:6333", "has a space in it"),
        ("http://h/a b", "has a space in it"),
        ("http://h:port", "is no URL"),
        ("http://h:65536", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://h/collections/x", "goes on after the host"),
        ("http://h?api_key=1", "goes on after the host"),
        ("http://h#x", "goes on after the host"),
        ("http://h/dashboard", "goes on after the host"),
        ("https://h/qdrant/collections/", "goes on after the host"),
        ("HTTPS://h/x?y", "goes on after the host"),
        ("ftp://h", "begins with http"),
        ("grpc://h:6334", "begins with http"),
        ("localhost:6333", "begins with http://$"),
        ("localhost:6333/qdrant", "begins with http://$"),
        ("[::1]:6333", "begins with http://$"),
        ("localhost", "begins with http://, a directory of that name is ./localhost"),
        ("127.0.0.1", "a directory of that name is ./127.0.0.1"),
        ("", "begins with http"),
        (b"directory", "bytes"),
        (None, "not NoneType"),
        (6333, "not int"),
    ],
)
def test_what_is_no_location(caller: Callers, location: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        caller(location)


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@h",
        f"https://{SECRET}@h:1",
        f"ftp://{SECRET}@h",
        f"http://h?api_key={SECRET}",
        f"http://h/#{SECRET}",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(caller: Callers, url: str) -> None:
    with pytest.raises(InputError) as caught:
        caller(url)
    assert SECRET not in str(caught.value)
    assert SECRET not in transport.describe(url)


def test_describe() -> None:
    assert transport.describe("http://h:1") == "http://h:1"
    assert transport.describe(Path("a/b@c")) == "a/b@c"
    assert transport.describe(":memory:") == ":memory:"
    client = QdrantClient(":memory:")
    assert transport.describe(client) == "QdrantClient"
    client.close()


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
def test_a_time_out_is_checked(caller: Callers, rest_server: RestServer, timeout_s: float) -> None:
    with pytest.raises(InputError, match="timeout_s is"):
        caller(rest_server.url, timeout_s=timeout_s)
    assert rest_server.requests == []


# -- servers


def test_a_server_that_is_not_there(caller: Callers, rest_server: RestServer) -> None:
    rest_server.stop()
    began = time.monotonic()
    with pytest.raises(ServerUnavailableError, match=r"nothing answers.*check that") as caught:
        caller(rest_server.url)
    assert rest_server.url in str(caught.value)
    assert time.monotonic() - began < 20


def test_a_server_that_is_just_starting(caller: Callers, rest_server: RestServer) -> None:
    rest_server.stop()
    timer = threading.Timer(0.2, rest_server.start)
    rest_server.script("GET", "^/$", Status(503), Reset())
    timer.start()
    for _ in range(5):  # the waits are drawn: all of them may be over before it is there
        try:
            asked = caller(rest_server.url)
            break
        except ServerUnavailableError:
            continue
    timer.join()
    assert asked.run(names()) == []


def test_a_host_without_a_name(caller: Callers) -> None:
    with pytest.raises(ServerUnavailableError, match=r"http://qdrant\.invalid:6333"):
        caller("http://qdrant.invalid:6333")


def test_https_where_http_is_spoken(caller: Callers, rest_server: RestServer) -> None:
    began = time.monotonic()
    with pytest.raises(ServerUnavailableError, match="no encrypted connection"):
        caller(rest_server.url.replace("http", "https"))
    assert time.monotonic() - began < 20


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("answer", "kind", "match"),
    [
        (Garbage(), ServerUnavailableError, "no JSON"),
        (Garbage(b'{"hello": 1}'), EngineError, "no Qdrant server"),
        (Status(404, "nginx"), EngineError, "check that the URL"),
        (Status(401), AccessDeniedError, "QDRANT_API_KEY"),
        (Status(403), AccessDeniedError, "QDRANT_API_KEY"),
        (Status(503), ServerUnavailableError, "in trouble"),
    ],
    ids=["html", "json", "404", "401", "403", "503"],
)
def test_what_answers_but_not_as_qdrant(
    caller: Callers, rest_server: RestServer, answer: Any, kind: type[Exception], match: str
) -> None:
    rest_server.script("GET", "^/$", *[answer] * 9)
    with pytest.raises(kind, match=match) as caught:
        caller(rest_server.url)
    assert type(caught.value).__name__ == kind.__name__
    assert rest_server.url in str(caught.value)


def test_connecting_asks_once_and_warns_of_nothing(
    caller: Callers, rest_server: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    rest_server.version = "1.10.0"  # far from the client's
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caller(rest_server.url)
    time.sleep(0.1)  # the client's own check would come from a thread
    assert [r.path for r in rest_server.requests] == ["/"]


# -- the key


def test_the_key_opens_a_server(
    caller: Callers, rest_server: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest_server.api_key = SECRET
    with pytest.raises(AccessDeniedError, match="QDRANT_API_KEY"):
        caller(rest_server.url).run(names())
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    assert caller(rest_server.url).run(names()) == []


def test_the_key_is_not_shown(
    caller: Callers,
    rest_server: RestServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    rest_server.script("GET", "collections$", Status(503), Status(401))
    with caplog.at_level(logging.DEBUG):
        asked = caller(rest_server.url)
        with pytest.raises(AccessDeniedError) as caught:
            asked.run(names(), retries=QUICK)
    assert {r.key for r in rest_server.requests} == {SECRET}
    shown = [str(caught.value), repr(caught.value), repr(caught.value.__cause__), caplog.text]
    assert not [text for text in shown if SECRET in text]
    assert SECRET not in repr(asked.client)


def test_a_key_over_plain_http_is_warned_of_but_for_this_machine(
    caller: Callers, rest_server: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    elsewhere = f"http://0.0.0.0:{rest_server.port}"  # the same server, by another name
    with pytest.warns(UserWarning, match=r"QDRANT_API_KEY goes to 0\.0\.0\.0 unencrypted") as seen:
        caller(elsewhere)
    assert not [w for w in seen if SECRET in str(w.message)]
    assert len(seen) == 1
    assert seen[0].filename == __file__.replace(Path(__file__).name, "callers.py")


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"  {SECRET} "], ids=["newline", "spaces"])
def test_a_key_from_a_file_is_trimmed(
    caller: Callers, rest_server: RestServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", key)
    caller(rest_server.url)
    assert {r.key for r in rest_server.requests} == {SECRET}


@pytest.mark.parametrize("key", [f"{SECRET}\nx", f"{SECRET}\x7f", f"{SECRET}é"], ids=ascii)
def test_a_key_that_no_header_takes_is_not_shown(
    caller: Callers, rest_server: RestServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", key)
    with pytest.raises(InputError, match="QDRANT_API_KEY") as caught:
        caller(rest_server.url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("qdrant", False),
        ("localhost.example.com", False),
    ],
)
def test_what_is_this_machine(host: str, loopback: bool) -> None:
    assert connecting._is_loopback(host) is loopback


# -- engines without a network


@pytest.mark.parametrize("location", [":memory:", "directory"])
def test_local_errors_are_ours_and_not_repeated(
    caller: Callers, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = caller(location)
    with pytest.raises(CollectionNotFoundError):
        asked.run(count())
    asked.run(create())
    with pytest.raises(CollectionExistsError):
        asked.run(create())
    refusals = {":memory:": EngineError, "directory": PointError}
    with pytest.raises(refusals[location], match="w") as caught:
        asked.run(call("upsert", points=[models.PointStruct(id=1, vector={"w": [1.0]})]))
    assert type(caught.value).__name__ == refusals[location].__name__
    assert "tried" not in str(caught.value)
