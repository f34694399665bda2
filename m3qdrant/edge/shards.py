"""A server's shards made one collection of ours.

A server keeps a shard as segments and a log, and its engine is ours, so a shard's snapshot opens
as it is. A sharded collection has each point in one of its shards, and a shard of ours holds any
number of segments: those of all shards are put side by side. The engine numbers updates and passes
over those that are older than what it has, so that the log goes on behind the highest number.

    PATH/NAME/pulled.json    where a collection came from, and what its segments were like: as long
                             as they are, a server can be asked for what has changed since
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import qdrant_edge as edge

from m3qdrant.edge.disk import closed, holes, space
from m3qdrant.edge.disk.directory import SHARD
from m3qdrant.edge.disk.lock import DirectoryLock
from m3qdrant.edge.shard import check_shard, engine_errors
from m3qdrant.errors import UnsupportedError
from m3qdrant.files import write_whole

__all__ = [
    "Origin",
    "Part",
    "follow",
    "merge",
    "need_room",
    "origin_of",
    "unpacked",
    "unpacked_copy",
]

FILE = "pulled.json"
_FORMAT = 1

Manifest: TypeAlias = Mapping[str, Any]
"""The engine's list of a shard's segments, with their files' versions, by the segment's id."""


@dataclass(frozen=True)
class Part:
    """One of a server's shards.

    Attributes:
        node: the node of a cluster that it was taken from: another one's numbers are others.
        last: the number of its last update.
        manifest: its segments.
    """

    node: str
    last: int
    manifest: Manifest = field(repr=False)


@dataclass(frozen=True)
class Origin:
    """Where a collection came from.

    Attributes:
        source: the server.
        collection: the collection's name there.
        parts: its shards, by their numbers as text.
    """

    source: str
    collection: str
    parts: Mapping[str, Part]


def origin_of(directory: Path) -> Origin | None:
    """Where a collection came from; None where nobody knows."""
    try:
        content = json.loads((directory / FILE).read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            return None
        parts = {number: Part(**part) for number, part in content.pop("parts").items()}
        return Origin(parts=parts, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it is a record of convenience: without it all is loaded


def need_room(directory: Path, more: int) -> None:
    """Refuse to begin where the disk has no room.

    Raises:
        EngineError: there is none for `more` bytes.
    """
    space.need(directory, "pull", more)


def unpacked(snapshot: Path, directory: Path, node: str) -> Part:
    """Unpack a shard's snapshot, open it, and say what it is.

    Args:
        snapshot: the archive that a server made.
        directory: where to; it isn't there yet.
        node: see `Part`.

    Raises:
        EngineError: the engine can't open it.
        UnsupportedError: it holds what this version doesn't know.
    """
    with engine_errors("unpack", snapshot.name):
        edge.EdgeShard.unpack_snapshot(str(snapshot), str(directory))
    return _opened(directory, node)


@contextmanager
def unpacked_copy(collection: Path, directory: Path, origin: Origin) -> Iterator[bool]:
    """A pulled collection taken apart again: copies of its shards, to bring them up to date.

    Args:
        collection: its directory; nobody may have it open.
        directory: where to; a shard's number is its folder's name.
        origin: the collection's.

    Yields:
        Whether they are as they were pulled. Where anybody has written to them, they can't follow.

    Raises:
        StoreLockedError: somebody has it open.
        StoreDamagedError: its files aren't those that were closed.
    """
    lock = DirectoryLock(collection)
    try:
        record = closed.read(collection)
        if record is None:
            yield False
            return
        closed.check(collection, record)
        taken = sum(space.bytes_on_disk(collection).values())
        space.need(collection, "bring up to date", taken, disk=directory.parent)
        for number, part in origin.parts.items():
            for path in record.files:
                shard, _, name = path.partition("/")
                kind, _, rest = name.partition("/")
                if shard != SHARD or kind != "segments" or rest.split("/")[0] not in part.manifest:
                    continue
                target = directory / number / name
                target.parent.mkdir(parents=True, exist_ok=True)
                holes.copy(collection / path, target)
        known = {segment for part in origin.parts.values() for segment in part.manifest}
        there = {path.name for path in (collection / SHARD / "segments").iterdir()}
        yield known == there and all(
            _manifest(directory / number) == part.manifest for number, part in origin.parts.items()
        )
    finally:
        lock.release()


def follow(directory: Path, snapshot: Path, before: Part) -> Part:
    """Bring a shard that was pulled earlier up to date by a partial snapshot.

    Args:
        directory: the shard's, from `unpacked_copy`.
        snapshot: what the server made for the manifest of `before`.
        before: what the shard is.

    Raises:
        UnsupportedError: the server's segments aren't a continuation of these.
        EngineError: the engine can't do it.
    """
    for segment, manifest in _manifests_in(snapshot):
        ours = before.manifest.get(segment)
        if ours is not None and manifest["segment_version"] < ours["segment_version"]:
            raise UnsupportedError(f"segment {segment} is older at the server than it was")
    with engine_errors("bring up to date", directory.name):
        shard = edge.EdgeShard.load(str(directory))
        shard.update_from_snapshot(str(snapshot))
        shard.flush()
        shard.close()
    return _opened(directory, before.node)


def _manifests_in(snapshot: Path) -> Iterator[tuple[str, Any]]:
    with tarfile.open(snapshot) as archive:
        for member in archive:
            found = re.fullmatch(r"segments/([^/]+)/files/segment_manifest\.json", member.name)
            stream = archive.extractfile(member) if found else None
            if found and stream is not None:
                yield found.group(1), json.load(stream)


def _opened(directory: Path, node: str) -> Part:
    last = _log_begins(directory)  # before it is opened
    return Part(node, last, _manifest(directory))


def _log_begins(directory: Path) -> int:
    """The number with which a snapshot's log, which is empty, begins."""
    names = [entry.name for entry in (directory / "wal").iterdir()]
    logs = [int(found.group(1)) for n in names if (found := re.fullmatch(r"closed-(\d+)", n))]
    if len(logs) != 1:
        raise UnsupportedError(
            f"a shard's log isn't empty in its snapshot ({', '.join(sorted(names))}), which it is "
            "on the servers that this version knows"
        )
    return logs[0]


