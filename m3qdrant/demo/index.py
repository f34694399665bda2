"""The demo's collection: the standard library's docstrings, indexed once and then kept.

It lies in the user's cache directory, one for each Python and model, so a second run only opens
it. An interrupted run leaves what it stored; the next one goes on from there.
"""

from __future__ import annotations

import platform
from pathlib import Path

import platformdirs

from m3qdrant.demo.corpus import stdlib_docstrings
from m3qdrant.encode import Encoder
from m3qdrant.store import M3Store

__all__ = ["QUERIES", "open_demo"]

QUERIES = (
    "compress a file",
    "run a function in another process",
    "temporary directory that removes itself",
)
"""What the demo asks where the user asks nothing."""

_COLLECTION = "stdlib"
# A docstring says what its object does in its first sentences; the rest costs time.
_MAX_LENGTH = 128


def open_demo(encoder: Encoder, directory: Path | None = None, progress: bool = True) -> M3Store:
    """The demo's store, indexed.

    Args:
        encoder: encodes the docstrings and then the queries.
        directory: where the collection lies; the user's cache directory by default.
        progress: show a progress bar while indexing.
    """
    if directory is None:
        name = f"demo-python{platform.python_version()}-{encoder.fingerprint}"
        directory = platformdirs.user_cache_path("m3qdrant") / name
    done = directory / "indexed"  # written last: without it the collection may be half full
    store = M3Store(directory, _COLLECTION, encoder)
    try:
        if not done.exists() or store.count() == 0:
            report = store.add(stdlib_docstrings(), max_length=_MAX_LENGTH, progress=progress)
            report.raise_for_failed()
            done.touch()
    except BaseException:
        store.close()
        raise
    return store
