"""The client for a location: a directory, in memory, a server, or a client that is there."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant.collection import calls
from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge, engine_of
from m3qdrant.errors import InputError, ServerUnavailableError
from m3qdrant.transport.authorities import Authorities
from m3qdrant.transport.nodes import AsyncNodes, Nodes, urls_of
from m3qdrant.transport.protocols import Protocol, probe, remember, speaks_tls
from m3qdrant.transport.retries import Retries
from m3qdrant.transport.running import run
from m3qdrant.transport.wire.client import AsyncWireClient, WireClient

__all__ = ["TIMEOUT_S", "aconnect", "connect", "describe", "place_of"]

C = TypeVar("C", QdrantBase, AsyncQdrantBase)

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
"""Seconds that one call to a server may take, unless the user says otherwise."""

_REST_PORT = 6333
_GRPC_PORT = 6334

_CONNECT_TIMEOUT_S = 5.0

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


def place_of(location: object) -> Hashable:
    """What tells a location from others: a directory's real path, a URL; of a client, itself."""
    if isinstance(location, list | tuple):
        return tuple(map(place_of, location))
    if not isinstance(location, str | os.PathLike):
        return object()  # which nothing else is equal to
    name = str(os.fspath(location))
    return name if urls_of(name) is not None or _is_url(name) else os.path.realpath(name)


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
    ca_file: str | os.PathLike[str] | None = None,
    retries: Retries | None = None,
) -> tuple[QdrantBase, bool]:
    """The client for a location.

    A server is asked for its version, over REST and then over gRPC. gRPC is used where it answers
    as the same server: at port 6334 beside REST's own 6333, else at QDRANT_GRPC_PORT where the
    environment has it; `protocol_of` says which was taken, and why. The API key is read from
    QDRANT_API_KEY.

    Args:
        location: a directory, ":memory:", "http(s)://host[:port][/prefix]", or a client. With a
            prefix, which a reverse proxy takes, the port is 80 or 443 where none is named. Several
            URLs, in a list or with commas between, are nodes of one cluster: where the one that is
            asked does not answer, the next one is asked.
        timeout_s: seconds that one call to a server may take.
        read_only: look at a directory, and change nothing under it.
        ca_file: PEM file of the certificate authorities that a server's certificate may come
            from, over REST and gRPC; by default QDRANT_CA_FILE or SSL_CERT_FILE, where the
            environment has one, else those that come with Python's and gRPC's packages.
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
            return connect(url, timeout_s=timeout_s, ca_file=ca_file, retries=_ONCE)[0]

        nodes: Any = Nodes(urls, one)
        return nodes, True
    single: Any = location  # several are dealt with
    found = _find(single, timeout_s, read_only, _SYNC, ca_file)
    if isinstance(found, _Server):
        arguments, protocol = _arguments(found, _hurry, retries)
        kind = WireClient if arguments.get("prefer_grpc") else QdrantClient
        return remember(kind(**arguments), protocol), True
    return found


async def aconnect(
    location: str | os.PathLike[str] | Sequence[str] | AsyncQdrantBase,
    *,
    timeout_s: float = TIMEOUT_S,
    read_only: bool = False,
    ca_file: str | os.PathLike[str] | None = None,
    retries: Retries | None = None,
) -> tuple[AsyncQdrantBase, bool]:
    """`connect` for asyncio: the same, with an asynchronous client."""
    if (urls := urls_of(location)) is not None:

        async def one(url: str) -> AsyncQdrantBase:
            found = await aconnect(url, timeout_s=timeout_s, ca_file=ca_file, retries=_ONCE)
            return found[0]

        nodes: Any = await AsyncNodes(urls, one).open()
        return nodes, True
    single: Any = location
    found = _find(single, timeout_s, read_only, _ASYNC, ca_file)
    if isinstance(found, _Server):
        stop = threading.Event()  # a thread that waits for a server must not outlive the wait
        try:
            # asking a server for its version waits for it
            arguments, protocol = await asyncio.to_thread(
                _arguments, found, _ahurry, retries, stop
            )
        except asyncio.CancelledError:
            stop.set()
            raise
        kind = AsyncWireClient if arguments.get("prefer_grpc") else AsyncQdrantClient
        return remember(kind(**arguments), protocol), True
    return found


def _find(
    location: str | os.PathLike[str] | C,
    timeout_s: float,
    read_only: bool,
    classes: _Classes[C],
    ca_file: str | os.PathLike[str] | None,
) -> tuple[C, bool] | _Server:
    """What a location is: a client, and whether it was made here, or a server to be asked."""
    if isinstance(location, classes.base):
        return engine_of(location), False
    name = _name_of(location, classes)
    if name == ":memory:":
        return classes.memory(), True
    if not _is_url(name):
        return classes.edge(name, read_only), True
    return _Server.of(name, timeout_s, ca_file)


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
    if not name or _HOST.fullmatch(name):
        raise InputError(
            f"location {name!r} is no directory; a server's begins with http://"
            + (f", a directory of that name is ./{name}" if name and ":" not in name else "")
        )
    if re.match(r"[a-zA-Z][\w+.-]+://", name) and not _is_url(name):
        raise InputError(
            f"location {describe(name)!r}: a server's begins with http:// or https://"
        )
    return name


def _is_url(name: str) -> bool:
    return re.match("https?://", name, re.IGNORECASE) is not None


_HOST = re.compile(
    r"localhost|\d+(\.\d+){3}|\[[\da-fA-F:.]+\]|([\w.-]+|\[[\da-fA-F:.]+\]):\d+(/.*)?"
)
"""A server's address without its scheme."""

