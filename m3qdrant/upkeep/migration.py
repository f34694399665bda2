"""A collection copied to another place, point by point: any engine to any engine.

    create    the target, with the source's configuration, metadata and payload indexes
    copy      points with payload and vectors, in the order of their ids, a page at a time
    verify    both sides read once more: each point compared, and all of them counted

A copy that is cut off at any moment resumes when it is started again. A page is written before the
cursor in the target's own metadata moves past it, so what lies before the cursor was copied; after
it, a point that the target has already, the same as the source's, is left alone. Two runs at once
do the work twice and no harm. The cursor goes when the copy is complete: from then on, a further
run compares every point and copies those that differ, which is how a target catches up with a
source that was written to in the meantime.

Nothing is ever deleted, at either side.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase
from qdrant_client.client_base import QdrantBase

from m3qdrant.collection import OPTIMIZE_POINTS, StrictMode, batches_by_size, calls, json_size
from m3qdrant.edge import collection_names
from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    M3QdrantError,
    SchemaMismatchError,
    UnsupportedError,
)
from m3qdrant.names import MIGRATION
from m3qdrant.progress import Advance, progress_bar
from m3qdrant.transport import Retries
from m3qdrant.upkeep.equality import Rounding, StoredPoint, rounding
from m3qdrant.upkeep.likeness import differences, kinds_of, metadata_of, settings_of
from m3qdrant.upkeep.outcome import MigrationReport
from m3qdrant.upkeep.pulling import UnfitError, pull_files
from m3qdrant.upkeep.sides import (
    Asked,
    Directed,
    Side,
    adrive,
    aside,
    drive,
    side,
    together,
)

__all__ = ["amigrate", "migrate"]

log = logging.getLogger(__name__)

_FIRST_PAGE = 2
_PAGE_BYTES = 16_000_000
"""How much a page of points should come to, as JSON. The size of points is only known once they
are there, so the first page is small, and each follows from the one before."""
_GROWTH = 4
_DENSER = 4
"""In arrays the numbers of so many pages take no more memory than those of one in lists."""

_PAGES_A_CURSOR = 8
"""Pages between two writes of the cursor, each of which is a consensus among a cluster's nodes. So
many are compared again, at most, when a copy resumes."""

_IDS = 1_000  # ids a page, where there are only ids

_MODULUS = 2**128  # of the checksum


def migrate(
    source: str | os.PathLike[str] | QdrantBase,
    target: str | os.PathLike[str] | QdrantBase,
    collection: str,
    target_collection: str | None = None,
    *,
    batch: int = 256,
    progress: bool = False,
    retries: Retries | None = None,
    files: bool = True,
    ca_file: str | os.PathLike[str] | None = None,
) -> MigrationReport:
    """Copy a collection, then compare both sides. Any collection, not only one of m3qdrant's.

    Args:
        source: a directory, a server's URL, or a client; see `M3Store`.
        target: likewise.
        collection: its name at the source.
        target_collection: its name at the target; the same by default. It is made where it isn't
            there.
        batch: the most points of a page; two pages are held at once, for the next one is read
            while one is written. Pages are kept near 16 MB by the size of the points so far.
        progress: show progress bars on stderr.
        retries: how long to go on where a server fails for a while (see `Retries`).
        files: where a server's URL is the source and a directory without such a collection the
            target, take its files over, as `pull` does, and copy points where they don't fit.
        ca_file: certificate authorities of a server; see `M3Store`.

    Returns:
        What was done, and whether both sides are the same (`verified`).

    Raises:
        InputError: source and target are one and the same, or one is ":memory:".
        CollectionNotFoundError: there is no such collection at the source.
        SchemaMismatchError: the target has a collection that is laid out differently.
        UnsupportedError: the source's points lie under shard keys of the user's own.
        EngineError: Qdrant failed at either side. What was copied stays; run it again.
    """
    _check(source, target, batch)
    name = target_collection or collection
    taken = files and _take_files(source, target, collection, name, progress, retries, ca_file)
    with (
        side(source, collection, retries, ca_file=ca_file) as one,
        side(target, name, retries, ca_file=ca_file) as two,
    ):
        work = _Migration(one, two, batch, progress, taken)
        try:
            return drive(work.steps())
        except KeyboardInterrupt:
            with contextlib.suppress(M3QdrantError):
                drive(work.leave())
            raise


async def amigrate(
    source: str | os.PathLike[str] | AsyncQdrantBase,
    target: str | os.PathLike[str] | AsyncQdrantBase,
    collection: str,
    target_collection: str | None = None,
    *,
    batch: int = 256,
    progress: bool = False,
    retries: Retries | None = None,
    files: bool = True,
    ca_file: str | os.PathLike[str] | None = None,
) -> MigrationReport:
    """`migrate` for asyncio. Cancelled, it leaves what was copied: run it again for the rest."""
    _check(source, target, batch)
    name = target_collection or collection
    taken = files and await asyncio.to_thread(
        _take_files, source, target, collection, name, progress, retries, ca_file
    )
    async with (
        aside(source, collection, retries, ca_file=ca_file) as one,
        aside(target, name, retries, ca_file=ca_file) as two,
    ):
        work = _Migration(one, two, batch, progress, taken)
        try:
            return await adrive(work.steps())
        except asyncio.CancelledError:
            with contextlib.suppress(M3QdrantError):
                await adrive(work.leave())
            raise


def _check(source: object, target: object, batch: object) -> None:
    if not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch must be a whole number from 1, not {batch!r}")
    for place in (source, target):
        if place == ":memory:":
            raise InputError("':memory:' ends with the call: pass a client, a directory or a URL")


def _take_files(
    source: object,
    target: object,
    collection: str,
    name: str,
    progress: bool,
    retries: Retries | None,
    ca_file: str | os.PathLike[str] | None,
) -> bool:
    """Take the collection's files over where that can be; whether they were."""
    if not isinstance(source, str) or not isinstance(target, str | os.PathLike):
        return False
    place = os.fspath(target)
    url = ("http://", "https://")
    if not source.lower().startswith(url) or place.lower().startswith(url):
        return False
    root = Path(place).expanduser().absolute()
    if name in collection_names(root):
        return False
    try:
        pull_files(
            [url.strip() for url in source.split(",")],
            root,
            collection,
            name,
            progress=progress,
            retries=retries,
            ca_file=ca_file,
        )
    except UnfitError as error:
        log.info("copying the points: %s", error)
        return False
    return True


