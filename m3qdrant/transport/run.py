"""Who carries out calls: connections and retries.

`connect` gives the client for a location, `run` drives an operation (see calls.py) with it. A
server's call that fails for a passing reason is made again after a while. Other failures arrive as
ours (failures.py says which), thrown into the operation where it asked, so that it may handle
them.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import math
import os
import random
import re
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import grpc  # type: ignore[import-untyped]
import httpx
import tenacity
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client import grpc as protocol
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.connection import get_channel
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal
from qdrant_client.local.qdrant_local import QdrantLocal

from m3qdrant.collection.calls import Call, Steps
from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.errors import InputError, M3QdrantError
from m3qdrant.transport.failures import Failure, as_ours

__all__ = [
    "Retries",
    "arun",
    "connect",
    "connect_async",
    "describe",
    "engine_of",
    "run",
]

T = TypeVar("T")

Engine = Literal["embedded", "memory", "server"]

log = logging.getLogger(__name__)

_REST_PORT = 6333
_GRPC_PORT = 6334

_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 2.0

_GRPC_OPTIONS = {
    # gRPC's own goes to two minutes, and each call fails at once until it is over
    "grpc.max_reconnect_backoff_ms": 5_000,
    # finds a connection that died in silence while a call waits on it, so that the next try gets
    # a new one instead of waiting on it again
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
}


@dataclass(frozen=True)
class Retries:
    """How long to go on where a server fails for a while.

    Waits are drawn evenly between 0 and a bound that doubles from `first_wait_s` to
    `longest_wait_s` ("full jitter"), so that many clients don't come back at once. Where the
    server says how long to wait (Retry-After), that is waited too.

    Attributes:
        attempts: the most tries of a call, the first one included.
        budget_s: no try begins later than this after the first one.
        first_wait_s: bound of the first wait, in seconds.
        longest_wait_s: bound of the longest.
    """

    attempts: int = 6
    budget_s: float = 120.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise InputError(f"attempts is {self.attempts!r}: give a whole number, 1 or more")
        for name in ("budget_s", "first_wait_s", "longest_wait_s"):
            seconds = getattr(self, name)
            if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
                raise InputError(f"{name} is {seconds!r}: give seconds, 0 or more")


_CONNECTING = Retries(attempts=4, budget_s=10.0, longest_wait_s=2.0)


# -- connections


def describe(location: object) -> str:
    """A location in messages: a path or a URL, or a client's class. Never a secret."""
    if not isinstance(location, str | os.PathLike):
        return type(location).__name__
    name = str(os.fspath(location))
    if not _is_url(name):
        return re.sub("://[^/]*@", "://...@", name)
    return re.sub("://[^/]*@", "://...@", re.sub("[?#].+", "?...", name))


def engine_of(client: QdrantBase | AsyncQdrantBase) -> Engine:
    """What answers a client's calls."""
    if isinstance(client, QdrantEdge | AsyncQdrantEdge):
        return "embedded"
    options = getattr(client, "init_options", {})
    local = options.get("location") == ":memory:" or options.get("path") is not None
    if local or isinstance(client, QdrantLocal | AsyncQdrantLocal):
        return "memory"
    return "server"


def connect(
    location: str | os.PathLike[str] | QdrantBase, *, timeout_s: float = _TIMEOUT_S
) -> tuple[QdrantBase, bool]:
    """The client for a location.

    A server is asked for its version, over REST and then over gRPC. gRPC is used where it answers
    as the same server: at port 6334 beside REST's own 6333, else at QDRANT_GRPC_PORT where the
    environment has it. The API key is read from QDRANT_API_KEY.

    Args:
        location: a directory, ":memory:", "http(s)://host[:port]", or a client.
        timeout_s: seconds that one call to a server may take.

    Returns:
        The client, and whether it was made here, so that it is the caller's to close.

    Raises:
        InputError: it is no location.
        ServerUnavailableError: nothing answers there.
        AccessDeniedError: the server wants another key.
        StoreDamagedError: the path is a file, or a directory of another program.
    """
    if isinstance(location, QdrantBase):
        return location, False
    name = _name_of(location, AsyncQdrantBase, "AsyncM3Store")
    if name == ":memory:":
        return QdrantClient(":memory:"), True
    if not _is_url(name):
        return QdrantEdge(name), True
    return QdrantClient(**_server_arguments(name, timeout_s, _hurry)), True


