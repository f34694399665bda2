"""The arguments of qdrant-client's methods that settle how a request reaches a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from m3qdrant.errors import InputError, UnsupportedError

__all__ = ["CLUSTER", "NO_EFFECT", "UPLOAD", "accept", "refuse_shard_key"]

NO_EFFECT = frozenset({"wait", "ordering", "timeout", "consistency", "max_retries", "method"})
"""Here every write is done and flushed when the call returns, and every read sees it, so these
are accepted and change nothing."""

CLUSTER = frozenset(
    {
        "shard_number",
        "sharding_method",
        "replication_factor",
        "write_consistency_factor",
        "wal_config",
        "strict_mode_config",
    }
)
"""Arguments of `create_collection` that concern a cluster or a shared server."""


UPLOAD = frozenset({"parallel", "on_batch_failure"})
"""Arguments of the uploads that concern a connection."""


def accept(method: str, kwargs: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Take the arguments that have no effect here, and refuse those that nobody knows.

    Args:
        method: the name of the method that was called with them.
        kwargs: those beyond its own parameters.
        others: more that it takes.

    Raises:
        InputError: names the method and the arguments that it doesn't take.
    """
    refuse_shard_key(kwargs.get("shard_key_selector"))
    unknown = kwargs.keys() - NO_EFFECT - set(others) - {"shard_key_selector"}
    if unknown:
        raise InputError(f"{method}: unknown arguments: {', '.join(sorted(unknown))}")


def refuse_shard_key(key: Any) -> None:
    """A shard key would send a request to a part of the points; here there are no parts."""
    if key is not None:
        raise UnsupportedError(
            "the embedded engine has no shard keys: leave shard_key_selector out"
        )
