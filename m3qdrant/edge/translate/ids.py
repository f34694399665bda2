"""Point ids: integers and UUIDs, checked. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from enum import Enum
from typing import Any

import numpy as np

from m3qdrant.errors import InputError
from m3qdrant.rows import values

__all__ = ["check_id", "check_ids"]


def check_id(id: Any) -> int | str:
    """A point id: an unsigned 64-bit integer, or a UUID (returned as a hyphenated string)."""
    if isinstance(id, Enum):
        id = id.value
    if isinstance(id, uuid.UUID):
        return str(id)
    if isinstance(id, (int, np.integer)) and not isinstance(id, (bool, np.bool_)):
        if 0 <= id < 2**64:
            return int(id)
    elif isinstance(id, str):
        try:
            return str(uuid.UUID(id))
        except ValueError:
            pass
    raise InputError(
        f"{id!r} is no point id: use an integer from 0 to 2^64-1 or a UUID "
        "(uuid.uuid5(uuid.NAMESPACE_URL, your_id) makes one out of any string)"
    )


def check_ids(ids: Iterable[Any]) -> list[int | str]:
    """`check_id` for each of them."""
    if isinstance(ids, (str, bytes)):
        raise InputError(f"pass a list of point ids, not the string {ids!r}")
    return [check_id(id) for id in values(ids, "the point ids")]
