"""What qdrant-client's classes have and the embedded engine hasn't: each name says what to use.

A method that is there, and refuses its call, has the parameters of qdrant-client's, so that a
program finds the class complete. What is no method (`http` and its like), or was one in older
versions, isn't there: `hasattr` says so, and whoever takes it reads what to use instead.
"""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

from m3qdrant.errors import UnsupportedError

__all__ = ["AbsentError", "add_missing", "is_missing", "refuse_attribute"]


class AbsentError(AttributeError, UnsupportedError):
    """The engine has no such attribute; says what to use. `hasattr` takes it for a no."""


_INSTEAD = {
    "snapshot": "call create_snapshot and its like for each collection",
    "_models": "make the vectors yourself, with a library of your choice",
    "embedding_size": "make the vectors yourself, with a library of your choice",
    "shard_key": "a collection has one shard, and its filters do what shard keys would",
    "migrate": "call it of a QdrantEdge over the directory, when this client is closed",
    "optimizations": "call optimize, which returns when it is done",
}
"""What to do instead, by a part of the method's name."""

_NO_CONNECTION = "call the client's methods: there is no connection, and no server behind it"

_ATTRIBUTES = {
    "http": _NO_CONNECTION,
    "rest": _NO_CONNECTION,
    "openapi_client": _NO_CONNECTION,
    "grpc_points": _NO_CONNECTION,
    "grpc_collections": _NO_CONNECTION,
    "grpc_root": _NO_CONNECTION,
    # whoever asks for them passes them to QdrantClient or AsyncQdrantClient
    "init_options": "they would open qdrant-client's local mode on the same directory; an "
    "asynchronous client of this engine is AsyncQdrantEdgeView(edge), or as_qdrant_client of it",
    "search": "call query_points",
    "search_batch": "call query_batch_points",
    "search_groups": "call query_points_groups",
    "recommend": "call query_points with models.RecommendQuery",
    "recommend_batch": "call query_batch_points with models.RecommendQuery",
    "recommend_groups": "call query_points_groups with models.RecommendQuery",
    "discover": "call query_points with models.DiscoverQuery",
    "discover_batch": "call query_batch_points with models.DiscoverQuery",
    "upload_records": "call upload_points",
    "lock_storage": "open the directory with read_only=True",
    "unlock_storage": "open the directory without read_only",
    "get_locks": "read client.read_only",
    **dict.fromkeys(
        [
            "add",
            "query",
            "query_batch",
            "set_model",
            "set_sparse_model",
            "embedding_model_name",
            "sparse_embedding_model_name",
            "get_fastembed_vector_params",
            "get_fastembed_sparse_vector_params",
            "get_vector_field_name",
            "get_sparse_vector_field_name",
        ],
        "make the vectors yourself, and call upsert and query_points",
    ),
}
"""What other versions and the connected client have, and what to do instead."""


def refuse_attribute(owner: object, name: str) -> NoReturn:
    """What `__getattr__` does: the names of `_ATTRIBUTES` say what to use, others are unknown.

    Raises:
        AbsentError: a name that qdrant-client has, or had.
        AttributeError: any other.
    """
    if name in _ATTRIBUTES:
        raise AbsentError(f"the embedded engine has no {name}: {_ATTRIBUTES[name]}", name=name)
    raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}", name=name)


def add_missing(kind: type, reference: type) -> None:
    """Give `kind` each method of `reference` that it hasn't, as one that raises UnsupportedError.

    Args:
        kind: the class.
        reference: qdrant-client's class, whose signatures these methods have.
    """
    bases = [c for c in kind.__mro__ if c.__module__.startswith("qdrant_client.")]
    inherited = {name: method for base in reversed(bases) for name, method in vars(base).items()}
    for name, theirs in inspect.getmembers(reference, callable):
        if name.startswith("_") or not inspect.isroutine(theirs):
            continue
        if hasattr(kind, name) and getattr(kind, name) is not inherited.get(name):
            continue
        method = _refusing(kind.__name__, name, theirs)
        setattr(kind, name, classmethod(method) if inspect.ismethod(theirs) else method)


def is_missing(method: Any) -> bool:
    """Whether it is one of those that `add_missing` made."""
    return bool(getattr(method, "_is_missing", False))


def _refusing(kind: str, name: str, theirs: Any) -> Any:
    advice = (words for part, words in _INSTEAD.items() if part in name)
    instead = next(advice, "use a Qdrant server")

    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(f"the embedded engine has no {name}: {instead}")

    async def refuse_awaited(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        refuse(self)

    method: Any = refuse_awaited if inspect.iscoroutinefunction(theirs) else refuse

    method._is_missing = True
    method.__name__ = name
    method.__qualname__ = f"{kind}.{name}"
    method.__doc__ = f"Not in the embedded engine: {instead}."
    signature = inspect.signature(getattr(theirs, "__func__", theirs))
    method.__signature__ = signature
    return method
