"""The client for a location: a directory, in memory, a server, or a client that is there."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client import grpc as protocol
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.connection import get_channel

from m3qdrant.collection import calls
from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge, engine_of
from m3qdrant.errors import InputError
from m3qdrant.transport.nodes import AsyncNodes, Nodes, urls_of
from m3qdrant.transport.retries import Retries
from m3qdrant.transport.running import run
from m3qdrant.transport.wire.client import AsyncWireClient, WireClient

__all__ = ["TIMEOUT_S", "aconnect", "connect", "describe"]

C = TypeVar("C", QdrantBase, AsyncQdrantBase)

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
"""Seconds that one call to a server may take, unless the user says otherwise."""

_REST_PORT = 6333
_GRPC_PORT = 6334

_CONNECT_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 2.0

_GRPC_OPTIONS = {
    # gRPC's own goes to two minutes, and each call fails at once until it is over
    "grpc.max_reconnect_backoff_ms": 5_000,
    # finds a connection that died in silence while a call waits on it, so that the next try gets
    # a new one instead of waiting on it again
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    # none but identity, bit 0: a server gzips what it answers where gzip is offered, and 100
    # documents of token vectors take 8 s in place of 0.5 s
    "grpc.compression_enabled_algorithms_bitset": 1,
}

_CONNECTING = Retries(attempts=4, budget_s=10.0, longest_wait_s=2.0)
_ONCE = Retries(attempts=1)


def describe(location: object) -> str:
    """A location in messages: a path or a URL, or a client's class. Never a secret."""
    if isinstance(location, list | tuple):
        return ",".join(map(describe, location))
    if not isinstance(location, str | os.PathLike):
        return type(location).__name__
    name = str(os.fspath(location))
    if (urls := urls_of(name)) is not None:
        return ",".join(map(describe, urls))
    if not _is_url(name):
        return re.sub("://[^/]*@", "://...@", name)
    return re.sub("://[^/]*@", "://...@", re.sub("[?#].+", "?...", name))


@dataclass(frozen=True)
class _Classes(Generic[C]):
    """The clients of one world, synchronous or not, and what the other one is told by."""

    base: type[C]
    memory: Callable[[], C]
    edge: Callable[[str, bool], C]
    other_base: type
    other_store: str


_SYNC: _Classes[QdrantBase] = _Classes(
    QdrantBase,
    lambda: QdrantClient(":memory:"),
    lambda path, read_only: QdrantEdge(path, read_only=read_only),
    AsyncQdrantBase,
    "AsyncM3Store",
)
_ASYNC: _Classes[AsyncQdrantBase] = _Classes(
    AsyncQdrantBase,
    lambda: AsyncQdrantClient(":memory:"),
    lambda path, read_only: AsyncQdrantEdge(path, read_only=read_only),
    QdrantBase,
    "M3Store",
)


def connect(
    location: str | os.PathLike[str] | Sequence[str] | QdrantBase,
    *,
    timeout_s: float = TIMEOUT_S,
    read_only: bool = False,
    retries: Retries | None = None,
) -> tuple[QdrantBase, bool]:
    """The client for a location.

    A server is asked for its version, over REST and then over gRPC. gRPC is used where it answers
    as the same server: at port 6334 beside REST's own 6333, else at QDRANT_GRPC_PORT where the
    environment has it. The API key is read from QDRANT_API_KEY.

    Args:
        location: a directory, ":memory:", "http(s)://host[:port]", or a client. Several URLs, in
            a list or with commas between, are nodes of one cluster: where the one that is asked
            does not answer, the next one is asked.
        timeout_s: seconds that one call to a server may take.
        read_only: look at a directory, and change nothing under it.
        retries: how long to wait for a server that does not answer; by default 10 seconds.

    Returns:
        The client, and whether it was made here, so that it is the caller's to close.

    Raises:
        InputError: it is no location.
        ServerUnavailableError: nothing answers there.
        AccessDeniedError: the server wants another key.
        StoreDamagedError: the path is a file, or a directory of another program.
    """
    if (urls := urls_of(location)) is not None:

        def one(url: str) -> QdrantBase:
            return connect(url, timeout_s=timeout_s, retries=_ONCE)[0]

        nodes: Any = Nodes(urls, one)
        return nodes, True
    single: Any = location  # several are dealt with
    found = _find(single, timeout_s, read_only, _SYNC)
    if isinstance(found, _Server):
        arguments = _arguments(found, _hurry, retries)
        kind = WireClient if arguments.get("prefer_grpc") else QdrantClient
        return kind(**arguments), True
    return found


