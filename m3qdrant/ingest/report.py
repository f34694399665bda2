"""`IngestReport`: what an ingest did, and what it did not, with the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from m3qdrant.errors import DocumentError

__all__ = ["IngestReport", "PassedOver"]

_REASONS = 8
_EXAMPLES = 3
_REASON_CHARACTERS = 240
"""Of what was left out for people: so many reasons, with so many examples each."""

_KEPT = 100
"""Names that are kept where there may be millions, and nothing failed."""


@dataclass
class PassedOver:
    """Files that were not read, for one reason.

    Attributes:
        reason: why.
        files: how many.
        examples: the first of them.
    """

    reason: str
    files: int
    examples: list[str]


@dataclass
class IngestReport:
    """What `M3Store.add` did. As a string: the counts, and below them what was left out and why.

    Attributes:
        received: documents read from the input.
        added: documents stored under an id that was not there.
        replaced: documents stored under an id that was there.
        updated: documents of which only the payload had changed, and was replaced.
        unchanged: documents that were there as they are, and were left alone.
        duplicates: documents left out because a later one of the same chunk has the same id.
        duplicate_ids: the first of their ids.
        truncated: stored documents whose text was cut at max_length.
        truncated_ids: the first of their ids.
        pooled: stored documents with too many ColBERT vectors for Qdrant, merged until they fit.
        colbert_truncated: stored documents with too many ColBERT vectors, of which the first were
            kept.
        pruned: documents removed because the input no longer has them.
        not_pruned: why nothing was removed although `prune` was asked for; else None.
        tokens: ColBERT vectors written.
        failed: one error for each document that was left out: its id, the field, the reason; for
            a file, or a line, that can't be read a `SourceError`.
        passed_over: files in the folders given that were not read, a reason each.
    """

    received: int = 0
    added: int = 0
    replaced: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    duplicate_ids: list[str] = field(default_factory=list)
    truncated: int = 0
    truncated_ids: list[str] = field(default_factory=list)
    pooled: int = 0
    colbert_truncated: int = 0
    pruned: int = 0
    not_pruned: str | None = None
    tokens: int = 0
    failed: list[DocumentError] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)

    @property
    def stored(self) -> int:
        """Documents whose vectors were written: added or replaced."""
        return self.added + self.replaced

    @property
    def summary(self) -> str:
        """The counts, on one line."""
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
            (sum(group.files for group in self.passed_over), "files passed over"),
        ):
            parts += [f"{count} {what}"] if count else []
        return "; ".join(parts)

    @property
    def remarks(self) -> list[str]:
        """What was left out, and why, a line each: a few reasons with a few examples."""
        lines = _lines("passed over", self.passed_over, "files")
        if self.duplicates:
            lines.append(
                f"left out: {self.duplicates} documents whose id comes again later "
                f"({_some(self.duplicate_ids, self.duplicates)})"
            )
        if self.truncated:
            lines.append(
                f"cut: {self.truncated} texts are longer than max_length or the model's own limit "
                f"({_some(self.truncated_ids, self.truncated)}); what is beyond is not searched: "
                "split them into passages, or raise max_length where the model takes more"
            )
        failures: dict[str, PassedOver] = {}
        for error in self.failed:
            reason = error.reason if error.field == "source" else f"{error.field}: {error.reason}"
            group = failures.setdefault(reason, PassedOver(reason, 0, []))
            group.files += 1
            if len(group.examples) < _EXAMPLES:
                group.examples.append(error.source if error.source is not None else error.id)
        lines += _lines("not stored", failures.values(), "documents")
        if self.not_pruned is not None:
            lines.append(f"nothing removed: {self.not_pruned}")
        return lines

    def __str__(self) -> str:
        return "\n  ".join([self.summary, *self.remarks])

    def pass_over(self, found: PassedOver) -> None:
        """Count files that are not read."""
        for group in self.passed_over:
            if group.reason == found.reason:
                break
        else:
            group = PassedOver(found.reason, 0, [])
            self.passed_over.append(group)
        group.files += found.files
        group.examples += found.examples[: _KEPT - len(group.examples)]

    def count_duplicate(self, id: str) -> None:
        """Count a document that a later one of the same id replaces."""
        self.duplicates += 1
        if len(self.duplicate_ids) < _KEPT:
            self.duplicate_ids.append(id)

    def count_truncated(self, id: str) -> None:
        """Remember which text was cut."""
        if len(self.truncated_ids) < _KEPT:
            self.truncated_ids.append(id)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        failed = [
            {"id": error.id, "field": error.field, "reason": error.reason, "source": error.source}
            for error in self.failed
        ]
        passed_over = [dict(vars(group)) for group in self.passed_over]
        return {
            **vars(self),
            "duplicate_ids": list(self.duplicate_ids),
            "truncated_ids": list(self.truncated_ids),
            "stored": self.stored,
            "failed": failed,
            "passed_over": passed_over,
        }

    def raise_for_failed(self) -> None:
        """Raise the first failure, if there is one, for callers who take all or nothing."""
        if self.failed:
            raise self.failed[0]


def _lines(what: str, groups: Iterable[PassedOver], unit: str) -> list[str]:
    """Groups, largest first, a line each."""
    ranked = sorted(groups, key=lambda group: -group.files)
    lines = [
        f"{what}: {group.files}: {_shortened(group.reason, _REASON_CHARACTERS)} "
        f"({_some(group.examples, group.files)})"
        for group in ranked[:_REASONS]
    ]
    if rest := ranked[_REASONS:]:
        count = sum(group.files for group in rest)
        lines.append(f"{what}: {count} more {unit}, for {len(rest)} other reasons")
    return lines


def _some(names: Sequence[str], count: int) -> str:
    shown = [_shortened(name, 120) for name in names[:_EXAMPLES]]
    return ", ".join(shown) + (", ..." if count > len(shown) else "")


def _shortened(text: str, characters: int) -> str:
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return line if len(line) <= characters else f"{line[: characters - 4]} ..."
