"""qdrant-client's clients with a few calls beside their own, which take and give arrays.

Their own methods stay as they are, for `M3Store.client` is the user's too. `NAME_arrays` takes
what `collection.calls` gives to `NAME`, and sends it over a channel of its own, which is set up as
qdrant-client sets up its.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.connection import get_async_channel, get_channel

from m3qdrant.transport.wire import reading, writing

__all__ = ["AsyncWireClient", "WireClient"]


class _Method(NamedTuple):
    """A method of Qdrant's service `Points`.

    Attributes:
        name: gRPC's.
        write: the request's bytes, from the call's arguments.
        read: what the call answers, from the answer's bytes.
    """

    name: str
    write: Callable[..., bytes]
    read: Callable[[bytes], Any]


_UPSERT = _Method("Upsert", writing.upsert_points, reading.update_result)
_GET = _Method("Get", writing.get_points, reading.records)
_SCROLL = _Method("Scroll", writing.scroll_points, reading.page)
_QUERY_BATCH = _Method("QueryBatch", writing.query_batch, reading.answers)


class WireClient(QdrantClient):
    """A `QdrantClient` of a server that answers gRPC."""

    def __init__(self, **arguments: Any) -> None:
        """Take `QdrantClient`'s arguments: url, grpc_port, headers, grpc_options, timeout."""
        super().__init__(**arguments)
        self._channel: Any = get_channel(*_place(arguments))
        self._seconds: float = arguments["timeout"]

    def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Close all connections."""
        self._channel.close()
        super().close(grpc_grace, **kwargs)

    def upsert_arrays(self, **arguments: Any) -> Any:
        """`upsert`, where vectors may be arrays: (dim,) or (rows, dim)."""
        return self._call(_UPSERT, arguments)

    def retrieve_arrays(self, **arguments: Any) -> Any:
        """`retrieve`, where dense vectors and multivectors are float32 arrays."""
        return self._call(_GET, arguments)

    def scroll_arrays(self, **arguments: Any) -> Any:
        """`scroll`, likewise."""
        return self._call(_SCROLL, arguments)

    def query_batch_points_arrays(self, **arguments: Any) -> Any:
        """`query_batch_points`, where the queries may be arrays."""
        return self._call(_QUERY_BATCH, arguments)

    def _call(self, method: _Method, arguments: dict[str, Any]) -> Any:
        send = self._channel.unary_unary(_path(method))
        return method.read(send(method.write(**arguments), timeout=self._seconds))


class AsyncWireClient(AsyncQdrantClient):
    """`WireClient` for asyncio."""

    def __init__(self, **arguments: Any) -> None:
        """Take `AsyncQdrantClient`'s arguments, as `WireClient` does."""
        super().__init__(**arguments)
        self._place = _place(arguments)
        self._channel: Any = None
        self._seconds: float = arguments["timeout"]

    async def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Close all connections."""
        if self._channel is not None:
            await self._channel.close(grpc_grace)
        await super().close(grpc_grace, **kwargs)

    async def upsert_arrays(self, **arguments: Any) -> Any:
        """`upsert`, where vectors may be arrays: (dim,) or (rows, dim)."""
        return await self._call(_UPSERT, arguments)

    async def retrieve_arrays(self, **arguments: Any) -> Any:
        """`retrieve`, where dense vectors and multivectors are float32 arrays."""
        return await self._call(_GET, arguments)

    async def scroll_arrays(self, **arguments: Any) -> Any:
        """`scroll`, likewise."""
        return await self._call(_SCROLL, arguments)

    async def query_batch_points_arrays(self, **arguments: Any) -> Any:
        """`query_batch_points`, where the queries may be arrays."""
        return await self._call(_QUERY_BATCH, arguments)

    async def _call(self, method: _Method, arguments: dict[str, Any]) -> Any:
        if self._channel is None:  # it belongs to the loop that it is made in
            self._channel = get_async_channel(*self._place)
        send = self._channel.unary_unary(_path(method))
        return method.read(await send(method.write(**arguments), timeout=self._seconds))


def _path(method: _Method) -> str:
    return f"/qdrant.Points/{method.name}"


def _place(arguments: dict[str, Any]) -> tuple[str, int, bool, list[tuple[str, str]], Any]:
    """What makes a channel to the server that a client's arguments name."""
    parts = urlsplit(arguments["url"])
    host = parts.hostname or ""
    return (
        f"[{host}]" if ":" in host else host,
        arguments["grpc_port"],
        parts.scheme == "https",
        list((arguments.get("headers") or {}).items()),
        arguments.get("grpc_options"),
    )
