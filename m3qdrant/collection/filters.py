"""Filters in plain Python, so that a user need not build Qdrant's models.

    {"lang": "de", "year": {"gte": 2020}, "tag": ["news", "blog"], "draft": {"not": True}}

reads: lang is de, and year at least 2020, and tag one of the two, and draft not true.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from m3qdrant.errors import InputError

__all__ = ["as_filter"]

_RANGE = frozenset({"gt", "gte", "lt", "lte"})


def as_filter(filter: models.Filter | Mapping[str, Any] | None) -> models.Filter | None:
    """`filter` as a Qdrant filter; Qdrant's own pass through as they are.

    A mapping's conditions all have to hold. Its keys are payload keys ("a.b" reaches into nested
    ones); its values are
    - a string, integer or boolean: equal to it (or, where the payload holds a list, contained);
    - a list or tuple of strings or of integers: equal to one of them;
    - {"gte": 1, "lt": 5}: in the range, of numbers or of datetimes (`datetime` or ISO 8601
    strings);
    - {"not": x}: none of what x says;
    - None: the key is missing, null or an empty list.

    Raises:
        InputError: names the key and what is allowed.
    """
    if filter is None or isinstance(filter, models.Filter):
        return filter
    if not isinstance(filter, Mapping):
        raise InputError(
            "filter must be a mapping such as {'lang': 'de'} or a qdrant_client.models.Filter, "
            f"not {type(filter).__name__}"
        )
    must: list[models.Condition] = []
    must_not: list[models.Condition] = []
    for key, value in filter.items():
        if not isinstance(key, str) or not key:
            raise InputError(f"filter: {key!r} is no payload key; keys are strings")
        if isinstance(value, Mapping) and set(value) == {"not"}:
            must_not.append(_condition(key, value["not"]))
        else:
            must.append(_condition(key, value))
    return models.Filter(must=must or None, must_not=must_not or None) if filter else None


def _condition(key: str, value: Any) -> models.Condition:
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    if isinstance(value, str | int):  # bool is an int
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))
    if isinstance(value, float):
        # Qdrant matches no floats for equality, but a closed range is the same
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    if isinstance(value, list | tuple):
        kinds = {type(item) for item in value}
        if not value or kinds not in ({str}, {int}):
            raise InputError(
                f"filter: {key}: a list must hold only strings or only integers, and some: "
                f"{value!r}"
            )
        return models.FieldCondition(key=key, match=models.MatchAny(any=list(value)))
    if isinstance(value, Mapping) and value and set(value) <= _RANGE:
        return _range(key, dict(value))
    raise InputError(
        f"filter: {key}: can't read {value!r}; give a value, a list of values, a range of "
        f"{', '.join(sorted(_RANGE))}, or {{'not': ...}}"
    )


def _range(key: str, bounds: dict[str, Any]) -> models.FieldCondition:
    values = list(bounds.values())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return models.FieldCondition(key=key, range=models.Range(**bounds))
    if all(isinstance(value, dt.date | str) for value in values):
        try:
            return models.FieldCondition(key=key, range=models.DatetimeRange(**bounds))
        except ValueError as error:
            raise InputError(
                f"filter: {key}: {bounds!r} holds something that is no ISO 8601 date"
            ) from error
    raise InputError(
        f"filter: {key}: range bounds must be all numbers or all datetimes: {bounds!r}"
    )
