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

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from m3qdrant.collection.batches import batches_by_size, json_size
from m3qdrant.collection.calls import Call, Steps
from m3qdrant.collection.operations import OPTIMIZE_POINTS
from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    M3QdrantError,
    SchemaMismatchError,
    UnsupportedError,
)
from m3qdrant.names import METADATA, MIGRATION
from m3qdrant.progress import progress_bar
from m3qdrant.transport import run as transport
from m3qdrant.transport.run import Retries
from m3qdrant.upkeep.equality import Rounding, StoredPoint, rounding

__all__ = [
    "MigrationReport",
    "create_arguments",
    "differences",
    "migrate",
]

_FIRST_PAGE = 2
_PAGE_BYTES = 16_000_000
"""How much a page of points should come to, as JSON. The size of points is only known once they
are there, so the first page is small, and each follows from the one before."""
_GROWTH = 4

_PAGES_A_CURSOR = 8
"""Pages between two writes of the cursor, each of which is a consensus among a cluster's nodes. So
many are compared again, at most, when a copy resumes."""

_IDS = 1_000  # ids a page, where there are only ids

_MODULUS = 2**128  # of the checksum


@dataclass
class MigrationReport:
    """What `migrate` did, and what it found when it read both sides once more.

    Attributes:
        source: the collection that was copied, in words.
        target: the collection it was copied to, in words.
        copied: points written by this run.
        unchanged: points that this run found at the target, and the same.
        resumed: whether this run went on from where an earlier one was cut off.
        source_points: points at the source, counted at the end.
        target_points: points at the target, counted at the end.
        rounded: points that are equal but for the rounding of vectors that the target's engine
            does and the source's doesn't, or for a second normalisation under cosine distance.
        missing: ids of points that the target lacks.
        different: ids of points whose payload or vectors differ.
        extra: ids of points that the source lacks.
        source_checksum: of the ids, payloads and exact vectors of the source's points.
        target_checksum: of the same points as the target has them; equal where nothing is rounded,
            missing or different.
    """

    source: str
    target: str
    copied: int = 0
    unchanged: int = 0
    resumed: bool = False
    source_points: int = 0
    target_points: int = 0
    rounded: int = 0
    missing: list[models.ExtendedPointId] = field(default_factory=list)
    different: list[models.ExtendedPointId] = field(default_factory=list)
    extra: list[models.ExtendedPointId] = field(default_factory=list)
    source_checksum: str = ""
    target_checksum: str = ""

    @property
    def verified(self) -> bool:
        """Whether both sides hold the same points."""
        return not (self.missing or self.different or self.extra) and (
            self.source_points == self.target_points
        )

    def __str__(self) -> str:
        """One line on the work and one on the verification, with the remedy where it failed."""
        resumed = ", resumed" if self.resumed else ""
        lines = [
            f"{self.source} to {self.target}: {self.copied} points copied, {self.unchanged} there "
            f"already{resumed}"
        ]
        if self.verified:
            rounded = f", {self.rounded} of them but for rounding" if self.rounded else ""
            lines.append(
                f"verified: {self.target_points} points, each the same at both sides{rounded} "
                f"(checksum {self.target_checksum})"
            )
            return "\n".join(lines)
        lines.append(
            f"NOT the same: {self.source_points} points at the source, "
            f"{self.target_points} at the target"
        )
        for ids, what, remedy in (
            (self.missing, "missing at the target", "run it again"),
            (self.different, "different at the target", "run it again, with no writer at work"),
            (
                self.extra,
                "at the target only",
                "delete them there, or migrate into a new collection",
            ),
        ):
            if ids:
                shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
                lines.append(f"{len(ids)} {what} ({shown}): {remedy}")
        if not (self.missing or self.different or self.extra):
            lines.append("points came or went during the verification: run it again")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**vars(self), "verified": self.verified}


