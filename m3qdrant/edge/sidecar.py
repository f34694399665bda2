"""Where a collection lies on the disk, and the configuration that lies beside its data.

    PATH/NAME/collection.json    the configuration as qdrant-client gave it, with the metadata
    PATH/NAME/closed.json        what the files were like when it was closed, see closed.py
    PATH/NAME/shard/             the engine's own files
    PATH/NAME/lock               held by the process that has the collection open
    PATH/.snapshots/NAME/        its snapshots, see snapshots.py
    PATH/.making-*, .deleting-*  a collection that is being made or removed
    PATH/.replaced-NAME          a collection that is being replaced by another

A collection is made under another name and renamed when it is whole, and renamed before it is
removed. A crash therefore leaves either the collection or no collection, and something to sweep
away: `sweep` and `sweep_root` do it, for what the engine leaves too, which doesn't by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qdrant_client import models

from m3qdrant.edge.lock import DirectoryLock
from m3qdrant.errors import EngineError, InputError, StoreDamagedError

__all__ = [
    "FILE",
    "SHARD",
    "check_name",
    "check_root",
    "collection_names",
    "is_leftover",
    "making",
    "read",
    "remove",
    "replace",
    "sweep",
    "sweep_root",
    "sync_directory",
    "write",
    "write_whole",
]

FILE = "collection.json"
SHARD = "shard"
FORMAT = 1

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
    if (root / FILE).is_file() and (root / SHARD).is_dir():
        raise StoreDamagedError(f"{root} is one collection: pass its parent, {root.parent}")
    if (root / "edge_config.json").is_file():
        raise StoreDamagedError(f"{root} is a bare qdrant-edge shard, not a directory of ours")
    if (root / "meta.json").is_file() and (root / "collection").is_dir():
        raise StoreDamagedError(
            f"{root} was written by QdrantClient(path=...), another format: pass a new directory "
            "and copy the points over with scroll and upsert"
        )


def collection_names(root: Path) -> list[str]:
    """The collections under `root`, sorted; none where there is no directory."""
    try:
        entries = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [name for name in entries if name[0] != "." and (root / name / FILE).is_file()]


def read(directory: Path) -> models.CreateCollection:
    """A collection's configuration.

    Raises:
        StoreDamagedError: the file is missing, unreadable, or of a newer format.
    """
    file = directory / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreDamagedError(
            f"{directory} holds no {FILE}: it is no collection of ours"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreDamagedError(
            f"{file} can't be read ({error}): restore it from a copy, the data beside it is intact"
        ) from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise StoreDamagedError(
            f"{file} has the format {version!r}, and this version reads {FORMAT}: "
            "update m3qdrant, or restore the file"
        )
    try:
        return models.CreateCollection(**content["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamagedError(
            f"{file} holds no configuration that qdrant-client reads ({error}): restore the file"
        ) from error


def write(directory: Path, config: models.CreateCollection) -> None:
    """Write a collection's configuration; a crash leaves the old file or the new one, whole."""
    content = {"format": FORMAT, "config": config.model_dump(mode="json", exclude_none=True)}
    write_whole(directory / FILE, json.dumps(content, indent=1, ensure_ascii=False).encode())


def write_whole(target: Path, content: bytes) -> None:
    """Write a file through another one, so that it is there whole or as it was before."""
    temporary = target.parent / f".{target.name}-{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


@contextlib.contextmanager
def making(directory: Path) -> Iterator[Path]:
    """A temporary directory that becomes `directory` when the block ends, or vanishes if it fails.

    Raises:
        FileExistsError: something took the name in the meantime.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.parent / f".making-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        lock = DirectoryLock(temporary)  # tells `sweep_root` that this isn't a leftover
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
    process die in between, `sweep_root` puts it back, or removes it where the new one is whole.
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


# what a crash leaves behind


def is_leftover(path: str) -> bool:
    """Whether a path inside a collection is what a crash cut off, of no use to anyone."""
    return (
        path.startswith((f".{FILE}-", ".closed.json-", f"{SHARD}/wal/.atomicwrite"))
        or path == f"{SHARD}/temp_segments"  # segments that `optimize` was building
    )


def sweep(directory: Path) -> None:
    """Remove what a crash left inside a collection. Only for the holder of its lock.

    The engine starts afresh after a crash, and never looks at these again: an `optimize` that was
    killed leaves up to the collection's size, each time.
    """
    for folder in ("", SHARD, f"{SHARD}/wal"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(directory / folder):
                path = f"{folder}/{name}" if folder else name
                if is_leftover(path):
                    _remove_any(directory / path)


def sweep_root(root: Path) -> None:
    """Finish what a crash cut off beside the collections, and leave alone what is under way."""
    with contextlib.suppress(OSError):
        for name in os.listdir(root):
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


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed or removed in a directory last through a loss of power."""
    if os.name != "posix":
        return  # other systems can't open a directory
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
