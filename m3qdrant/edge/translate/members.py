"""The engine's enums by the values of qdrant-client's. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar

import qdrant_edge as edge

from m3qdrant.errors import UnsupportedError

__all__ = ["member", "memory"]

_E = TypeVar("_E", bound=Enum)


def member(kind: type[_E], value: Any) -> Any:
    """The engine's member for one of qdrant-client's: `float16` and `Float16` are the same."""
    if value is None:
        return None
    wanted = _plain(value.value if isinstance(value, Enum) else value)
    for name in dir(kind):
        if _plain(name) == wanted:
            return getattr(kind, name)
    raise UnsupportedError(f"the embedded engine has no {kind.__name__} {value!r}")


def _plain(name: Any) -> str:
    return str(name).replace("_", "").replace("-", "").lower()


def memory(config: Any) -> edge.Memory | None:
    """Where a part of the configuration wants its data held, if it says so."""
    found: edge.Memory | None = member(edge.Memory, getattr(config, "memory", None))
    return found
