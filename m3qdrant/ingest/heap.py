"""Memory that was freed, given back to the system.

Encoding allocates and frees tensors of ever other sizes, and glibc's heap keeps the holes:
without this, an ingest on a CPU grows by about 11 kB a document for as long as it runs.
`python -m benchmarks ingest` shows the memory over 100,000 documents.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["give_back"]


def give_back() -> None:
    """Return what is free, where the C library can (glibc); about 10 ms."""
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return lambda pad: None
