"""Token vectors in a folder: a file of rows that is mapped, and a log of what they are.

    FOLDER/index.log       a line a page: its checksum, and as JSON the documents, where their rows
                           begin, how many each has, their marks, and the rows' own checksum; or
                           which documents are no more
    FOLDER/rows-HEX.bin    the rows, one document's after the other's; the first line names it

Rows are on the disk before the line that tells of them is, so whatever ends the process, the log
tells of whole pages only: a line that was cut off is taken away, with the rows behind it, and
filling goes on from there. A document that comes again replaces what was said of it before; where
most rows are such that nobody wants any more, the next opening writes the others anew, beside the
old ones, and puts the new log in the old one's place.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3qdrant.errors import EngineError, InputError, SchemaMismatchError, StoreDamagedError
from m3qdrant.files import replacing, sync_directory
from m3qdrant.rank.token_page import Mark, PointId, TokenPage

__all__ = ["RowsFile", "Stretch"]

INDEX = "index.log"
_FORMAT = 1


@dataclass(frozen=True)
class _Record:
    """A page in the log: its documents, and where their rows are."""

    first: int
    ids: Sequence[PointId]
    names: Sequence[str]
    lengths: Sequence[int]
    checksum: int

    @property
    def end(self) -> int:
        """The row behind its last."""
        return self.first + sum(self.lengths)


@dataclass(frozen=True, eq=False)
class Stretch:
    """Some of the file's pages, one behind the other.

    Attributes:
        rows: all their rows, mapped.
        pages: checked one by one as they are asked for.
        dead: the positions, over all pages, of documents that were replaced or removed since.
    """

    rows: Tensor
    pages: Iterator[TokenPage]
    dead: Sequence[int]


class RowsFile:
    """The folder, open for reading and for writing at its end. One process at a time.

    Attributes:
        marks: of each living document, by its point id.
        resumed: how many documents were there when it was opened.
    """

    def __init__(self, folder: Path, what: Mapping[str, Any], dim: int, dtype: str) -> None:
        """Open it, or begin it.

        Args:
            folder: there.
            what: whose vectors they are, as plain values; of another they are refused.
            dim: width of a row.
            dtype: "float32" or "float16".

        Raises:
            SchemaMismatchError: they are those of another collection or model; says what differs.
            StoreDamagedError: the log, or the rows, are not as they were written.
            InputError: the folder holds something else.
        """
        self.folder = folder
        self.marks: dict[PointId, Mark] = {}
        self._what = {**what, "dim": dim, "dtype": dtype}
        self._dim, self._dtype = dim, np.dtype(dtype)
        self._records: list[_Record] = []
        self._latest: dict[PointId, tuple[int, int]] = {}
        self._closed = False
        index = folder / INDEX
        try:
            if index.exists():
                self._read(index)
                if 2 * self._living_rows() < self._end:
                    self._write_anew(index)
            else:
                others = [name for name in os.listdir(folder) if name != "lock"]
                if others:
                    raise InputError(
                        f"{folder} holds {others[0]!r}, and no token vectors: give an empty "
                        "folder, or one that is not there yet"
                    )
                self._rows_name = _rows_name()
                self._begin(index)
            # no buffers, which after a failure would be written where nobody wants it
            self._log = index.open("ab", buffering=0)
            self._rows = (folder / self._rows_name).open("r+b", buffering=0)
            self._rows.truncate(self._bytes(self._end))
            self._sweep()
        except OSError as error:
            raise EngineError(f"{folder} can't be used ({error}): check its rights") from error
        self.resumed = len(self._latest)

    def close(self) -> None:
        """Close the files; what was mapped stays mapped. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._log.close()
            self._rows.close()

    @property
    def rows(self) -> int:
        """How many rows there are, dead ones too."""
        return self._end

    # -- writing

    def append(self, page: TokenPage) -> None:
        """Write a page behind the others. When it returns it is on the disk.

        Raises:
            EngineError: the disk is full, or fails. What was written before stays.
        """
        if not len(page.ids):
            return
        rows = np.ascontiguousarray(page.rows, self._dtype)
        record = self._record(page, rows)
        said = self._log.seek(0, os.SEEK_END)
        try:
            self._rows.seek(self._bytes(self._end))
            _write(self._rows, rows.data.cast("B"))
            self._say(self._log, _line_of(record, page.marks))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._log.truncate(said)
            raise EngineError(
                f"{self.folder} can't be written ({error}): what is there stays; make room, and "
                "load it again for the rest"
            ) from error
        self._take(record, page.marks)

    def forget(self, ids: Sequence[PointId]) -> None:
        """Note that documents are no more."""
        if ids:
            self._say(self._log, {"gone": list(ids)})
            self._lose(ids)

    # -- reading

    def stretches(self, most: int, first: int = 0) -> Iterator[Stretch]:
        """All pages in stretches of at most so many rows, or of one page.

        Args:
            most: rows of a stretch.
            first: only pages that begin at this row or behind it.
        """
        waiting: list[int] = []
        for number, record in enumerate(self._records):
            if record.first < first:
                continue
            if waiting and record.end - self._records[waiting[0]].first > most:
                yield self._stretch(waiting)
                waiting = []
            waiting.append(number)
        if waiting:
            yield self._stretch(waiting)

    def _stretch(self, numbers: Sequence[int]) -> Stretch:
        records = [self._records[n] for n in numbers]
        start, end = records[0].first, records[-1].end
        # copy-on-write: torch wants memory that may be written to, and nobody does
        mapped = np.memmap(
            self.folder / self._rows_name,
            self._dtype,
            "c",
            self._bytes(start),
            (end - start, self._dim),
        )
        dead, position = [], 0
        for number, record in zip(numbers, records, strict=True):
            for i, id in enumerate(record.ids):
                if self._latest.get(id) != (number, i):
                    dead.append(position)
                position += 1
        pages = (self._page(record, mapped[record.first - start :]) for record in records)
        return Stretch(torch.from_numpy(mapped), pages, dead)

    def _page(self, record: _Record, mapped: np.ndarray[Any, Any]) -> TokenPage:
        rows = mapped[: sum(record.lengths)]
        if zlib.crc32(rows.data) != record.checksum:
            raise self._damage(
                f"the rows of {len(record.ids)} documents from {record.names[0]!r} on have changed"
            )
        marks = [self.marks.get(id) for id in record.ids]
        lengths = np.array(record.lengths, np.int64)
        return TokenPage(record.ids, record.names, marks, rows, lengths)

    # -- the log

    @property
    def _end(self) -> int:
        return self._records[-1].end if self._records else 0

    def _bytes(self, rows: int) -> int:
        return rows * self._dim * self._dtype.itemsize

    def _living_rows(self) -> int:
        return sum(self._records[n].lengths[i] for n, i in self._latest.values())

    def _record(self, page: TokenPage, rows: np.ndarray[Any, Any]) -> _Record:
        lengths = page.lengths.tolist()
        return _Record(self._end, list(page.ids), list(page.names), lengths, zlib.crc32(rows.data))

    def _take(self, record: _Record, marks: Sequence[Mark]) -> None:
        number = len(self._records)
        self._records.append(record)
        for i, (id, mark) in enumerate(zip(record.ids, marks, strict=True)):
            self._latest[id] = (number, i)
            self.marks[id] = mark

    def _lose(self, ids: Sequence[PointId]) -> None:
        for id in ids:
            self._latest.pop(id, None)
            self.marks.pop(id, None)

    @staticmethod
    def _say(log: Any, what: Mapping[str, Any]) -> None:
        text = json.dumps(what, ensure_ascii=False, separators=(",", ":")).encode()
        _write(log, memoryview(b"%08x %s\n" % (zlib.crc32(text), text)))

    def _begin(self, index: Path) -> None:
        (self.folder / self._rows_name).touch()
        with replacing(index) as temporary, temporary.open("wb", buffering=0) as log:
            self._say(log, self._header())

    def _header(self) -> dict[str, Any]:
        return {"format": _FORMAT, "rows": self._rows_name, "of": self._what}

    def _read(self, index: Path) -> None:
        content = index.read_bytes()
        place = 0
        lines: list[dict[str, Any]] = []
        while (end := content.find(b"\n", place)) >= 0:
            line = _parsed(content[place:end])
            if line is None:
                break
            lines.append(line)
            place = end + 1
        if content.find(b"\n", place) not in (-1, len(content) - 1):
            raise self._damage(f"line {len(lines) + 1} of {INDEX} has changed")
        if not lines or "format" not in lines[0]:
            raise self._damage(f"{INDEX} does not begin as it should")
        self._check_header(lines[0])
        for line in lines[1:]:
            if "gone" in line:
                self._lose(line["gone"])
                continue
            record = _Record(
                line["first"], line["ids"], line["names"], line["lengths"], line["checksum"]
            )
            self._take(record, [_hashable(mark) for mark in line["marks"]])
        if place < len(content):  # a line that was cut off
            os.truncate(index, place)
        rows = self.folder / self._rows_name
        size = rows.stat().st_size if rows.exists() else 0
        if size < self._bytes(self._end):
            raise self._damage(
                f"{self._rows_name} has {size:,} bytes and had {self._bytes(self._end):,}"
            )

    def _check_header(self, header: Mapping[str, Any]) -> None:
        if header["format"] != _FORMAT:
            raise StoreDamagedError(
                f"{self.folder} has the format {header['format']!r}, and this version reads "
                f"{_FORMAT}: delete it, and it is filled anew"
            )
        self._rows_name = header["rows"]
        found = header["of"]
        wanted = json.loads(json.dumps(self._what))
        wrong = [
            f"{key} is {found.get(key)!r} there, and {wanted.get(key)!r} here"
            for key in sorted({*found, *wanted})
            if found.get(key) != wanted.get(key)
        ]
        if wrong:
            raise SchemaMismatchError(
                f"{self.folder} holds the token vectors of something else: {'; '.join(wrong)}: "
                "give another folder, or delete this one",
                wrong,
            )

    def _damage(self, what: str) -> StoreDamagedError:
        return StoreDamagedError(
            f"{self.folder} was damaged or changed: {what}: delete it, and it is filled anew"
        )

    def _write_anew(self, index: Path) -> None:
        """Write the living documents to new files, which then take the old ones' place."""
        old, records, latest, marks = self._rows_name, self._records, self._latest, self.marks
        pages = [self._stretch([number]).pages for number in range(len(records))]
        self._rows_name = _rows_name()
        self._records, self._latest, self.marks = [], {}, {}
        with (
            replacing(index) as temporary,
            temporary.open("wb", buffering=0) as log,
            (self.folder / self._rows_name).open("wb", buffering=0) as rows,
        ):
            self._say(log, self._header())
            for number, (page,) in enumerate(pages):
                kept = [i for i, id in enumerate(page.ids) if latest.get(id) == (number, i)]
                if not kept:
                    continue
                page = page.only(kept)
                content = np.ascontiguousarray(page.rows, self._dtype)
                _write(rows, content.data.cast("B"))
                record = self._record(page, content)
                known = [marks.get(id) for id in page.ids]
                self._say(log, _line_of(record, known))
                self._take(record, known)
        (self.folder / old).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what a crash left beside the files."""
        for name in os.listdir(self.folder):
            ours = name.startswith(("rows-", f".{INDEX}-"))
            if ours and name != self._rows_name:
                (self.folder / name).unlink(missing_ok=True)
        sync_directory(self.folder)


def _write(file: Any, content: memoryview) -> None:
    """Write all of it, and wait until it is on the disk."""
    while len(content):
        content = content[file.write(content) :]
    os.fsync(file.fileno())


def _rows_name() -> str:
    return f"rows-{uuid.uuid4().hex}.bin"


def _line_of(record: _Record, marks: Sequence[Mark]) -> dict[str, Any]:
    return {**vars(record), "marks": list(marks)}


def _parsed(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is not as it was written."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    found = json.loads(text)
    return found if isinstance(found, dict) else None


def _hashable(mark: Any) -> Mark:
    return tuple(mark) if isinstance(mark, list) else mark
