"""Documents' views held on a device by keys, in an arena of so many bytes.

What was used least recently leaves first. A document is held with its version, whatever the
caller knows it by: asked for with another, it is not there, and is forgotten. Holding a document
copies it once; where what left makes room only in pieces, all documents move together, and enough
leave beforehand that this is rare. One width of vectors at a time: documents of another begin
anew.

Where several threads share it, each has its `lock` for as long as it relies on where a document
is.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from m3qdrant.rank.arena import Arena, Dtype, Form, Run

__all__ = ["Held"]

_SLACK = 8
"""A part of so many is free after documents have moved together."""


@dataclass
class _Entry:
    version: Hashable
    run: Run
    used: int


class Held:
    """Documents by key, as many as fit.

    Attributes:
        dtype: what token vectors are kept as: "float32", "bfloat16" or "int8".
        device: where.
        n_bytes: the most that it takes there.
        arena: where the documents are; None before the first.
        lock: for all that reads or changes what is held.
    """

    def __init__(self, dtype: Dtype, device: torch.device, n_bytes: int) -> None:
        self.dtype = dtype
        self.device = device
        self.n_bytes = n_bytes
        self.arena: Arena | None = None
        self.lock = threading.RLock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # least recently used first
        self._holes: list[tuple[int, int]] = []  # free runs (start, rows), ascending
        self._time = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """Bytes of the documents that are held now."""
        if self.arena is None:
            return 0
        rows = sum(entry.run.rows for entry in self._entries.values())
        return rows * self.arena.form.row_bytes

    def begin(self) -> int:
        """The time at which a piece of work begins: what it uses does not leave for its sake."""
        self._time += 1
        return self._time

    def get(self, key: Hashable, version: Hashable) -> Run | None:
        """Where a document is, if it is held in that version."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.version != version:
            self.forget(key)
            return None
        entry.used = self._time
        self._entries.move_to_end(key)
        return entry.run

    def hold(
        self,
        keys: Sequence[tuple[Hashable, Hashable]],
        source: Arena,
        runs: Sequence[Run],
        since: int,
    ) -> int:
        """Hold documents, as far as they fit; those used since then don't leave for them.

        Args:
            keys: key and version of each.
            source: where they are, in this dtype and on this device.
            runs: where in it.
            since: a time from `begin`.

        Returns:
            How many are held.
        """
        arena = self._arena(source.form)
        for key, _ in keys:
            self.forget(key)
        wanted: list[int] = []
        left = self._rows_to_have(since)
        for i, run in enumerate(runs):
            if run.rows <= left:
                wanted.append(i)
                left -= run.rows
        rows = sum(runs[i].rows for i in wanted)
        self._leave(rows, since)
        starts = self._take([runs[i].rows for i in wanted])
        if starts is None:
            self._leave(max(rows, arena.rows // _SLACK), since)
            self._move_together()
            starts = self._take([runs[i].rows for i in wanted])
            assert starts is not None
        moves = [(runs[i], start) for i, start in zip(wanted, starts, strict=True)]
        arena.copy(source, moves)
        for i, (run, start) in zip(wanted, moves, strict=True):
            key, version = keys[i]
            self._entries[key] = _Entry(version, replace(run, start=start), self._time)
        return len(wanted)

    def forget(self, key: Hashable) -> None:
        """Let a document go, if it is held."""
        entry = self._entries.pop(key, None)
        if entry is not None and entry.run.rows:
            self._holes = list(_merged([*self._holes, (entry.run.start, entry.run.rows)]))

    def clear(self) -> None:
        """Let all go, and the memory with them."""
        self._entries.clear()
        self._holes = []
        self.arena = None

    def _arena(self, form: Form) -> Arena:
        if self.arena is None or self.arena.form != form:
            self.clear()  # its memory first, or there would be two
            self.arena = Arena(form, self.n_bytes // form.row_bytes)
            self._holes = [(0, self.arena.rows)] if self.arena.rows else []
        return self.arena

    def _free(self) -> int:
        return sum(rows for _, rows in self._holes)

    def _rows_to_have(self, since: int) -> int:
        """How many rows are free, or would be without what was last used before."""
        assert self.arena is not None
        recent = itertools.takewhile(
            lambda entry: entry.used >= since, reversed(self._entries.values())
        )
        return self.arena.rows - sum(entry.run.rows for entry in recent)

    def _leave(self, rows: int, since: int) -> None:
        """Let documents go until so many rows are free, or all were used since then."""
        leaving: list[tuple[int, int]] = []
        free = self._free()
        while free < rows and self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.used >= since:
                break
            del self._entries[key]
            leaving.append((entry.run.start, entry.run.rows))
            free += entry.run.rows
        if leaving:
            self._holes = list(_merged([*self._holes, *(h for h in leaving if h[1])]))

    def _take(self, rows: Sequence[int]) -> list[int] | None:
        """Room for documents of so many rows each, or None where it is in pieces."""
        holes = list(self._holes)
        starts = []
        first = 0  # holes before it are used up
        for wanted in rows:
            while first < len(holes) and not holes[first][1]:
                first += 1
            if not wanted:
                starts.append(0)
                continue
            for i in range(first, len(holes)):
                start, there = holes[i]
                if there >= wanted:
                    starts.append(start)
                    holes[i] = (start + wanted, there - wanted)
                    break
            else:
                return None
        self._holes = [hole for hole in holes if hole[1]]
        return starts

    def _move_together(self) -> None:
        assert self.arena is not None
        entries = sorted(
            (entry for entry in self._entries.values() if entry.run.rows),
            key=lambda entry: entry.run.start,
        )
        moves, end = [], 0
        for entry in entries:
            moves.append((entry.run, end))
            end += entry.run.rows
        self.arena.copy(self.arena, moves)
        for entry, (run, start) in zip(entries, moves, strict=True):
            entry.run = replace(run, start=start)
        self._holes = [(end, self.arena.rows - end)] if end < self.arena.rows else []


def _merged(holes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Free runs in order, neighbours as one."""
    start = end = 0
    for first, rows in sorted(holes):
        if first != end:
            if end > start:
                yield start, end - start
            start = first
        end = first + rows
    if end > start:
        yield start, end - start