async def aconnect(
    location: str | os.PathLike[str] | Sequence[str] | AsyncQdrantBase,
    *,
    timeout_s: float = TIMEOUT_S,
    read_only: bool = False,
    retries: Retries | None = None,
) -> tuple[AsyncQdrantBase, bool]:
    """`connect` for asyncio: the same, with an asynchronous client."""
    if (urls := urls_of(location)) is not None:

        async def one(url: str) -> AsyncQdrantBase:
            return (await aconnect(url, timeout_s=timeout_s, retries=_ONCE))[0]

        nodes: Any = await AsyncNodes(urls, one).open()
        return nodes, True
    single: Any = location
    found = _find(single, timeout_s, read_only, _ASYNC)
    if isinstance(found, _Server):
        # asking a server for its version waits for it
        arguments = await asyncio.to_thread(_arguments, found, _ahurry, retries)
        kind = AsyncWireClient if arguments.get("prefer_grpc") else AsyncQdrantClient
        return kind(**arguments), True
    return found


def _find(
    location: str | os.PathLike[str] | C, timeout_s: float, read_only: bool, classes: _Classes[C]
) -> tuple[C, bool] | _Server:
    """What a location is: a client, and whether it was made here, or a server to be asked."""
    if isinstance(location, classes.base):
        return engine_of(location), False
    name = _name_of(location, classes)
    if name == ":memory:":
        return classes.memory(), True
    if not _is_url(name):
        return classes.edge(name, read_only), True
    return _Server.of(name, timeout_s)


def _name_of(location: Any, classes: _Classes[Any]) -> str:
    if isinstance(location, classes.other_base):
        raise InputError(f"{type(location).__name__} is a client for {classes.other_store}")
    if not isinstance(location, str | os.PathLike):
        raise InputError(
            "a location is a directory, ':memory:', a URL or a client of Qdrant, not "
            f"{type(location).__name__}"
        )
    name = os.fspath(location)
    if not isinstance(name, str):
        raise InputError("a location is a str, not bytes")
    if not name or re.fullmatch(r"[\w.-]+:\d+", name):
        raise InputError(f"location {name!r} is no directory; a server's begins with http://")
    if re.match(r"[a-zA-Z][\w+.-]+://", name) and not _is_url(name):
        raise InputError(
            f"location {describe(name)!r}: a server's begins with http:// or https://"
        )
    return name


def _is_url(name: str) -> bool:
    return re.match("https?://", name, re.IGNORECASE) is not None


