"""Filters in plain Python, so that a user need not build Qdrant's models.

    {"lang": "de", "year": {"gte": 2020}, "tag": ["news", "blog"], "draft": {"not": True}}

reads: lang is de, and year at least 2020, and tag one of the two, and draft not true.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from qdrant_client import models

from m3qdrant import jsonpath
from m3qdrant.collection.documents import document_id_of, point_id
from m3qdrant.errors import InputError
from m3qdrant.floats import end
from m3qdrant.scalars import plain_json, plain_number, plain_scalar

__all__ = ["as_filter", "says_nothing"]

_RANGE = ("gt", "gte", "lt", "lte")
_EXACT = 2**53
"""Up to here every integer is a float too."""
_ISO_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:?\d{2})?)?"
)


def as_filter(filter: models.Filter | Mapping[str, Any] | None) -> models.Filter | None:
    """`filter` as a Qdrant filter; Qdrant's own pass through as they are.

    A mapping's conditions all have to hold. Its keys are payload keys as they are spelt; one that
    also reads as a path, such as "a.b" or "a[0]", finds what the path leads to and what the key
    itself names. (A key of double quotes holds only the key: '"a.b"'.) "id" is the document's id.
    Its values are
    - a string, number or boolean: equal to it (or, where the payload holds a list, contained);
      2020 and 2020.0 are one number, which neither "2020" nor True equals. What a payload holds
      as text (a date, a UUID, a Decimal) is equal to that text; a datetime is equal to every
      spelling of its time;
    - a list, tuple or set of such values: equal to one of them;
    - {"gte": 1, "lt": 5}: in the range, of numbers or of times (`datetime`, `date`, numpy's or
      ISO 8601 strings with year, month and day; without a zone they are UTC);
    - {"not": x}: none of what x says;
    - None: the key is missing, null or an empty list.

    Raises:
        InputError: names the key and what is allowed.
    """
    if filter is None:
        return None
    if isinstance(filter, models.Filter):
        _check_min_should(filter)
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
        negated = isinstance(value, Mapping) and set(value) == {"not"}
        condition = _on(key, value["not"] if negated else value)
        (must_not if negated else must).append(condition)
    return models.Filter(must=must or None, must_not=must_not or None) if filter else None


def says_nothing(filter: models.Filter | None) -> bool:
    """Whether a filter lets every document through, because no condition is in it."""
    return filter is None or (
        filter.min_should is None
        and not filter.must_not
        and all(
            isinstance(condition, models.Filter) and says_nothing(condition)
            for clause in (filter.must, filter.should)
            for condition in _clause(clause)
        )
    )


def _clause(clause: Any) -> list[Any]:
    if clause is None:
        return []
    return clause if isinstance(clause, list) else [clause]


def _check_min_should(filter: models.Filter) -> None:
    """Refuse a `min_should` that everything satisfies: with it, `delete` would empty all."""
    for one in _filters(filter):
        least = one.min_should
        if least is not None and least.min_count < 1:
            raise InputError(
                f"filter: min_should's min_count is {least.min_count}, which every document "
                "satisfies: give 1 or more"
            )


def _filters(filter: models.Filter) -> Iterator[models.Filter]:
    yield filter
    least = filter.min_should
    clauses = (filter.must, filter.should, filter.must_not, least and least.conditions)
    for clause in clauses:
        for condition in _clause(clause):
            if isinstance(condition, models.Filter):
                yield from _filters(condition)
            elif isinstance(condition, models.NestedCondition):
                yield from _filters(condition.nested.filter)


# -- keys


def _on(key: str, value: Any) -> models.Condition:
    paths = _paths(key)
    each = [_condition(key, path, value) for path in paths]
    if key == "id" and (named := _named(value)) is not None:
        each.append(named)
    if len(each) == 1:
        return each[0]
    if value is None:
        return models.Filter(must=each)
    return models.Filter(should=each)


def _paths(key: str) -> list[str]:
    """The paths that a key, as it is spelt, may mean: its own, and what it reads as."""
    try:
        path = jsonpath.as_path(key)
    except InputError as error:
        raise InputError(f"filter: {error}") from error
    return [path] if '"' in path or len(jsonpath.parse(path)) == 1 else [path, f'"{path}"']


def _named(value: Any) -> models.Condition | None:
    """The condition that a document has this id, or one of these."""
    several = isinstance(value, list | tuple | set | frozenset)
    try:
        ids = [document_id_of(id) for id in (value if several else [value])]
    except InputError:
        return None
    return models.HasIdCondition(has_id=[point_id(id) for id in ids])


# -- values


def _condition(key: str, path: str, value: Any) -> models.Condition:
    value = plain_scalar(value)
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=path))
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return _one_of(key, path, list(value))
    if isinstance(value, Mapping):
        if value and set(value) <= set(_RANGE):
            return _range(key, path, dict(value))
    elif (equal := _equal(key, path, value)) is not None:
        return equal
    raise InputError(
        f"filter: {key}: can't read {value!r}; give a value, a list of values, a range of "
        f"{', '.join(_RANGE)}, or {{'not': ...}}"
    )


def _equal(key: str, path: str, value: Any) -> models.FieldCondition | None:
    if isinstance(value, dt.datetime):
        at = _time(key, value)
        return models.FieldCondition(key=path, range=models.DatetimeRange(gte=at, lte=at))
    if isinstance(value, dt.date):
        value = plain_json(value)  # the string that a payload holds
    if isinstance(value, str | bool):
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    if isinstance(value, int) and abs(value) > _EXACT:
        if not -(2**63) <= value < 2**63:
            raise InputError(f"filter: {key}: {value} is beyond 64 bits, and no payload holds it")
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    if isinstance(value, int | float):
        # 5 and 5.0 are one number in JSON, which an integer's match would tell apart
        number = _finite(key, value)
        same = models.Range(gte=end("gte", number), lte=end("lte", number))
        return models.FieldCondition(key=path, range=same)
    return None


def _one_of(key: str, path: str, values: list[Any]) -> models.Condition:
    if not values:
        raise InputError(f"filter: {key}: the list is empty; give some values, or leave it out")
    plain = [plain_scalar(value) for value in values]
    if all(isinstance(value, str) for value in plain):
        return models.FieldCondition(key=path, match=models.MatchAny(any=plain))
    each: list[models.Condition] = []
    for value in plain:
        equal = (
            models.IsEmptyCondition(is_empty=models.PayloadField(key=path))
            if value is None
            else _equal(key, path, value)
        )
        if equal is None:
            raise InputError(
                f"filter: {key}: a list holds strings, numbers, booleans or None, not {value!r}"
            )
        each.append(equal)
    return each[0] if len(each) == 1 else models.Filter(should=each)


def _range(key: str, path: str, bounds: dict[str, Any]) -> models.FieldCondition:
    values = {name: plain_number(value) for name, value in bounds.items()}
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values.values()):
        numbers = {name: end(name, _finite(key, value)) for name, value in values.items()}
        return models.FieldCondition(key=path, range=models.Range(**numbers))
    moments = {n: value for n, value in values.items() if isinstance(value, dt.date | str)}
    if len(moments) == len(values):
        times = {name: _time(key, moment) for name, moment in moments.items()}
        return models.FieldCondition(key=path, range=models.DatetimeRange(**times))
    raise InputError(
        f"filter: {key}: range bounds must be all numbers or all datetimes: {bounds!r}"
    )


def _finite(key: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"filter: {key}: {value} is no number that a payload can hold")
    return number


def _time(key: str, time: dt.date | str) -> dt.datetime:
    """A point in time; without a zone it is in UTC, as the server reads it."""
    value = _parsed(key, time) if isinstance(time, str) else time
    if value != value:  # pandas' NaT
        raise InputError(f"filter: {key}: {value!r} is no time")
    if not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    return value if value.tzinfo is not None else value.replace(tzinfo=dt.timezone.utc)


def _parsed(key: str, text: str) -> dt.date:
    # pydantic would take "2025" for 2025 seconds after 1970
    if not _ISO_DATE.fullmatch(text.strip()):
        raise InputError(
            f"filter: {key}: {text!r} is no ISO 8601 date: give year, month and day, such as "
            "'2025-01-31' or '2025-01-31T12:00:00Z'"
        )
    try:
        value = models.DatetimeRange.model_validate({"gte": text.strip()}).gte
    except ValueError as error:
        raise InputError(f"filter: {key}: {text!r} is no ISO 8601 date") from error
    assert value is not None
    return value
