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
from collections.abc import Hashable, Sequence
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
        chosen = [runs[i] for i in wanted]
        placed = self._take(chosen)
        if placed is None:
            self._leave(max(rows, arena.rows // _SLACK), since)
            self._move_together()
            placed = self._take(chosen)
            assert placed is not None
        tokens = [(a.start, b.start, a.tokens) for a, b in zip(chosen, placed, strict=True)]
        rests = [(a.rest, b.rest, a.rows - a.tokens) for a, b in zip(chosen, placed, strict=True)]
        arena.copy(source, tokens + rests)
        for i, run in zip(wanted, placed, strict=True):
            key, version = keys[i]
            self._entries[key] = _Entry(version, run, self._time)
        return len(wanted)

    def forget(self, key: Hashable) -> None:
        """Let a document go, if it is held."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._holes = _merged([*self._holes, *_parts(entry.run)])

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
            leaving += _parts(entry.run)
            free += entry.run.rows
        if leaving:
            self._holes = _merged([*self._holes, *leaving])

    def _take(self, runs: Sequence[Run]) -> list[Run] | None:
        """Room for documents like these, or None where it is in pieces.

        Token vectors from the bottom, the rest from the top, each together as far as they go.
        """
        holes = list(self._holes)
        starts = _room(holes, [run.tokens for run in runs], top=False)
        if starts is None:
            return None
        rests = _room(holes, [run.rows - run.tokens for run in runs], top=True)
        if rests is None:
            return None
        self._holes = [hole for hole in holes if hole[1]]
        return [
            replace(run, start=start, rest=rest)
            for run, start, rest in zip(runs, starts, rests, strict=True)
        ]

    def _move_together(self) -> None:
        assert self.arena is not None
        entries = list(self._entries.values())
        parts = sorted(
            (start, rows, number, late)
            for number, entry in enumerate(entries)
            for late, start, rows in (
                (False, entry.run.start, entry.run.tokens),
                (True, entry.run.rest, entry.run.rows - entry.run.tokens),
            )
            if rows
        )
        moves, end = [], 0
        for start, rows, number, late in parts:
            moves.append((start, end, rows))
            run = entries[number].run
            entries[number].run = replace(run, rest=end) if late else replace(run, start=end)
            end += rows
        self.arena.copy(self.arena, moves)
        self._holes = [(end, self.arena.rows - end)] if end < self.arena.rows else []


def _parts(run: Run) -> list[tuple[int, int]]:
    """The rows of a document: (first, how many)."""
    parts = [(run.start, run.tokens), (run.rest, run.rows - run.tokens)]
    return [part for part in parts if part[1]]


def _room(holes: list[tuple[int, int]], rows: Sequence[int], *, top: bool) -> list[int] | None:
    """Places of so many rows each, taken from the holes; None where none has room for one."""
    total = sum(rows)
    order = range(len(holes) - 1, -1, -1) if top else range(len(holes))

    def one(wanted: int) -> int | None:
        if not wanted:
            return 0
        for i in order:
            start, there = holes[i]
            if there >= wanted:
                holes[i] = (start, there - wanted) if top else (start + wanted, there - wanted)
                return start + there - wanted if top else start
        return None

    first = one(total)
    if first is not None:
        return [first + before for before in itertools.accumulate(rows, initial=0)][:-1]
    starts = [one(wanted) for wanted in rows]
    return None if None in starts else [start for start in starts if start is not None]


def _merged(holes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Free runs in order, neighbours as one."""
    found: list[tuple[int, int]] = []
    for first, rows in sorted(holes):
        if found and sum(found[-1]) == first:
            found[-1] = (found[-1][0], found[-1][1] + rows)
        else:
            found.append((first, rows))
    return found