class _Migration:
    """One run: its operations, and how far it has come."""

    def __init__(
        self, source: Side, target: Side, batch: int, progress: bool, taken: bool = False
    ) -> None:
        self._source = source
        self._target = target
        self._batch = batch
        self._progress = progress
        self._taken = taken  # its files were: nothing is to be copied
        self._report = MigrationReport(str(source), str(target))
        self._cursor: dict[str, _Cursor] | None = None  # while points are copied

    def steps(self) -> Directed[MigrationReport]:
        """All of it."""
        source, target = self._source, self._target
        if source.place == target.place and source.name == target.name:
            raise InputError(f"{source} is both source and target: choose another name or place")
        info = yield from _source_info(source)
        source = self._source = replace(source, strict=StrictMode.of(info))
        found = yield from _prepare_target(source, target, info)
        target = self._target = replace(target, strict=StrictMode.of(found))
        # pages are read and written as they are, several under way at once
        limits = (self._batch, source.strict.limit, target.strict.upserts)
        self._batch = min(n for n in limits if n is not None)
        allowed = rounding(found.config.params)
        if self._taken:
            self._report.copied = yield from _count(target)
        else:
            with self._bar("copying", (yield from _count(source))) as advance:
                yield from self._copy(found, allowed, advance)
        with self._bar("verifying", (yield from _count(source))) as advance:
            yield from self._verify(allowed, advance)
        yield from _index(target)
        return self._report

    def leave(self) -> Directed[None]:
        """Where it was interrupted while it copied: leave the cursor, for the next run."""
        if self._cursor is not None:
            # whoever presses Ctrl-C while a server is away does not wait for it
            target = replace(self._target, retries=Retries(attempts=1))
            yield from target.ask(calls.update_collection(target.name, self._cursor))

    def _bar(self, label: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        return progress_bar(label, total, self._progress, "points")

    def _copy(
        self, found: models.CollectionInfo, allowed: Mapping[str, Rounding], advance: Advance
    ) -> Directed[None]:
        """Copy what the target lacks or has differently."""
        source, target, report = self._source, self._target, self._report
        start, done = _read_cursor(source, found)
        report.resumed = start is not None
        empty = (yield from _count(target)) == 0
        self._cursor = _cursor(source, start, done)
        pages, number = _Pages(source, self._batch, start), 0
        records, _ = yield from pages.next()
        while records is not None:
            following = pages.following
            there = {} if empty else (yield from _stored(target, records))
            wanted = [
                record
                for record in records
                if (copy := there.get(str(record.id))) is None
                or StoredPoint.of(record).compare(copy, allowed) == "different"
            ]
            # the next page is read while this one is written
            more, _ = yield from pages.next(
                Asked(target, calls.upsert(target.name, points))
                for points in batches_by_size(map(self._point, wanted))
            )
            report.copied += len(wanted)
            report.unchanged += len(records) - len(wanted)
            done += len(records)
            self._cursor = _cursor(source, following, done)
            advance(done)
            number += 1
            if number % _PAGES_A_CURSOR == 0 and following is not None:
                yield from target.ask(calls.update_collection(target.name, self._cursor))
            records = more
        self._cursor = None
        found = yield from target.ask(calls.get_collection(target.name))
        if MIGRATION in (found.config.metadata or {}):
            yield from target.ask(calls.update_collection(target.name, {MIGRATION: None}))

    def _point(self, record: models.Record) -> models.PointStruct:
        point = _point(record)
        if not self._target.capabilities.arrays:
            point.vector = _as_lists(point.vector)
        return point

    def _verify(self, allowed: Mapping[str, Rounding], advance: Advance) -> Directed[None]:
        """Compare all points of both sides."""
        source, target, report = self._source, self._target, self._report
        done = found = sum_source = sum_target = 0
        pages = _Pages(source, self._batch)
        records, _ = yield from pages.next()
        while records is not None:
            more, copies = yield from pages.next([_reading(target, records)] if records else [])
            there = {str(copy.id): StoredPoint.of(copy) for page in copies for copy in page}
            for point in map(StoredPoint.of, records):
                sum_source += point.checksum
                copy = there.get(str(point.id))
                if copy is None:
                    report.missing.append(point.id)
                    continue
                found += 1
                sum_target += copy.checksum
                judged = point.compare(copy, allowed)
                report.rounded += judged == "rounded"
                if judged == "different":
                    report.different.append(point.id)
            done += len(records)
            advance(done)
            records = more
        report.source_points = yield from _count(source)
        report.target_points = yield from _count(target)
        report.source_checksum = f"{sum_source % _MODULUS:032x}"
        report.target_checksum = f"{sum_target % _MODULUS:032x}"
        if report.target_points != found:
            report.extra = yield from _extra(source, target)


def _point(record: models.Record) -> models.PointStruct:
    vector = {} if record.vector is None else record.vector
    return models.PointStruct.model_construct(
        id=record.id, payload=record.payload or {}, vector=vector
    )


def _as_lists(vector: Any) -> Any:
    """Vectors for an engine that takes no arrays."""
    if isinstance(vector, Mapping):
        return {name: _as_lists(each) for name, each in vector.items()}
    return vector.tolist() if isinstance(vector, np.ndarray) else vector


# -- one side


class _Pages:
    """A side's points with payload and vectors, in the order of their ids, a page at a time.

    Attributes:
        following: the id that the next page begins with; None where there is none.
    """

    def __init__(
        self, side: Side, batch: int, start: models.ExtendedPointId | None = None
    ) -> None:
        self.following = start
        self._side = side
        self._batch = batch
        self._size = min(_FIRST_PAGE, batch)
        self._more = True

    def next(
        self, meanwhile: Iterable[Asked] = ()
    ) -> Directed[tuple[list[models.Record] | None, list[Any]]]:
        """The next page, None after the last one; and the answers to what is asked meanwhile."""
        others = list(meanwhile)
        if not self._more:
            return None, (yield from together(others))
        reading = calls.scroll(
            self._side.name,
            limit=self._size,
            offset=self.following,
            with_payload=True,
            with_vectors=True,
            arrays=True,
        )
        (records, self.following), *found = yield from together(
            [Asked(self._side, reading), *others]
        )
        self._more = self.following is not None
        bytes = sum(json_size(_point(record)) for record in records)
        most = _PAGE_BYTES * (_DENSER if self._side.capabilities.arrays else 1)
        fitting = len(records) * most // max(bytes, 1)
        self._size = max(1, min(fitting, _GROWTH * self._size, self._batch))
        return records, found


def _stored(side: Side, records: Sequence[models.Record]) -> Directed[dict[str, StoredPoint]]:
    """Those points of a side that have the ids of the records, by the string of the id."""
    if not records:
        return {}
    (found,) = yield from together([_reading(side, records)])
    return {str(record.id): StoredPoint.of(record) for record in found}


def _reading(side: Side, records: Sequence[models.Record]) -> Asked:
    """The call for those points of a side that have the ids of the records."""
    ids = [record.id for record in records]
    return Asked(
        side, calls.retrieve(side.name, ids, with_payload=True, with_vectors=True, arrays=True)
    )


def _count(side: Side) -> Directed[int]:
    return (yield from side.ask(calls.count(side.name))).count


# -- create


def _source_info(source: Side) -> Directed[models.CollectionInfo]:
    if not (yield from source.ask(calls.collection_exists(source.name))):
        raise CollectionNotFoundError(f"no {source}: there is nothing to copy")
    info = yield from source.ask(calls.get_collection(source.name))
    if info.config.params.sharding_method is models.ShardingMethod.CUSTOM:
        raise UnsupportedError(
            f"{source} has shard keys of its own, which a copy would lose: use Qdrant's snapshots"
        )
    return info


def _prepare_target(
    source: Side, target: Side, info: models.CollectionInfo
) -> Directed[models.CollectionInfo]:
    """Make the target where it isn't there, or check that it fits; what it is then."""
    if not (yield from target.ask(calls.collection_exists(target.name))):
        settings = settings_of(
            info, cluster=source.capabilities.remote and target.capabilities.remote
        )
        settings["metadata"] = {**metadata_of(info), **_cursor(source, None, 0)}
        creation = replace(calls.create_collection(target.name, **settings), idempotent=True)
        # where an answer got lost and it was asked again, or another run was faster, it is there
        with contextlib.suppress(CollectionExistsError):
            yield from target.ask(creation)
    found = yield from target.ask(calls.get_collection(target.name))
    wrong = differences(info, found)
    if wrong:
        raise SchemaMismatchError(
            f"{target} does not fit {source}: {'; '.join(wrong)} (choose another "
            "target collection)",
            wrong,
        )
    if metadata_of(info) and not found.config.metadata:
        warnings.warn(
            f"{target} keeps no metadata (servers do from 1.16 on), so it won't know its model, "
            "and a copy that is cut off resumes by comparing",
            UserWarning,
            stacklevel=6,
        )
    if "turbo4" in {kind.get("datatype") for kind in kinds_of(found).values()}:
        warnings.warn(
            f"{source} keeps turbo4 vectors, which a copy quantizes once more: they move by a few "
            "percent; export and ingest loses nothing",
            UserWarning,
            stacklevel=6,
        )
    if target.capabilities.indexes:  # in-memory mode warns of each
        for field, index in info.payload_schema.items():
            if field not in found.payload_schema:
                kind = index.params or index.data_type
                yield from target.ask(calls.create_payload_index(target.name, field, kind))
    return found


# -- the cursor


class _Cursor(TypedDict):
    """How far a copy has come, as the target's metadata hold it."""

    source: str
    collection: str
    next: models.ExtendedPointId | None
    points: int


def _cursor(
    source: Side, following: models.ExtendedPointId | None, points: int
) -> dict[str, _Cursor]:
    """The cursor as an entry of metadata: the next page's first id, and how many were before."""
    place = source.place if isinstance(source.place, str) else source.location
    return {
        MIGRATION: {
            "source": place,
            "collection": source.name,
            "next": following,
            "points": points,
        }
    }


def _read_cursor(
    source: Side, target: models.CollectionInfo
) -> tuple[models.ExtendedPointId | None, int]:
    """Where an earlier copy of this source was cut off, and after how many points."""
    cursor = (target.config.metadata or {}).get(MIGRATION)
    if isinstance(cursor, Mapping):
        following, points = cursor.get("next"), cursor.get("points")
        if isinstance(points, int) and cursor == _cursor(source, following, points)[MIGRATION]:
            return following, points
    return None, 0


# -- at the end


def _extra(source: Side, target: Side) -> Directed[list[models.ExtendedPointId]]:
    """Ids of the target's points that the source lacks."""
    extra: list[models.ExtendedPointId] = []
    offset: models.ExtendedPointId | None = None
    while True:
        records, offset = yield from target.ask(
            calls.scroll(target.name, limit=_IDS, offset=offset)
        )
        ids = [record.id for record in records]
        there = yield from source.ask(calls.retrieve(source.name, ids))
        known = {str(record.id) for record in there}
        extra += [id for id in ids if str(id) not in known]
        if offset is None:
            return extra


def _index(target: Side) -> Directed[None]:
    """Build the engine's indexes, as after an ingest, where it doesn't by itself."""
    if not target.capabilities.optimizes:
        return
    waiting = yield from target.ask(calls.unindexed(target.name))
    if waiting >= OPTIMIZE_POINTS:
        yield from target.ask(calls.optimize(target.name))
