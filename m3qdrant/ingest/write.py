"""A chunk's embeddings made into points, and these sent in batches that a server accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from qdrant_client import models

from m3qdrant.collection import MAX_BYTES, Call, Layout, Steps, batches_by_size, calls, points
from m3qdrant.encode import M3Embeddings
from m3qdrant.errors import DocumentError, M3QdrantError, RequestRejectedError
from m3qdrant.ingest.plan import Plan, Recipe
from m3qdrant.ingest.report import IngestReport
from m3qdrant.names import COLBERT

__all__ = ["Entry", "Prepared", "prepare", "send"]


class Entry(NamedTuple):
    """A document about to be written.

    Attributes:
        point: checked and fitted; without vectors where only the payload is to be replaced.
        name: the document's id.
        counts: the fields of the report that count it once it is written.
    """

    point: models.PointStruct
    name: str
    counts: list[str]


@dataclass(frozen=True)
class Prepared:
    """What is to be written of a chunk.

    Attributes:
        points: to be upserted.
        payloads: to replace those of points that are there.
    """

    points: list[Entry]
    payloads: list[Entry]


def prepare(
    plan: Plan,
    embeddings: M3Embeddings | None,
    layout: Layout,
    recipe: Recipe,
    report: IngestReport,
    *,
    arrays: bool,
) -> Prepared:
    """Check and fit a chunk's embeddings; what can't be stored goes to the report.

    Args:
        plan: of the chunk.
        embeddings: of `plan.documents`, in their order; None where there are none.
        layout: the collection's.
        recipe: what to do with long documents.
        report: takes the failures.
        arrays: vectors as float32 arrays, for the embedded engine.
    """
    payloads = [
        Entry(
            models.PointStruct.model_construct(
                id=document.point_id, vector={}, payload=provenance.payload_of(document)
            ),
            document.id,
            ["updated"],
        )
        for document, provenance in plan.updates
    ]
    if embeddings is None:
        return Prepared([], payloads)
    embeddings = embeddings.to("cpu")
    faults = {
        position: DocumentError(plan.documents[position].id, field, reason)
        for position, field, reason in points.check(
            embeddings, layout, any_length=recipe.long_documents != "error"
        )
    }
    report.failed.extend(faults.values())
    good = [i for i in range(len(plan.documents)) if i not in faults]
    if not good:
        return Prepared([], payloads)
    kept = embeddings[good] if faults else embeddings
    fitted, too_long = points.fit(kept, layout, recipe.long_documents)
    counts = [["replaced" if plan.replaces[i] else "added"] for i in good]
    for i in too_long:
        counts[i].append("pooled" if recipe.long_documents == "pool" else "colbert_truncated")
    if fitted.truncated is not None:
        for i in fitted.truncated.nonzero().flatten().tolist():
            counts[i].append("truncated")
    documents = [plan.documents[i] for i in good]
    made = points.to_points(
        documents, [plan.provenances[i] for i in good], fitted, layout, arrays=arrays
    )
    entries = map(Entry, made, [document.id for document in documents], counts)
    return Prepared(list(entries), payloads)


_LARGER = 4
"""An engine without a body limit takes batches of so many times the bytes. The embedded one writes
its files out behind each, which took as long as all the rest where batches were a server's."""


def send(
    name: str, prepared: Prepared, report: IngestReport, *, remote: bool = True
) -> Steps[None]:
    """Upsert points and payloads, in batches that a server accepts, larger ones where none does.

    Several are under way at once. A batch that the server refuses is halved until the documents
    that it refuses stand alone; they go to the report, with the server's reason.
    """
    for entries, call in ((prepared.points, calls.upsert), (prepared.payloads, _overwrite)):
        done = 0
        batches = []
        most = MAX_BYTES if remote else _LARGER * MAX_BYTES
        for batch in batches_by_size([entry.point for entry in entries], most):
            batches.append(entries[done : done + len(batch)])
            done += len(batch)
        yield from _send_batches(name, batches, call, report)


def _send_batches(
    name: str,
    batches: list[list[Entry]],
    call: Callable[[str, list[models.PointStruct]], Call[Any]],
    report: IngestReport,
) -> Steps[None]:
    """Send batches, whose documents are all different, in any order."""
    outcomes = yield from calls.together(
        call(name, [entry.point for entry in batch]) for batch in batches
    )
    halves = []
    failure: M3QdrantError | None = None
    for batch, outcome in zip(batches, outcomes, strict=True):
        if not isinstance(outcome, M3QdrantError):
            _count(batch, report)
        elif not isinstance(outcome, RequestRejectedError):
            failure = failure or outcome
        elif len(batch) == 1:
            report.failed.append(DocumentError(batch[0].name, "point", str(outcome)))
        else:
            half = len(batch) // 2
            halves += [batch[:half], batch[half:]]
    if failure is not None:
        raise failure
    if halves:
        yield from _send_batches(name, halves, call, report)


def _count(batch: list[Entry], report: IngestReport) -> None:
    for entry in batch:
        report.tokens += _tokens(entry.point)
        for counted in entry.counts:
            if counted == "truncated":
                report.count_truncated(entry.name)
            setattr(report, counted, getattr(report, counted) + 1)


def _overwrite(name: str, points: list[models.PointStruct]) -> Call[list[models.UpdateResult]]:
    operations: list[models.UpdateOperation] = [
        models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload=point.payload or {}, points=[point.id])
        )
        for point in points
    ]
    return calls.batch_update_points(name, operations)


def _tokens(point: models.PointStruct) -> int:
    vectors: Any = point.vector
    return len(vectors.get(COLBERT, ()))