def _manifest(directory: Path) -> Manifest:
    with engine_errors("open", directory.name):
        shard = edge.EdgeShard.load(str(directory))
        try:
            shard.flush()
            found: Manifest = shard.snapshot_manifest()
            return found
        finally:
            shard.close()


def merge(collection: Path, directories: Mapping[str, Path], origin: Origin) -> None:
    """Make shards the data of a collection, which was just created, and is nobody's yet.

    Args:
        collection: its directory; what it holds is replaced.
        directories: the shards', by number; what they hold is moved.
        origin: where they came from.

    Raises:
        EngineError: the engine can't open the whole.
    """
    shard = collection / SHARD
    (collection / closed.FILE).unlink(missing_ok=True)
    shutil.rmtree(shard)
    (shard / "segments").mkdir(parents=True)
    (shard / "wal").mkdir()
    for directory in directories.values():
        for segment in (directory / "segments").iterdir():
            segment.rename(shard / "segments" / segment.name)
    last = max(part.last for part in origin.parts.values())
    empty = next(log for each in directories.values() for log in each.glob("wal/closed-*"))
    empty.rename(shard / "wal" / f"closed-{last}")
    with engine_errors("pull", collection.name):
        engine = edge.EdgeShard.load(str(shard))
        # the log's first number is taken: an opened log that nobody wrote to looks like a lost one
        engine.update(edge.UpdateOperation.delete_points([str(uuid.uuid4())]))
        engine.flush()
        engine.close()
    check_shard(collection)
    _write_origin(collection, origin)


def _write_origin(collection: Path, origin: Origin) -> None:
    content = {"format": _FORMAT, **asdict(origin)}
    write_whole(collection / FILE, json.dumps(content, ensure_ascii=False).encode())