def migrate(
    source: str | os.PathLike[str] | QdrantBase,
    target: str | os.PathLike[str] | QdrantBase,
    collection: str,
    target_collection: str | None = None,
    *,
    batch: int = 256,
    progress: bool = False,
    retries: Retries | None = None,
) -> MigrationReport:
    """Copy a collection, then compare both sides. Any collection, not only one of m3qdrant's.

    Args:
        source: a directory, a server's URL, or a client; see `M3Store`.
        target: likewise.
        collection: its name at the source.
        target_collection: its name at the target; the same by default. It is made where it isn't
            there.
        batch: the most points that are held at once. Pages are kept near 16 MB by the size of the
            points so far.
        progress: show progress bars on stderr.
        retries: how long to go on where a server fails for a while (see transport.py).

    Returns:
        What was done, and whether both sides are the same (`verified`).

    Raises:
        InputError: source and target are one and the same, or one is ":memory:".
        CollectionNotFoundError: there is no such collection at the source.
        SchemaMismatchError: the target has a collection that is laid out differently.
        UnsupportedError: the source's points lie under shard keys of the user's own.
        EngineError: Qdrant failed at either side. What was copied stays; run it again.
    """
    if not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch must be a whole number from 1, not {batch!r}")
    for place in (source, target):
        if place == ":memory:":
            raise InputError("':memory:' ends with the call: pass a client, a directory or a URL")
    target_collection, retries = target_collection or collection, retries or Retries()
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(_Side.open(source, collection, retries))
        two = stack.enter_context(_Side.open(target, target_collection, retries))
        if one.place == two.place and collection == target_collection:
            raise InputError(f"{one} is both source and target: choose another name or place")
        report = MigrationReport(str(one), str(two))
        info = _source_info(one)
        found = _prepare_target(one, two, info)
        allowed = rounding(found.config.params)
        with progress_bar("copying", _count(one), progress, "points") as advance:
            for done in _copy(one, two, found, allowed, batch, report):
                advance(done)
        with progress_bar("verifying", _count(one), progress, "points") as advance:
            for done in _verify(one, two, allowed, batch, report):
                advance(done)
        _index(two)
    return report


# -- pure


def create_arguments(info: models.CollectionInfo, *, cluster: bool = False) -> dict[str, Any]:
    """Keyword arguments of `create_collection` that make a collection like this one.

    Args:
        info: of the collection.
        cluster: with shards, replicas and the optimizers' settings, which mean nothing beyond
            servers (the embedded engine reports some of its own).
    """
    params, config = info.config.params, info.config
    arguments: dict[str, Any] = {
        "vectors_config": params.vectors,
        "sparse_vectors_config": params.sparse_vectors,
        "on_disk_payload": params.on_disk_payload,
        "hnsw_config": _diff(models.HnswConfigDiff, config.hnsw_config),
        "quantization_config": config.quantization_config,
        "metadata": _metadata(info),
        "payload": getattr(params, "payload", None),
        "id_tracker": getattr(params, "id_tracker", None),
    }
    if cluster:
        arguments |= {
            "shard_number": params.shard_number,
            "replication_factor": params.replication_factor,
            "write_consistency_factor": params.write_consistency_factor,
            "optimizers_config": _diff(models.OptimizersConfigDiff, config.optimizer_config),
        }
    return {name: value for name, value in arguments.items() if value is not None}


def _diff(kind: Any, config: Any) -> Any:
    """The settings of a configuration as the model that changes them."""
    if config is None:
        return None
    settings = config.model_dump(exclude_none=True)
    return kind(**{name: settings[name] for name in kind.model_fields if name in settings})


def _metadata(info: models.CollectionInfo) -> dict[str, Any]:
    """A collection's metadata without a cursor of ours."""
    metadata = dict(info.config.metadata or {})
    metadata.pop(MIGRATION, None)
    return metadata


def differences(source: models.CollectionInfo, target: models.CollectionInfo) -> list[str]:
    """Why points of one collection don't belong into the other, a line a reason.

    How vectors are indexed, quantized and placed may differ: it doesn't change the points.
    """
    one, two = _kinds(source), _kinds(target)
    lines = []
    for name in sorted({*one, *two}):
        shown = f"vector {name!r}" if name else "the unnamed vector"
        if name not in two:
            lines.append(f"{shown} is not in the target")
        elif name not in one:
            lines.append(f"{shown} is in the target only")
        else:
            lines += [
                f"{shown} has {what} {one[name].get(what)} at the source, "
                f"{two[name].get(what)} at the target"
                for what in sorted({*one[name], *two[name]})
                if one[name].get(what) != two[name].get(what)
            ]
    ours = [_metadata(info).get(METADATA) or {} for info in (source, target)]
    prints = [entry.get("fingerprint") for entry in ours]
    if all(prints) and prints[0] != prints[1]:
        lines.append(
            f"the vectors come from {ours[0].get('model')} at the source, "
            f"{ours[1].get('model')} at the target"
        )
    return lines


