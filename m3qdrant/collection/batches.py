"""Points in batches that a server accepts, of any collection's layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qdrant_client import models

__all__ = ["MAX_BYTES", "batches_by_size", "json_size"]

MAX_BYTES = 24_000_000
"""The most that a batch takes as JSON. A server refuses bodies over 32 MB (33,554,432 bytes)."""

_NUMBER_BYTES = 22
"""The most that one number takes in JSON, with its comma."""
_ENVELOPE_BYTES = 256
"""The most that the keys and the id of a point take, but for the names of its vectors."""


def batches_by_size(
    points: Iterable[models.PointStruct], max_bytes: int = MAX_BYTES
) -> Iterator[list[models.PointStruct]]:
    """Points in batches of at most `max_bytes` of JSON; a larger point goes alone."""
    batch: list[models.PointStruct] = []
    size = 0
    for point in points:
        bytes = json_size(point)
        if batch and size + bytes > max_bytes:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += bytes
    if batch:
        yield batch


def json_size(point: models.PointStruct) -> int:
    """The most bytes that a point can take as JSON."""
    payload = len(json.dumps(point.payload, default=str))
    if not isinstance(point.vector, Mapping):
        return _ENVELOPE_BYTES + payload + _NUMBER_BYTES * _numbers(point.vector)
    vectors = sum(
        4 * len(name) + 64 + _NUMBER_BYTES * _numbers(vector)
        for name, vector in point.vector.items()
    )
    return _ENVELOPE_BYTES + payload + vectors


def _numbers(vector: Any) -> int:
    """How many numbers, or brackets of as many bytes, a vector of any kind comes to."""
    if hasattr(vector, "indices"):
        return 2 * len(vector.indices)
    if len(vector) and hasattr(vector[0], "__len__"):
        return len(vector) * (len(vector[0]) + 1)
    return len(vector)
