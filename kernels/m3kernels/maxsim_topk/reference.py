"""The best documents as the definition reads: all scores, sorted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m3kernels.maxsim.reference import maxsim_reference

__all__ = ["maxsim_topk_reference"]


def maxsim_topk_reference(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    k: int,
    allowed: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Score in float64 and round once, then sort; takes the checked arguments, slow on purpose."""
    batch = (queries, cu_seqlens_q, documents, cu_seqlens_d)
    scores = maxsim_reference(*batch, None, document_scales, reduction)
    if allowed is None:
        allowed = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    out = scores.new_full((scores.shape[0], k), -torch.inf)
    ids = torch.full(out.shape, -1, dtype=torch.int64, device=scores.device)
    for i, row in enumerate(scores.tolist()):
        may = (allowed if allowed.ndim == 1 else allowed[i]).tolist()
        found = [j for j in range(len(row)) if may[j]]
        found.sort(key=lambda j: (math.isnan(row[j]), 0 if math.isnan(row[j]) else -row[j], j))
        for place, j in enumerate(found[:k]):
            out[i, place], ids[i, place] = row[j], j
    return out, ids