def connect_async(
    location: str | os.PathLike[str] | AsyncQdrantBase, *, timeout_s: float = _TIMEOUT_S
) -> tuple[AsyncQdrantBase, bool]:
    """`connect` for asyncio: the same, with an asynchronous client.

    With a server it blocks while it asks for the version: call it in a thread where an event loop
    runs.
    """
    if isinstance(location, AsyncQdrantBase):
        return location, False
    name = _name_of(location, QdrantBase, "M3Store")
    if name == ":memory:":
        return AsyncQdrantClient(":memory:"), True
    if not _is_url(name):
        return AsyncQdrantEdge(name), True
    return AsyncQdrantClient(**_server_arguments(name, timeout_s, _ahurry)), True


def _name_of(location: Any, other: type, other_store: str) -> str:
    if isinstance(location, other):
        raise InputError(f"{type(location).__name__} is a client for {other_store}")
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


def _server_arguments(url: str, timeout_s: float, hurry: Callable[..., Any]) -> dict[str, Any]:
    """Check a server, and give the arguments of a client for it."""
    parts, host, port = _read_url(url)
    if not 0 < timeout_s < math.inf:
        raise InputError(f"timeout_s is {timeout_s!r}: give seconds, more than 0")
    key = _api_key()
    if key and parts.scheme == "http" and not _is_loopback(host):
        warnings.warn(
            f"QDRANT_API_KEY goes to {host} unencrypted, over http: use https",
            UserWarning,
            stacklevel=3,
        )
    # in headers: given as api_key, the client warns of http even on this machine
    headers = {"api-key": key} if key else {}
    bare = f"[{host}]" if ":" in host else host
    arguments: dict[str, Any] = {
        "url": f"{parts.scheme}://{bare}:{port}",
        "timeout": timeout_s,
        "headers": headers,
        "check_compatibility": False,  # it warns from a thread; we ask ourselves
        "event_hooks": {"request": [hurry]},
    }
    grpc_port = _grpc_port(port)
    version = _rest_version(arguments["url"], headers, describe(url))
    if grpc_port is not None:
        found = _grpc_version(bare, grpc_port, parts.scheme == "https", headers)
        if found == version:
            arguments |= {
                "prefer_grpc": True,
                "grpc_port": grpc_port,
                "grpc_options": dict(_GRPC_OPTIONS),
            }
        else:
            log.info(
                "%s:%d %s: using REST",
                host,
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


def _rest_version(url: str, headers: dict[str, str], location: str) -> str:
    """The version of the server at a URL, which shows that there is one."""

    def ask() -> Steps[str]:
        answer = yield Call("info")
        return str(answer.version)

    client = QdrantClient(
        url=url,
        headers=headers,
        timeout=math.ceil(_CONNECT_TIMEOUT_S),
        check_compatibility=False,
    )
    try:
        return run(client, ask(), where=location, retries=_CONNECTING)
    finally:
        client.close()


def _grpc_version(host: str, port: int, secure: bool, headers: dict[str, str]) -> str | None:
    """The version of the server that speaks gRPC at a port; None where none does."""
    with get_channel(host, port, secure, list(headers.items())) as channel:
        try:
            stub = protocol.QdrantStub(channel)  # type: ignore[no-untyped-call]
            reply = stub.HealthCheck(protocol.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S)
        except (grpc.RpcError, QdrantException):
            return None
    return str(reply.version)


# -- calls


def run(
    client: QdrantBase,
    steps: Steps[T],
    *,
    where: str,
    retries: Retries = Retries(),
    stop: threading.Event | None = None,
) -> T:
    """Carry an operation out.

    Args:
        client: what answers its calls.
        steps: the operation. It is closed at the end, whatever happens.
        where: the collection and its place, for messages.
        retries: how long to go on; only a server's failures pass, so only it is asked again.
        stop: once set, nothing waits and nothing is tried again.

    Returns:
        What the operation returns.

    Raises:
        M3QdrantError: the failure of a call that the operation did not handle, with its cause, or
            the operation's own.
    """
    answer: Any = None
    failure: M3QdrantError | None = None
    try:
        while True:
            call = steps.send(answer) if failure is None else steps.throw(failure)
            answer = failure = None
            try:
                answer = _ask(client, call, where, retries, stop)
            except M3QdrantError as error:
                failure = error
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def arun(
    client: AsyncQdrantBase, steps: Steps[T], *, where: str, retries: Retries = Retries()
) -> T:
    """`run` for asyncio. Cancelled, it stops at once: a request under way is given up."""
    answer: Any = None
    failure: M3QdrantError | None = None
    try:
        while True:
            call = steps.send(answer) if failure is None else steps.throw(failure)
            answer = failure = None
            try:
                answer = await _aask(client, call, where, retries)
            except M3QdrantError as error:
                failure = error
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _ask(
    client: QdrantBase, call: Call, where: str, retries: Retries, stop: threading.Event | None
) -> Any:
    tries = _Tries(client, call, where, retries)
    method = functools.partial(getattr(client, call.method), **call.arguments)

    def sleep(seconds: float) -> None:
        if stop is None:
            time.sleep(seconds)
        elif stop.wait(seconds):
            raise _StoppedError

    try:
        return tenacity.Retrying(sleep=sleep, **tries.policy())(method)
    except M3QdrantError:
        raise
    except Exception:
        raise tries.failure() from tries.last


async def _aask(client: AsyncQdrantBase, call: Call, where: str, retries: Retries) -> Any:
    tries = _Tries(client, call, where, retries)
    method = functools.partial(getattr(client, call.method), **call.arguments)
    try:
        return await tenacity.AsyncRetrying(**tries.policy())(method)
    except M3QdrantError:
        raise
    except Exception:
        raise tries.failure() from tries.last


class _StoppedError(Exception):
    """The wait for the next try was ended."""


class _Tries:
    """The tries of one call.

    Attributes:
        last: what the last one raised.
    """

    def __init__(
        self, client: QdrantBase | AsyncQdrantBase, call: Call, where: str, retries: Retries
    ) -> None:
        self.last: Exception | None = None
        self._what = f"{call.method} of {where}"
        self._idempotent = call.idempotent
        self._server = engine_of(client) == "server"
        self._retries = retries
        self._count = 0
        self._began = time.monotonic()

    def policy(self) -> dict[str, Any]:
        """The arguments of tenacity's controllers."""
        retries = self._retries
        return {
            "retry": tenacity.retry_if_exception(self._passes),
            "wait": self._wait,
            "stop": tenacity.stop_after_attempt(retries.attempts)
            | tenacity.stop_before_delay(retries.budget_s),
            "before_sleep": self._log,
        }

    def failure(self) -> M3QdrantError:
        """The last error as ours."""
        assert self.last is not None
        tried = ""
        if self._count > 1:
            tried = f" (tried {self._count} times in {time.monotonic() - self._began:.1f} s)"
        return as_ours(self.last, self._what, tried)

    def _passes(self, error: BaseException) -> bool:
        """Whether to try again after an error."""
        if not isinstance(error, Exception):
            return False
        self.last = error
        self._count += 1
        if not self._server or isinstance(error, M3QdrantError):
            return False
        again = Failure.of(error).again
        return again == "always" or (again == "repeatable" and self._idempotent)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        assert self.last is not None
        retries = self._retries
        bound = min(retries.first_wait_s * 2 ** (state.attempt_number - 1), retries.longest_wait_s)
        after = Failure.of(self.last).after_s
        # behind a wait that the server sets, the jitter only keeps clients apart
        return (
            random.uniform(0, bound)
            if after is None
            else after + random.uniform(0, retries.first_wait_s)
        )

    def _log(self, state: tenacity.RetryCallState) -> None:
        assert self.last is not None
        reason = Failure.of(self.last).reason
        log.info("%s failed, trying again in %.1f s: %s", self._what, state.upcoming_sleep, reason)
