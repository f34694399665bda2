"""The files of a closed collection, read whole and compared with the record of its closing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from m3qdrant.edge.disk import closed, space
from m3qdrant.edge.disk.directory import SHARD
from m3qdrant.edge.disk.lock import nobody_has
from m3qdrant.errors import EngineError

__all__ = ["Verified", "verify_files"]


class Verified(NamedTuple):
    """What a collection's files were found to hold.

    Attributes:
        size: bytes that the files take on the disk.
        wrong: the large files, relative to the collection, that hold something else than they did.
    """

    size: int
    wrong: list[str]


def verify_files(
    directory: Path, advance: Callable[[int], None] = lambda done: None
) -> Verified | None:
    """Compare all files of a collection with what they were when it was closed. Changes nothing.

    Args:
        directory: the collection's.
        advance: is told after each file how many bytes are done, of the files' sizes.

    Returns:
        What they hold; None where the collection wasn't closed in good order, so that nobody knows
        what they should hold.

    Raises:
        StoreLockedError: it is open, in another process or in this one.
        StoreDamagedError: a small file is missing or different, or any has another size.
        EngineError: a file can't be read.
    """
    with nobody_has(directory, directory / SHARD / "wal"):
        record = closed.read(directory)
        if record is None:
            return None
        closed.check(directory, record, large=False)
        total = sum(size for size, _ in record.files.values())
        done = total - sum(record.files[path][0] for path in record.contents)
        wrong = []
        advance(done)
        try:
            for path, whole in closed.verify(directory, record):
                wrong += [] if whole else [path]
                done += record.files[path][0]
                advance(done)
        except OSError as error:
            raise EngineError(f"{directory} can't be read ({error}): look at the disk") from error
        return Verified(sum(space.bytes_on_disk(directory).values()), wrong)
