"""All multivectors of a collection, read page by page, and what has changed of them since.

Any collection with a multivector compared by MAX_SIM, this package's or another's.

How a change is known: a point has a version, the number of the operation that last wrote it,
which comes with the answer to a search. So for each point its version is asked for together with
its score for one and the same vector, drawn by a seed: a collection that was deleted and made
again, or restored from a snapshot, may count its operations from an earlier number, but its points
don't then have the same scores. The two are a point's mark. Marks are asked for before the
vectors: a point that is written to in between has an older mark than it should, and is read again.

In-memory mode has no versions: its points have no marks, and are all read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from m3qdrant.collection import calls
from m3qdrant.collection.calls import Call, Steps
from m3qdrant.collection.capabilities import Capabilities
from m3qdrant.collection.documents import document_id
from m3qdrant.collection.layout import ModelId
from m3qdrant.collection.strict import StrictMode
from m3qdrant.errors import InputError, M3QdrantError, SchemaMismatchError, UnsupportedError
from m3qdrant.names import DENSE, METADATA, OURS

__all__ = ["Mark", "Multivectors", "Read", "Reading"]

PointId: TypeAlias = models.ExtendedPointId

Mark: TypeAlias = "tuple[int, float]"
"""A point's version and the score by which a collection that was made again is told."""

_SEED = 20_240
_NEAR = 1e-5
"""How far two scores of the same vectors may be apart: an index may add up in another order."""

_IDS = 1_000  # a page of ids
_SAMPLE = 64
_PAGE_BYTES = 32_000_000
_AT_ONCE = 4
"""Requests that a page is read by where they may be under way at once."""


@dataclass(frozen=True, eq=False)
class Read:
    """Points that were read.

    Attributes:
        ids: n point ids.
        names: n document ids.
        marks: n marks; None where there is none.
        rows: (sum of lengths, dim) float32, or float16 where they are stored so.
        lengths: (n,) int64.
        without: how many more there were that have no such vector.
    """

    ids: list[PointId]
    names: list[str]
    marks: list[Mark | None]
    rows: NDArray[Any]
    lengths: NDArray[np.int64]
    without: int = 0


@dataclass(frozen=True)
class Multivectors:
    """A collection's named multivector.

    Attributes:
        collection: the collection's name.
        vector: the multivector's name, "" where it has none.
        dim: width of each row.
        cosine: whether it is compared by the cosine, else by the dot product.
        datatype: "float32", "float16", or what else the engine keeps.
        model: where the vectors come from, where the collection says so.
        pooling: of a collection of ours, its `token_pooling`.
        probe: name and width of the vector whose score is a part of the marks.
        quantized: whether that one has a quantization.
    """

    collection: str
    vector: str
    dim: int
    cosine: bool
    datatype: str
    model: ModelId | None
    pooling: int
    probe: tuple[str, int]
    quantized: bool

    @classmethod
    def of(cls, name: str, vector: str, info: models.CollectionInfo) -> Multivectors:
        """From what Qdrant says of the collection.

        Raises:
            InputError: it has no such vector, or that is no multivector; says which are.
            UnsupportedError: it is not compared by the dot product or the cosine.
        """
        params = info.config.params
        found = params.vectors
        vectors = found if isinstance(found, dict) else {"": found} if found is not None else {}
        several = sorted(n for n, v in vectors.items() if v.multivector_config is not None)
        chosen = vectors.get(vector)
        if chosen is None or chosen.multivector_config is None:
            wrong = "is no multivector" if chosen is not None else "is not there"
            there = f"those there are {', '.join(map(repr, several))}" if several else "none is"
            raise InputError(
                f"the collection {name!r}: the vector {vector!r} {wrong}; late interaction needs "
                f"a multivector, and {there}"
            )
        if chosen.distance not in (models.Distance.DOT, models.Distance.COSINE):
            raise UnsupportedError(
                f"the collection {name!r}: the vector {vector!r} has the distance "
                f"{chosen.distance.value}; MaxSim is of Dot or Cosine: search it in Qdrant"
            )
        single = sorted(
            n
            for n, v in vectors.items()
            if v.multivector_config is None
            and v.distance in (models.Distance.DOT, models.Distance.COSINE)
        )
        probe = DENSE if DENSE in single else single[0] if single else vector
        ours = (info.config.metadata or {}).get(METADATA) or {}
        return cls(
            name,
            vector,
            int(chosen.size),
            chosen.distance is models.Distance.COSINE,
            (chosen.datatype or models.Datatype.FLOAT32).value,
            ModelId.of(info),
            int(ours.get("token_pooling", 1)),
            (probe, int(vectors[probe].size)),
            bool(vectors[probe].quantization_config or info.config.quantization_config),
        )

    def to_dict(self) -> dict[str, Any]:
        """What has to be the same for vectors that were kept to be these, as plain values."""
        return {
            "collection": self.collection,
            "vector": self.vector,
            "distance": "Cosine" if self.cosine else "Dot",
            "datatype": self.datatype,
            "model": self.model.fingerprint if self.model else None,
            "token_pooling": self.pooling,
            "probe": list(self.probe),
        }

    def differences(self, other: Multivectors) -> list[str]:
        """How another reading of the same collection differs, a line each."""
        one, two = self.to_dict(), other.to_dict()
        return [f"{key} was {one[key]!r}, is {two[key]!r}" for key in one if one[key] != two[key]]

    def _query(self) -> Any:
        rng = np.random.default_rng(_SEED)
        name, dim = self.probe
        vector = (rng.standard_normal(dim) / math.sqrt(dim)).astype(np.float32).tolist()
        return [vector] if name == self.vector else vector


