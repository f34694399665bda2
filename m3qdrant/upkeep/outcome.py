"""What a migration, or a pull, did, and whether both sides are the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from qdrant_client import models

__all__ = ["MigrationReport", "PullReport"]


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


@dataclass
class PullReport:
    """What `pull` did, and what it compared.

    Attributes:
        source: the collection that was pulled, in words.
        target: where it is now.
        way: "whole" (its files), "partial" (those that changed since it was pulled before),
            "unchanged" (none had), or "points" (they were copied, one by one).
        reason: why points were copied.
        shards: how many the server has.
        points: how many there are now.
        bytes: how many were loaded.
        resumed: whether files were used that an earlier run had loaded.
        compared: points of which both sides were read.
        searches: searches that both sides made, in every mode.
        fault: what was different in the end, at a source that was written to meanwhile; empty
            where nothing was.
    """

    source: str
    target: str
    way: Literal["whole", "partial", "unchanged", "points"] = "whole"
    reason: str = ""
    shards: int = 0
    points: int = 0
    bytes: int = 0
    resumed: bool = False
    compared: int = 0
    searches: int = 0
    fault: str = ""

    @property
    def verified(self) -> bool:
        """Whether nothing was different."""
        return not self.fault

    def __str__(self) -> str:
        """One line on the work and one on the verification."""
        resumed = ", resumed" if self.resumed else ""
        done = {
            "whole": f"{self.points} points in {self.shards} shards, {self.bytes:,} bytes loaded",
            "partial": f"{self.points} points; {self.bytes:,} bytes had changed and were loaded",
            "unchanged": f"{self.points} points; nothing had changed",
            "points": f"{self.points} points, copied one by one: {self.reason}",
        }[self.way]
        first = f"{self.source} to {self.target}: {done}{resumed}"
        if self.fault:
            return (
                f"{first}\nNOT the same: the source was written to meanwhile ({self.fault}): "
                "run it again for the rest"
            )
        if self.way == "points":
            return f"{first}\nverified: each point the same at both sides"
        return (
            f"{first}\nverified: as many points at both sides, {self.compared} of them and "
            f"{self.searches} searches the same"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**vars(self), "verified": self.verified}
