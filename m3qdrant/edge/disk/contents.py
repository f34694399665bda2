"""What files hold, as checksums of the parts that are no holes, and when they were last written.

The engine's files are mostly holes, and a copy may have them filled: blocks of zeros count as
holes, so that both have one checksum.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

from m3qdrant.edge.disk.holes import data_parts

__all__ = ["Content", "checksum", "read", "times_tell"]

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        checksum: a CRC-32 over its blocks that aren't zero, and their places.
        changed: when it was last written to, in nanoseconds.
    """

    checksum: int
    changed: int


def read(file: Path, known: Content | None = None) -> Content:
    """What a file holds.

    Args:
        file: the file.
        known: what it held; it isn't read where it was not written to since.

    Raises:
        OSError: it can't be read.
    """
    changed = file.stat().st_mtime_ns
    if known is not None and known.changed == changed:
        return known
    return Content(checksum(file), changed)


def checksum(file: Path) -> int:
    """The CRC-32 of the blocks of a file that aren't zero, and of their places."""
    found = 0
    with file.open("rb", buffering=0) as stream:
        handle = stream.fileno()
        size = os.fstat(handle).st_size
        done = 0  # holes may begin within a block
        for start, length in data_parts(handle, size):
            for at in range(max(start - start % _BLOCK, done), start + length, _BLOCK):
                block = _block(handle, at)
                done = at + _BLOCK
                if block != _ZEROS[: len(block)]:
                    found = zlib.crc32(block, zlib.crc32(at.to_bytes(8, "little"), found))
    return found


def _block(handle: int, at: int) -> bytes:
    block = os.pread(handle, _BLOCK, at)
    while len(block) < _BLOCK:  # a read may give less, and gives nothing at the end
        more = os.pread(handle, _BLOCK - len(block), at + len(block))
        if not more:
            break
        block += more
    return block


_told: dict[int, bool] = {}


def times_tell(directory: Path) -> bool:
    """Whether a write through a mapping, as the engine's are, changes a file's time here.

    It does on disks, and doesn't on Linux's file systems in memory. Tried once for each.
    """
    device = directory.stat().st_dev
    if device not in _told:
        _told[device] = _try_times(directory)
    return _told[device]


def _try_times(directory: Path) -> bool:
    with (
        contextlib.suppress(OSError, ValueError),
        tempfile.TemporaryFile(dir=directory) as probe,
    ):
        probe.truncate(mmap.PAGESIZE)
        os.utime(probe.fileno(), ns=(0, 0))
        with mmap.mmap(probe.fileno(), mmap.PAGESIZE) as mapped:
            mapped[0] = 1
            mapped.flush()
        return os.fstat(probe.fileno()).st_mtime_ns > 0
    return False
