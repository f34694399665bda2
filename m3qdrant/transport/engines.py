"""What answers a client's calls, and what it can do."""

from __future__ import annotations

from dataclasses import replace

from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal
from qdrant_client.local.qdrant_local import QdrantLocal

from m3qdrant.collection import EMBEDDED, MEMORY, SERVER, Capabilities
from m3qdrant.edge import AsyncQdrantEdge, QdrantEdge
from m3qdrant.transport.nodes import node_of
from m3qdrant.transport.wire.client import AsyncWireClient, WireClient

__all__ = ["capabilities_of"]

_WIRED = replace(SERVER, arrays=True)


def capabilities_of(client: QdrantBase | AsyncQdrantBase) -> Capabilities:
    """What can be asked of a client, synchronous or not."""
    client = node_of(client)
    if isinstance(client, QdrantEdge | AsyncQdrantEdge):
        return EMBEDDED
    options = getattr(client, "init_options", {})
    local = options.get("location") == ":memory:" or options.get("path") is not None
    if local or isinstance(client, QdrantLocal | AsyncQdrantLocal):
        return MEMORY
    return _WIRED if isinstance(client, WireClient | AsyncWireClient) else SERVER
