"""Some of the documents of a packed batch: their rows, and so many of them at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from m3kernels.packing import from_lengths, lengths, segment_ids

__all__ = ["rows_of", "runs"]


def rows_of(cu_seqlens: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return where documents ids (n,) lie, and how they are packed one after another.

    Returns:
        their rows (R,) int64, whose each is, (R,) int64 from 0 to n - 1, and the cu_seqlens
        (n + 1,) of the rows together.
    """
    cu = from_lengths(lengths(cu_seqlens)[ids])
    segments = segment_ids(cu)
    places = torch.arange(segments.shape[0], device=ids.device) - cu[segments]
    return places + cu_seqlens[ids[segments]], segments, cu


def runs(cu_seqlens: Tensor, ids: Tensor, most: int, most_rows: int) -> Iterator[Tensor]:
    """Yield runs of ids (n,): at most so many, of so many rows together, or one larger one."""
    ends = lengths(cu_seqlens)[ids].cumsum(0).cpu()
    first, n = 0, ids.shape[0]
    while first < n:
        before = int(ends[first - 1]) if first else 0
        last = int(torch.searchsorted(ends, before + most_rows, right=True))
        last = max(min(last, first + most), first + 1)
        yield ids[first:last]
        first = last
