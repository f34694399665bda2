"""Sparse-max in plain torch, for the CPU and for a GPU without Triton."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from m3kernels import cpus
from m3kernels.packing import segment_ids

__all__ = ["SCRATCH_BYTES", "sparse_max_torch", "weigh"]

# What the float32 copy of a block of states may take.
SCRATCH_BYTES = 4 << 20

# So many comparisons go faster than one look-up in a set.
_FEW_IDS = 8


def sparse_max_torch(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    ignore_ids: tuple[int, ...],
    scratch_bytes: int = SCRATCH_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort (sequence, id) and take the max of each run; takes checked arguments."""
    weights = weigh(hidden, weight, bias, scratch_bytes=scratch_bytes).relu_()

    kept = ~(weights <= 0.0)  # not `> 0`: a NaN stays
    if len(ignore_ids) <= _FEW_IDS:
        for ignored in ignore_ids:
            kept &= token_ids != ignored
    else:
        ignored_ids = torch.tensor(ignore_ids, dtype=torch.int64, device=hidden.device)
        kept &= torch.isin(token_ids, ignored_ids, invert=True)
    places = kept.nonzero()[:, 0]
    keys = segment_ids(cu_seqlens, hidden.shape[0]) << 31 | token_ids
    keys, order = keys.index_select(0, places).sort()
    weights = weights.index_select(0, places).index_select(0, order)

    first = torch.ones_like(keys, dtype=torch.bool)  # of its run
    first[1:] = keys[1:] != keys[:-1]
    unique = keys[first]
    runs = first.cumsum(0).sub_(1)
    values = weights.new_zeros(unique.numel()).scatter_reduce_(0, runs, weights, "amax")
    sequences = torch.arange(cu_seqlens.numel(), device=keys.device)
    indptr = torch.searchsorted(unique, sequences << 31)
    return indptr, (unique & (2**31 - 1)).to(torch.int32), values


def weigh(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    scratch_bytes: int = SCRATCH_BYTES,
) -> Tensor:
    """Return hidden . weight + bias of each token, (sum_t,) of `dtype`, float32 or float64."""
    if dtype == torch.float64:
        return hidden.double() @ weight.double() + bias.double()
    return _products(hidden, weight.float(), scratch_bytes).add_(bias.float())


def _products(hidden: Tensor, weight: Tensor, scratch_bytes: int) -> Tensor:
    """Products (sum_t,) float32 of the states (sum_t, d) with weight (d,) float32, in float32."""
    n, dim = hidden.shape
    out = weight.new_empty(n)
    multiply: Callable[..., Tensor] = _row_sums
    if hidden.device.type != "cpu" or cpus.has("amx"):
        if hidden.dtype == torch.float32:
            return torch.mv(hidden, weight, out=out)
        multiply = torch.mv
    rows = max(scratch_bytes // (4 * max(dim, 1)), 1)
    wide = weight.new_empty(min(rows, n), dim)
    for i in range(0, n, rows):
        block = hidden[i : i + rows]
        multiply(wide[: block.shape[0]].copy_(block), weight, out=out[i : i + rows])
    return out


def _row_sums(block: Tensor, weight: Tensor, *, out: Tensor) -> Tensor:
    """torch.mv for CPUs where MKL gives it one thread, as it does on AMD's; overwrites `block`."""
    return torch.sum(block.mul_(weight), 1, out=out)
