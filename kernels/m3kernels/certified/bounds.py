"""How far a score of rounded vectors can be from the score.

With d_j a document's vectors, s_j n_j their int8 form, q_i a query's and p_i what the screen
multiplies in their place,

    q_i . d_j - p_i . (s_j n_j) = q_i . (d_j - s_j n_j) + (q_i - p_i) . (s_j n_j)

so that by Cauchy and Schwarz the two differ by at most |q_i| r + e_i (D + r), with r the
document's largest |d_j - s_j n_j|, D its largest |d_j|, and e_i = |q_i - p_i|. Maxima over j of
numbers that differ by at most so much differ by no more, and the sum over i adds the bounds up.

Both are computed in float32. A product of d numbers, in any order and with or without fused
multiplications, is off by at most d u |q_i| |d_j| and terms of second order, u = 2^-24 (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1), three tf32 products by 24 u more;
sums of N maxima by N u of what they add. Twice that is taken, which covers the second order and
units that cut instead of rounding. What may be lost below the normal numbers is at most 2^-126 a
product. Where float32 may overflow, the bound is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from m3kernels.packing import lengths

__all__ = ["Bounds"]

_UNIT = 2.0**-24

# Longer vectors have no bound: their int8 sums and their scores may overflow float32.
_LONGEST = 1e27
_LARGEST_SCORE = 1e37


@dataclass(frozen=True)
class Bounds:
    """What the bounds of some queries are made of, (n_q, 1) float64 each.

    Attributes:
        lengths: the sum (or the mean) of |q_i|.
        lost: the same of e_i.
        rounding: the factor of (lengths + lost) (D + r) for float32's rounding.
        least: what may be lost below the normal numbers.
    """

    lengths: Tensor
    lost: Tensor
    rounding: Tensor
    least: Tensor

    @staticmethod
    def of(
        queries: Tensor, cu_seqlens_q: Tensor, lost: Tensor, reduction: str, *, exact_sums: bool
    ) -> Bounds:
        """Make them for queries (sum_q, d) that the screen takes as vectors `lost` (sum_q,) away.

        `exact_sums` says that the screen's products are exact, but for a few last factors.
        """
        n_tokens = lengths(cu_seqlens_q)
        norms = torch.linalg.vector_norm(queries.double(), dim=1)
        norms = torch.where(norms < _LONGEST, norms, torch.inf)  # NaN too
        sums = torch.stack([norms, lost.double()]) * (1 + 1e-9)
        summed = sums.new_zeros(2, n_tokens.numel())
        segments = torch.repeat_interleave(
            torch.arange(n_tokens.numel(), device=queries.device), n_tokens
        )
        for total, part in zip(summed, sums, strict=True):
            total.scatter_reduce_(0, segments, part, "sum")
        tokens = n_tokens.double()[:, None]
        products = (1 if exact_sums else 2) * queries.shape[1]
        rounding = 2 * _UNIT * (products + 2 * tokens + 64)
        least = (products + 8) * 2.0**-125 * tokens
        divisor = tokens.clamp(min=1) if reduction == "mean" else torch.ones_like(tokens)
        of_lengths, of_lost = (part[:, None] / divisor for part in summed)
        return Bounds(of_lengths, of_lost, rounding, least)

    def rows(self, of: slice) -> Bounds:
        """Those of some of the queries."""
        return Bounds(self.lengths[of], self.lost[of], self.rounding[of], self.least[of])

    def around(self, scores: Tensor, residuals: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the exact scores are at least and at most, (n_q, n_d) float64 each.

        Args:
            scores: (n_q, n_d) float32 of the screen.
            residuals: (n_d,), r of each document.
            norms: (n_d,), D of each document.
        """
        r, longest = residuals.double(), norms.double()
        size = longest + r
        bound = (self.lengths * r + self.lost * size) * (1 + 1e-9) + self.least
        bound += self.rounding * (self.lengths + self.lost) * size
        ends = size < _LONGEST
        # NaN: an infinity times 0.
        ends = ends & (bound < _LARGEST_SCORE) & (self.lengths * size < _LARGEST_SCORE)
        wide = scores.double()
        lower = torch.where(ends, wide - bound, -torch.inf)
        upper = torch.where(ends, wide + bound, torch.inf)
        return lower, upper
