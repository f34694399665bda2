"""Where a collection lies on the disk, and the configuration that lies beside its data.

    PATH/NAME/collection.json    the configuration as qdrant-client gave it, with the metadata
    PATH/NAME/shard/             the engine's own files
    PATH/NAME/lock               held by the process that has the collection open
    PATH/.making-*, .deleting-*  a creation or deletion that was cut off: safe to remove

A collection is made under another name and renamed when it is whole, and renamed before it is
removed. A crash therefore leaves either the collection or no collection.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qdrant_client import models

from m3qdrant.errors import InputError, StoreDamagedError

__all__ = [
    "FILE",
    "SHARD",
    "check_name",
    "check_root",
    "collection_names",
    "making",
    "read",
    "remove",
    "write",
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
    temporary = directory / f".{FILE}-{uuid.uuid4().hex}"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / FILE)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(directory)


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
        yield temporary
        if directory.exists():
            raise FileExistsError(directory)
        try:
            temporary.rename(directory)
        except OSError as error:  # a non-empty directory appeared since the line above
            if directory.exists():
                raise FileExistsError(directory) from error
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_directory(directory.parent)


def remove(directory: Path) -> None:
    """Remove a collection's directory, so that a crash half-way leaves no half of a collection."""
    doomed = directory.parent / f".deleting-{uuid.uuid4().hex}"
    directory.rename(doomed)
    _sync_directory(directory.parent)
    shutil.rmtree(doomed)


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return  # other systems can't open a directory
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
