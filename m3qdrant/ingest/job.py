"""Documents in, points out: any iterable, in bounded memory, a chunk at a time.

    Chunker     documents, checked, in chunks of unique ids (chunks.py)
    plan        which of a chunk are new, which changed, which are as they were
    prepare     embeddings checked, fitted to what Qdrant takes, made into points
    write       points in batches that a server accepts
    prune       what the input no longer has
    Ingest      one call of `add`: these five, in their order

`plan`, `write` and `prune` are operations (see calls.py), the rest is pure; store.py and aio.py
run them so that one chunk is encoded while the one before is written. One bad document does not
stop the others: it is left out and stands in the report.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from qdrant_client import models

from m3qdrant.collection import points as convert
from m3qdrant.collection.batches import batches_by_size
from m3qdrant.collection.calls import Call, Steps
from m3qdrant.collection.documents import Document
from m3qdrant.collection.filters import as_filter
from m3qdrant.collection.operations import Collection
from m3qdrant.collection.points import LongDocuments, check_long_documents
from m3qdrant.collection.provenance import Provenance
from m3qdrant.collection.schema import Layout
from m3qdrant.encode.embeddings import M3Embeddings
from m3qdrant.encode.encoder import M3Encoder, TruncationWarning
from m3qdrant.errors import (
    DocumentError,
    EngineError,
    IngestError,
    IngestInterrupted,
    InputError,
    RequestRejectedError,
)
from m3qdrant.ingest.chunks import Chunk, Chunker
from m3qdrant.ingest.heap import give_back
from m3qdrant.ingest.report import IngestReport
from m3qdrant.names import COLBERT, OURS

__all__ = [
    "Entry",
    "Ingest",
    "Plan",
    "Prepared",
    "Recipe",
    "embed",
    "plan",
    "prepare",
    "prune",
    "write",
]

_PRUNE_PAGE = 1_000


@dataclass(frozen=True)
class Recipe:
    """The options of an ingest that shape what is stored.

    Attributes:
        max_length: tokens a text is cut to.
        long_documents: what to do with more ColBERT vectors than Qdrant takes.
        model: the encoder's fingerprint; None where embeddings are brought along.
    """

    max_length: int
    long_documents: LongDocuments
    model: str | None

    def provenance(self, document: Document) -> Provenance:
        """What the document's point will say of its making."""
        return Provenance.of(document, self.model, f"{self.max_length} {self.long_documents}")


@dataclass(frozen=True)
class Plan:
    """What there is to do for a chunk.

    Attributes:
        documents: those to encode and store.
        positions: where each of them stood in the input.
        provenances: what each of their points will say of its making.
        replaces: for each, whether its id is there already.
        updates: those of which only the payload is to be replaced, with their provenance.
    """

    documents: list[Document]
    positions: list[int]
    provenances: list[Provenance]
    replaces: list[bool]
    updates: list[tuple[Document, Provenance]]

    @property
    def point_ids(self) -> set[str]:
        """The points that this plan writes."""
        return {document.point_id for document in (*self.documents, *(d for d, _ in self.updates))}


def plan(
    name: str,
    chunk: Chunk,
    recipe: Recipe,
    under_way: set[str],
    exists: bool,
    report: IngestReport,
) -> Steps[Plan]:
    """Compare a chunk with what is stored.

    Args:
        name: the collection's.
        chunk: documents to compare.
        recipe: how they would be stored.
        under_way: points that are being written and can't be compared yet: they are replaced.
        exists: whether there is a collection to compare with.
        report: counts the unchanged.
    """
    ids = [document.point_id for document in chunk.documents]
    records: list[Any] = []
    if exists:
        records = yield Call(
            "retrieve",
            {
                "collection_name": name,
                "ids": ids,
                "with_payload": [OURS],
                "with_vectors": False,
            },
        )
    stored = {str(record.id): Provenance.read(record.payload) for record in records}
    out = Plan([], [], [], [], [])
    for document, position, id in zip(chunk.documents, chunk.positions, ids, strict=True):
        new = recipe.provenance(document)
        old = stored.get(id) if id not in under_way else None
        if old is not None and new.same_vectors(old):
            if new.payload == old.payload:
                report.unchanged += 1
            else:
                out.updates.append((document, new))
            continue
        out.documents.append(document)
        out.positions.append(position)
        out.provenances.append(new)
        out.replaces.append(id in stored or id in under_way)
    return out


