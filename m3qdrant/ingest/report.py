"""`IngestReport`: what an ingest did, document by document where it failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from m3qdrant.errors import DocumentError

__all__ = ["IngestReport"]


@dataclass
class IngestReport:
    """What `M3Store.add` did.

    Attributes:
        received: documents read from the input.
        added: documents stored under an id that was not there.
        replaced: documents stored under an id that was there.
        updated: documents of which only the payload had changed, and was replaced.
        unchanged: documents that were there as they are, and were left alone.
        duplicates: documents left out because a later one of the same chunk has the same id.
        truncated: stored documents whose text was cut at max_length.
        pooled: stored documents with too many ColBERT vectors for Qdrant, merged until they fit.
        colbert_truncated: stored documents with too many ColBERT vectors, of which the first were
            kept.
        pruned: documents removed because the input no longer has them.
        tokens: ColBERT vectors written.
        failed: one error for each document that was left out: its id, the field, the reason.
    """

    received: int = 0
    added: int = 0
    replaced: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    truncated: int = 0
    pooled: int = 0
    colbert_truncated: int = 0
    pruned: int = 0
    tokens: int = 0
    failed: list[DocumentError] = field(default_factory=list)

    @property
    def stored(self) -> int:
        """Documents whose vectors were written: added or replaced."""
        return self.added + self.replaced

    def __str__(self) -> str:
        parts = [
            f"{self.stored} of {self.received} documents stored, {self.tokens} ColBERT vectors"
        ]
        for count, what in (
            (self.replaced, "of them replaced"),
            (self.updated, "with a new payload only"),
            (self.unchanged, "unchanged"),
            (self.duplicates, "duplicates left out"),
            (self.truncated, "cut at max_length"),
            (self.pooled, "with ColBERT vectors merged to fit"),
            (self.colbert_truncated, "with ColBERT vectors cut to fit"),
            (self.pruned, "removed, gone from the source"),
            (len(self.failed), "failed"),
        ):
            parts += [f"{count} {what}"] if count else []
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        failed = [
            {"id": error.id, "field": error.field, "reason": error.reason} for error in self.failed
        ]
        return {**vars(self), "stored": self.stored, "failed": failed}

    def raise_for_failed(self) -> None:
        """Raise the first failure, if there is one, for callers who take all or nothing."""
        if self.failed:
            raise self.failed[0]
