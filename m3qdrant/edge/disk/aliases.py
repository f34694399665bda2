"""Other names for collections: a file beside them.

    PATH/.aliases.json           {"format": 1, "aliases": {alias: collection}}

Every client of the directory, in whatever process, reads the file anew when it meets a name that
no collection has. Whoever changes it, or takes a name for a collection, holds a lock on PATH
itself, so that a name is never both.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from m3qdrant.edge.disk.lock import locked
from m3qdrant.errors import StoreDamagedError
from m3qdrant.files import write_whole

__all__ = ["changing", "read", "write"]

FILE = ".aliases.json"

_FORMAT = 1


def read(root: Path) -> dict[str, str]:
    """Each alias with its collection's name.

    Raises:
        StoreDamagedError: the file can't be read.
    """
    file = root / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return {str(alias): str(name) for alias, name in content["aliases"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreDamagedError(
            f"{file} can't be read ({error}): restore it from a copy, or delete it and create "
            "the aliases again; the collections are intact"
        ) from error


def write(root: Path, aliases: dict[str, str]) -> None:
    """Write all aliases; a crash leaves the old file or the new one, whole."""
    if not aliases and not os.path.lexists(root / FILE):
        return
    content = {"format": _FORMAT, "aliases": dict(sorted(aliases.items()))}
    write_whole(root / FILE, json.dumps(content, indent=1, ensure_ascii=False).encode())


@contextlib.contextmanager
def changing(root: Path) -> Iterator[None]:
    """Keep everybody else from changing the names while the block runs."""
    with locked(root):
        yield
