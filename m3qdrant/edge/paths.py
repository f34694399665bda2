"""Values in a payload by their path, as the engine reads it: "a.b", "a[].b", "a[0]", '"a.b".c'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["first_key", "values_at"]

_STEP = re.compile(r'\.?(?:"(?P<quoted>[^"]*)"|(?P<key>[^.\[\]"]+)|\[(?P<index>\d*)\])')


def values_at(payload: Mapping[str, Any] | None, path: str, *, flat: bool = True) -> list[Any]:
    """The values that a path leads to; with `flat`, a list among them counts as its items."""
    found: list[Any] = [payload]
    for step in _STEP.finditer(path):
        if step["index"] is None:
            key = step["key"] if step["quoted"] is None else step["quoted"]
            found = [v[key] for v in found if isinstance(v, Mapping) and key in v]
        elif step["index"] == "":
            found = [item for v in found if isinstance(v, list) for item in v]
        else:
            i = int(step["index"])
            found = [v[i] for v in found if isinstance(v, list) and i < len(v)]
    if not flat:
        return found
    return [item for v in found for item in (v if isinstance(v, list) else [v])]


def first_key(path: str) -> str:
    """The field of the payload that a path starts at, as a path of its own."""
    step = _STEP.match(path)
    return path if step is None else step[0]
