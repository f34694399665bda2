"""Files that are mostly holes, as the engine's are: their parts that hold data."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

__all__ = ["data_parts"]


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
