"""Snapshots: a collection as one file, to keep, to move, and to come back to.

    PATH/.snapshots/NAME/NAME-2026-01-31-12-00-00.tar          the collection
    PATH/.snapshots/NAME/NAME-2026-01-31-12-00-00.tar.sha256   its checksum, for sha256sum -c

The archive holds the collection's directory as it lay on the disk between two writes. It is a
plain tar, which GNU tar and others unpack. The engine's files are mostly holes (a collection of
ten points looks like 300 MB), so they are stored as sparse files, in the way of GNU tar's format
1.0: first a table of the parts that hold data, then these parts.

A snapshot outlives its collection, as a copy for bad days should.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from qdrant_client import models

from m3qdrant.edge.disk import closed
from m3qdrant.edge.disk.directory import CONFIGURATION, SHARD
from m3qdrant.edge.disk.holes import data_parts
from m3qdrant.errors import EngineError, InputError, StoreDamagedError, UnsupportedError
from m3qdrant.files import replacing, write_whole

__all__ = ["checked_source", "create", "delete", "find", "unpack"]

FOLDER = ".snapshots"
_BLOCK = 512  # of tar


def find(root: Path, name: str) -> list[models.SnapshotDescription]:
    """The snapshots of the collection `name`, the oldest first."""
    folder = root / FOLDER / name
    try:
        files = sorted(folder.glob("*.tar"))
    except FileNotFoundError:
        return []
    return [_describe(file) for file in files if not file.name.startswith(".")]


def _describe(file: Path) -> models.SnapshotDescription:
    status = file.stat()
    made = datetime.fromtimestamp(status.st_mtime, timezone.utc).replace(tzinfo=None)
    checksum: str | None = None
    with contextlib.suppress(FileNotFoundError):
        checksum = _checksum_file(file).read_text(encoding="utf-8").partition(" ")[0]
    return models.SnapshotDescription(
        name=file.name,
        creation_time=made.isoformat(timespec="seconds"),
        size=status.st_size,
        checksum=checksum,
    )


def _checksum_file(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def delete(root: Path, name: str, snapshot: str) -> bool:
    """Remove a snapshot of the collection `name`; False where there is none of that name."""
    if snapshot not in {found.name for found in find(root, name)}:
        return False
    file = root / FOLDER / name / snapshot
    file.unlink()
    _checksum_file(file).unlink(missing_ok=True)
    return True


def create(
    root: Path, name: str, directory: Path, record: closed.Record
) -> models.SnapshotDescription:
    """Pack a collection whose files nobody changes meanwhile; there is a whole file, or none.

    Args:
        root: the directory of collections.
        name: the collection's name.
        directory: its directory.
        record: what its files are like, to be compared with what is unpacked one day.
    """
    folder = root / FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):
        leftover.unlink()  # by the holder of the collection's lock: nobody else is at it
    target = _free_name(folder, name)
    with replacing(target) as temporary:
        with tarfile.open(temporary, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in record.files:
                _pack(archive, directory / path, path)
            content = closed.to_bytes(record)
            info = tarfile.TarInfo(closed.FILE)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        line = f"{_sha256(temporary)}  {target.name}\n"
        write_whole(_checksum_file(target), line.encode())
    return _describe(target)


def _free_name(folder: Path, name: str) -> Path:
    stem = f"{name}-{datetime.now(timezone.utc):%Y-%m-%d-%H-%M-%S}"
    numbers = iter(range(2, 10**9))
    target = folder / f"{stem}.tar"
    while target.exists():
        target = folder / f"{stem}-{next(numbers)}.tar"
    return target


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


# packing


def _pack(archive: tarfile.TarFile, file: Path, name: str) -> None:
    with file.open("rb") as stream:
        info = archive.gettarinfo(arcname=name, fileobj=stream)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        parts = list(data_parts(stream.fileno(), info.size))
        if parts == [(0, info.size)]:
            stream.seek(0)  # looking for holes moved it
            archive.addfile(info, stream)
            return
        size = info.size
        if not parts or sum(parts[-1]) < size:
            parts.append((size, 0))  # says where the file ends
        table = f"{len(parts)}\n" + "".join(f"{start}\n{length}\n" for start, length in parts)
        table = table.ljust(-(-len(table) // _BLOCK) * _BLOCK, "\0")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": name,
            "GNU.sparse.realsize": str(size),
        }
        info.size = len(table) + sum(length for _, length in parts)
        archive.addfile(info, _Parts(table.encode(), stream, parts))


class _Parts(io.RawIOBase):
    """A table, then parts of a file, as one stream."""

    def __init__(self, table: bytes, stream: Any, parts: list[tuple[int, int]]) -> None:
        super().__init__()
        self._pieces = self._walk(table, stream, parts)
        self._rest = b""

    @staticmethod
    def _walk(table: bytes, stream: Any, parts: list[tuple[int, int]]) -> Iterator[bytes]:
        yield table
        for start, length in parts:
            stream.seek(start)
            while length:
                piece = stream.read(min(length, 1 << 20))
                if not piece:
                    raise EngineError(f"{stream.name} shrank while it was being packed")
                length -= len(piece)
                yield piece

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        wanted = -1 if size is None else size
        while wanted < 0 or len(self._rest) < wanted:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        cut = len(self._rest) if wanted < 0 else wanted
        found, self._rest = self._rest[:cut], self._rest[cut:]
        return found


# unpacking


def checked_source(location: str | os.PathLike[str], checksum: str | None) -> Path:
    """The file that a location names, after a look at its checksum.

    Args:
        location: a path, or a file:// URL.
        checksum: the file's SHA-256 as it should be; None takes what lies beside the file, if
            anything does.

    Raises:
        InputError: there is no such file.
        UnsupportedError: the location is on a network.
        StoreDamagedError: the checksum is another.
    """
    text = os.fspath(location)
    parts = urlsplit(text)
    if parts.scheme in ("http", "https"):
        raise UnsupportedError(
            "the embedded engine fetches no snapshot from a network: download it, pass its path"
        )
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{text} is on another machine: copy the file, and pass its path")
        text = url2pathname(parts.path) if os.name == "nt" else unquote(parts.path)
    source = Path(text).expanduser()
    if not source.is_file():
        raise InputError(f"there is no snapshot at {source}: list_snapshots names those there are")
    if checksum is None:
        checksum = _describe(source).checksum
    if checksum is not None and _sha256(source) != checksum.lower():
        raise StoreDamagedError(
            f"{source} hasn't the SHA-256 {checksum}: it is damaged or another file, and nothing "
            "was changed; copy it again"
        )
    return source


def unpack(source: Path, directory: Path) -> None:
    """Unpack a snapshot into a directory, and nothing outside it.

    Raises:
        UnsupportedError: it is a server's snapshot.
        StoreDamagedError: it is no snapshot of ours, or isn't whole.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UnsupportedError(
            "this Python unpacks archives unsafely: update it to its last patch"
        )
    try:
        with tarfile.open(source, "r:") as archive:
            members = archive.getmembers()
            names = {member.name for member in members}
            if CONFIGURATION not in names or closed.FILE not in names:
                if names & {"config.json", "version.info", "shard_config.json", "segments", "wal"}:
                    raise UnsupportedError(
                        f"{source} is a snapshot of a Qdrant server, which holds several shards: "
                        "recover it in a server, and copy the points with scroll and upsert"
                    )
                raise StoreDamagedError(
                    f"{source} is no snapshot of ours: it lacks {CONFIGURATION}"
                )
            for member in members:
                inside = member.name in (CONFIGURATION, closed.FILE) or member.name.startswith(
                    f"{SHARD}/"
                )
                if not member.isreg() or not inside:
                    raise StoreDamagedError(
                        f"{source} is no snapshot of ours: it holds {member.name!r}"
                    )
            archive.extractall(directory, members, filter="data")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise StoreDamagedError(
            f"{source} can't be unpacked ({error}): it is cut off or no snapshot; copy it again"
        ) from error
