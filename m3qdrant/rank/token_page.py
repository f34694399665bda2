"""Token vectors of some documents as arrays: how they come in, from wherever they are read."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3qdrant.errors import StoreDamagedError

__all__ = ["Mark", "PointId", "TokenPage"]

PointId: TypeAlias = int | str | UUID
"""What the place that the vectors come from calls a document."""

Mark: TypeAlias = Hashable
"""What shows that a document is still what was read: equal marks, equal vectors."""


_EXPONENTS: dict[int, tuple[type[np.unsignedinteger[Any]], int]] = {
    2: (np.uint16, 0x7C00),
    4: (np.uint32, 0x7F800000),
}


@dataclass(frozen=True, eq=False)
class TokenPage:
    """The token vectors of n documents.

    Attributes:
        ids: n point ids.
        names: n document ids, which order documents of equal scores.
        marks: n marks.
        rows: (sum of lengths, dim) float32 or float16, one document's after the other's.
        lengths: (n,) int64, how many rows each has; 1 or more.
    """

    ids: Sequence[PointId]
    names: Sequence[str]
    marks: Sequence[Mark]
    rows: NDArray[Any]
    lengths: NDArray[np.int64]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each document begins, and the end of all, (n + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    def tensor(self) -> Tensor:
        """The rows as a tensor on the same memory."""
        rows = self.rows if self.rows.flags.writeable else self.rows.copy()
        return torch.from_numpy(rows)

    def only(self, keep: Sequence[int]) -> TokenPage:
        """The page of some of its documents, by their positions."""
        if len(keep) == len(self.ids):
            return self
        starts = self.offsets
        rows = [self.rows[starts[i] : starts[i + 1]] for i in keep]
        return TokenPage(
            [self.ids[i] for i in keep],
            [self.names[i] for i in keep],
            [self.marks[i] for i in keep],
            np.concatenate(rows) if rows else self.rows[:0],
            self.lengths[list(keep)],
        )

    def split(self, most: int) -> Iterator[TokenPage]:
        """Pages of at most so many rows, or of one document."""
        starts = self.offsets
        first = 0
        while first < len(self.ids):
            last = int(np.searchsorted(starts, starts[first] + most, side="right")) - 1
            last = max(last, first + 1)
            yield self.cut(first, last)
            first = last

    def cut(self, first: int, last: int) -> TokenPage:
        """The page of the documents from one position to before another; on the same memory."""
        starts = self.offsets
        return TokenPage(
            self.ids[first:last],
            self.names[first:last],
            self.marks[first:last],
            self.rows[starts[first] : starts[last]],
            self.lengths[first:last],
        )

    def check(self) -> None:
        """Pass if all numbers are finite.

        Raises:
            StoreDamagedError: names the first document whose numbers are not.
        """
        # in NaN and infinity alone all bits of the exponent are set: no number is widened to look
        bits, exponent = _EXPONENTS[self.rows.dtype.itemsize]
        exponents = self.rows.view(bits) & exponent
        if not exponents.size or int(exponents.max()) != exponent:
            return
        wrong = np.flatnonzero(~np.isfinite(self.rows).all(axis=1))
        i = int(np.searchsorted(self.offsets, wrong[0], side="right")) - 1
        raise StoreDamagedError(
            f"document {self.names[i]!r}: its token vectors hold NaN or infinity: write it again, "
            "or delete it"
        )
