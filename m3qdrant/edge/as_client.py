"""`as_qdrant_client`: qdrant-client's own class, with the embedded engine behind it.

`QdrantClient` is a front: it takes calls in many shapes, makes vectors of `models.Document` with
fastembed, and hands the rest to what it holds, a connection or its local mode. Here that is our
engine. Programs that ask for `isinstance(client, QdrantClient)` take the result, and everything
that the front does is qdrant-client's own doing.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant.edge.async_client import AsyncQdrantEdge
from m3qdrant.edge.client import QdrantEdge
from m3qdrant.edge.refusals import InputError

__all__ = ["as_qdrant_client", "engine_of"]


@overload
def as_qdrant_client(
    edge: QdrantEdge, *, local_inference_batch_size: int | None = None
) -> QdrantClient: ...
@overload
def as_qdrant_client(
    edge: AsyncQdrantEdge, *, local_inference_batch_size: int | None = None
) -> AsyncQdrantClient: ...
def as_qdrant_client(
    edge: QdrantEdge | AsyncQdrantEdge, *, local_inference_batch_size: int | None = None
) -> QdrantClient | AsyncQdrantClient:
    """A `QdrantClient` whose engine is `edge`, for programs that want no other class.

        client = as_qdrant_client(QdrantEdge("data"))
        aclient = as_qdrant_client(AsyncQdrantEdgeView(edge))  # of the same engine, to await

    It does what `QdrantClient` does before a call leaves it: with fastembed installed,
    `models.Document` and its like become vectors here, which `QdrantEdge` itself refuses.

    Closing it closes `edge`; dropping it does not. What needs a connection, such as `http`, raises
    `UnsupportedError`, and so do its `init_options`: they would open something else.

    Args:
        edge: a `QdrantEdge`, an `AsyncQdrantEdge` or an `AsyncQdrantEdgeView`.
        local_inference_batch_size: as in `QdrantClient`: how many documents fastembed takes at
            once.

    Returns:
        A `QdrantClient`, or an `AsyncQdrantClient` of an asynchronous engine.

    Raises:
        InputError: something else than an engine.
    """
    if isinstance(edge, QdrantEdge):
        return _Client(edge, local_inference_batch_size)
    if isinstance(edge, AsyncQdrantEdge):
        return _AsyncClient(edge, local_inference_batch_size)
    raise InputError(
        f"pass a QdrantEdge, an AsyncQdrantEdge or an AsyncQdrantEdgeView, not a "
        f"{type(edge).__name__}"
    )


_C = TypeVar("_C", bound=QdrantBase | AsyncQdrantBase)


def engine_of(client: _C) -> _C:
    """The engine behind what `as_qdrant_client` made; any other client is its own."""
    if isinstance(client, _Client | _AsyncClient):
        engine: _C = client._client
        return engine
    return client


class _Front:
    """What `QdrantClient` would say of a connection, said of the engine in its place."""

    _client: Any

    def __repr__(self) -> str:
        return f"as_qdrant_client({self._client!r})"

    @property
    def init_options(self) -> dict[str, Any]:
        options: dict[str, Any] = self._client.init_options
        return options

    @property
    def http(self) -> Any:
        return self._client.http

    @property
    def grpc_points(self) -> Any:
        return self._client.grpc_points

    @property
    def grpc_collections(self) -> Any:
        return self._client.grpc_collections


class _Client(_Front, QdrantClient):
    def __init__(self, edge: QdrantEdge, local_inference_batch_size: int | None) -> None:
        super().__init__(":memory:", local_inference_batch_size=local_inference_batch_size)
        self._client.close()
        self._client = edge

    def __del__(self) -> None:
        """Leave the engine open: it is its owner's."""


class _AsyncClient(_Front, AsyncQdrantClient):
    def __init__(self, edge: AsyncQdrantEdge, local_inference_batch_size: int | None) -> None:
        super().__init__(":memory:", local_inference_batch_size=local_inference_batch_size)
        self._client = edge  # what it had holds nothing
