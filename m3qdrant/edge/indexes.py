"""Payload indexes made when something needs them.

`facet` and `order_by` don't work without an index. A filter does, but then the engine reads every
payload: 10 to 20 ms at 10,000 points of 1 KB and 100 ms at 50,000, with the GIL held, where an
index takes 0.3 ms. Making one takes 0.1 s and 0.3 s, and looking through the values first 0.2 s
and 0.6 s.

An index may also change what a filter finds. A keyword index hides a field's numbers from
`MatchExcept`, an integer index takes 5.0 for 5, a float index hides strings that are UUIDs; an
index over array elements ("a[].b") answers `is_empty` otherwise. So a filter gets an index only
where nothing of this can happen: over a field whose values are all of one kind, and which is no
path into an array. As with an index of one's own, values of another kind that are written
*later* are outside it, and a range of dates over an index of numbers compares timestamps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.shard import Shard
from m3qdrant.edge.translate import answers
from m3qdrant.edge.translate.filter_models import conditions
from m3qdrant.edge.translate.payload_indexes import index_schema
from m3qdrant.errors import InputError
from m3qdrant.jsonpath import first_key, values_at

__all__ = ["MANY_POINTS", "Indexer", "filter_index", "kind_of"]

MANY_POINTS = 10_000
"""From here on filters get indexes: below, a filter without one takes 20 ms at most."""

Kind = Literal["string", "datetime", "integer", "long", "number", "bool", "geo"]
"""What a field's values are, all of them. `long` integers have more than 53 bits, and `number`
is a mixture of integers and floats, or floats alone."""

_EXACT = 2**53  # beyond it, an integer and a float compare differently with and without an index
_DATETIME = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d|$)")
_PAGE = 1000

_FACET: dict[Kind, str] = {
    "string": "keyword",
    "datetime": "keyword",
    "integer": "integer",
    "long": "integer",
    "bool": "bool",
}
_ORDER: dict[Kind, str] = {
    "integer": "integer",
    "long": "integer",
    "number": "float",
    "datetime": "datetime",
}


def kind_of(values: Iterable[Any]) -> Kind | Literal["mixed"] | None:
    """The one kind that a field's values are of; None where there are no values.

    Args:
        values: one a point; a list counts as its items, and null as no value.
    """
    kinds: set[Kind] = set()
    for value in values:
        if value is None:
            continue
        for item in value if isinstance(value, list) else [value]:
            kind = _kind(item)
            if kind is None:
                return "mixed"
            kinds.add(kind)
    for family in _FAMILIES:
        if kinds and kinds <= set(family):
            return next(kind for kind in family if kind in kinds)
    return "mixed" if kinds else None


_FAMILIES: tuple[tuple[Kind, ...], ...] = (
    ("string", "datetime"),
    ("number", "long", "integer"),
    ("bool",),
    ("geo",),
)
"""Kinds that go together, and are then of the first kind among them."""


def _kind(value: Any) -> Kind | None:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if abs(value) <= _EXACT:
            return "integer"
        return "long" if -(2**63) <= value < 2**63 else None
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "datetime" if _DATETIME.match(value) else "string"
    if isinstance(value, Mapping) and {"lon", "lat"} <= value.keys():
        return "geo"
    return None


def filter_index(condition: models.FieldCondition, kind: str | None) -> str | None:
    """The index that answers a condition over values of one kind as no index would.

    None where there is none: words in a text, for instance, are found in other ways with one.
    """
    match, range = condition.match, condition.range
    if kind == "string" and _matched(match) is str:
        return "keyword"
    if kind == "bool" and _matched(match) is bool:
        return "bool"
    if kind == "integer" and (_matched(match) is int or isinstance(range, models.Range)):
        return "integer"
    if kind == "number" and isinstance(range, models.Range):
        return "float"
    if kind == "datetime" and isinstance(range, models.DatetimeRange):
        return "datetime"
    if kind == "geo" and (
        condition.geo_radius or condition.geo_bounding_box or condition.geo_polygon
    ):
        return "geo"
    return None


def _could_help(condition: models.FieldCondition) -> bool:
    return any(filter_index(condition, kind) for kind in _WORDS)


def _matched(match: Any) -> type | None:
    """The type of the values that a condition compares with, whole."""
    values: Any = ()
    if isinstance(match, models.MatchValue):
        values = [match.value]
    elif isinstance(match, models.MatchAny):
        values = match.any
    elif isinstance(match, models.MatchExcept):
        values = match.except_
    kinds = {type(value) for value in values}
    return kinds.pop() if len(kinds) == 1 else None


class Indexer:
    """Makes the indexes of one collection.

    Args:
        shard: the collection.
        for_filters: whether filters get indexes, too.
    """

    def __init__(self, shard: Shard, *, for_filters: bool) -> None:
        self._shard = shard
        self._for_filters = for_filters
        self._seen: dict[str, tuple[str | None, int]] = {}

    def need(self, field: str, use: Literal["facet", "order_by"]) -> None:
        """See that `field` has an index, for `facet` or `order_by`.

        One that holds no point yet, because no point has the field, gives way to a better one.

        Raises:
            InputError: its values are of different kinds, or of one that can't be counted, or
                ordered; or its index can't.
        """
        with self._shard.use("index") as engine:
            wanted = _FACET if use == "facet" else _ORDER
            index = engine.info().payload_schema.get(field)
            usable = index is not None and answers.index_type(index) in _USABLE[use]
            if index is not None and index.points > 0:
                if not usable:
                    raise InputError(
                        f"{use} can't use the {answers.index_type(index)} index on {field!r}: "
                        "delete it with delete_payload_index, and the right one is made"
                    )
                return
            found = kind_of(_values(engine, field))
            if found is None:
                if not usable:
                    self._make(field, _USABLE[use][0])
            elif found == "mixed" or found not in wanted:
                raise InputError(
                    f"{use} needs an index on {field!r}, and none can be made of its values, "
                    f"which are {_WORDS[found]}: {use} takes {_TAKES[use]}. Store them so, or "
                    "choose an index with create_payload_index, which passes over the others"
                )
            else:
                self._make(field, wanted[found])

    def serve(self, *filters: Any) -> None:
        """Make the indexes that filters over a large collection lack."""
        if not self._for_filters or all(filter is None for filter in filters):
            return
        with self._shard.use("index") as engine:
            info = engine.info()
            points = info.points_count
            if points < MANY_POINTS:
                return
            made = set(info.payload_schema)
            for condition in (c for filter in filters for c in conditions(filter)):
                field = condition.key
                if field in made or "[" in field or not _could_help(condition):
                    continue
                # looking through the values takes longer than the filter: not every time
                kind, until = self._seen.get(field, (None, 0))
                if filter_index(condition, kind) is None and points < until:
                    continue
                kind = kind_of(_values(engine, field))
                self._seen[field] = kind, 2 * points
                index = filter_index(condition, kind)
                if index is not None:
                    self._make(field, index)
                    made.add(field)

    def _make(self, field: str, index: str) -> None:
        schema = index_schema(index)
        self._shard.write("index", lambda: edge.UpdateOperation.create_field_index(field, schema))


_WORDS: dict[str, str] = {
    "string": "strings",
    "datetime": "dates",
    "integer": "integers",
    "long": "integers",
    "number": "floats",
    "bool": "booleans",
    "geo": "places",
    "mixed": "of different kinds",
}
_USABLE = {
    "facet": ("keyword", "integer", "bool", "uuid"),
    "order_by": ("float", "integer", "datetime"),
}
_TAKES = {"facet": "strings, integers or booleans", "order_by": "numbers or ISO 8601 dates"}


def _values(engine: edge.EdgeShard, field: str) -> Iterator[Any]:
    """A field's value in every point that has one, read page by page."""
    offset: Any = None
    while True:
        page, offset = engine.scroll(
            edge.ScrollRequest(
                offset=offset,
                limit=_PAGE,
                filter=None,
                with_payload=[first_key(field)],
                with_vector=False,
                order_by=None,
            )
        )
        for record in page:
            yield from values_at(record.payload, field, flat=False)
        if offset is None:
            return
