"""JSON that every Qdrant engine can write and, above all, read back.

The embedded engine takes a payload that nests too deep, writes it to its log, and can't open the
collection again; JSON itself takes NaN in some hands and not in others. So payloads are checked
before anything else sees them, wherever they come from.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any

import numpy as np

from m3qdrant.errors import InputError
from m3qdrant.limits import MAX_NESTING

__all__ = ["check_json", "plain_json"]


def check_json(value: Any, what: str) -> Any:
    """`plain_json`, with `what` at the head of the message."""
    try:
        return plain_json(value)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def plain_json(value: Any) -> Any:
    """A copy of `value` as plain JSON.

    Dates, UUIDs, enums, tuples and numpy numbers become what qdrant-client would send for them.

    Raises:
        InputError: a number that is not finite or beyond 64 bits, a key that is no string, text
            that is no UTF-8, more than `MAX_NESTING` levels, a type that JSON lacks.
    """
    return _json(value, "", 0)


def _json(value: Any, path: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value.value if isinstance(value, Enum) else value, path)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InputError(
                f"{path or 'the value'} is {value}, beyond 64 bits: keep it as a string"
            )
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{path or 'the value'} is {value}, which JSON lacks: use None")
        return value
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if depth == MAX_NESTING:
        raise InputError(f"nests deeper than {MAX_NESTING} levels: flatten it")
    if isinstance(value, Mapping):
        out = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"the key {key!r} under {path or 'the top'} is no string")
            where = f"{path}.{key}" if path else key
            out[_text(key, where)] = _json(item, where, depth + 1)
        return out
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise InputError(f"{path or 'the value'} is a {type(value).__name__}, which JSON lacks")


def _text(text: str, path: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{path or 'the value'} holds half of a surrogate pair: "
                "decode the text with errors='replace'"
            ) from None
    return text
