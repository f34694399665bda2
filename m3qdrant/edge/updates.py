"""Writes as data: each of qdrant-client's updates, checked, and what it asks of the points. Pure.

The engine applies an update point by point and stops at the first that doesn't exist, and what it
has written by then stays. So an `Update` says which points it needs, which it adds and which it
removes, and a batch of updates can be followed through, and refused, before any is applied.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from m3qdrant import jsonpath
from m3qdrant.edge.arguments import refuse_shard_key
from m3qdrant.edge.translate.check_points import check_point_vectors, check_points
from m3qdrant.edge.translate.check_vectors import check_vector_names
from m3qdrant.edge.translate.filters import to_filter
from m3qdrant.edge.translate.ids import check_ids
from m3qdrant.edge.translate.points import point, point_vectors, upsert_mode
from m3qdrant.edge.translate.vector_specs import VectorSpecs
from m3qdrant.errors import InputError, PointError, UnsupportedError
from m3qdrant.scalars import check_json

__all__ = [
    "Update",
    "clear_payload",
    "delete",
    "delete_payload",
    "delete_vectors",
    "from_operations",
    "missing_points",
    "overwrite_payload",
    "points_of",
    "set_payload",
    "update_vectors",
    "upsert",
]

Ids = Sequence[int | str]


@dataclass(frozen=True)
class Update:
    """One write, ready for the engine.

    Attributes:
        operation: the engine's update.
        needs: the points that must exist.
        adds: the points that exist afterwards.
        removes: the points that don't.
        removes_some: whether it deletes by a filter, so that nobody knows which are left.
        only: the same update, for some of the points that it needs.
    """

    operation: edge.UpdateOperation
    needs: Ids = ()
    adds: Ids = ()
    removes: Ids = ()
    removes_some: bool = False
    only: Callable[[Ids], edge.UpdateOperation] | None = None

    def left(self, existing: Collection[int | str]) -> edge.UpdateOperation | None:
        """The update for those of its points that still exist; None where there are none."""
        if self.only is None:
            return self.operation
        ids = [id for id in self.needs if id in existing]
        return self.only(ids) if ids else None


def missing_points(updates: Iterable[Update], existing: Collection[int | str]) -> list[int | str]:
    """The points that some update needs and doesn't find, if they are applied in this order.

    Args:
        updates: the updates.
        existing: those of the points they need that exist at the start.
    """
    present, missing = set(existing), []
    for update in updates:
        missing += [id for id in update.needs if id not in present]
        present.update(update.adds)
        present.difference_update(update.removes)
    return list(dict.fromkeys(missing))


# one function for each method of qdrant-client


def upsert(
    points: models.Batch | Iterable[models.PointStruct],
    layout: VectorSpecs,
    update_filter: Any = None,
    update_mode: Any = None,
) -> Update:
    """Insert or replace points."""
    checked = check_points(points, layout)
    mode = upsert_mode(update_mode)
    return Update(
        edge.UpdateOperation.upsert_points(
            [point(p) for p in checked],
            condition=to_filter(update_filter),
            update_mode=mode,
        ),
        adds=() if mode == edge.UpdateMode.UpdateOnly else [p.id for p in checked],
    )


def update_vectors(
    points: Iterable[models.PointVectors], layout: VectorSpecs, update_filter: Any = None
) -> Update:
    """Replace some of the points' vectors; the others, and the payload, stay."""
    checked = check_point_vectors(points, layout)
    condition = to_filter(update_filter)

    def only(ids: Ids) -> edge.UpdateOperation:
        wanted = set(ids)
        return edge.UpdateOperation.update_vectors(
            [point_vectors(p) for p in checked if p.id in wanted], condition=condition
        )

    needs = [p.id for p in checked]
    return Update(only(needs), needs=needs, only=only)


def delete_vectors(names: Sequence[str], selector: Any, layout: VectorSpecs) -> Update:
    """Remove some of the points' vectors."""
    checked = check_vector_names(names, layout)
    return _by_selector(
        selector,
        edge.UpdateOperation.delete_vectors,
        edge.UpdateOperation.delete_vectors_by_filter,
        (checked,),
    )


def delete(selector: Any) -> Update:
    """Remove points. Ids that don't exist are passed over."""
    chosen = _chosen(selector)
    if isinstance(chosen, models.Filter):
        return Update(
            edge.UpdateOperation.delete_points_by_filter(_filter(chosen)), removes_some=True
        )
    return Update(edge.UpdateOperation.delete_points(list(chosen)), removes=chosen)


def set_payload(payload: Any, selector: Any, key: str | None = None) -> Update:
    """Merge a payload into the points' payloads."""
    return _by_selector(
        selector,
        edge.UpdateOperation.set_payload,
        edge.UpdateOperation.set_payload_by_filter,
        (check_json(payload, "payload"), None if key is None else jsonpath.check_depth(key)),
    )


def overwrite_payload(payload: Any, selector: Any) -> Update:
    """Replace the points' payloads."""
    return _by_selector(
        selector,
        edge.UpdateOperation.overwrite_payload,
        edge.UpdateOperation.overwrite_payload_by_filter,
        (check_json(payload, "payload"),),
    )


def delete_payload(keys: Sequence[str], selector: Any) -> Update:
    """Remove fields from the points' payloads."""
    return _by_selector(
        selector,
        edge.UpdateOperation.delete_payload,
        edge.UpdateOperation.delete_payload_by_filter,
        ([jsonpath.check_depth(key) for key in keys],),
    )


