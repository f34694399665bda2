"""What an input no longer has, removed."""

from __future__ import annotations

from qdrant_client import models

from m3qdrant.collection import Steps, calls
from m3qdrant.errors import InputError
from m3qdrant.ingest.report import IngestReport
from m3qdrant.names import OURS

__all__ = ["remove_missing"]

_PAGE = 1_000


def remove_missing(
    name: str, seen: set[str], bound: models.Filter | None, report: IngestReport
) -> Steps[None]:
    """Remove the documents that a complete input did not have.

    Points of other programs stay.

    Args:
        name: the collection's.
        seen: the point ids of all documents of the input.
        bound: only documents that satisfy it can be gone.
        report: counts the removed.

    Raises:
        InputError: the input had no documents at all, which looks like a mistake.
    """
    if not seen:
        raise InputError(
            "prune: the input had no documents, so every document would be removed; if that is "
            "meant, delete them by a filter"
        )
    ours = models.Filter(
        must=[*([bound] if bound is not None else [])],
        must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=f"{OURS}.id"))],
    )
    gone: list[models.ExtendedPointId] = []
    offset: models.ExtendedPointId | None = None
    while True:
        records, offset = yield from calls.scroll(name, filter=ours, limit=_PAGE, offset=offset)
        gone += [record.id for record in records if str(record.id) not in seen]
        if offset is None:
            break
    for start in range(0, len(gone), _PAGE):
        page = gone[start : start + _PAGE]
        yield from calls.delete(name, models.PointIdsList(points=page))
        report.pruned += len(page)
