"""What there is to do for a chunk: which of its documents are new, changed, or as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_client import models

from m3qdrant.collection import Document, Provenance, Steps, calls, vector_options
from m3qdrant.errors import InputError
from m3qdrant.ingest.chunks import Chunk
from m3qdrant.ingest.report import IngestReport
from m3qdrant.names import LONG_DOCUMENTS, OURS, LongDocuments

__all__ = ["Plan", "Recipe", "check_long_documents", "compare"]


def check_long_documents(value: object) -> LongDocuments:
    """`value`, if it is one of the choices.

    Raises:
        InputError: it is not.
    """
    for choice in LONG_DOCUMENTS:
        if value == choice:
            return choice
    choices = ", ".join(map(repr, LONG_DOCUMENTS))
    raise InputError(f"long_documents is {value!r}: give {choices}")


@dataclass(frozen=True)
class Recipe:
    """The options of an ingest that shape what is stored.

    Attributes:
        max_length: tokens a text is cut to.
        long_documents: what to do with more ColBERT vectors than Qdrant takes.
        model: the encoder's fingerprint; None where embeddings are brought along.
        former: what the documents of an adopted collection call the model; None of another.
    """

    max_length: int
    long_documents: LongDocuments
    model: str | None
    former: str | None = None

    def __post_init__(self) -> None:
        check_long_documents(self.long_documents)

    def provenance(self, document: Document) -> Provenance:
        """What the document's point will say of its making."""
        made_with = vector_options(self.max_length, self.long_documents)
        return Provenance.of(document, self.model, made_with)


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

    def leave_out(self, positions: Sequence[int]) -> list[Document]:
        """Store these of `documents` not after all; which ones they are."""
        left = [self.documents[i] for i in sorted(set(positions))]
        for i in sorted(set(positions), reverse=True):
            del self.documents[i], self.positions[i], self.provenances[i], self.replaces[i]
        return left

    @property
    def point_ids(self) -> set[str]:
        """The points that this plan writes."""
        return {document.point_id for document in (*self.documents, *(d for d, _ in self.updates))}


def compare(
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
    records: list[models.Record] = []
    if exists:
        records = yield from calls.retrieve(name, ids, with_payload=[OURS])
    stored = {str(record.id): Provenance.read(record.payload) for record in records}
    out = Plan([], [], [], [], [])
    for document, position, id in zip(chunk.documents, chunk.positions, ids, strict=True):
        new = recipe.provenance(document)
        old = stored.get(id) if id not in under_way else None
        if old is not None and new.same_vectors(old, recipe.former):
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