def clear_payload(selector: Any) -> Update:
    """Remove the points' payloads."""
    return _by_selector(
        selector,
        edge.UpdateOperation.clear_payload,
        edge.UpdateOperation.clear_payload_by_filter,
        (),
    )


def _by_selector(selector: Any, by_ids: Any, by_filter: Any, arguments: tuple[Any, ...]) -> Update:
    chosen = _chosen(selector)
    if isinstance(chosen, models.Filter):
        return Update(by_filter(_filter(chosen), *arguments))

    def only(ids: Ids) -> edge.UpdateOperation:
        return by_ids(list(ids), *arguments)  # type: ignore[no-any-return]

    return Update(only(chosen), needs=chosen, only=only)


def _chosen(selector: Any) -> models.Filter | list[int | str]:
    """A selector in any of qdrant-client's forms, as a filter or as checked ids."""
    refuse_shard_key(getattr(selector, "shard_key", None))
    if isinstance(selector, models.FilterSelector):
        return selector.filter
    if isinstance(selector, models.Filter):
        return selector
    if isinstance(selector, models.PointIdsList):
        selector = selector.points
    elif not isinstance(selector, Iterable):
        selector = [selector]
    ids = check_ids(selector)
    if not ids:
        raise InputError("the list of point ids is empty: pass at least one, or a filter")
    return ids


def _filter(filter: models.Filter) -> edge.Filter:
    translated = to_filter(filter)
    assert translated is not None
    return translated


# the operations of a batch


def from_operations(operations: Sequence[Any], layout: VectorSpecs) -> list[Update]:
    """The updates of `batch_update_points`, all of them checked.

    Raises:
        InputError: the first that is wrong, by its number from 0.
        PointError: the same, where the fault is a point's.
    """
    updates = []
    for i, operation in enumerate(operations):
        try:
            updates.append(_from_operation(operation, layout))
        except PointError as error:
            reason = f"{error.reason} (in operation {i} of the batch; nothing was written)"
            raise PointError(error.id, error.field, reason) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"operation {i} of the batch, {type(operation).__name__}: {error}; "
                "nothing was written"
            ) from error
    return updates


def _from_operation(operation: Any, layout: VectorSpecs) -> Update:
    name = type(operation).__name__
    if name not in _OPERATIONS:
        raise UnsupportedError(f"the embedded engine has no {name}: make the call by itself")
    field, make = _OPERATIONS[name]
    content = getattr(operation, field)
    refuse_shard_key(getattr(content, "shard_key", None))
    return make(content, layout)


def _selector_of(content: Any) -> Any:
    selector = content.filter if content.points is None else content.points
    if selector is None:
        raise InputError("it has neither points nor a filter")
    return selector


_OPERATIONS: dict[str, tuple[str, Callable[[Any, VectorSpecs], Update]]] = {
    "UpsertOperation": (
        "upsert",
        lambda c, layout: upsert(
            c.batch if isinstance(c, models.PointsBatch) else c.points,
            layout,
            c.update_filter,
            c.update_mode,
        ),
    ),
    "UpdateVectorsOperation": (
        "update_vectors",
        lambda c, layout: update_vectors(c.points, layout, c.update_filter),
    ),
    "DeleteVectorsOperation": (
        "delete_vectors",
        lambda c, layout: delete_vectors(c.vector, _selector_of(c), layout),
    ),
    "DeleteOperation": ("delete", lambda c, _: delete(c)),
    "SetPayloadOperation": (
        "set_payload",
        lambda c, _: set_payload(c.payload, _selector_of(c), c.key),
    ),
    "OverwritePayloadOperation": (
        "overwrite_payload",
        lambda c, _: overwrite_payload(c.payload, _selector_of(c)),
    ),
    "DeletePayloadOperation": (
        "delete_payload",
        lambda c, _: delete_payload(c.keys, _selector_of(c)),
    ),
    "ClearPayloadOperation": ("clear_payload", lambda c, _: clear_payload(c)),
}


# the columns of an upload


def points_of(
    vectors: Mapping[str, Any] | Iterable[Any],
    payload: Iterable[Mapping[str, Any]] | None,
    ids: Iterable[Any] | None,
) -> Iterator[models.PointStruct]:
    """The points of `upload_collection`, whose columns may be arrays or any iterables.

    There are as many points as vectors. Without `ids` each gets a random UUID.

    Raises:
        InputError: the columns of `vectors` have different lengths, or another one ends early.
    """
    payloads = None if payload is None else iter(payload)
    names = None if ids is None else iter(ids)
    for i, vector in enumerate(_rows(vectors)):
        yield models.PointStruct.model_construct(
            id=str(uuid.uuid4()) if names is None else _next(names, "ids", i),
            vector=vector,
            payload=None if payloads is None else _next(payloads, "payload", i),
        )


def _rows(vectors: Mapping[str, Any] | Iterable[Any]) -> Iterator[Any]:
    if not isinstance(vectors, Mapping):
        yield from vectors
        return
    lengths = {name: len(column) for name, column in vectors.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{n} of {name!r}" for name, n in lengths.items())
        raise InputError(f"the vectors have different lengths: {shown}")
    for i in range(next(iter(lengths.values()), 0)):
        yield {name: column[i] for name, column in vectors.items()}


def _next(column: Iterator[Any], name: str, i: int) -> Any:
    try:
        return next(column)
    except StopIteration:
        raise InputError(
            f"{name} ends after {i} points, and there are more vectors: pass one for each"
        ) from None
