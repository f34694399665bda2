"""Filters, and the conditions that they are made of, as the engine takes them. Pure."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.translate.filter_models import filter_model
from m3qdrant.edge.translate.ids import check_ids
from m3qdrant.errors import InputError, UnsupportedError
from m3qdrant.floats import end
from m3qdrant.limits import MAX_NESTING
from m3qdrant.scalars import plain_scalar

__all__ = ["condition", "geo_point", "time", "to_filter"]


def to_filter(filter: Any) -> edge.Filter | None:
    """A filter, with all that is nested in it."""
    return None if filter is None else _filter(filter, 0)


def _filter(filter: Any, depth: int) -> edge.Filter:
    filter = filter_model(filter)
    if depth > MAX_NESTING // 4:
        raise InputError(f"the filter nests deeper than {MAX_NESTING // 4} levels: flatten it")
    least = filter.min_should
    return edge.Filter(
        must=_conditions(filter.must, depth),
        should=_conditions(filter.should, depth),
        must_not=_conditions(filter.must_not, depth),
        min_should=None
        if least is None
        else edge.MinShould(_conditions(least.conditions, depth) or [], _min_count(least)),
    )


def _min_count(least: models.MinShould) -> int:
    if least.min_count < 1:  # of 0 every point would satisfy it, and a delete empty the collection
        raise InputError(
            f"min_count value {least.min_count} is invalid. Must be 1 or larger: give the number "
            "of conditions that have to hold"
        )
    return least.min_count


def _conditions(conditions: Any, depth: int) -> list[Any] | None:
    if conditions is None:
        return None
    each = conditions if isinstance(conditions, (list, tuple)) else [conditions]
    return [condition(c, depth) for c in each]


def condition(condition: Any, depth: int = 0) -> Any:
    """A condition, which may be a filter."""
    if isinstance(condition, models.Filter):
        return _filter(condition, depth + 1)
    if isinstance(condition, models.FieldCondition):
        return _field_condition(condition)
    if isinstance(condition, models.HasIdCondition):
        return edge.HasIdCondition({_uuid(id) for id in check_ids(condition.has_id)})
    if isinstance(condition, models.IsEmptyCondition):
        return edge.IsEmptyCondition(condition.is_empty.key)
    if isinstance(condition, models.IsNullCondition):
        return edge.IsNullCondition(condition.is_null.key)
    if isinstance(condition, models.HasVectorCondition):
        return edge.HasVectorCondition(condition.has_vector)
    if isinstance(condition, models.NestedCondition):
        nested = condition.nested
        return edge.NestedCondition(nested.key, _filter(nested.filter, depth + 1))
    if type(condition).__name__ == "SliceCondition":
        return edge.SliceCondition(  # type: ignore[attr-defined]
            total=condition.slice.total, index=condition.slice.index
        )
    raise UnsupportedError(
        f"the embedded engine has no condition {type(condition).__name__}: rewrite the filter, "
        "or use a Qdrant server"
    )


def _uuid(id: int | str) -> int | uuid.UUID:
    return uuid.UUID(id) if isinstance(id, str) else id


def _field_condition(c: models.FieldCondition) -> Any:
    parts = (
        c.match,
        c.range,
        c.geo_bounding_box,
        c.geo_radius,
        c.geo_polygon,
        c.values_count,
        c.is_null,
    )
    if all(part is None for part in parts):
        if c.is_empty is None:
            raise InputError(
                f"the condition on {c.key!r} says nothing: give it a match or a range"
            )
        # without an index, the engine's field condition takes a[].b for empty where any is; this
        # one takes it for empty where all are, as both do with an index
        empty = edge.IsEmptyCondition(c.key)
        return empty if c.is_empty else edge.Filter(must_not=[empty])
    box, circle, polygon, values = c.geo_bounding_box, c.geo_radius, c.geo_polygon, c.values_count
    return edge.FieldCondition(
        c.key,
        match=None if c.match is None else _match(c.match),
        range=None if c.range is None else _range(c.range),
        geo_bounding_box=None
        if box is None
        else edge.GeoBoundingBox(geo_point(box.top_left), geo_point(box.bottom_right)),
        geo_radius=None
        if circle is None
        else edge.GeoRadius(geo_point(circle.center), float(circle.radius)),
        geo_polygon=None
        if polygon is None
        else edge.GeoPolygon(
            _ring(polygon.exterior),
            None if polygon.interiors is None else [_ring(r) for r in polygon.interiors],
        ),
        values_count=None
        if values is None
        else edge.ValuesCount(lt=values.lt, gt=values.gt, lte=values.lte, gte=values.gte),
        is_empty=c.is_empty,
        is_null=c.is_null,
    )


class _Truth:
    """A boolean that is no integer.

    The bindings try integers before booleans and take True for 1, which then matches nothing. They
    also take numpy's booleans, which they know by name; but older ones of these are integers, too.
    """

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Truth.__module__, _Truth.__name__ = "numpy", "bool_"


def _match(match: Any) -> Any:
    name = type(match).__name__
    if name == "MatchExcept":
        return edge.MatchExcept(_values(match.except_))
    if name == "MatchAny":
        return edge.MatchAny(_values(match.any))
    field = {
        "MatchValue": "value",
        "MatchText": "text",
        "MatchTextAny": "text_any",
        "MatchPhrase": "phrase",
        "MatchPrefix": "prefix",
        "MatchSubstring": "substring",
    }.get(name)
    if field is None:
        raise UnsupportedError(f"the embedded engine has no {name}: use MatchValue or MatchText")
    value = plain_scalar(getattr(match, field))
    if isinstance(value, bool):
        value = _Truth(value)
    else:
        _check_values([value])
    return getattr(edge, name)(value)


def _check_values(values: Sequence[Any]) -> None:
    for value in values:
        if not isinstance(value, str | int):
            raise InputError(
                f"a match takes strings, integers and booleans, not {value!r}: a number x is "
                "found by models.Range(gte=x, lte=x), a time by models.DatetimeRange"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(
                f"a match with {value}, which is beyond 64 bits with a sign: no payload that can "
                "be matched holds it"
            )


def _values(values: Sequence[Any]) -> list[Any]:
    each = [plain_scalar(value) for value in values]
    _check_values(each)
    if any(isinstance(v, str) for v in each) and not all(isinstance(v, str) for v in each):
        raise InputError("a match of any or except takes strings or integers, not both")
    return each


def _range(asked: Any) -> edge.RangeFloat | edge.RangeDateTime:
    bounds = {k: plain_scalar(getattr(asked, k)) for k in ("gte", "gt", "lte", "lt")}
    if isinstance(asked, models.DatetimeRange):
        return edge.RangeDateTime(**{k: time(v) for k, v in bounds.items() if v is not None})
    for name, bound in bounds.items():
        if bound is None:
            continue
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise InputError(f"a range ends at numbers, and its {name} is {bound!r}")
        if not math.isfinite(bound):
            raise InputError(f"a range can't end at {bound}: leave the bound out")
    return edge.RangeFloat(
        **{n: None if bound is None else end(n, float(bound)) for n, bound in bounds.items()}
    )


def time(value: str | datetime | date) -> str:
    """A point in time."""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.isoformat() + "Z"  # as the server reads a time without a zone
    return value.isoformat() + ("" if isinstance(value, datetime) else "T00:00:00Z")


def geo_point(at: models.GeoPoint) -> edge.GeoPoint:
    """A place."""
    return edge.GeoPoint(float(at.lon), float(at.lat))


def _ring(ring: models.GeoLineString) -> list[edge.GeoPoint]:
    return [geo_point(p) for p in ring.points]
