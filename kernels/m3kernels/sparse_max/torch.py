"""Sparse-max in plain torch, for the CPU and for a GPU without Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.packing import from_lengths, segment_ids

# What the float32 copy of float16 and bfloat16 states may take.
SCRATCH_BYTES = 8 << 20


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
    rows, dim = hidden.shape
    weight = weight.float()
    block = max(scratch_bytes // (4 * max(dim, 1)), 1)
    weights = torch.cat(
        [hidden.new_zeros(0, dtype=torch.float32)]
        + [hidden[i : i + block].float() @ weight for i in range(0, rows, block)]
    )
    weights = (weights + bias.float()).relu_()

    kept = ~(weights <= 0.0)  # not `> 0`: a NaN stays
    ignored = torch.tensor(ignore_ids, dtype=torch.int64, device=hidden.device)
    kept &= torch.isin(token_ids, ignored, invert=True)
    weights = weights[kept]
    keys = segment_ids(cu_seqlens, rows)[kept] << 31 | token_ids[kept].to(torch.int64)
    unique, runs = torch.unique(keys, return_inverse=True)
    values = weights.new_zeros(unique.numel()).scatter_reduce_(0, runs, weights, "amax")
    counts = torch.bincount(unique >> 31, minlength=cu_seqlens.numel() - 1)
    return from_lengths(counts), (unique & (2**31 - 1)).to(torch.int32), values
