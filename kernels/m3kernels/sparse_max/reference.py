"""Sparse-max as the formula reads, one token at a time."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["sparse_max_reference"]


def sparse_max_reference(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    ignore_ids: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Weigh each token in float64, round to float32, keep the largest for each id.

        w[id] = max over the places t of the id of relu(hidden_t . weight + bias)

    Source: arXiv 2402.03216, section 3.2, and FlagEmbedding's `_process_token_weights`. Takes the
    checked arguments of `m3kernels.sparse_max`; slow on purpose.
    """
    weights = (hidden.double() @ weight.double() + bias.double()).relu().float().tolist()
    ids = token_ids.tolist()
    starts = cu_seqlens.tolist()

    indptr = [0]
    indices: list[int] = []
    values: list[float] = []
    for start, end in pairwise(starts):
        best: dict[int, float] = {}
        for t in range(start, end):
            if ids[t] in ignore_ids or weights[t] <= 0.0:
                continue
            # NaN compares false with everything, so it needs its own words to win and to stay.
            if math.isnan(weights[t]) or weights[t] > best.get(ids[t], 0.0):
                best[ids[t]] = weights[t]
        for token_id in sorted(best):
            indices.append(token_id)
            values.append(best[token_id])
        indptr.append(len(indices))

    device = hidden.device
    return (
        torch.tensor(indptr, dtype=torch.int64, device=device),
        torch.tensor(indices, dtype=torch.int32, device=device),
        torch.tensor(values, dtype=torch.float32, device=device),
    )