def _read_url(url: str) -> tuple[SplitResult, str, int]:
    """A server's URL, its host and its REST port, checked."""
    shown = describe(url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, _REST_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise InputError(f"location {shown!r} is no URL: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"location {shown!r} holds credentials, which end up in logs: leave them out, and set "
            "QDRANT_API_KEY"
        )
    if not host or any(character.isspace() for character in url):
        raise InputError(f"location {shown!r} names no host: give http(s)://host[:port]")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InputError(
            f"location {shown!r} goes on after the host: give http(s)://host[:port]; for a server "
            "behind a path make a QdrantClient(url=..., prefix=...) and pass it"
        )
    return parts, host, port


def _api_key() -> str | None:
    key = os.environ.get("QDRANT_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        # httpx would refuse it too, and show it
        raise InputError("QDRANT_API_KEY holds characters that no key has: set it again")
    return key or None


def _grpc_port(rest_port: int) -> int | None:
    """Where gRPC may answer. Beside another REST port, 6334 may well be another server's."""
    named = os.environ.get("QDRANT_GRPC_PORT")
    if not named:
        return _GRPC_PORT if rest_port == _REST_PORT else None
    if not named.isdecimal() or not 0 < int(named) < 65_536:
        raise InputError(f"QDRANT_GRPC_PORT is {named!r}: give a port, or unset it")
    return int(named)


@dataclass(frozen=True)
class _Server:
    """A server's address, and what goes along with each request.

    Attributes:
        shown: the location in messages.
        scheme: "http" or "https".
        host: as in a URL, so with brackets around an IPv6 address.
        port: of REST.
        headers: the API key, where there is one.
        timeout_s: seconds that one call may take.
    """

    shown: str
    scheme: str
    host: str
    port: int
    headers: dict[str, str]
    timeout_s: float

    @classmethod
    def of(cls, url: str, timeout_s: float) -> _Server:
        """Read a URL and the environment; nobody is asked yet."""
        parts, host, port = _read_url(url)
        if not 0 < timeout_s < math.inf:
            raise InputError(f"timeout_s is {timeout_s!r}: give seconds, more than 0")
        key = _api_key()
        if key and parts.scheme == "http" and not _is_loopback(host):
            warnings.warn(
                f"QDRANT_API_KEY goes to {host} unencrypted, over http: use https",
                UserWarning,
                stacklevel=4,  # whoever called `connect`
            )
        # in headers: given as api_key, the client warns of http even on this machine
        headers = {"api-key": key} if key else {}
        bare = f"[{host}]" if ":" in host else host
        return cls(describe(url), parts.scheme, bare, port, headers, timeout_s)

    @property
    def url(self) -> str:
        """Of REST."""
        return f"{self.scheme}://{self.host}:{self.port}"


def _arguments(
    server: _Server, hurry: Callable[..., Any], retries: Retries | None
) -> dict[str, Any]:
    """Ask a server for its version, and give the arguments of a client for it."""
    arguments: dict[str, Any] = {
        "url": server.url,
        "timeout": server.timeout_s,
        "headers": server.headers,
        "check_compatibility": False,  # it warns from a thread; we ask ourselves
        "event_hooks": {"request": [hurry]},
    }
    grpc_port = _grpc_port(server.port)
    version = _rest_version(server, retries)
    if grpc_port is not None:
        found = _grpc_version(server, grpc_port)
        if found == version:
            arguments |= {
                "prefer_grpc": True,
                "grpc_port": grpc_port,
                "grpc_options": dict(_GRPC_OPTIONS),
            }
        else:
            log.info(
                "%s:%d %s: using REST",
                server.host,
                grpc_port,
                "is another server" if found else "answers no gRPC",
            )
    return arguments


def _hurry(request: httpx.Request) -> None:
    """Let connecting take less time than answering may: qdrant-client has one number for both."""
    timeout = request.extensions["timeout"]
    timeout["connect"] = min(timeout["connect"], _CONNECT_TIMEOUT_S)


async def _ahurry(request: httpx.Request) -> None:
    _hurry(request)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _rest_version(server: _Server, retries: Retries | None) -> str:
    """The version that a server has over REST, which shows that there is one."""
    client = QdrantClient(
        url=server.url,
        headers=server.headers,
        timeout=math.ceil(_CONNECT_TIMEOUT_S),
        check_compatibility=False,
    )
    try:
        return run(
            client, calls.info(), where=server.shown, retries=retries or _CONNECTING
        ).version
    finally:
        client.close()


def _grpc_version(server: _Server, port: int) -> str | None:
    """The version of the server that speaks gRPC at a port; None where none does."""
    secure, headers = server.scheme == "https", list(server.headers.items())
    with get_channel(server.host, port, secure, headers) as channel:
        try:
            stub = protocol.QdrantStub(channel)  # type: ignore[no-untyped-call]
            reply = stub.HealthCheck(protocol.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S)
        except (grpc.RpcError, QdrantException):
            return None
    return str(reply.version)
