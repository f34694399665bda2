"""A stand-in for a Qdrant server over REST, with faults on demand.

It is NOT Qdrant: it speaks the part of Qdrant's REST interface that qdrant-client uses for our
calls, and a `QdrantEdge` (Qdrant's own engine) or qdrant-client's in-memory mode answers. So the
whole way is real: qdrant-client's requests, a socket, HTTP, JSON, an engine that keeps what was
written. What it can't show is what a real server adds: its own checks, its cluster, its timing.

    with RestServer(QdrantEdge(tmp_path)) as server:
        server.script("PUT", "/points$", Reset(applied=True), Status(503))
        client = QdrantClient(server.url)

The first PUT whose path ends in "/points" is carried out and its answer lost, the second gets a
503, the third and later ones are served.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    UnsupportedError,
)

__all__ = [
    "SERVE",
    "Drip",
    "Garbage",
    "Request",
    "Reset",
    "RestServer",
    "Serve",
    "Stall",
    "Status",
]

HOST = "127.0.0.1"

PROXYS_404 = b"""<html>
<head><title>404 Not Found</title><style>h1 {color: red}</style></head>
<body>
<center><h1>404 Not Found</h1></center>
<hr><center>proxy/1.0</center>
</body>
</html>
"""

# -- faults: what a server may do with a request


@dataclass(frozen=True)
class Serve:
    """Answer as it should be."""


@dataclass(frozen=True)
class Status:
    """Refuse with a status code; nothing is done."""

    code: int
    message: str = "scripted"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reset:
    """Reset the connection, before or after the request has been carried out."""

    applied: bool = False


@dataclass(frozen=True)
class Stall:
    """Say nothing for a while, then hang up; the request may have been carried out before."""

    seconds: float
    applied: bool = False


@dataclass(frozen=True)
class Drip:
    """Answer as it should be, the body in pieces with pauses between."""

    pieces: int
    pause_s: float


@dataclass(frozen=True)
class Garbage:
    """Carry the request out, and answer with a body that isn't JSON."""

    body: bytes = b"<html>\xff not JSON</html>"


SERVE = Serve()
Action = Serve | Status | Reset | Stall | Drip | Garbage


@dataclass(frozen=True)
class Request:
    """One request that came in.

    Attributes:
        method: e.g. "PUT".
        path: without the query.
        query: what stands behind "?".
        bytes: size of the body.
        seconds: when it came, on time.monotonic's clock.
        action: what was done with it.
        key: the api-key header.
    """

    method: str
    path: str
    query: str
    bytes: int
    seconds: float
    action: Action
    key: str | None


