"""Checked points and vectors, as the engine takes them. Pure."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from m3qdrant.edge.translate.check_points import CheckedPoint
from m3qdrant.edge.translate.check_vectors import CheckedVector, Sparse
from m3qdrant.edge.translate.members import member

__all__ = ["point", "point_vectors", "upsert_mode", "vector"]


def point(checked: CheckedPoint) -> edge.Point:
    """A checked point. The engine reads its arrays in place, row by row."""
    return edge.Point(checked.id, _vectors(checked), checked.payload)


def point_vectors(checked: CheckedPoint) -> edge.PointVectors:
    """A checked point's vectors alone."""
    return edge.PointVectors(checked.id, _vectors(checked))


def _vectors(checked: CheckedPoint) -> Any:
    vectors = {name: vector(v) for name, v in checked.vectors.items()}
    # an unnamed vector goes by itself, unless it has company
    return vectors[""] if len(vectors) == 1 and "" in vectors else vectors


def upsert_mode(mode: Any) -> edge.UpdateMode | None:
    """Upsert, or only insert, or only update."""
    return member(edge.UpdateMode, mode)  # type: ignore[no-any-return]


def vector(checked: CheckedVector) -> Any:
    """A checked vector, in the form that the engine reads fastest."""
    if isinstance(checked, Sparse):
        indices: Any = checked.indices.data
        values: Any = checked.values.data
        return edge.SparseVector(indices, values)
    if checked.ndim == 1:
        return checked.data
    # A (tokens, size) array as one flat buffer, cut into rows: half the time of `tolist`, and
    # less than that of the array itself, whose every number the bindings fetch by index.
    rows, stride = checked.reshape(-1).data.cast("B"), checked.shape[1] * checked.itemsize
    return [rows[i : i + stride].cast("f") for i in range(0, len(rows), stride)]
