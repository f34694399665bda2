"""The best documents in plain torch, for the CPU and for a GPU without Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.maxsim.cpu import SCRATCH_BYTES_CPU, SCRATCH_BYTES_GPU, score_blocks
from m3kernels.maxsim_topk.ranking import Best, keys_of
from m3kernels.packing import lengths

__all__ = ["maxsim_topk_torch"]


def maxsim_topk_torch(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    k: int,
    allowed: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    scratch_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Keep the best of each block of `maxsim_torch`'s; takes `m3kernels.maxsim_topk`'s arguments.

    The blocks are the same ones, because a matrix product may round a row differently in another
    block, and so the scores are the same bits.
    """
    device = queries.device
    if scratch_bytes is None:
        scratch_bytes = SCRATCH_BYTES_CPU if device.type == "cpu" else SCRATCH_BYTES_GPU
    n_tokens = lengths(cu_seqlens_q).clamp(min=1)[:, None]
    scores = queries.new_empty((n_tokens.shape[0], k), dtype=torch.float32)
    ids = torch.empty(scores.shape, dtype=torch.int64, device=device)
    best, of_best = Best(0, k, device), slice(0, 0)
    blocks = score_blocks(
        queries, cu_seqlens_q, documents, cu_seqlens_d, document_scales, scratch_bytes, allowed
    )
    scores.fill_(-torch.inf)
    ids.fill_(-1)
    for of_q, of_d, sums in blocks:
        if of_q != of_best:
            scores[of_best], ids[of_best] = best.result()
            best, of_best = Best(of_q.stop - of_q.start, k, device), of_q
        may = allowed
        if allowed is not None:
            may = allowed[of_d] if allowed.ndim == 1 else allowed[of_q, of_d]
        if reduction == "mean":
            sums = sums / n_tokens[of_q]
        best.add(keys_of(sums, torch.arange(of_d.start, of_d.stop, device=device), may))
    scores[of_best], ids[of_best] = best.result()
    return scores, ids