class RestServer:
    """The server, on a free port of 127.0.0.1. A context manager.

    Attributes:
        url: "http://127.0.0.1:PORT".
        backing: what answers; the server closes it.
        requests: all that came in, in order.
        version: the version that it says it has.
        api_key: what clients must send, as of Qdrant on all paths but "/"; None asks for nothing.
        limit_bytes: larger bodies are refused in Qdrant's words, with its 400.
        prefix: what paths begin with, as behind a reverse proxy; others get the proxy's 404.
        tls: the files of a certificate and its key, to speak https.
    """

    def __init__(
        self,
        backing: QdrantBase,
        *,
        version: str = "1.20.0",
        api_key: str | None = None,
        limit_bytes: int = 32 * 2**20,
        prefix: str = "",
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.backing = backing
        self.version = version
        self.api_key = api_key
        self.limit_bytes = limit_bytes
        self.prefix = prefix
        self.tls = tls
        self.requests: list[Request] = []
        self._scripts: list[tuple[str, re.Pattern[str], list[Action]]] = []
        self._lock = threading.Lock()
        self._engine_lock = threading.Lock()
        self._stopping = threading.Event()
        self._http: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{HOST}:{self.port}{self.prefix}"

    def __enter__(self) -> RestServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self.stop()
        self.backing.close()

    def start(self) -> None:
        """Listen; after `stop` at the same port."""
        handler = type("Handler", (_Handler,), {"server_of_tests": self})
        self._http = _Server((HOST, self.port), handler)
        self.port = self._http.server_address[1]
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            listening = self._http.socket
            # the handshake in the thread of the connection: a client that drops it stops nobody
            self._http.socket = context.wrap_socket(
                listening, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def script(self, method: str, path: str, *actions: Action) -> None:
        """What to do with the next requests of a kind, one action each; then they are served.

        Args:
            method: of HTTP.
            path: a pattern to be found in the path.
            actions: for the first such request, the second, ...
        """
        with self._lock:
            self._scripts.append((method, re.compile(path), list(actions)))

    def forget(self) -> None:
        """Drop what was scripted and is not done yet."""
        with self._lock:
            self._scripts.clear()

    def seen(self, method: str, path: str) -> list[Request]:
        """The requests of a kind that came in."""
        with self._lock:
            return [r for r in self.requests if r.method == method and re.search(path, r.path)]

    def admit(self, method: str, path: str, query: str, size: int, key: str | None) -> Action:
        """Note a request, and say what to do with it."""
        with self._lock:
            action: Action = SERVE
            for wanted, pattern, actions in self._scripts:
                if wanted == method and pattern.search(path) and actions:
                    action = actions.pop(0)
                    break
            self.requests.append(Request(method, path, query, size, time.monotonic(), action, key))
            return action

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Carry a request out: status code and body."""
        began = time.monotonic()
        try:
            with self._engine_lock:
                result = _dispatch(self, method, path, body)
        except _UnknownPathError:
            return 404, b""
        except (ValidationError, json.JSONDecodeError) as error:
            return 400, _error(f"Format error in JSON body: {error}")
        except CollectionNotFoundError as error:
            return 404, _error(f"Not found: Collection doesn't exist! {error}")
        except CollectionExistsError as error:
            return 409, _error(f"Wrong input: Collection already exists! {error}")
        except (InputError, UnsupportedError, ValueError) as error:
            return 400, _error(f"Wrong input: {error}")
        except Exception as error:
            return 500, _error(f"Service internal error: {error!r}")
        seconds = time.monotonic() - began
        if path == "/":
            return 200, to_json(result)
        answer = {"result": result, "status": "ok", "time": seconds}
        return 200, to_json(answer, fallback=lambda value: value.tolist())

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than the server lives."""
        self._stopping.wait(seconds)


def _error(message: str) -> bytes:
    return json.dumps({"status": {"error": message}, "time": 0.0}).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what this is about: no traceback on stderr."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_tests: RestServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        server = self.server_of_tests
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        key = self.headers.get("api-key")
        if not url.path.startswith(f"{server.prefix}/"):
            self._send(404, PROXYS_404)
            return
        path = url.path.removeprefix(server.prefix)
        action = server.admit(self.command, path, url.query, len(body), key)
        if isinstance(action, Status):
            self._send(action.code, _error(action.message), action.headers)
            return
        if isinstance(action, Reset | Stall) and not action.applied:
            code, answer = 0, b""
        elif path != "/" and server.api_key is not None and key != server.api_key:
            code, answer = 401, b"Must provide an API key or an Authorization bearer token"
        elif len(body) > server.limit_bytes:
            code, answer = (
                400,
                _error(
                    f"Payload error: JSON payload ({len(body)} bytes) is larger than allowed "
                    f"(limit: {server.limit_bytes} bytes)."
                ),
            )
        else:
            code, answer = server.answer(self.command, path, body)
        if isinstance(action, Reset):
            self._reset()
        elif isinstance(action, Stall):
            server.pause(action.seconds)
            self._reset()
        elif isinstance(action, Garbage):
            self._send(200, action.body)
        elif isinstance(action, Drip):
            self._send(code, answer, pieces=action.pieces, pause_s=action.pause_s)
        else:
            self._send(code, answer)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _send(
        self,
        code: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        pieces: int = 1,
        pause_s: float = 0.0,
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        size = -(-len(body) // pieces)
        for start in range(0, len(body), max(size, 1)):
            if start:
                self.server_of_tests.pause(pause_s)
            self.wfile.write(body[start : start + size])

    def _reset(self) -> None:
        """Close the connection with RST, at once."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


# -- Qdrant's paths, and what they ask of a client


class _UnknownPathError(Exception):
    """No such path."""


Handler = Callable[[QdrantBase, str, Any], Any]


def _dispatch(server: RestServer, method: str, path: str, body: bytes) -> Any:
    if (method, path) == ("GET", "/"):
        return {"title": "stand-in for qdrant", "version": server.version, "commit": "0" * 40}
    if (method, path) == ("GET", "/collections"):
        return server.backing.get_collections()
    match = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
    if match is None:
        raise _UnknownPathError
    name, rest = unquote(match[1]), match[2] or ""
    if method == "DELETE" and rest.startswith("/index/"):
        return server.backing.delete_payload_index(name, unquote(rest[len("/index/") :]))
    found = _ROUTES.get((method, rest))
    if found is None:
        raise _UnknownPathError
    type_, handler = found
    return handler(
        server.backing, name, None if type_ is None else _adapter(type_).validate_json(body)
    )


@cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type_)


def _create(client: QdrantBase, name: str, body: models.CreateCollection) -> bool:
    given = {key: getattr(body, key) for key in body.model_fields_set}
    renamed = {"vectors": "vectors_config", "sparse_vectors": "sparse_vectors_config"}
    try:
        return client.create_collection(
            name, **{renamed.get(key, key): value for key, value in given.items()}
        )
    except ValueError as error:  # as in-memory mode says it
        if "already exists" in str(error):
            raise CollectionExistsError(str(error)) from error
        raise


def _get(client: QdrantBase, name: str, body: None) -> Any:
    if not client.collection_exists(name):
        raise CollectionNotFoundError(f"`{name}`")
    return client.get_collection(name)


def _upsert(client: QdrantBase, name: str, body: models.PointsList | models.PointsBatch) -> Any:
    _get(client, name, None)
    points = body.points if isinstance(body, models.PointsList) else body.batch
    given = {"update_filter": body.update_filter, "update_mode": body.update_mode}
    return client.upsert(name, points, **{k: v for k, v in given.items() if v is not None})


def _selector(body: models.SetPayload | models.DeletePayload) -> Any:
    if body.points is not None:
        return body.points
    if body.filter is None:
        raise ValueError("neither points nor a filter")
    return models.FilterSelector(filter=body.filter)


def _set_payload(client: QdrantBase, name: str, body: models.SetPayload) -> Any:
    return client.set_payload(name, body.payload, _selector(body), key=body.key)


def _retrieve(client: QdrantBase, name: str, body: models.PointRequest) -> Any:
    _get(client, name, None)
    payload = True if body.with_payload is None else body.with_payload
    return client.retrieve(name, body.ids, payload, body.with_vector or False)


def _scroll(client: QdrantBase, name: str, body: models.ScrollRequest) -> Any:
    _get(client, name, None)
    points, following = client.scroll(
        name,
        scroll_filter=body.filter,
        limit=body.limit or 10,
        order_by=body.order_by,
        offset=body.offset,
        with_payload=True if body.with_payload is None else body.with_payload,
        with_vectors=body.with_vector or False,
    )
    return {"points": points, "next_page_offset": following}


def _count(client: QdrantBase, name: str, body: models.CountRequest) -> Any:
    _get(client, name, None)
    return client.count(name, count_filter=body.filter, exact=body.exact is not False)


def _facet(client: QdrantBase, name: str, body: models.FacetRequest) -> Any:
    return client.facet(
        name,
        key=body.key,
        facet_filter=body.filter,
        limit=body.limit or 10,
        exact=bool(body.exact),
    )


def _query(client: QdrantBase, name: str, body: models.QueryRequest) -> Any:
    return client.query_batch_points(name, [body])[0]


def _query_batch(client: QdrantBase, name: str, body: models.QueryRequestBatch) -> Any:
    _get(client, name, None)
    return client.query_batch_points(name, body.searches)


def _query_groups(client: QdrantBase, name: str, body: models.QueryGroupsRequest) -> Any:
    return client.query_points_groups(
        name,
        group_by=body.group_by,
        query=body.query,
        using=body.using,
        prefetch=body.prefetch,
        query_filter=body.filter,
        search_params=body.params,
        limit=body.limit or 10,
        group_size=body.group_size or 3,
        with_payload=body.with_payload or False,
        with_vectors=body.with_vector or False,
        score_threshold=body.score_threshold,
    )


def _update_collection(client: QdrantBase, name: str, body: models.UpdateCollection) -> Any:
    return client.update_collection(
        name, **{key: getattr(body, key) for key in body.model_fields_set}
    )


_ROUTES: dict[tuple[str, str], tuple[Any, Handler]] = {
    ("GET", ""): (None, _get),
    ("GET", "/exists"): (None, lambda c, name, _: {"exists": c.collection_exists(name)}),
    ("PUT", ""): (models.CreateCollection, _create),
    ("PATCH", ""): (models.UpdateCollection, _update_collection),
    ("DELETE", ""): (None, lambda c, name, _: c.delete_collection(name)),
    ("PUT", "/index"): (
        models.CreateFieldIndex,
        lambda c, name, b: c.create_payload_index(name, b.field_name, b.field_schema),
    ),
    ("PUT", "/points"): (models.PointInsertOperations, _upsert),
    ("POST", "/points"): (models.PointRequest, _retrieve),
    ("POST", "/points/delete"): (models.PointsSelector, lambda c, name, b: c.delete(name, b)),
    ("POST", "/points/payload"): (models.SetPayload, _set_payload),
    ("PUT", "/points/payload"): (
        models.SetPayload,
        lambda c, name, b: c.overwrite_payload(name, b.payload, _selector(b)),
    ),
    ("POST", "/points/payload/delete"): (
        models.DeletePayload,
        lambda c, name, b: c.delete_payload(name, b.keys, _selector(b)),
    ),
    ("POST", "/points/payload/clear"): (
        models.PointsSelector,
        lambda c, name, b: c.clear_payload(name, b),
    ),
    ("POST", "/points/batch"): (
        models.UpdateOperations,
        lambda c, name, b: c.batch_update_points(name, b.operations),
    ),
    ("POST", "/points/scroll"): (models.ScrollRequest, _scroll),
    ("POST", "/points/count"): (models.CountRequest, _count),
    ("POST", "/points/query"): (models.QueryRequest, _query),
    ("POST", "/points/query/batch"): (models.QueryRequestBatch, _query_batch),
    ("POST", "/points/query/groups"): (models.QueryGroupsRequest, _query_groups),
    ("POST", "/facet"): (models.FacetRequest, _facet),
}
