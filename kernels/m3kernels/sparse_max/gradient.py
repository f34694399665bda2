"""Sparse-max's gradient: each value passes its own on to the token that it is the weight of.

    w[id] = max over the places t of the id of relu(hidden_t . weight + bias), t* the first largest

    by hidden_t*   g weight        by weight   sum of g hidden_t*        by bias   sum of g

Which token that is isn't kept: weighing the tokens again reads the states once, and the gradient
by weight reads them anyway. A value above 0 is where relu passes everything on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.packing import segment_ids
from m3kernels.sparse_max.cpu import SCRATCH_BYTES, weigh

__all__ = ["gradients"]


def gradients(
    grad: Tensor,
    wanted: list[bool],
    indptr: Tensor,
    indices: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by hidden, weight and bias, empty where they are not wanted.

    `grad` (sum_t,) is that by the values, of which indptr[-1] are any.
    """
    # The reference sums in float64, as it weighs.
    wide = torch.float64 if backend == "reference" else torch.float32
    nnz = int(indptr[-1])
    grad = grad[:nnz].to(wide)
    owners = _owners(indptr, indices[:nnz], hidden, weight, bias, token_ids, cu_seqlens, wide)

    by_hidden, by_weight = hidden.new_empty(0), weight.new_empty(0)
    by_bias = bias.new_empty(0)
    if wanted[0]:
        by_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
        # No token is the weight of two values.
        by_hidden[owners] = (grad[:, None] * weight.to(wide)).to(hidden.dtype)
    if wanted[1]:
        total = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        rows = max(SCRATCH_BYTES // (8 * max(hidden.shape[1], 1)), 1)
        for first in range(0, nnz, rows):
            some = slice(first, first + rows)
            total += grad[some] @ hidden[owners[some]].to(wide)
        by_weight = total.to(weight.dtype)
    if wanted[2]:
        by_bias = grad.sum().to(bias.dtype)
    return by_hidden, by_weight, by_bias


def _owners(
    indptr: Tensor,
    indices: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    wide: torch.dtype,
) -> Tensor:
    """The token that each value is the weight of, (nnz,)."""
    n_rows = hidden.shape[0]
    weights = weigh(hidden, weight, bias, wide)
    ids = indices.to(torch.int64)
    keys = segment_ids(indptr, indices.shape[0]) << 31 | ids  # ascend
    of_tokens = segment_ids(cu_seqlens, n_rows) << 31 | token_ids
    places = torch.searchsorted(keys, of_tokens).clamp(max=max(keys.numel() - 1, 0))
    counted = (keys[places] == of_tokens).nonzero()[:, 0] if keys.numel() else places[:0]
    places, weights = places[counted], weights[counted]
    best = weights.new_full(keys.shape, -torch.inf).scatter_reduce_(0, places, weights, "amax")
    wins = (weights == best[places]) | weights.isnan()
    owners = torch.full_like(keys, n_rows - 1)
    return owners.scatter_reduce_(0, places[wins], counted[wins], "amin")
