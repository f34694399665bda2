"""What ResidentCorpus and AsyncResidentCorpus share: all but what has to be waited for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from qdrant_client import models
from torch import Tensor

from m3qdrant.collection import Hit, Multivectors, Read, check_queries, one_query
from m3qdrant.edge import DirectoryLock, FileRows
from m3qdrant.encode import M3Embeddings, TokenVectors, pool_query
from m3qdrant.errors import (
    EngineError,
    InputError,
    SchemaMismatchError,
    StoreClosedError,
    UnsupportedError,
)
from m3qdrant.limits import most_tokens
from m3qdrant.names import COLBERT
from m3qdrant.rank import (
    DTYPES,
    Dtype,
    Filling,
    Found,
    Need,
    Part,
    ResidentVectors,
    RowsFile,
    TokenPage,
    part_rows,
)

if TYPE_CHECKING:
    from m3qdrant.encode import Encoder
    from m3qdrant.rank import PointId

__all__ = [
    "FEW",
    "CorpusChanges",
    "Loading",
    "Query",
    "ResidentBase",
    "check_limit",
    "check_sample",
    "queries_of",
    "sample_of",
    "single",
    "tokens_of",
]

Query: TypeAlias = "tuple[Tensor, int]"
"""A query's vectors (n, dim) float32, and the number of tokens that a mean divides by."""

FEW = 64
"""So many points are worth looking for in files."""
SAMPLE = 8

_ROOM = 1.1
"""The last part of a corpus has room for so many times what is left by the estimate."""


@dataclass(frozen=True)
class CorpusChanges:
    """What `load` or `refresh` took in.

    Attributes:
        added: documents that are new.
        updated: documents that were read again, since they were written to.
        removed: documents that are no more.
        unchanged: documents that are as they were.
        without: points that were read and have no such vector; they can't be found.
    """

    added: int
    updated: int
    removed: int
    unchanged: int
    without: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return dict(vars(self))


class Loading:
    """What is on its way into a corpus, until `finish` shows it to searches."""

    def __init__(
        self,
        vectors: ResidentVectors,
        file: RowsFile | None,
        ids: Iterable[PointId],
        expected_rows: int,
    ) -> None:
        """Begin.

        Args:
            vectors: what takes it in.
            file: where it is written on the way; None: nowhere.
            ids: of all points that there are.
            expected_rows: how many rows will come, about.
        """
        self._vectors, self._file = vectors, file
        known = vectors.marks.keys() if file is None else file.marks.keys()
        self._before = set(known)
        there = set(ids)
        self._gone = [id for id in known if id not in there]
        self._expected = expected_rows
        self._filling: Filling | None = None
        self._parts: list[Part] = []
        self._marks: dict[PointId, Any] = {}
        self._first_row = 0 if file is None or not len(vectors) else file.rows
        self._without = 0

    @property
    def marks(self) -> Mapping[PointId, Any]:
        """What is known so far."""
        return self._vectors.marks if self._file is None else self._file.marks

    def take(self, read: Read, asked: Sequence[PointId]) -> None:
        """Take what was read of the points that were asked for.

        Raises:
            StoreDamagedError: numbers that are not finite.
            InputError: there is no room any more.
            EngineError: the file can't be written.
        """
        here = set(read.ids)
        # deleted meanwhile, or without the vector by now
        self._gone += [id for id in asked if id not in here and id in self._before]
        self._without += read.without
        narrow = self._vectors.read_as == torch.float16
        rows = read.rows.astype(np.float16 if narrow else np.float32, copy=False)
        page = TokenPage(read.ids, read.names, read.marks, rows, read.lengths)
        page.check()
        page = self._changed(page)
        self._marks.update(zip(page.ids, page.marks, strict=True))
        if self._file is not None:
            self._file.append(page)
            return
        for some in page.split(part_rows(self._expected, self._vectors.dim)):
            self._fill(some)

    def _changed(self, page: TokenPage) -> TokenPage:
        """Where the engine gives no marks, a digest is one; without what is as it was."""
        if all(mark is not None for mark in page.marks):
            return page
        starts = page.offsets.tolist()
        marks = [
            hashlib.blake2b(
                page.rows[starts[i] : starts[i + 1]].tobytes(), digest_size=16
            ).hexdigest()
            if mark is None
            else mark
            for i, mark in enumerate(page.marks)
        ]
        known = self.marks
        page = replace(page, marks=marks)
        return page.only([i for i, id in enumerate(page.ids) if known.get(id) != marks[i]])

    def _fill(self, page: TokenPage) -> None:
        if self._filling is None or not self._filling.fits(page):
            if self._filling is not None:
                self._parts.append(self._filling.part())
            done = sum(part.n_rows for part in self._parts)
            left = int(_ROOM * max(self._expected - done, 0)) + len(page.rows)
            room = min(part_rows(self._expected, self._vectors.dim), left)
            self._filling = self._vectors.filling(max(room, len(page.rows)))
        self._filling.add(page)
        self._expected = max(self._expected, sum(p.n_rows for p in self._parts))

    def finish(self) -> CorpusChanges:
        """Let searches see what was taken; what had become of it."""
        new = [id for id in self._marks if id not in self._before]
        gone = [id for id in dict.fromkeys(self._gone) if id not in self._marks]
        if self._file is not None:
            self._file.forget(gone)
            self._from_file(self._file)
        elif self._filling is not None:
            self._parts.append(self._filling.part())
        marks = self._marks if self._file is None else self._file.marks
        self._vectors.change(self._parts, marks, gone, tidy=self._file is None)
        updated = len(self._marks) - len(new)
        return CorpusChanges(
            len(new),
            updated,
            len(gone),
            len(self._before) - updated - len(gone),
            self._without,
        )

    def _from_file(self, file: RowsFile) -> None:
        """The parts of what the file has more than the corpus."""
        most = part_rows(file.rows, self._vectors.dim)
        for stretch in file.stretches(most, self._first_row):
            filling = self._vectors.filling(len(stretch.rows), stretch.rows)
            for page in stretch.pages:
                filling.add(page)
            self._parts.append(filling.part().without(stretch.dead))


