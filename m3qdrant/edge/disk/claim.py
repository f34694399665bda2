"""A file by which qdrant-client's local mode refuses to open a directory of ours.

`QdrantClient(path=...)` keeps its collections in a directory too, in another format: in one of
ours it would find none, write its own files between ours, and answer as if nothing were stored.
What it reads first is `meta.json`. Ours names a collection with a setting that nobody knows, whose
name is an advice: qdrant-client stops there and quotes it, before it has written anything.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from m3qdrant.files import write_whole

__all__ = ["claim", "is_claim", "is_local_mode"]

FILE = "meta.json"

_ADVICE = "open this directory with m3qdrant.QdrantEdge, not with QdrantClient(path=...)"

_CONTENT = {
    "collections": {"m3qdrant": {_ADVICE: "its collections have another format"}},
    "aliases": {},
}


def claim(root: Path) -> None:
    """Write the file, where there is none, or one of a local mode without collections.

    Raises:
        OSError: the directory can't be written.
    """
    found = _read(root)
    if found is None or (isinstance(found, dict) and found.get("collections") == {}):
        write_whole(root / FILE, json.dumps(_CONTENT, indent=1).encode())


def is_claim(file: Path) -> bool:
    """Whether a file is the one that `claim` writes."""
    return file.name == FILE and _read(file.parent) == _CONTENT


def is_local_mode(root: Path) -> bool:
    """Whether a directory holds collections of qdrant-client's local mode."""
    return (root / "collection").is_dir() and _read(root) not in (None, _CONTENT)


def _read(root: Path) -> Any:
    """What the file says; None where there is none, and its bytes where it is no JSON."""
    file = root / FILE
    if not file.is_file():
        return None
    content = file.read_bytes()
    with contextlib.suppress(ValueError):
        return json.loads(content)
    return content
