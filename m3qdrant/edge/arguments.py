"""The arguments of qdrant-client's methods that settle how a request reaches a cluster.

Here every write is done and flushed when the call returns, and every read sees it: `wait`,
`ordering`, `consistency` and `timeout` are taken and change nothing. What no server would take is
refused all the same, so that a program doesn't learn of it on the day when it moves to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qdrant_client import models

from m3qdrant.edge.refusals import invalid
from m3qdrant.errors import InputError, UnsupportedError

__all__ = ["accept", "at_least", "refuse_shard_key"]

_NO_EFFECT = frozenset({"wait", "ordering", "timeout", "consistency", "max_retries", "method"})
"""Taken everywhere, also by methods that have no such parameter."""


def accept(
    method: str,
    kwargs: Mapping[str, Any],
    *,
    shard_key_selector: Any = None,
    ordering: Any = None,
    consistency: Any = None,
    timeout: Any = None,
) -> None:
    """Take the arguments that have no effect here, and refuse those that nobody knows.

    Args:
        method: the name of the method that was called with them.
        kwargs: those beyond its own parameters.
        shard_key_selector: which part of the points a request is for; must be None.
        ordering: of writes in a cluster.
        consistency: of reads in a cluster.
        timeout: seconds, more than 0.

    Raises:
        InputError: names the method and the arguments that it doesn't take.
        UnsupportedError: a shard key.
    """
    given = {**kwargs}
    refuse_shard_key(given.pop("shard_key_selector", shard_key_selector))
    unknown = given.keys() - _NO_EFFECT
    if unknown:
        raise InputError(f"{method}: unknown arguments: {', '.join(sorted(unknown))}")
    _check_timeout(method, given.get("timeout", timeout))
    _check_word(method, "ordering", given.get("ordering", ordering), models.WriteOrdering)
    _check_consistency(method, given.get("consistency", consistency))


def refuse_shard_key(key: Any) -> None:
    """A shard key would send a request to a part of the points; here there are no parts."""
    if key is not None:
        raise UnsupportedError(
            "the embedded engine has no shard keys: leave shard_key_selector out"
        )


def at_least(what: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`; None is fine.

    Raises:
        InputError: as a server says it.
    """
    if value is None:
        return
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise InputError(f"{what} is {value!r}: pass an integer of at least {least}")
    if value < least:
        raise invalid(f"{what}: value {value} invalid, must be {least} or larger")


def _check_timeout(method: str, timeout: Any) -> None:
    if timeout is None:
        return
    if not isinstance(timeout, (int, float, np.number)) or isinstance(timeout, bool):
        raise InputError(f"{method}: timeout is {timeout!r}: pass seconds")
    if not timeout > 0:
        raise invalid(f"{method}: timeout: value {timeout} invalid, must be 1 or larger")


def _check_word(method: str, what: str, value: Any, kind: Any) -> None:
    if value is None or type(value).__module__.startswith("qdrant_client.grpc"):
        return
    if isinstance(value, int) and not isinstance(value, bool) and what == "ordering":
        return  # a member of gRPC's enum, which is a number
    words = [member.value for member in kind]
    if value not in words:
        raise InputError(f"{method}: {what} is {value!r}: pass one of {', '.join(words)}")


def _check_consistency(method: str, value: Any) -> None:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        at_least(f"{method}: consistency", value)
        return
    _check_word(method, "consistency", value, models.ReadConsistencyType)