class ResidentBase:
    """A corpus and what it came from, without the asking."""

    def __init__(
        self, dtype: Dtype | None, device: str | torch.device | None, max_bytes: int | None
    ) -> None:
        self._device = _device(device)
        if dtype is None:
            dtype = "float32" if self._device.type == "cpu" else "int8"
        if dtype not in DTYPES:
            raise InputError(f"dtype is {dtype!r}: give one of {', '.join(map(repr, DTYPES))}")
        if max_bytes is not None and (isinstance(max_bytes, bool) or not max_bytes > 0):
            raise InputError(f"max_bytes is {max_bytes!r}: give a number of bytes, or None")
        self._held: Dtype = dtype
        self._max_bytes = max_bytes
        self._vectors: ResidentVectors | None = None
        self._multivectors: Multivectors | None = None
        self._file: RowsFile | None = None
        self._lock: DirectoryLock | None = None
        self._changes = CorpusChanges(0, 0, 0, 0, 0)
        self._closed = False

    def __len__(self) -> int:
        """How many documents it holds."""
        return len(self._open_vectors)

    def __repr__(self) -> str:
        if self._vectors is None or self._multivectors is None:
            return f"{type(self).__name__}(closed)"
        return (
            f"{type(self).__name__}({self._multivectors.collection!r}, {len(self):,} documents, "
            f"{self.tokens:,} vectors as {self._held} on {self._device})"
        )

    @property
    def changes(self) -> CorpusChanges:
        """What the `load`, or the last `refresh`, took in."""
        return self._changes

    @property
    def tokens(self) -> int:
        """How many token vectors it holds."""
        return self._open_vectors.tokens

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._open_vectors.device_bytes

    @property
    def device(self) -> torch.device:
        """Where it is searched."""
        return self._device

    @property
    def dtype(self) -> str:
        """As what vectors are held on the device."""
        return self._held

    @property
    def _open_vectors(self) -> ResidentVectors:
        self._check_open()
        assert self._vectors is not None
        return self._vectors

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the resident corpus is closed; load a new one")

    def _let_go(self) -> None:
        """Free the memory and the folder."""
        self._closed = True
        self._vectors = None
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _begin(
        self,
        one: Multivectors,
        exactly: bool,
        place: str,
        size: tuple[int, float],
        folder: str | os.PathLike[str] | None,
    ) -> ResidentVectors:
        """Check that there is room, and open the folder.

        Args:
            one: what is loaded.
            exactly: float16 vectors come as float16 numbers, so that they can be kept as such.
            place: the collection's, for the folder to know.
            size: documents, and vectors a document.
            folder: of the file; None without one.
        """
        read_as = torch.float16 if one.datatype == "float16" and exactly else torch.float32
        where = None if folder is None else Path(folder).expanduser().absolute()
        count, tokens = size
        need = Need(
            count,
            round(count * tokens),
            one.dim,
            self._held,
            self._device,
            read_as.itemsize,
            where is not None,
        )
        there = 0
        if where is not None:
            if where.exists() and not where.is_dir():
                raise InputError(f"{where} is a file: give a folder, which may not be there yet")
            there = _bytes_in(where)
        need.check(most=self._max_bytes, folder=where, there=there)
        if where is not None:
            try:
                where.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise EngineError(f"{where} can't be made ({error}): check its rights") from error
            self._lock = DirectoryLock(where)
            name = "float16" if read_as == torch.float16 else "float32"
            self._file = RowsFile(where, {**one.to_dict(), "location": place}, one.dim, name)
        self._multivectors = one
        return ResidentVectors(one.dim, self._held, self._device, read_as=read_as)

    def _another(self, wrong: list[str]) -> SchemaMismatchError:
        return SchemaMismatchError(
            f"the collection is another than the corpus was loaded from: {'; '.join(wrong)}: "
            "load it anew",
            wrong,
        )

    def _embed_texts(self, encoder: Encoder | None, queries: object) -> TokenVectors:
        """Encode queries that are texts."""
        checked = check_queries(queries)
        if encoder is None:
            raise InputError(
                "there is no encoder for queries: load the corpus of a store that has one, or "
                "with encoder=, or pass embeddings"
            )
        assert not isinstance(checked, M3Embeddings)
        found = tokens_of(encoder.encode_queries(checked))
        assert found is not None
        return found

    def _hits(
        self,
        found: Sequence[Sequence[Found]],
        queries: Sequence[Query],
        records: Sequence[models.Record] | None,
    ) -> list[list[Hit]]:
        """What was found as the store's hits; without those that are gone from the collection."""
        points = None if records is None else {record.id: record for record in records}
        every = []
        for each, (_, tokens) in zip(found, queries, strict=True):
            hits = []
            for id, name, total in each:
                score = total / tokens
                if points is None:
                    hits.append(Hit(name, "", {}, score, {COLBERT: score}))
                elif (point := points.get(id)) is not None:
                    hits.append(Hit.of(point, score, {COLBERT: score}))
            every.append(hits)
        return every


