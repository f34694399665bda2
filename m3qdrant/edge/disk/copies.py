"""A collection's files copied aside, so that looking at it changes nothing.

The engine can't open a collection without writing: loading alone renews its configuration, clears
journals, and maps most files for writing, the vectors too, so that links to the originals won't
do. A look is therefore a look at a copy, in the system's directory for temporary files. It takes
what the files occupy there, holes left out, and 0.4 to 2 s for 500 MB (measured, between files in
the page cache and a busy disk). Of a collection above `LIMIT` the vectors are left out, which are
the most of it, and what needs them is refused.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from m3qdrant.edge.disk import closed, space
from m3qdrant.edge.disk.directory import SHARD
from m3qdrant.edge.disk.holes import copy
from m3qdrant.edge.disk.lock import nobody_has
from m3qdrant.errors import EngineError, UnsupportedError

__all__ = ["LIMIT", "Copy"]

LIMIT = 1 << 30
"""The most bytes that are copied: the directory for temporary files may lie in memory."""

_VECTORS = (
    f"{SHARD}/segments/*/vector_storage*/vectors/chunk_*.mmap",
    f"{SHARD}/segments/*/vector_storage*/matrix.dat",
    f"{SHARD}/segments/*/vector_storage*/quantized.data",
    f"{SHARD}/segments/*/vector_storage*/quantized_data/chunk_*.mmap",
)
"""The files that hold numbers of vectors, and nothing else."""


class Copy:
    """A copy of the collection at `source`, until `release`, or until nobody has it any more.

    Attributes:
        directory: where it lies.
        record: what the collection's files were like when it was closed, which they still are;
            None where it wasn't closed in good order.
        without_vectors: why what needs vectors can't be done; empty where it can.
    """

    def __init__(self, source: Path) -> None:
        """Make the copy, while nobody else may open the collection.

        Raises:
            StoreLockedError: it is open elsewhere, in another process or in this one.
            StoreDamagedError: its files aren't those that were closed.
            UnsupportedError: it is above the limit without its vectors, too.
            EngineError: its files can't be read, or the disk lacks room for the copy.
        """
        with nobody_has(source, source / SHARD / "wal"):
            self.record = closed.read(source)
            if self.record is not None:
                closed.check(source, self.record, large=False)
            try:
                sizes = space.bytes_on_disk(source)
                left_out = _left_out(source, sizes)
                copied = sum(size for path, size in sizes.items() if path not in left_out)
                root = Path(tempfile.gettempdir())
                space.need(source, "copy, to look at it,", copied, disk=root)
                self.directory = Path(tempfile.mkdtemp(prefix="m3qdrant-look-"))
                self._remove = weakref.finalize(self, _remove, self.directory, os.getpid())
                try:
                    for path in sizes:
                        target = self.directory / path
                        target.parent.mkdir(parents=True, exist_ok=True)
                        copy(source / path, target, with_data=path not in left_out)
                except BaseException:
                    self.release()
                    raise
            except OSError as error:
                raise EngineError(
                    f"{source} can't be copied, to look at it ({error}): check its rights, and "
                    "the disk for temporary files"
                ) from error
        self.without_vectors = ""
        if left_out:
            self.without_vectors = (
                f"{source} has {sum(sizes.values()) >> 20} MiB: opened for reading, a collection "
                f"above {LIMIT >> 20} MiB is looked at without its vectors. Open it without "
                "read_only"
            )

    def release(self) -> None:
        """Remove it. Releasing twice is fine."""
        self._remove()


def _left_out(source: Path, sizes: dict[str, int]) -> frozenset[str]:
    """The files of which holes take the place, to stay below the limit."""
    total = sum(sizes.values())
    if total <= LIMIT:
        return frozenset()
    vectors = frozenset(p for p in sizes if any(fnmatch.fnmatch(p, v) for v in _VECTORS))
    rest = total - sum(sizes[path] for path in vectors)
    if rest > LIMIT:
        raise UnsupportedError(
            f"{source} has {rest >> 20} MiB beside its vectors, and opened for reading it would "
            f"be copied, up to {LIMIT >> 20} MiB: open it without read_only"
        )
    return vectors


def _remove(directory: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has it, too, and its end is no reason
        shutil.rmtree(directory, ignore_errors=True)