def _kinds(info: models.CollectionInfo) -> dict[str, dict[str, Any]]:
    """What must be the same for each vector."""
    params = info.config.params
    vectors = params.vectors
    named = {"": vectors} if isinstance(vectors, models.VectorParams) else vectors or {}
    kinds: dict[str, dict[str, Any]] = {
        name: {
            "size": vector.size,
            "distance": vector.distance.value,
            "datatype": (vector.datatype or models.Datatype.FLOAT32).value,
            "comparator": vector.multivector_config and vector.multivector_config.comparator.value,
        }
        for name, vector in named.items()
    }
    for name, sparse in (params.sparse_vectors or {}).items():
        kinds[name] = {
            "size": "sparse",
            "modifier": (sparse.modifier or models.Modifier.NONE).value,
        }
    return kinds


def _point(record: models.Record) -> models.PointStruct:
    return models.PointStruct.model_construct(
        id=record.id, payload=record.payload or {}, vector=record.vector or {}
    )


# -- one side


@dataclass(frozen=True)
class _Side:
    """A collection, and the client that reaches it."""

    client: QdrantBase
    collection: str
    location: str
    retries: Retries

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, location: str | os.PathLike[str] | QdrantBase, collection: str, retries: Retries
    ) -> Iterator[_Side]:
        client, owned = transport.connect(location)
        try:
            yield cls(client, collection, transport.describe(location), retries)
        finally:
            if owned:
                client.close()

    def __str__(self) -> str:
        return f"collection {self.collection!r} at {self.location}"

    @property
    def engine(self) -> str:
        return transport.engine_of(self.client)

    @property
    def place(self) -> Any:
        """What tells two places apart."""
        path = getattr(self.client, "path", None)
        if path is not None:
            return os.path.realpath(path)
        if self.engine == "server" and self.location.lower().startswith("http"):
            return self.location.rstrip("/").lower()
        return id(self.client)

    def ask(self, method: str, **arguments: Any) -> Any:
        """One call on the collection."""

        def steps() -> Steps[Any]:
            arguments["collection_name"] = self.collection
            return (yield Call(method, arguments))

        return transport.run(self.client, steps(), where=str(self), retries=self.retries)

    def pages(self, batch: int, offset: Any = None) -> Iterator[tuple[list[Any], Any]]:
        """Points with payload and vectors in the order of their ids, and the next page's first."""
        size = min(_FIRST_PAGE, batch)
        while True:
            records, offset = self.ask(
                "scroll", limit=size, offset=offset, with_payload=True, with_vectors=True
            )
            yield records, offset
            if offset is None:
                return
            bytes = sum(json_size(_point(record)) for record in records)
            fitting = len(records) * _PAGE_BYTES // max(bytes, 1)
            size = max(1, min(fitting, _GROWTH * size, batch))

    def stored(self, records: Sequence[models.Record]) -> dict[str, StoredPoint]:
        """Those points of this side that have the ids of the records, by the string of the id."""
        if not records:
            return {}
        ids = [record.id for record in records]
        found = self.ask("retrieve", ids=ids, with_payload=True, with_vectors=True)
        return {str(record.id): StoredPoint.of(record) for record in found}


def _count(side: _Side) -> int:
    return int(side.ask("count", exact=True).count)


# -- create


def _source_info(source: _Side) -> models.CollectionInfo:
    if not source.ask("collection_exists"):
        raise CollectionNotFoundError(f"no {source}: there is nothing to copy")
    info: models.CollectionInfo = source.ask("get_collection")
    if info.config.params.sharding_method is models.ShardingMethod.CUSTOM:
        raise UnsupportedError(
            f"{source} has shard keys of its own, which a copy would lose: use Qdrant's snapshots"
        )
    return info


def _prepare_target(
    source: _Side, target: _Side, info: models.CollectionInfo
) -> models.CollectionInfo:
    """Make the target where it isn't there, or check that it fits; what it is then."""
    if not target.ask("collection_exists"):
        arguments = create_arguments(info, cluster=source.engine == target.engine == "server")
        arguments["metadata"] = {**arguments.get("metadata", {}), **_cursor(source, None, 0)}
        # where an answer got lost and it was asked again, or another run was faster, it is there
        with contextlib.suppress(CollectionExistsError):
            target.ask("create_collection", **arguments)
    found: models.CollectionInfo = target.ask("get_collection")
    wrong = differences(info, found)
    if wrong:
        raise SchemaMismatchError(
            f"{target} does not fit {source}: {'; '.join(wrong)} (choose another "
            "target collection)",
            wrong,
        )
    if _metadata(info) and not found.config.metadata:
        warnings.warn(
            f"{target} keeps no metadata (servers do from 1.16 on), so it won't know its model, "
            "and a copy that is cut off resumes by comparing",
            UserWarning,
            stacklevel=3,
        )
    if "turbo4" in {kind.get("datatype") for kind in _kinds(found).values()}:
        warnings.warn(
            f"{source} keeps turbo4 vectors, which a copy quantizes once more: they move by a few "
            "percent; export and ingest loses nothing",
            UserWarning,
            stacklevel=3,
        )
    if target.engine != "memory":  # which has no indexes, and warns of each
        for name, index in info.payload_schema.items():
            if name not in found.payload_schema:
                target.ask(
                    "create_payload_index",
                    field_name=name,
                    field_schema=index.params or index.data_type,
                    wait=True,
                )
    return found


