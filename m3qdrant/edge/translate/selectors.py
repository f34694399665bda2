"""What shall come back, how many, and in which order, as the engine takes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.translate.filters import time
from m3qdrant.edge.translate.members import member
from m3qdrant.edge.translate.vector_specs import VectorSpecs
from m3qdrant.errors import InputError
from m3qdrant.scalars import plain_scalar

__all__ = ["count", "order_by", "payload_selector", "vector_selector"]


def count(what: str, value: Any, least: int) -> int:
    """A whole number of at least `least`, such as a limit."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise InputError(f"{what} is {value!r}: pass an integer of at least {least}")
    return int(value)


def order_by(order: Any) -> edge.OrderBy:
    """An ordering: a field's name, or `models.OrderBy`."""
    if isinstance(order, str):
        return edge.OrderBy(order)
    start = plain_scalar(order.start_from)
    if isinstance(start, (datetime, date)):
        start = time(start)
    direction = member(edge.Direction, order.direction)
    return edge.OrderBy(order.key, direction=direction, start_from=start)


def payload_selector(with_payload: Any) -> Any:
    """True, False, a list of fields, or models.PayloadSelectorInclude / Exclude."""
    if with_payload is None or isinstance(with_payload, bool):
        return bool(with_payload)
    if isinstance(with_payload, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(list(with_payload.include))
    if isinstance(with_payload, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(list(with_payload.exclude))
    if isinstance(with_payload, Iterable) and not isinstance(with_payload, str):
        return list(with_payload)
    raise InputError(f"with_payload={with_payload!r}: pass True, False or a list of fields")


def vector_selector(with_vectors: Any, layout: VectorSpecs) -> bool | list[str]:
    """True, False, or a list of vector names, each of which must exist."""
    if with_vectors is None or isinstance(with_vectors, bool):
        return bool(with_vectors)
    if isinstance(with_vectors, str) or not isinstance(with_vectors, Iterable):
        raise InputError(f"with_vectors={with_vectors!r}: pass True, False or a list of names")
    names = list(with_vectors)
    for name in names:
        if name not in layout:
            known = ", ".join(repr(n) for n in layout if n) or "only the unnamed vector"
            raise InputError(f"with_vectors names {name!r}, and the collection has {known}")
    return names
