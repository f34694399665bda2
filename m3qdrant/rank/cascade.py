"""A cascade: a first look at less than the whole leaves a few documents, which are scored exactly.

    "int8"      MaxSim of the rounded vectors on the device, without the proof
    "pooled"    MaxSim of fewer vectors a document, like tokens merged (`encode/pooling.py`), in
                int8

What it finds has exact scores; what it loses are documents that the first look ranks too low.
`recall` says how many those are, against the exact search, on queries of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import m3kernels
import torch
from m3kernels.packing import from_lengths
from torch import Tensor

from m3qdrant.encode import TokenVectors, pool_tokens
from m3qdrant.errors import InputError

if TYPE_CHECKING:
    from m3qdrant.rank.packed import Part

__all__ = ["Cascade", "Pooled", "Recall", "narrowed", "recall"]

_POOLED_AT_ONCE = 256  # documents

First: TypeAlias = Literal["int8", "pooled"]


@dataclass(frozen=True)
class Cascade:
    """How a search goes in two steps.

    Attributes:
        first: what is looked at first: "int8", for a corpus that is held as int8, or "pooled".
        keep: how many documents that leaves, the limit or more.
        factor: with "pooled": a document of n vectors is looked at by n / factor of them, which
            are made at the first search (about 2 ms a document of 128 vectors).
    """

    first: First = "pooled"
    keep: int = 100
    factor: int = 4

    def __post_init__(self) -> None:
        if self.first not in ("int8", "pooled"):
            raise InputError(f"first is {self.first!r}: give 'int8' or 'pooled'")
        for name in ("keep", "factor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}: give a whole number from 1")


@dataclass(frozen=True)
class Recall:
    """How much of the exact answers a cascade finds.

    Attributes:
        mean: over the queries, the share of the exact hits that are among the cascade's. A hit
            counts that scores as high as the last exact one.
        worst: of the query that it serves worst.
        queries: how many were searched.
        limit: hits a query.
    """

    mean: float
    worst: float
    queries: int
    limit: int


def recall(
    exact: Sequence[Sequence[float]],
    found: Sequence[Sequence[float]],
    limit: int,
    *,
    near: float = 1e-6,
) -> Recall:
    """Compare a cascade's answers with exact ones, by their exact scores.

    Args:
        exact: the scores of the best of each query, best first.
        found: of what the cascade found.
        limit: how many were asked for.
        near: scores that are so close are equal.

    Raises:
        InputError: there are no queries, or not as many on either side.
    """
    if not exact or len(exact) != len(found):
        raise InputError(f"recall: {len(exact)} exact answers and {len(found)} others")
    shares = []
    for right, other in zip(exact, found, strict=True):
        least = right[-1] - near if right else 0.0
        good = sum(score >= least for score in other[: len(right)])
        shares.append(good / len(right) if right else 1.0)
    return Recall(sum(shares) / len(shares), min(shares), len(shares), limit)


@dataclass(frozen=True, eq=False)
class Pooled:
    """The documents of a part by fewer vectors, as int8 on its device.

    Attributes:
        rows, scales: (n, dim) int8 and (n,) float32.
        cu_seqlens: of the part's documents.
        mask: makes of what is allowed the part's own mask.
    """

    rows: Tensor
    scales: Tensor
    cu_seqlens: Tensor
    mask: Callable[[Tensor | None], Tensor | None]

    @classmethod
    def of(cls, part: Part, factor: int) -> Pooled:
        """Merge the vectors of each document of a part."""
        starts = part.cu_seqlens.cpu()
        rows, scales, merged_lengths = [], [], []
        for first in range(0, len(part.ids), _POOLED_AT_ONCE):
            cu = starts[first : first + _POOLED_AT_ONCE + 1]
            exact = part.exact[int(cu[0]) : int(cu[-1])].float().cpu()
            merged = pool_tokens(TokenVectors(exact, cu - cu[0]), factor=factor)
            narrow, scale = m3kernels.quantize_tokens(merged.vectors.to(part.rows.device))
            rows.append(narrow)
            scales.append(scale)
            merged_lengths.append(merged.lengths)
        cu = from_lengths(torch.cat(merged_lengths)).to(part.rows.device)
        return cls(torch.cat(rows), torch.cat(scales), cu, part.mask)

    def likely(
        self, queries: Tensor, cu_seqlens_q: Tensor, n: int, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As `Part.likely`."""
        scores, ids = m3kernels.maxsim_topk(
            queries, cu_seqlens_q, self.rows, self.cu_seqlens, n,
            documents_mask=self.mask(allowed), document_scales=self.scales, reduction="sum",
            validate=False,
        )  # fmt: skip
        return scores.cpu(), ids.cpu()


def narrowed(found: Sequence[tuple[Tensor, Tensor]], keep: int) -> list[Tensor]:
    """Of each part the pairs (query, position) of the `keep` best over all parts, (n, 2)."""
    scores = torch.cat([each for each, _ in found], 1)
    part_of = torch.cat([torch.full((each.shape[1],), i) for i, (each, _) in enumerate(found)])
    positions = torch.cat([each for _, each in found], 1)
    best = torch.topk(scores, min(keep, scores.shape[1]), dim=1)
    chosen = positions.gather(1, best.indices)
    whose = part_of[best.indices]
    pairs = []
    for i in range(len(found)):
        of, column = ((whose == i) & (chosen >= 0)).nonzero(as_tuple=True)
        pairs.append(torch.stack([of, chosen[of, column]], 1))
    return pairs
