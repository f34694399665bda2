"""What a collection's files were like when it was closed, to see damage at the next opening.

The engine opens a collection of which a file was cut, emptied, overwritten or lost, finds fewer
points in it, or points with other vectors, and says nothing; one flipped bit in a file of counts
makes it spin for ever. So a collection that is closed in good order leaves a record beside its
data:

    PATH/NAME/closed.json    the number of points, the indexed fields, and each file's size and
                             checksum, with the time of the last change where the file is large

The record is compared with the files before the engine sees them, and is gone, durably, before the
engine may change them: after a crash there is none, and nothing to compare. Large files, of which
there may be gigabytes, are read at an opening only where something wrote to them since, and at a
closing likewise (1.8 GB/s, measured). What changed on the disk itself, without a write that would
have left its time, shows only where all is read: `verify`, for the doctor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from m3qdrant.edge.disk import contents
from m3qdrant.edge.disk.contents import Content
from m3qdrant.edge.disk.directory import CONFIGURATION, SHARD
from m3qdrant.edge.disk.leftovers import is_leftover
from m3qdrant.errors import StoreDamagedError
from m3qdrant.files import sync_directory, write_whole

__all__ = [
    "FILE",
    "Record",
    "check",
    "check_content",
    "files",
    "read",
    "remove",
    "survey",
    "to_bytes",
    "verify",
    "write",
]

FILE = "closed.json"
_FORMAT = 2

SMALL = 1 << 20
"""Files up to this size, in bytes, are read at each opening: all but the large arrays."""


_REWRITTEN = f"{SHARD}/edge_config.json"
"""Written anew by each opening, with its keys in another order. The engine compares its content
with the configuration that it is given."""


class Record(NamedTuple):
    """A collection at rest.

    Attributes:
        points: how many points it holds.
        indexes: the payload fields that have an index, sorted.
        files: each file's size in bytes, and its CRC-32 where it is `SMALL`, by path.
        contents: what the others hold, by path.
    """

    points: int
    indexes: list[str]
    files: dict[str, tuple[int, int | None]]
    contents: dict[str, Content]


def files(directory: Path) -> Iterator[str]:
    """The files that make up a collection, as paths relative to it, sorted.

    The lock, this module's record and what an operation that was cut off left behind are no part
    of it.
    """
    for name in sorted(os.listdir(directory)):
        if name == CONFIGURATION:
            yield name
        elif name == SHARD:
            yield from _below(directory, name)


def _below(directory: Path, folder: str) -> Iterator[str]:
    with os.scandir(directory / folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{folder}/{entry.name}"
        if is_leftover(path):
            continue
        if entry.is_dir():
            yield from _below(directory, path)
        else:
            yield path


def survey(
    directory: Path, points: int, indexes: list[str], before: Record | None = None
) -> Record:
    """The record of a collection whose files nobody is changing.

    Args:
        directory: the collection's.
        points: how many it holds.
        indexes: the payload fields that have an index.
        before: an earlier record. Large files that nobody has written to since aren't read again.
    """
    found = {path: _measure(directory, path) for path in files(directory)}
    known = before.contents if before is not None and contents.times_tell(directory) else {}
    large = {
        path: contents.read(directory / path, known.get(path))
        for path, (_, checksum) in found.items()
        if checksum is None and path != _REWRITTEN
    }
    return Record(points, sorted(indexes), found, large)


def _measure(directory: Path, path: str) -> tuple[int, int | None]:
    file = directory / path
    size = file.stat().st_size
    if size > SMALL or path == _REWRITTEN:
        return size, None
    return size, contents.checksum(file)


def check(directory: Path, record: Record, *, large: bool = True) -> None:
    """Compare a collection's files with the record of its closing.

    Args:
        directory: the collection's.
        record: what they were like.
        large: also read the large files that were written to since.

    Raises:
        StoreDamagedError: names the first file that is missing or different.
    """
    for path, (size, checksum) in record.files.items():
        file = directory / path
        try:
            found = _measure(directory, path)
        except OSError as error:
            fault = "is missing" if isinstance(error, FileNotFoundError) else f"fails: {error}"
            raise _damage(directory, f"{file} {fault}") from error
        if found[0] != size:
            raise _damage(directory, f"{file} has {found[0]} bytes and had {size}")
        if found[1] != checksum:
            raise _damage(directory, f"the bytes of {file} have changed")
    for path, content in record.contents.items() if large else ():
        file = directory / path
        if contents.read(file, content).checksum != content.checksum:
            raise _damage(directory, f"the bytes of {file} have changed")


def verify(directory: Path, record: Record) -> Iterator[tuple[str, bool]]:
    """Read all large files; for each its path, and whether it holds what it held.

    Raises:
        OSError: one can't be read.
    """
    for path, content in record.contents.items():
        yield path, contents.read(directory / path).checksum == content.checksum


def check_content(directory: Path, record: Record, points: int, indexes: list[str]) -> None:
    """Compare what the engine found in the files with the record.

    Raises:
        StoreDamagedError: says what is different.
    """
    if points != record.points:
        raise _damage(directory, f"it has {points} points and had {record.points}")
    if sorted(indexes) != record.indexes:
        raise _damage(directory, f"it has indexes on {sorted(indexes)}, not {record.indexes}")


def _damage(directory: Path, what: str) -> StoreDamagedError:
    return StoreDamagedError(
        f"{directory} was damaged or changed since it was closed: {what}. Restore it from a "
        "snapshot or a copy, or delete the collection and ingest again; if you changed it on "
        f"purpose, delete its {FILE} and open it again (`m3qdrant doctor` reads each point, and "
        "says which are damaged)"
    )


def read(directory: Path) -> Record | None:
    """The record, or None where the collection wasn't closed in good order.

    Raises:
        StoreDamagedError: the record can't be read.
    """
    try:
        content = json.loads((directory / FILE).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return None  # another version's: it may know of files that this one doesn't
        found = {path: (size, checksum) for path, (size, checksum) in content["files"].items()}
        large = {path: Content(*known) for path, known in content["contents"].items()}
        return Record(content["points"], content["indexes"], found, large)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damage(directory, f"{directory / FILE} can't be read ({error!r})") from error


def to_bytes(record: Record) -> bytes:
    """The content of the file that holds a record."""
    return json.dumps({"format": _FORMAT, **record._asdict()}, ensure_ascii=False).encode()


def write(directory: Path, record: Record) -> None:
    """Leave the record, whole or not at all."""
    write_whole(directory / FILE, to_bytes(record))


def remove(directory: Path) -> None:
    """Take the record away, durably, before anything changes."""
    (directory / FILE).unlink(missing_ok=True)
    sync_directory(directory)
