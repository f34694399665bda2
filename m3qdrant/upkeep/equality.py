"""Whether two stored points are the same, as far as two engines can agree. Pure.

Two collections with the same configuration hold the same bits, but for what an engine does when it
stores a vector: it normalises one under cosine distance, once more where it was normalised before
(the last bits move), and rounds to the collection's datatype, which qdrant-client's in-memory mode
does not do. So vectors are compared within what such rounding can come to. A checksum can't do
that, for however coarse its grid, some number lies at an edge of it: it is taken over the exact
bits, and two that are equal prove more than the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

__all__ = ["Judgement", "Rounding", "StoredPoint", "rounding"]

Judgement: TypeAlias = Literal["same", "rounded", "different"]
"""Bit for bit the same, or the same but for the rounding of vectors, or different."""

_Vector: TypeAlias = tuple[NDArray[np.float32], NDArray[np.uint32] | None]
"""Numbers, and the indices of a sparse vector."""

_CHECKSUM_BYTES = 16


@dataclass(frozen=True)
class Rounding:
    """How far apart two copies of a vector may lie: the norm of what they differ by.

    Attributes:
        relative: to the vector's own norm.
        absolute: beside that, for each number.
    """

    relative: float = 0.0
    absolute: float = 0.0


_ROUNDING = {
    "float32": Rounding(),
    "float16": Rounding(2.0**-10, 2.0**-24),  # numbers below 2^-14 lose more than a share
    "uint8": Rounding(absolute=1.0),
    "turbo16": Rounding(1e-5),
    "turbo8": Rounding(1e-5),
    # A copy is quantized once more, and differs by 2 % at 1024 dimensions, by 4 % at 128 and by
    # 10 % at 24 (the other datatypes give back what is stored as it is).
    "turbo4": Rounding(0.15),
}
_FEW_DIMENSIONS, _TURBO4_OF_FEW = 24, Rounding(0.2)
"""Below so many dimensions errors don't average out: a turbo4 copy differs by up to 16 % at 6."""
_NORMALISED = 1e-6


def rounding(config: models.CollectionParams) -> dict[str, Rounding]:
    """What storing may do to each dense vector of a collection ("" is the unnamed one)."""
    vectors = config.vectors
    named = {"": vectors} if isinstance(vectors, models.VectorParams) else vectors or {}
    return {name: _rounding(params) for name, params in named.items()}


def _rounding(params: models.VectorParams) -> Rounding:
    datatype = (params.datatype or models.Datatype.FLOAT32).value
    found = _ROUNDING[datatype]
    if datatype == "turbo4" and params.size < _FEW_DIMENSIONS:
        found = _TURBO4_OF_FEW
    if params.distance is models.Distance.COSINE:
        return replace(found, relative=found.relative + _NORMALISED)
    return found


@dataclass(frozen=True)
class StoredPoint:
    """A point in a form that can be compared, made once.

    Attributes:
        id: the point's.
        payload: as JSON with sorted keys; a missing one is as good as an empty one.
        vectors: by name, "" being the unnamed one; an empty sparse one is as good as none.
        checksum: a digest of the id, the payload and the exact vectors, 128 bits. Those of many
            points may be added up (modulo 2^128), so that their order doesn't matter.
    """

    id: models.ExtendedPointId
    payload: str
    vectors: Mapping[str, _Vector]
    checksum: int

    @classmethod
    def of(cls, record: models.Record) -> StoredPoint:
        """From a record with payload and vectors."""
        payload = json.dumps(record.payload or {}, sort_keys=True, separators=(",", ":"))
        vectors = _vectors(record.vector)
        return cls(record.id, payload, vectors, _checksum(record.id, payload, vectors))

    def compare(self, other: StoredPoint, allowed: Mapping[str, Rounding]) -> Judgement:
        """Whether two copies of a point have the same payload and vectors.

        Args:
            other: the copy.
            allowed: for each dense vector, see `rounding`; sparse ones must be the same.
        """
        if self.checksum == other.checksum:
            return "same"
        if self.payload != other.payload or self.vectors.keys() != other.vectors.keys():
            return "different"
        near = (
            _near(vector, other.vectors[name], allowed.get(name, Rounding()))
            for name, vector in self.vectors.items()
        )
        return "rounded" if all(near) else "different"


def _near(one: _Vector, other: _Vector, allowed: Rounding) -> bool:
    (a, indices), (b, others) = one, other
    if a.shape != b.shape or (indices is None) != (others is None):
        return False
    if indices is not None and others is not None and not np.array_equal(indices, others):
        return False
    most = allowed.relative * np.linalg.norm(a, axis=-1) + allowed.absolute * a.shape[-1] ** 0.5
    return bool((np.linalg.norm(a - b, axis=-1) <= most).all())


def _checksum(id: models.ExtendedPointId, payload: str, vectors: Mapping[str, _Vector]) -> int:
    digest = blake2b(digest_size=_CHECKSUM_BYTES)

    def take(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    take(repr(id if isinstance(id, int) else str(id)).encode())
    take(payload.encode())
    for name, (numbers, indices) in sorted(vectors.items()):
        take(name.encode())
        take(repr(numbers.shape).encode())
        take(numbers.tobytes())
        if indices is not None:
            take(indices.tobytes())
    return int.from_bytes(digest.digest(), "little")


def _vectors(vector: Any) -> dict[str, _Vector]:
    if vector is None:
        return {}
    named = vector if isinstance(vector, Mapping) else {"": vector}
    return {
        name: _vector(value)
        for name, value in named.items()
        if not (hasattr(value, "indices") and len(value.indices) == 0)
    }


def _vector(value: Any) -> _Vector:
    if hasattr(value, "indices"):
        indices = np.asarray(value.indices, np.uint32)
        order = np.argsort(indices)
        return np.asarray(value.values, np.float32)[order], indices[order]
    return np.ascontiguousarray(value, np.float32), None
