"""Where a collection lies on the disk, and how one is made, removed and replaced: whole.

    PATH/NAME/collection.json    the configuration, see configuration.py
    PATH/NAME/closed.json        what the files were like when it was closed, see closed.py
    PATH/NAME/shard/             the engine's own files
    PATH/NAME/lock               held by the process that has the collection open
    PATH/.aliases.json           other names for the collections, see aliases.py
    PATH/.snapshots/NAME/        its snapshots, see snapshots.py
    PATH/meta.json               keeps qdrant-client's local mode away, see claim.py
    PATH/.making-*, .deleting-*  a collection that is being made or removed
    PATH/.replaced-NAME          a collection that is being replaced by another

A collection is made under another name and renamed when it is whole, and renamed before it is
removed. A crash therefore leaves either the collection or no collection, and something to sweep
away: see leftovers.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m3qdrant.edge.disk.claim import claim, is_local_mode
from m3qdrant.edge.disk.lock import DirectoryLock
from m3qdrant.errors import InputError, StoreDamagedError
from m3qdrant.files import sync_directory

__all__ = [
    "CONFIGURATION",
    "SHARD",
    "check_name",
    "check_root",
    "collection_names",
    "is_collection",
    "making",
    "remove",
    "replace",
]

CONFIGURATION = "collection.json"
SHARD = "shard"

_FORBIDDEN = frozenset('<>:"/\\|?*') | {chr(c) for c in range(32)} | {"\x7f"}


def check_name(name: Any) -> str:
    """A collection's name: one that a server takes, and that stays in the directory."""
    if not isinstance(name, str) or not name:
        raise InputError(f"{name!r} is no collection name: use a string of at least one character")
    bad = sorted(_FORBIDDEN.intersection(name))
    if bad:
        raise InputError(f"the collection name {name!r} holds {bad[0]!r}: leave it out")
    if name.startswith(".") or name.endswith((".", " ")):
        raise InputError(f"the collection name {name!r} starts or ends with a dot or space")
    try:
        too_long = len(name.encode()) > 200
    except UnicodeEncodeError:
        raise InputError(f"the collection name {name!r} is not valid Unicode") from None
    if too_long:
        raise InputError(f"the collection name {name[:20]!r}... is longer than 200 bytes")
    return name


def check_root(root: Path) -> None:
    """Refuse a directory that belongs to something else, with a word on what it is.

    Raises:
        StoreDamagedError: names the directory and what to pass instead.
    """
    if root.exists() and not root.is_dir():
        raise StoreDamagedError(f"{root} is a file: pass a directory")
    if (root / CONFIGURATION).is_file() and (root / SHARD).is_dir():
        raise StoreDamagedError(f"{root} is one collection: pass its parent, {root.parent}")
    if (root / "edge_config.json").is_file():
        raise StoreDamagedError(f"{root} is a bare qdrant-edge shard, not a directory of ours")
    if is_local_mode(root) and not is_collection(root / "collection"):
        raise StoreDamagedError(
            f"{root} was written by QdrantClient(path=...), another format: pass a new directory "
            "and copy the points over with scroll and upsert"
        )


def collection_names(root: Path) -> list[str]:
    """The collections under `root`, sorted; none where there is no directory."""
    try:
        entries = sorted(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in entries if name[0] != "." and (root / name / CONFIGURATION).is_file()]


def is_collection(directory: Path) -> bool:
    """Whether a collection lies there."""
    return (directory / CONFIGURATION).is_file()


@contextlib.contextmanager
def making(directory: Path) -> Iterator[Path]:
    """A temporary directory that becomes `directory` when the block ends, or vanishes if it fails.

    Raises:
        FileExistsError: something took the name in the meantime.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    claim(directory.parent)
    temporary = directory.parent / f".making-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        lock = DirectoryLock(temporary)  # tells `leftovers.sweep_root` that this isn't a leftover
        try:
            yield temporary
            if directory.exists():
                raise FileExistsError(directory)
            try:
                temporary.rename(directory)
            except OSError as error:  # a non-empty directory appeared since the line above
                if directory.exists():
                    raise FileExistsError(directory) from error
                raise
        finally:
            lock.release()
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(directory.parent)


def remove(directory: Path) -> None:
    """Remove a collection's directory, so that a crash half-way leaves no half of a collection."""
    doomed = directory.parent / f".deleting-{uuid.uuid4().hex}"
    directory.rename(doomed)
    sync_directory(directory.parent)
    shutil.rmtree(doomed)


@contextlib.contextmanager
def replace(directory: Path) -> Iterator[None]:
    """Set a collection's directory aside while the block makes another one in its place.

    The old one goes when the block ends, and is back where it was if the block fails. Should the
    process die in between, `leftovers.sweep_root` puts it back, or removes it where the new one
    is whole.
    """
    aside = directory.parent / f".replaced-{directory.name}"
    directory.rename(aside)
    try:
        yield
    except BaseException:
        aside.rename(directory)
        raise
    sync_directory(directory.parent)
    remove(aside)
