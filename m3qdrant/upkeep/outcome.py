"""MigrationReport: what a migration did, and whether both sides are the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qdrant_client import models

__all__ = ["MigrationReport"]


@dataclass
class MigrationReport:
    """What `migrate` did, and what it found when it read both sides once more.

    Attributes:
        source: the collection that was copied, in words.
        target: the collection it was copied to, in words.
        copied: points written by this run.
        unchanged: points that this run found at the target, and the same.
        resumed: whether this run went on from where an earlier one was cut off.
        source_points: points at the source, counted at the end.
        target_points: points at the target, counted at the end.
        rounded: points that are equal but for the rounding of vectors that the target's engine
            does and the source's doesn't, or for a second normalisation under cosine distance.
        missing: ids of points that the target lacks.
        different: ids of points whose payload or vectors differ.
        extra: ids of points that the source lacks.
        source_checksum: of the ids, payloads and exact vectors of the source's points.
        target_checksum: of the same points as the target has them; equal where nothing is rounded,
            missing or different.
    """

    source: str
    target: str
    copied: int = 0
    unchanged: int = 0
    resumed: bool = False
    source_points: int = 0
    target_points: int = 0
    rounded: int = 0
    missing: list[models.ExtendedPointId] = field(default_factory=list)
    different: list[models.ExtendedPointId] = field(default_factory=list)
    extra: list[models.ExtendedPointId] = field(default_factory=list)
    source_checksum: str = ""
    target_checksum: str = ""

    @property
    def verified(self) -> bool:
        """Whether both sides hold the same points."""
        return not (self.missing or self.different or self.extra) and (
            self.source_points == self.target_points
        )

    def __str__(self) -> str:
        """One line on the work and one on the verification, with the remedy where it failed."""
        resumed = ", resumed" if self.resumed else ""
        lines = [
            f"{self.source} to {self.target}: {self.copied} points copied, {self.unchanged} there "
            f"already{resumed}"
        ]
        if self.verified:
            rounded = f", {self.rounded} of them but for rounding" if self.rounded else ""
            lines.append(
                f"verified: {self.target_points} points, each the same at both sides{rounded} "
                f"(checksum {self.target_checksum})"
            )
            return "\n".join(lines)
        lines.append(
            f"NOT the same: {self.source_points} points at the source, "
            f"{self.target_points} at the target"
        )
        for ids, what, remedy in (
            (self.missing, "missing at the target", "run it again"),
            (self.different, "different at the target", "run it again, with no writer at work"),
            (
                self.extra,
                "at the target only",
                "delete them there, or migrate into a new collection",
            ),
        ):
            if ids:
                shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
                lines.append(f"{len(ids)} {what} ({shown}): {remedy}")
        if not (self.missing or self.different or self.extra):
            lines.append("points came or went during the verification: run it again")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**vars(self), "verified": self.verified}
