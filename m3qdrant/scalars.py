"""What a JSON scalar is: one normaliser for payloads, filters, ids and arguments alike.

Values become what qdrant-client would send for them: pydantic's rules, and numpy's numbers as
Python's. What they become is checked: the embedded engine takes a payload that nests too deep,
writes it to its log, and can't open the collection again; JSON itself takes NaN in some hands and
not in others.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Generator, Mapping
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np

from m3qdrant.errors import InputError
from m3qdrant.limits import MAX_NESTING

__all__ = ["check_json", "plain_json", "plain_number", "plain_scalar"]

_LISTS = (list, tuple, set, frozenset, deque, Generator, np.ndarray)


def check_json(value: Any, what: str) -> Any:
    """`plain_json`, with `what` at the head of the message."""
    try:
        return plain_json(value)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def plain_json(value: Any) -> Any:
    """A copy of `value` as plain JSON: what qdrant-client would send for it.

    Dates, times, durations, UUIDs, decimals, bytes, paths and enums become strings or their
    values; dataclasses and pydantic models mappings; sets, tuples, arrays and generators lists;
    keys that are no strings strings.

    Raises:
        InputError: a number that is not finite or beyond 64 bits, two keys that become one, text
            that is no UTF-8, more than `MAX_NESTING` levels, a type that JSON lacks.
    """
    return _json(value, "", 0)


def plain_scalar(value: Any) -> Any:
    """`value` as a filter compares it: a string, a number, a boolean, None, or a date.

    As `plain_json`, but that a date or a datetime stays one (numpy's becomes one), and that it
    may be no number that JSON can hold. What is no scalar is given back as it is.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = _from_numpy(value)
    if value is None or isinstance(value, bool | int | float | str | date | Mapping):
        return value
    if isinstance(value, _LISTS):
        return value
    try:
        plain = _to_jsonable(value)
    except ValueError:
        return value
    return plain if isinstance(plain, str | int | float) else value


def plain_number(value: Any) -> Any:
    """`value` where a number is asked for: `plain_scalar`, and a decimal as a float."""
    return float(value) if isinstance(value, Decimal) else plain_scalar(value)


def _json(value: Any, path: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _json(value.value, path, depth)
    if isinstance(value, np.generic):
        value = _from_numpy(value)
        if isinstance(value, bool):
            return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InputError(
                f"{path or 'the value'} is {value}, beyond 64 bits: keep it as a string"
            )
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{path or 'the value'} is {value}, which JSON lacks: use None")
        return float(value)
    if isinstance(value, date) and value != value:  # pandas' NaT is a datetime
        raise InputError(f"{path or 'the value'} is {value}, which JSON lacks: use None")
    if depth == MAX_NESTING:
        if _is_container(value):
            raise InputError(f"nests deeper than {MAX_NESTING} levels: flatten it")
        return _leaf(value, path, depth)
    if isinstance(value, Mapping):
        return _mapping(value, path, depth)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return _json(value[()], path, depth)
    if isinstance(value, _LISTS):
        return [_json(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return _mapping(fields, path, depth)
    return _leaf(value, path, depth)


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, *_LISTS)) or dataclasses.is_dataclass(value)


def _mapping(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = key if type(key) is str else _key(key, path)
        where = f"{path}.{name}" if path else name
        if name in out:
            raise InputError(
                f"the keys under {path or 'the top'} become one, {name!r} (of {key!r} and "
                "another): rename one"
            )
        out[_text(name, where)] = _json(item, where, depth + 1)
    return out


def _key(key: Any, path: str) -> str:
    if isinstance(key, np.generic):
        key = _from_numpy(key)
    try:
        return str(next(iter(_to_jsonable({key: None}))))
    except ValueError:
        raise InputError(
            f"the key {key!r} under {path or 'the top'} is a {type(key).__name__}, which JSON "
            "lacks: use a string"
        ) from None


def _leaf(value: Any, path: str, depth: int) -> Any:
    """What pydantic makes of a value of another type; it may be a container then."""
    try:
        plain = _to_jsonable(value)
    except ValueError as error:
        reason = "" if "unknown type" in str(error) else f" ({error})"
        raise InputError(
            f"{path or 'the value'} is a {type(value).__name__}, which JSON lacks{reason}: use "
            "its text, or numbers"
        ) from None
    return _json(plain, path, depth)


def _to_jsonable(value: Any) -> Any:
    from pydantic_core import to_jsonable_python  # qdrant-client's own encoder

    return to_jsonable_python(value)


def _from_numpy(value: np.generic) -> Any:
    """A numpy scalar as Python's, a time to the microsecond."""
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            return math.nan
        days = np.datetime_data(value.dtype)[0] in ("Y", "M", "W", "D")
        return value.astype("datetime64[D]" if days else "datetime64[us]").item()
    if isinstance(value, np.timedelta64):
        return math.nan if np.isnat(value) else value.astype("timedelta64[us]").item()
    item = value.item()
    return float(value) if isinstance(item, np.generic) else item  # longdouble's stays numpy's


def _text(text: str, path: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{path or 'the value'} holds half of a surrogate pair: "
                "decode the text with errors='replace'"
            ) from None
    return str(text)
