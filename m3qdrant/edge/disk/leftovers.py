"""What a crash leaves behind, of no use to anyone, and how it is swept away.

The engine doesn't sweep by itself: an `optimize` that was killed leaves up to the collection's
size, each time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from m3qdrant.edge.disk.directory import CONFIGURATION, SHARD
from m3qdrant.edge.disk.lock import DirectoryLock
from m3qdrant.errors import EngineError

__all__ = ["is_leftover", "sweep", "sweep_root"]


def is_leftover(path: str) -> bool:
    """Whether a path inside a collection is what a crash cut off, of no use to anyone."""
    return (
        path.startswith((f".{CONFIGURATION}-", ".closed.json-", f"{SHARD}/wal/.atomicwrite"))
        or path == f"{SHARD}/temp_segments"  # segments that `optimize` was building
    )


def sweep(directory: Path) -> None:
    """Remove what a crash left inside a collection. Only for the holder of its lock.

    The engine starts afresh after a crash, and never looks at these again.
    """
    for folder in ("", SHARD, f"{SHARD}/wal"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(directory / folder):
                path = f"{folder}/{name}" if folder else name
                if is_leftover(path):
                    _remove_any(directory / path)


_HALF_WRITTEN = ("..aliases.json-", ".meta.json-")
"""Files of aliases, and of a claim, before they have their names: see `files.replacing`."""


def sweep_root(root: Path) -> None:
    """Finish what a crash cut off beside the collections, and leave alone what is under way."""
    with contextlib.suppress(OSError):
        for name in os.listdir(root):
            if name.startswith(_HALF_WRITTEN):
                with contextlib.suppress(OSError):
                    if time.time() - (root / name).stat().st_mtime >= 60:  # nor being written
                        (root / name).unlink()
                continue
            kind, _, of = name.partition("-")
            if kind in (".making", ".deleting", ".replaced") and of:
                with contextlib.suppress(OSError, EngineError):
                    _finish(root / name, root / of if kind == ".replaced" else None)


def _finish(leftover: Path, origin: Path | None) -> None:
    if origin is None and time.time() - leftover.stat().st_mtime < 60:
        return  # its maker may be about to lock it
    lock = DirectoryLock(leftover)  # fails where it is being worked on
    try:
        if origin is not None and not origin.exists():
            leftover.rename(origin)
        else:
            shutil.rmtree(leftover)
    finally:
        lock.release()


def _remove_any(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
