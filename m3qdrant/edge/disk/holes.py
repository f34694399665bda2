"""Files that are mostly holes, as the engine's are: their parts that hold data, and copies."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["copy", "data_parts"]


def data_parts(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file, (start, length), that aren't holes."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is but a hole
                return
            raise
        end = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, end - start


def copy(source: Path, target: Path, *, with_data: bool = True) -> None:
    """Copy a file and its holes, which take no room in the copy either.

    Args:
        source: the file.
        target: the copy, which isn't there yet.
        with_data: False makes one hole of the size of the file.
    """
    with source.open("rb", buffering=0) as read, target.open("xb") as written:
        size = os.fstat(read.fileno()).st_size
        written.truncate(size)
        for start, length in data_parts(read.fileno(), size) if with_data else ():
            read.seek(start)
            written.seek(start)
            while length > 0:
                piece = read.read(min(length, 1 << 20))
                if not piece:
                    raise OSError(f"{source} shrank while it was being copied")
                written.write(piece)
                length -= len(piece)