def sample_of(ids: Sequence[PointId]) -> list[PointId]:
    """A few points, from everywhere among them; the same each time."""
    return list(ids[:: max(1, len(ids) // SAMPLE)][:SAMPLE])


def check_sample(files: FileRows, asked: Read) -> None:
    """Pass if vectors that were read from files are those that the engine gives.

    Raises:
        UnsupportedError: they are not, or there are none to compare.
    """
    rows = asked.rows.astype(files.rows.dtype)
    same = files.ids == asked.ids and np.array_equal(files.lengths, asked.lengths)
    if not len(files.ids) or not same or not np.array_equal(files.rows, rows):
        raise UnsupportedError("a sample of them is not what the engine gives")


def queries_of(embeddings: TokenVectors, one: Multivectors) -> list[Query]:
    """Queries as the collection compares them: rounded, normalised and merged as it does.

    Raises:
        InputError: a query without vectors, of another width, or with numbers that are not finite.
    """
    vectors = embeddings.vectors.detach().float().cpu()
    if vectors.shape[1] != one.dim:
        raise InputError(
            f"the query: {COLBERT} vectors have {vectors.shape[1]} dimensions, the collection "
            f"{one.dim}"
        )
    offsets = embeddings.cu_seqlens.tolist()
    found = []
    for i in range(len(offsets) - 1):
        which = "the query" if len(offsets) == 2 else f"query #{i}"
        rows = vectors[offsets[i] : offsets[i + 1]]
        if not len(rows):
            raise InputError(f"{which}: {COLBERT}: has no vectors")
        if not bool(rows.isfinite().all()):
            raise InputError(f"{which}: {COLBERT}: holds NaN or infinity; encode it in float32")
        tokens = len(rows)
        if tokens > most_tokens(one.dim):
            rows = pool_query(rows, most_tokens(one.dim))
        if one.cosine:
            rows = torch.nn.functional.normalize(rows, dim=1)
        if one.datatype == "float16":
            rows = rows.half().float()
        found.append((rows, tokens))
    return found


def tokens_of(queries: object) -> TokenVectors | None:
    """Queries that are given as token vectors alone; None where they are something else."""
    if isinstance(queries, TokenVectors):
        return queries
    if isinstance(queries, np.ndarray):
        queries = torch.from_numpy(np.ascontiguousarray(queries))
    if isinstance(queries, Tensor):
        if queries.ndim != 2 or not queries.dtype.is_floating_point:
            raise InputError(
                f"the query is an array of shape {tuple(queries.shape)} and dtype "
                f"{queries.dtype}: give one query's token vectors, (n, dim) floats"
            )
        return TokenVectors(queries, torch.tensor([0, len(queries)]))
    if isinstance(queries, M3Embeddings):
        if queries.colbert is None:
            raise InputError("the query's embeddings have no ColBERT view: encode with colbert")
        return queries.colbert
    return None


def single(query: Any) -> Any:
    """The one query that is meant, checked: a text, embeddings, or its token vectors."""
    if isinstance(query, TokenVectors | Tensor | np.ndarray):
        found = tokens_of(query)
        assert found is not None
        if len(found) != 1:
            raise InputError(f"search takes one query, not {len(found)}: use search_batch")
        return found
    return one_query(query)


def check_limit(limit: object) -> int:
    """A number of hits.

    Raises:
        InputError: it is none.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"limit is {limit!r}: give a whole number from 1")
    return limit


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise InputError(f"device is {device!r}, which is not to be had here ({error})") from error
    return found


def _bytes_in(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
    except OSError:  # whoever opens it says what is wrong
        return 0
