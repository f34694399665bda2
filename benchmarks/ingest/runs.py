"""A process that ingests, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.ingest.child import EVERY

__all__ = ["Run", "Sample"]


@dataclass
class Sample:
    """A process's memory at a moment.

    Attributes:
        seconds: since the process started.
        read: documents that it had read from its input.
        own: resident bytes that belong to no file.
        mapped: resident bytes that are pages of files, which the kernel can take back.
    """

    seconds: float
    read: int
    own: int
    mapped: int


@dataclass
class Run:
    """One process that ingests.

    Attributes:
        ended: "by itself", "by SIGINT" or "by SIGKILL".
        seconds: of the ingest alone.
        opened_s: until the collection was open, which for the one after a kill takes a replay.
        found: documents that were there at the start.
        read: documents read from the input, to the next lower multiple of `EVERY`.
        report: of the ingest; None where it was killed.
        peak: the most resident bytes, those of mapped files included.
        samples: memory over time.
        exit: the process's exit status.
    """

    ended: str
    seconds: float = 0.0
    opened_s: float = 0.0
    found: int = 0
    read: int = 0
    report: dict[str, Any] | None = None
    peak: int = 0
    samples: list[Sample] = field(default_factory=list)
    exit: int | None = None

    @property
    def acknowledged(self) -> int:
        """Documents whose writing had ended for certain when the last `read` was told: all but the
        chunk before it, which is written while the next one is read.
        """
        return max(0, self.read - EVERY)
