"""Batches of points, checked whole: either all of them are handed on, or none. Pure.

See `check_vectors.py` for why the engine can't be trusted with this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from qdrant_client import models

from m3qdrant.edge.translate.check_vectors import CheckedVector, RefusedError, check_vector
from m3qdrant.edge.translate.ids import check_id
from m3qdrant.edge.translate.vector_specs import VectorSpecs, unknown_vector
from m3qdrant.errors import InputError, PointError
from m3qdrant.scalars import plain_json

__all__ = ["CheckedPoint", "check_point_vectors", "check_points"]


class CheckedPoint(NamedTuple):
    """A point that is safe to hand to the engine."""

    id: int | str
    vectors: dict[str, CheckedVector]
    payload: dict[str, Any] | None


def check_points(
    points: models.Batch | Iterable[models.PointStruct], layout: VectorSpecs
) -> list[CheckedPoint]:
    """Check a batch as `upsert` takes it: a list of points, or a `Batch` of columns.

    Vectors may be lists, numpy arrays, or lists of either; float32 arrays are the fastest.

    Raises:
        PointError: the first point that is wrong, by id, with the field and the remedy.
        InputError: the batch as a whole is wrong: empty, or columns of different lengths.
    """
    checked = [
        _check_point(i, id, vector, payload, layout)
        for i, (id, vector, payload) in enumerate(_rows(points))
    ]
    if not checked:
        raise InputError("the batch is empty: pass at least one point")
    return checked


def check_point_vectors(
    points: Iterable[models.PointVectors], layout: VectorSpecs
) -> list[CheckedPoint]:
    """Check what `update_vectors` takes, as `check_points` does; the payloads are None.

    Raises:
        PointError: the first point that is wrong, by id, with the vector's name and the remedy.
        InputError: there are no points.
    """
    checked = []
    for i, point in enumerate(points):
        if not hasattr(point, "id") or not hasattr(point, "vector"):
            raise InputError(f"point #{i} is a {type(point).__name__}: pass models.PointVectors")
        checked.append(_check_point(i, point.id, point.vector, None, layout))
    if not checked:
        raise InputError("there are no points: pass at least one")
    return checked


def _rows(
    points: models.Batch | Iterable[models.PointStruct],
) -> Iterable[tuple[Any, Any, Any]]:
    if not isinstance(points, models.Batch):
        for i, point in enumerate(points):
            if not hasattr(point, "id") or not hasattr(point, "vector"):
                raise InputError(
                    f"point #{i} is a {type(point).__name__}: pass models.PointStruct"
                )
            yield point.id, point.vector, getattr(point, "payload", None)
        return
    n = len(points.ids)
    payloads = points.payloads if points.payloads is not None else [None] * n
    if isinstance(points.vectors, Mapping):
        columns: Mapping[str, Any] = points.vectors
        lengths = {f"vectors[{name!r}]": len(column) for name, column in columns.items()}
        vectors: Sequence[Any] = []
        if all(length == n for length in lengths.values()):
            vectors = [{name: column[i] for name, column in columns.items()} for i in range(n)]
    else:
        vectors = points.vectors
        lengths = {"vectors": len(vectors)}
    lengths["payloads"] = len(payloads)
    for column_name, length in lengths.items():
        if length != n:
            raise InputError(
                f"the batch has {n} ids and {length} {column_name}: pass one for each point"
            )
    yield from zip(points.ids, vectors, payloads, strict=True)


def _check_point(i: int, id: Any, vector: Any, payload: Any, layout: VectorSpecs) -> CheckedPoint:
    shown, field = f"#{i}", "id"
    try:
        checked_id = check_id(id)
        shown = str(checked_id)
        vectors: dict[str, CheckedVector] = {}
        named = vector if isinstance(vector, Mapping) else {"": vector}
        if not layout and isinstance(vector, list) and not vector:
            named = {}  # of a collection without vectors
        for field, value in named.items():
            spec = layout.get(field)
            if spec is None:
                raise RefusedError(unknown_vector(field, layout))
            vectors[field] = check_vector(value, spec)
        field = "payload"
        return CheckedPoint(checked_id, vectors, _check_payload(payload))
    except RefusedError as refused:
        raise PointError(shown, field or "vector", str(refused)) from None
    except InputError as error:
        raise PointError(shown, field or "vector", str(error)) from None


def _check_payload(payload: Any) -> dict[str, Any] | None:
    if payload is None:
        return None
    if not isinstance(payload, Mapping):
        raise RefusedError(f"a {type(payload).__name__}, where a dict belongs")
    checked: dict[str, Any] = plain_json(payload)
    return checked