# -- copy


def _cursor(source: _Side, following: Any, points: int) -> dict[str, Any]:
    """The cursor as an entry of metadata: the next page's first id, and how many were before."""
    place = source.place if isinstance(source.place, str) else source.location
    return {
        MIGRATION: {
            "source": place,
            "collection": source.collection,
            "next": following,
            "points": points,
        }
    }


def _read_cursor(source: _Side, target: models.CollectionInfo) -> tuple[Any, int]:
    """Where an earlier copy of this source was cut off, and after how many points."""
    cursor = (target.config.metadata or {}).get(MIGRATION)
    if isinstance(cursor, Mapping):
        following, points = cursor.get("next"), cursor.get("points")
        if isinstance(points, int) and cursor == _cursor(source, following, points)[MIGRATION]:
            return following, points
    return None, 0


def _copy(
    source: _Side,
    target: _Side,
    found: models.CollectionInfo,
    allowed: Mapping[str, Rounding],
    batch: int,
    report: MigrationReport,
) -> Iterator[int]:
    """Copy what the target lacks or has differently; yields how many points were dealt with."""
    start, done = _read_cursor(source, found)
    report.resumed = start is not None
    empty = _count(target) == 0
    behind = _cursor(source, start, done)
    try:
        for number, (records, following) in enumerate(source.pages(batch, start), 1):
            there = {} if empty else target.stored(records)
            wanted = [
                record
                for record in records
                if (copy := there.get(str(record.id))) is None
                or StoredPoint.of(record).compare(copy, allowed) == "different"
            ]
            for points in batches_by_size(map(_point, wanted)):
                target.ask("upsert", points=points, wait=True)
            report.copied += len(wanted)
            report.unchanged += len(records) - len(wanted)
            done += len(records)
            behind = _cursor(source, following, done)
            yield done
            if number % _PAGES_A_CURSOR == 0 and following is not None:
                target.ask("update_collection", metadata=behind)
    except KeyboardInterrupt:
        with contextlib.suppress(M3QdrantError):
            target.ask("update_collection", metadata=behind)
        raise
    if MIGRATION in (target.ask("get_collection").config.metadata or {}):
        target.ask("update_collection", metadata={MIGRATION: None})


# -- verify


def _verify(
    source: _Side,
    target: _Side,
    allowed: Mapping[str, Rounding],
    batch: int,
    report: MigrationReport,
) -> Iterator[int]:
    """Compare all points of both sides; yields how many were."""
    done = found = sum_source = sum_target = 0
    for records, _ in source.pages(batch):
        there = target.stored(records)
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
        yield done
    report.source_points, report.target_points = _count(source), _count(target)
    report.source_checksum = f"{sum_source % _MODULUS:032x}"
    report.target_checksum = f"{sum_target % _MODULUS:032x}"
    if report.target_points != found:
        report.extra = list(_extra(source, target))


def _extra(source: _Side, target: _Side) -> Iterator[models.ExtendedPointId]:
    """Ids of the target's points that the source lacks."""
    offset: Any = None
    while True:
        records, offset = target.ask(
            "scroll", limit=_IDS, offset=offset, with_payload=False, with_vectors=False
        )
        ids = [record.id for record in records]
        there = source.ask("retrieve", ids=ids, with_payload=False, with_vectors=False)
        known = {str(record.id) for record in there}
        yield from (id for id in ids if str(id) not in known)
        if offset is None:
            return


def _index(target: _Side) -> None:
    """Build the embedded engine's indexes, as after an ingest; a server does so by itself."""
    if target.engine == "embedded" and target.ask("unindexed") >= OPTIMIZE_POINTS:
        target.ask("optimize")
