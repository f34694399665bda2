"""Documents in, points out: any iterable, in bounded memory, a chunk at a time.

One bad document does not stop the rest: it is left out and stands in the report.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from qdrant_client import models

from m3qdrant import convert
from m3qdrant.documents import Document
from m3qdrant.embeddings import M3Embeddings
from m3qdrant.encoder import M3Encoder, TruncationWarning
from m3qdrant.errors import DocumentError
from m3qdrant.schema import COLBERT, Layout

__all__ = ["Chunk", "IngestReport", "Item", "batches_by_size", "embed", "read", "write"]

CHUNK_DOCUMENTS = 128
CHUNK_CHARACTERS = 500_000
"""A chunk ends at either: documents enough to fill batches of like length, characters few enough
that progress shows, and that their ColBERT vectors take half a gigabyte at 1,024 dimensions."""

# A server refuses bodies over 32 MB; a float takes up to 22 characters in JSON.
_MAX_NUMBERS = 24_000_000 // 22


@dataclass
class IngestReport:
    """What `M3Store.add` did.

    Attributes:
        received: documents read from the input.
        stored: documents written; one whose id was there already is replaced and counts.
        duplicates: documents left out because a later one of the same chunk has the same id.
        truncated: stored documents whose text was cut at max_length.
        tokens: ColBERT vectors written.
        failed: one error for each document that was left out: its id, the field, the reason.
    """

    received: int = 0
    stored: int = 0
    duplicates: int = 0
    truncated: int = 0
    tokens: int = 0
    failed: list[DocumentError] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [
            f"{self.stored} of {self.received} documents stored, {self.tokens} ColBERT vectors"
        ]
        for count, what in (
            (self.duplicates, "duplicates left out"),
            (self.truncated, "cut at max_length"),
            (len(self.failed), "failed"),
        ):
            parts += [f"{count} {what}"] if count else []
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        failed = [
            {"id": error.id, "field": error.field, "reason": error.reason} for error in self.failed
        ]
        return {**vars(self), "failed": failed}

    def raise_for_failed(self) -> None:
        """Raise the first failure, if there is one, for callers who take all or nothing."""
        if self.failed:
            raise self.failed[0]


Item: TypeAlias = Document | Mapping[str, Any] | str


@dataclass(frozen=True)
class Chunk:
    """Documents that are encoded and written together; their ids are unique.

    Attributes:
        documents: checked documents.
        positions: where each of them stood in the input.
    """

    documents: list[Document]
    positions: list[int]


def read(
    items: Iterable[Item],
    report: IngestReport,
    max_documents: int = CHUNK_DOCUMENTS,
    max_characters: int = CHUNK_CHARACTERS,
) -> Iterator[Chunk]:
    """Checked documents, a chunk at a time; what can't be stored goes to the report."""
    found: dict[str, tuple[Document, int]] = {}
    characters = 0

    def chunk() -> Chunk:
        documents, positions = zip(*found.values(), strict=True)
        return Chunk(list(documents), list(positions))

    for position, item in enumerate(items):
        report.received += 1
        try:
            document = Document.of(item, position)
        except DocumentError as error:
            report.failed.append(error)
            continue
        # the later one wins, as it would in two chunks
        report.duplicates += found.pop(document.id, None) is not None
        found[document.id] = (document, position)
        characters += len(document.text)
        if len(found) == max_documents or characters >= max_characters:
            yield chunk()
            found, characters = {}, 0
    if found:
        yield chunk()


def embed(encoder: M3Encoder, chunk: Chunk, max_length: int) -> M3Embeddings:
    """The documents' embeddings. Cut texts are counted in the report, not warned of a chunk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        return encoder.encode_documents([item.text for item in chunk.documents], max_length)


def write(
    chunk: Chunk,
    embeddings: M3Embeddings,
    layout: Layout,
    upsert: Callable[[list[models.PointStruct]], object],
    report: IngestReport,
    *,
    arrays: bool,
) -> None:
    """Check, convert and upsert a chunk, in batches that a server accepts."""
    points, errors = convert.to_points(chunk.documents, embeddings, layout, arrays=arrays)
    report.failed += errors
    for batch in batches_by_size(points):
        upsert(batch)
        report.stored += len(batch)
        report.tokens += sum(map(_tokens, batch))
    if embeddings.truncated is not None:
        failed = {error.id for error in errors}
        report.truncated += sum(
            cut and document.id not in failed
            for cut, document in zip(embeddings.truncated.tolist(), chunk.documents, strict=True)
        )


def batches_by_size(
    points: list[models.PointStruct], max_numbers: int = _MAX_NUMBERS
) -> Iterator[list[models.PointStruct]]:
    """Points in batches of at most `max_numbers` ColBERT components; a larger point goes alone."""
    batch: list[models.PointStruct] = []
    size = 0
    for point in points:
        numbers = _tokens(point) * len(_colbert(point)[0])
        if batch and size + numbers > max_numbers:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += numbers
    if batch:
        yield batch


def _colbert(point: models.PointStruct) -> list[list[float]]:
    vectors: Any = point.vector
    return vectors[COLBERT]  # type: ignore[no-any-return]


def _tokens(point: models.PointStruct) -> int:
    return len(_colbert(point))
