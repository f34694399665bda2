"""Room on the disk, which has to be there before the engine writes."""

from __future__ import annotations

import shutil
from pathlib import Path

from m3qdrant.edge.disk.closed import files
from m3qdrant.errors import EngineError

__all__ = ["RESERVE", "bytes_on_disk", "need"]

RESERVE = 256 << 20
"""Bytes that must be free on the disk before a write. The engine maps files that have holes, and
filling a hole on a full disk kills the process (SIGBUS), then and at every later opening."""


def need(directory: Path, operation: str, more: int = 0, *, disk: Path | None = None) -> None:
    """Refuse an operation on a collection that the disk has no room for.

    Args:
        directory: the collection's.
        operation: what it is, for the message.
        more: bytes that must be free beyond `RESERVE`.
        disk: a directory on the disk that is written to; None is the collection's own.

    Raises:
        EngineError: there is less.
    """
    free, needed = shutil.disk_usage(disk or directory).free, RESERVE + more
    if free < needed:
        where = "the disk" if disk is None else f"the disk of {disk}"
        raise EngineError(
            f"could not {operation} the collection at {directory}: {where} has "
            f"{free >> 20} MiB left and this takes {-(-needed >> 20)} MiB: make room. Nothing was "
            "changed"
        )


def bytes_on_disk(directory: Path) -> dict[str, int]:
    """What each of the collection's files occupies, its holes left out, by path."""
    return {path: (directory / path).stat().st_blocks * 512 for path in files(directory)}
