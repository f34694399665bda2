"""Scores from the int8 documents, to find those that can be among the best.

On a CPU with VNNI (or AMX) the query too is one int8 number with a factor for each token, which
takes half of the time of two digits, at twice the bound. Where exact rows come from a file or
another device, what this leaves is looked at a second time with what `maxsim` makes of int8
documents, which reads fewer of them; elsewhere than on such a CPU that is the only look.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m3kernels.maxsim.maxima import Digits
from m3kernels.packing import lengths

__all__ = ["Coarse", "lost_by_digits"]

# Rows of a block and bytes of its products, which stay in the cache.
_ROWS = 4096
_PRODUCT_BYTES = 4 << 20

# Documents whose maxima are held at a time, in bytes.
_MAXIMA_BYTES = 4 << 20


def lost_by_digits(queries: Tensor) -> Tensor:
    """|q_i - p_i| of the vectors p_i that `maxsim` takes for q_i with int8 documents, (sum_q,).

    Twice what two int8 digits a number can leave, and less than that where it takes them whole.
    """
    largest = queries.float().abs().amax(1).double().clamp(min=1e-30)
    return largest * (2 * math.sqrt(queries.shape[1]) / 64_516)


class Coarse:
    """The products of int8 documents with query tokens of one int8 digit a number."""

    def __init__(self, queries: Tensor, cu_seqlens_q: Tensor, reduction: str) -> None:
        # A token that is not finite has no bound, whatever stands here.
        tokens = queries.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        scales = (tokens.abs().amax(1) / 127).clamp(min=2.0**-126)
        digits = (tokens / scales[:, None]).round_().clamp_(-127, 127)
        left = tokens.double() - digits.double() * scales.double()[:, None]
        self.lost = torch.linalg.vector_norm(left, dim=1)  # (sum_q,)
        self.digits = digits.to(torch.int8).T
        self.lengths = lengths(cu_seqlens_q)
        if reduction == "mean":
            n_tokens = self.lengths.clamp(min=1).float()
            scales = scales / torch.repeat_interleave(n_tokens, self.lengths)
        self.factors = scales
        self.documents_at_a_time = max(_MAXIMA_BYTES // (4 * max(tokens.shape[0], 1)), 1)

    @staticmethod
    def takes(rows: Tensor) -> bool:
        """Whether it is the faster way here: where int8 documents are multiplied as such."""
        return Digits.takes(torch.zeros(1, rows.shape[1], device=rows.device), rows)

    def scores(self, rows: Tensor, scales: Tensor, cu_seqlens: Tensor, wanted: Tensor) -> Tensor:
        """Scores (n_q, n) of the documents that are wanted, (n,) bool; the others mean nothing."""
        starts = cu_seqlens.tolist()
        n = len(starts) - 1
        n_tokens = self.factors.shape[0]
        maxima = self.factors.new_full((n, n_tokens), -torch.inf)
        step = min(_ROWS, max(_PRODUCT_BYTES // (8 * max(n_tokens, 1)), 64))
        # Used again: memory that is fresh takes as long as a product.
        room = min(step, starts[-1] - starts[0])
        sums = torch.empty((room, n_tokens), dtype=torch.int32)
        products = torch.empty((room, n_tokens))
        segments = torch.repeat_interleave(torch.arange(n), cu_seqlens.diff())
        some = None if bool(wanted.all()) else wanted[segments]
        for begin in range(starts[0], starts[-1], step):
            block = slice(begin, min(begin + step, starts[-1]))
            here = slice(block.start - starts[0], block.stop - starts[0])
            if some is not None and not bool(some[here].any()):
                continue
            size = block.stop - block.start
            torch._int_mm(rows[block], self.digits, out=sums[:size])
            products[:size].copy_(sums[:size]).mul_(scales[block, None])
            of = segments[here, None].expand(size, n_tokens)
            maxima.scatter_reduce_(0, of, products[:size], "amax")
        maxima.masked_fill_((cu_seqlens.diff() == 0)[:, None], 0.0)
        maxima *= self.factors
        return torch.segment_reduce(
            maxima.T.contiguous(), "sum", lengths=self.lengths, unsafe=True
        )
