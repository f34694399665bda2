"""Files that are there whole, or as they were before: the one way in which this package writes."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replacing", "sync_directory", "write_whole"]

_NOT_TO_BE_SYNCED = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)
"""A directory without the right to read it; and file systems, some across a network."""


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` for the block to write to, which then takes `target`'s place.

    If the block fails, what it wrote goes, and `target` stays as it was. A crash leaves the old
    file or the new one, and may leave the other beside it, as `.NAME-` and 32 hex digits. What
    was written is on the disk when the block ends.
    """
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def write_whole(target: Path, content: bytes) -> None:
    """Write a file's content; see `replacing`."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed or removed in a directory last through a loss of power.

    Where the system or its rights don't let a directory be synced, nothing is done: what was
    written is in place, and there is no better.
    """
    if os.name != "posix":
        return  # other systems can't open a directory
    try:
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NOT_TO_BE_SYNCED:
            raise