_OWN_PATHS = re.compile(r"/(collections|dashboard|points)(/|$)")
"""Paths of Qdrant's own, which are no reverse proxy's."""


def _read_url(url: str) -> tuple[SplitResult, str, int]:
    """A server's URL, its host and its REST port, checked."""
    shown = describe(url)
    try:
        parts = urlsplit(url)
        prefix = parts.path.strip("/")
        # who stands before a path is a reverse proxy, at the scheme's own port
        usual = _REST_PORT if not prefix else 443 if parts.scheme == "https" else 80
        host, port = parts.hostname, usual if parts.port is None else parts.port
    except ValueError as error:
        raise InputError(f"location {shown!r} is no URL: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"location {shown!r} holds credentials, which end up in logs: leave them out, and set "
            "QDRANT_API_KEY"
        )
    if any(character.isspace() for character in url):
        raise InputError(
            f"location {shown!r} has a space in it: give http(s)://host[:port][/prefix]"
        )
    if not host:
        raise InputError(f"location {shown!r} names no host: give http(s)://host[:port][/prefix]")
    if _OWN_PATHS.search(parts.path) or parts.query or parts.fragment:
        raise InputError(
            f"location {shown!r} goes on after the host: give http(s)://host[:port], and a path "
            "only where a reverse proxy has the server behind one"
        )
    return parts, host, port


def _api_key() -> str | None:
    key = os.environ.get("QDRANT_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        # httpx would refuse it too, and show it
        raise InputError("QDRANT_API_KEY holds characters that no key has: set it again")
    return key or None


def _grpc_port(rest_port: int, prefix: str = "") -> int | None:
    """Where gRPC may answer. Beside another REST port, 6334 may well be another server's, and a
    proxy stands on another machine.
    """
    named = os.environ.get("QDRANT_GRPC_PORT")
    if not named:
        return _GRPC_PORT if rest_port == _REST_PORT and not prefix else None
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
        prefix: what paths begin with, behind a reverse proxy, such as "/qdrant"; else "".
        headers: the API key, where there is one.
        timeout_s: seconds that one call may take.
        authorities: whose certificates are trusted.
    """

    shown: str
    scheme: str
    host: str
    port: int
    prefix: str
    headers: dict[str, str]
    timeout_s: float
    authorities: Authorities = field(repr=False)

    @classmethod
    def of(cls, url: str, timeout_s: float, ca_file: str | os.PathLike[str] | None) -> _Server:
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
        prefix = "/" + parts.path.strip("/") if parts.path.strip("/") else ""
        authorities = Authorities.of(ca_file)
        return cls(
            describe(url), parts.scheme, bare, port, prefix, headers, timeout_s, authorities
        )

    @property
    def url(self) -> str:
        """Of REST."""
        return f"{self.scheme}://{self.host}:{self.port}{self.prefix}"

    @property
    def verify(self) -> dict[str, Any]:
        """What httpx is told of certificates; nothing where its own authorities serve."""
        own = self.authorities.context() if self.scheme == "https" else None
        return {} if own is None else {"verify": own}


def _arguments(
    server: _Server,
    hurry: Callable[..., Any],
    retries: Retries | None,
    stop: threading.Event | None = None,
) -> tuple[dict[str, Any], Protocol]:
    """Ask a server for its version, and give the arguments of a client for it."""
    arguments: dict[str, Any] = {
        "url": server.url,
        "timeout": server.timeout_s,
        "headers": server.headers,
        "check_compatibility": False,  # it warns from a thread; we ask ourselves
        "event_hooks": {"request": [hurry]},
        **server.verify,
    }
    grpc_port = _grpc_port(server.port, server.prefix)
    version = _rest_version(server, retries, stop)
    if grpc_port is None:
        behind = "behind a path" if server.prefix else f"beside port {server.port}"
        return arguments, Protocol("REST", f"no gRPC port is known {behind}: set QDRANT_GRPC_PORT")
    secure = server.scheme == "https"
    found, why = probe(server.host, grpc_port, secure, server.headers, server.authorities)
    if found is not None and found != version:
        found, why = None, f"another server answers there, of version {found}"
    if found is None:
        log.info("%s:%d: %s: using REST", server.host, grpc_port, why)
        return arguments, Protocol("REST", f"gRPC, at port {grpc_port}: {why}")
    options: dict[str, Any] = dict(_GRPC_OPTIONS)
    if secure and (roots := server.authorities.pem()) is not None:
        options["root_certificates"] = roots
    arguments |= {"prefer_grpc": True, "grpc_port": grpc_port, "grpc_options": options}
    return arguments, Protocol("gRPC", f"it answers at port {grpc_port}")


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


def _rest_version(server: _Server, retries: Retries | None, stop: threading.Event | None) -> str:
    """The version that a server has over REST, which shows that there is one."""
    client = QdrantClient(
        url=server.url,
        headers=server.headers,
        timeout=math.ceil(_CONNECT_TIMEOUT_S),
        check_compatibility=False,
        **server.verify,
    )
    where = server.shown
    try:
        try:
            return run(client, calls.info(), where=where, retries=Retries(attempts=1)).version
        except ServerUnavailableError as error:
            if server.scheme == "http" and speaks_tls(server.host, server.port):
                raise ServerUnavailableError(
                    f"{where} speaks https, not http: give https://{server.host}:{server.port}"
                    f"{server.prefix}"
                ) from error
        return run(
            client, calls.info(), where=where, retries=retries or _CONNECTING, stop=stop
        ).version
    finally:
        client.close()
