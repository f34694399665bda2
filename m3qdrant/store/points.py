"""Reranking the points of a plain Qdrant client's collection, whoever made it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant import transport
from m3qdrant.errors import InputError

if TYPE_CHECKING:
    from m3qdrant.collection import Steps
    from m3qdrant.rank import M3Reranker

__all__ = ["arerank_points", "rerank_points"]

_clients: WeakKeyDictionary[object, object] = WeakKeyDictionary()
"""What tells one client from another, also from one that is made at its address later."""


def rerank_points(
    client: QdrantBase,
    collection_name: str,
    points: models.QueryResponse | Sequence[Any],
    query: Any,
    *,
    using: str | None = None,
    distance: models.Distance | str | None = None,
    limit: int | None = None,
    reranker: M3Reranker | None = None,
    hold: bool = False,
) -> list[models.ScoredPoint]:
    """Points of any collection by late interaction, as Qdrant's own MAX_SIM ranks them.

        found = client.query_points("pages", dense, using="dense", limit=1000)
        best = rerank_points(client, "pages", found, tokens, using="colbert", limit=10)

    The collection may be of any model. Vectors that the points don't have with them are fetched.

    Args:
        client: a QdrantClient, or a QdrantEdge.
        collection_name: the collection's.
        points: what a query answered, or its points, records, or ids.
        query: (n, dim) numbers, the query's vectors, one a token: an array, a tensor, lists, or
            M3Embeddings of one text.
        using: the name of the multivector; None for a collection's unnamed one.
        distance: "Dot" or "Cosine", what the vector is compared by; None looks it up.
        limit: the most to give; None for all.
        reranker: scores them, on its device; by default one of this call's own.
        hold: keep their vectors in the reranker's cache, by the version that each point came
            with; what has none (records, ids, in-memory mode) is fetched each time. For a
            collection that is neither made again under its name nor has several replicas, whose
            versions begin anew or differ; after that, `reranker.clear()`.

    Returns:
        The points with their payloads, best first; the score is the sum over the query's vectors
        of each one's best match. A point that is gone, or has no such vector, is left out.

    Raises:
        InputError: names the argument; there is no such vector, or it is of another width.
        UnsupportedError: the distance is neither Dot nor Cosine.
        CollectionNotFoundError: there is no such collection.
        EngineError: Qdrant failed.
    """
    _check_client(client, QdrantBase, AsyncQdrantBase, "arerank_points")
    home = _home(client, collection_name) if hold else None
    steps = _steps(collection_name, points, query, using, distance, limit, reranker, home)
    return transport.run(client, steps, where=f"collection {collection_name!r}")


async def arerank_points(
    client: AsyncQdrantBase,
    collection_name: str,
    points: models.QueryResponse | Sequence[Any],
    query: Any,
    *,
    using: str | None = None,
    distance: models.Distance | str | None = None,
    limit: int | None = None,
    reranker: M3Reranker | None = None,
    hold: bool = False,
) -> list[models.ScoredPoint]:
    """`rerank_points` for an AsyncQdrantClient; scoring runs in a thread."""
    _check_client(client, AsyncQdrantBase, QdrantBase, "rerank_points")
    home = _home(client, collection_name) if hold else None
    steps = _steps(collection_name, points, query, using, distance, limit, reranker, home)
    return await transport.arun(client, steps, where=f"collection {collection_name!r}")


def _steps(
    name: str,
    points: models.QueryResponse | Sequence[Any],
    query: Any,
    using: str | None,
    distance: models.Distance | str | None,
    limit: int | None,
    reranker: M3Reranker | None,
    home: Hashable | None,
) -> Steps[list[models.ScoredPoint]]:
    from m3qdrant.collection import PointQuery
    from m3qdrant.collection import rerank_points as steps

    asked = PointQuery.asked(points, query, using, distance, limit, home)
    return steps(name, asked, _checked(reranker))


def _check_client(client: object, wanted: type, other: type, its: str) -> None:
    if not isinstance(client, wanted):
        what = f"use {its}" if isinstance(client, other) else f"give a {wanted.__name__}"
        raise InputError(f"client is {type(client).__name__}: {what}")


def _checked(reranker: object) -> M3Reranker:
    from m3qdrant.rank import M3Reranker

    if reranker is None:
        return M3Reranker(cache_bytes=0)
    if not isinstance(reranker, M3Reranker):
        raise InputError(f"reranker is {type(reranker).__name__}: give an M3Reranker")
    return reranker


def _home(client: object, collection_name: str) -> Hashable:
    return "points", _clients.setdefault(client, object()), collection_name