class Reading:
    """The operations that read one."""

    def __init__(
        self, multivectors: Multivectors, capabilities: Capabilities, strict: StrictMode
    ) -> None:
        self.multivectors = multivectors
        self._capabilities = capabilities
        self._strict = strict
        self._ids = min(n for n in (_IDS, strict.limit, strict.condition) if n is not None)

    @property
    def _name(self) -> str:
        return self.multivectors.collection

    def size(self) -> Steps[tuple[int, float]]:
        """How many points there are, and how many vectors one has on average, by a sample."""
        count = (yield from calls.count(self._name)).count
        if not count:
            return 0, 0.0
        request = models.QueryRequest(
            query=models.SampleQuery(sample=models.Sample.RANDOM), limit=min(_SAMPLE, count)
        )
        try:
            (answer,) = yield from calls.query_batch_points(self._name, [request])
            ids = [point.id for point in answer.points]
        except M3QdrantError:  # an old server has no samples
            records, _ = yield from calls.scroll(self._name, limit=min(_SAMPLE, count))
            ids = [record.id for record in records]
        read = yield from self._vectors(ids, {})
        return count, float(read.lengths.sum() / max(len(ids), 1))

    def points(self, ids: Sequence[PointId]) -> Steps[Read]:
        """These points, without those that aren't there."""
        marks = yield from self.marks(ids)
        return (yield from self._vectors(ids, marks))

    def from_files(
        self,
        ids: Sequence[PointId],
        versions: Sequence[int],
        rows: NDArray[Any],
        lengths: NDArray[np.int64],
        others: Sequence[PointId],
    ) -> Steps[Read]:
        """Points whose vectors were read from the engine's files, with what the files don't say.

        Those that have other versions by now may have changed while they were read, and are read
        once more.

        Args:
            ids: what was read (see edge/vector_files.py).
            versions: theirs, when the files were looked at.
            rows: theirs, one's after the other's.
            lengths: how many each has.
            others: points that were to be read, and aren't in the files.
        """
        marks = yield from self.marks(ids)
        records: list[models.Record] = []
        if ids:
            records = yield from calls.retrieve(self._name, ids, with_payload=[OURS])
        names = {record.id: document_id(record) for record in records}
        good = [
            i
            for i, (id, version) in enumerate(zip(ids, versions, strict=True))
            if id in names and id in marks and marks[id][0] == version
        ]
        kept = {ids[i] for i in good}
        again = yield from self.points([*others, *(id for id in ids if id not in kept)])
        if len(good) < len(ids):
            starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            parts = [rows[starts[i] : starts[i + 1]] for i in good]
            rows = np.concatenate(parts) if parts else rows[:0]
            lengths = lengths[good]
        if len(again.ids):
            rows = np.concatenate([rows, again.rows.astype(rows.dtype)])
            lengths = np.concatenate([lengths, again.lengths])
        return Read(
            [*(ids[i] for i in good), *again.ids],
            [*(names[ids[i]] for i in good), *again.names],
            [*(marks[ids[i]] for i in good), *again.marks],
            rows,
            lengths,
            again.without,
        )

    def batches(self, ids: Sequence[PointId], tokens: float) -> Iterable[Sequence[PointId]]:
        """Points as many as a page has, where each has about so many vectors."""
        each = 4 * self.multivectors.dim * max(tokens, 1.0)
        step = max(1, min(int(_PAGE_BYTES // each), self._ids))
        return (ids[i : i + step] for i in range(0, len(ids), step))

    def _vectors(self, ids: Sequence[PointId], marks: Mapping[PointId, Mark]) -> Steps[Read]:
        at_once = _AT_ONCE if self._capabilities.remote else 1
        step = max(1, -(-len(ids) // at_once))
        asked: list[Call[list[models.Record]]] = [
            calls.retrieve(
                self._name,
                ids[i : i + step],
                with_payload=[OURS],
                with_vectors=[self.multivectors.vector] if self.multivectors.vector else True,
                arrays=True,
            )
            for i in range(0, len(ids), step)
        ]
        outcomes: list[list[models.Record] | M3QdrantError]
        outcomes = (yield from calls.together(asked)) if asked else []
        found: dict[PointId, models.Record] = {}
        for outcome in outcomes:
            if isinstance(outcome, M3QdrantError):
                raise outcome
            found.update({record.id: record for record in outcome})
        kept, rows = [], []
        for id in ids:
            record = found.get(id)
            vectors = None if record is None else self._rows(record)
            if record is not None and vectors is not None:
                kept.append(record)
                rows.append(vectors)
        return Read(
            [record.id for record in kept],
            [document_id(record) for record in kept],
            [marks.get(record.id) for record in kept],
            np.concatenate(rows) if rows else np.empty((0, self.multivectors.dim), np.float32),
            np.array([len(each) for each in rows], np.int64),
            len(found) - len(kept),
        )

    def _rows(self, record: models.Record) -> NDArray[np.float32] | None:
        vector: Any = record.vector
        if isinstance(vector, Mapping):
            vector = vector.get(self.multivectors.vector)
        if vector is None or not len(vector):
            return None
        rows = np.asarray(vector, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.multivectors.dim:
            raise SchemaMismatchError(
                f"the collection {self._name!r}: point {record.id} has vectors of shape "
                f"{rows.shape}, not of {self.multivectors.dim} numbers",
                [f"point {record.id}"],
            )
        return rows

    # -- what has changed

    def marks(self, ids: Sequence[PointId]) -> Steps[dict[PointId, Mark]]:
        """The marks of these points, of those that have one."""
        if not ids or not self._capabilities.versions:
            return {}
        one = self.multivectors
        found: dict[PointId, Mark] = {}
        for i in range(0, len(ids), self._ids):
            part = ids[i : i + self._ids]
            params = models.SearchParams(
                exact=True,
                quantization=models.QuantizationSearchParams(ignore=True)
                if one.quantized
                else None,
            )
            request = models.QueryRequest(
                query=one._query(),
                using=one.probe[0] or None,
                filter=models.Filter(must=[models.HasIdCondition(has_id=list(part))]),
                limit=len(part),
                params=params,
                with_payload=False,
            )
            (answer,) = yield from calls.query_batch_points(self._name, [request])
            found.update({p.id: (int(p.version), float(p.score)) for p in answer.points})
        return found

    def all_ids(self, filter: models.Filter | None = None) -> Steps[list[PointId]]:
        """The ids of all points, or of those that satisfy a filter."""
        ids: list[PointId] = []
        offset: PointId | None = None
        while True:
            records, offset = yield from calls.scroll(
                self._name, filter=filter, limit=10_000, offset=offset
            )
            ids += [record.id for record in records]
            if offset is None:
                return ids

    def changed(
        self, ids: Sequence[PointId], known: Mapping[PointId, Any]
    ) -> Steps[list[PointId]]:
        """Those of some points that are not, or may not be, as their known marks say."""
        marks = yield from self.marks(ids)
        return [id for id in ids if not _same(marks.get(id), known.get(id))]


def _same(one: Mark | None, two: Any) -> bool:
    if one is None or two is None:
        return False
    near = _NEAR * max(1.0, abs(one[1]))
    return bool(one[0] == two[0] and abs(one[1] - two[1]) <= near)