def embed(encoder: M3Encoder, documents: Sequence[Document], max_length: int) -> M3Embeddings:
    """The documents' embeddings. Cut texts are counted in the report, not warned of a chunk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        return encoder.encode_documents([item.text for item in documents], max_length)


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
        for position, field, reason in convert.check(
            embeddings, layout, any_length=recipe.long_documents != "error"
        )
    }
    report.failed.extend(faults.values())
    good = [i for i in range(len(plan.documents)) if i not in faults]
    if not good:
        return Prepared([], payloads)
    kept = embeddings[good] if faults else embeddings
    fitted, too_long = convert.fit(kept, layout, recipe.long_documents)
    counts = [["replaced" if plan.replaces[i] else "added"] for i in good]
    for i in too_long:
        counts[i].append("pooled" if recipe.long_documents == "pool" else "colbert_truncated")
    if fitted.truncated is not None:
        for i in fitted.truncated.nonzero().flatten().tolist():
            counts[i].append("truncated")
    documents = [plan.documents[i] for i in good]
    points = convert.to_points(
        documents, [plan.provenances[i] for i in good], fitted, layout, arrays=arrays
    )
    entries = map(Entry, points, [document.id for document in documents], counts)
    return Prepared(list(entries), payloads)


def write(name: str, prepared: Prepared, report: IngestReport) -> Steps[None]:
    """Upsert points and payloads, in batches that a server accepts.

    A batch that the server refuses is halved until the documents that it refuses stand alone; they
    go to the report, with the server's reason.
    """
    for entries, call in ((prepared.points, _upsert), (prepared.payloads, _overwrite)):
        done = 0
        for batch in batches_by_size([entry.point for entry in entries]):
            yield from _send(name, entries[done : done + len(batch)], call, report)
            done += len(batch)


def _send(
    name: str,
    entries: list[Entry],
    call: Callable[[str, list[models.PointStruct]], Call],
    report: IngestReport,
) -> Steps[None]:
    try:
        yield call(name, [entry.point for entry in entries])
    except RequestRejectedError as error:
        if len(entries) == 1:
            report.failed.append(DocumentError(entries[0].name, "point", str(error)))
            return
        half = len(entries) // 2
        for part in (entries[:half], entries[half:]):
            yield from _send(name, part, call, report)
        return
    for entry in entries:
        report.tokens += _tokens(entry.point)
        for counted in entry.counts:
            setattr(report, counted, getattr(report, counted) + 1)


def _upsert(name: str, points: list[models.PointStruct]) -> Call:
    return Call("upsert", {"collection_name": name, "points": points, "wait": True})


def _overwrite(name: str, points: list[models.PointStruct]) -> Call:
    operations = [
        models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload=point.payload or {}, points=[point.id])
        )
        for point in points
    ]
    return Call(
        "batch_update_points",
        {"collection_name": name, "update_operations": operations, "wait": True},
    )


def prune(
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
    gone: list[str] = []
    offset: Any = None
    while True:
        records, offset = yield Call(
            "scroll",
            {
                "collection_name": name,
                "scroll_filter": ours,
                "limit": _PRUNE_PAGE,
                "offset": offset,
                "with_payload": False,
                "with_vectors": False,
            },
        )
        gone += [record.id for record in records if str(record.id) not in seen]
        if offset is None:
            break
    for start in range(0, len(gone), _PRUNE_PAGE):
        page = gone[start : start + _PRUNE_PAGE]
        yield Call(
            "delete",
            {
                "collection_name": name,
                "points_selector": models.PointIdsList(points=list[Any](page)),
                "wait": True,
            },
        )
        report.pruned += len(page)


def _tokens(point: models.PointStruct) -> int:
    vectors: Any = point.vector
    return len(vectors.get(COLBERT, ()))


class Ingest:
    """One call of `add`: its arguments, checked, and its operations, for whoever runs them.

    Attributes:
        report: what was done so far.
        total: how many documents there are, where that is known.
        encoded: tokens that went through the model so far (its ColBERT vectors, before any were
            merged).
    """

    def __init__(
        self,
        collection: Collection,
        encoder: M3Encoder | None,
        documents: Any,
        embeddings: M3Embeddings | None,
        max_length: int,
        long_documents: str,
        prune: bool | models.Filter | Mapping[str, Any],
        optimize: bool | None,
        total: int | None,
        *,
        asynchronous: bool = False,
    ) -> None:
        """Check the arguments; they are those of `M3Store.add`.

        An `asynchronous` ingest takes an asynchronous iterable too.

        Raises:
            InputError: names the argument and the remedy.
        """
        if embeddings is not None and not isinstance(embeddings, M3Embeddings):
            raise InputError(f"embeddings must be M3Embeddings, not {type(embeddings).__name__}")
        if isinstance(documents, str | Mapping | Document):
            documents = [documents]
        kinds = (Iterable, AsyncIterable) if asynchronous else Iterable
        if not isinstance(documents, kinds):
            raise InputError(f"documents must be an iterable, not {type(documents).__name__}")
        if isinstance(documents, Sequence):
            total = len(documents)
        if embeddings is not None and total != len(embeddings):
            raise InputError(
                f"{'an unknown number of' if total is None else total} documents, but embeddings "
                f"of {len(embeddings)}: give a list of as many documents"
            )
        self.documents: Any = documents
        self.report = IngestReport()
        self.total = total
        self.encoded = 0
        self._collection = collection
        self._encoder = encoder
        self._embeddings = embeddings
        self._recipe = Recipe(
            max_length,
            check_long_documents(long_documents),
            encoder.fingerprint if encoder is not None and embeddings is None else None,
        )
        self._optimize = optimize
        self._under_way: set[str] = set()
        self._prune = prune is not False
        self._bound = as_filter(prune) if not isinstance(prune, bool) else None
        layout = collection.layout
        if prune is True and layout is not None and layout.schema.tenant is not None:
            raise InputError(
                f"prune=True would remove other tenants' documents: give a filter on "
                f"{layout.schema.tenant!r}, such as prune={{{layout.schema.tenant!r}: 'name'}}"
            )
        self._seen: set[str] | None = set() if self._prune else None
        self.chunker = Chunker(self.report, seen=self._seen)

    @contextmanager
    def accountable(self) -> Iterator[None]:
        """In this block failures of Qdrant, and Ctrl-C, say what was stored."""
        try:
            yield
        except KeyboardInterrupt:
            raise IngestInterrupted(self.report) from None
        except EngineError as error:
            raise IngestError(
                f"{error}; until then {self.report}. Run it again: what is stored is left alone",
                self.report,
            ) from error

    def plan(self, chunk: Chunk) -> Steps[Plan]:
        """See `plan`; call it before the chunk is written, at any time."""
        stored = self._collection.layout is not None
        planned = yield from plan(
            self._collection.name, chunk, self._recipe, self._under_way, stored, self.report
        )
        self._under_way = planned.point_ids
        return planned

    def embed(self, planned: Plan) -> M3Embeddings | None:
        """The embeddings of the documents to store, computed or brought along."""
        if not planned.documents:
            return None
        if self._embeddings is not None:
            return self._embeddings[planned.positions]
        assert self._encoder is not None  # the store checked
        views = embed(self._encoder, planned.documents, self._recipe.max_length)
        assert views.colbert is not None
        self.encoded += len(views.colbert.vectors)
        return views

    def write(self, planned: Plan, views: M3Embeddings | None) -> Steps[None]:
        """Prepare and write a chunk; chunks are written one after another."""
        collection = self._collection
        layout = collection.layout
        if layout is None:
            if views is None:
                return
            layout = yield from collection.make(*convert.widths(views))
        prepared = prepare(
            planned,
            views,
            layout,
            self._recipe,
            self.report,
            arrays=collection.engine == "embedded",
        )
        yield from write(collection.name, prepared, self.report)
        if views is not None:
            give_back()

    def finish(self) -> Steps[None]:
        """After the last chunk: remove what is gone, and build the indexes where it is time."""
        if self._seen is not None and self._collection.layout is not None:
            yield from prune(self._collection.name, self._seen, self._bound, self.report)
        if self._optimize is None:
            yield from self._collection.optimize_if_due()
        elif self._optimize:
            yield from self._collection.optimize()
