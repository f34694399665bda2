"""MaxSim as the formula reads, one query and one document at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["maxsim_reference"]


def maxsim_reference(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
) -> Tensor:
    """Score in float64, round once to float32 at the end.

        score(Q, D) = (1 / |Q|) sum_{q in Q} max_{d in D} q . d     (0 where Q or D is empty)

    Source: s_mul in arXiv 2402.03216, section 3.2. Takes the checked arguments of
    `m3kernels.maxsim`; slow on purpose.
    """
    starts_q = cu_seqlens_q.tolist()
    starts_d = cu_seqlens_d.tolist()
    n_q, n_d = len(starts_q) - 1, len(starts_d) - 1
    wanted = (
        [(i_q, i_d) for i_q in range(n_q) for i_d in range(n_d)]
        if pairs is None
        else pairs.tolist()
    )

    scores = torch.zeros(len(wanted), dtype=torch.float64, device=queries.device)
    for i, (i_q, i_d) in enumerate(wanted):
        q = queries[starts_q[i_q] : starts_q[i_q + 1]].double()
        rows = slice(starts_d[i_d], starts_d[i_d + 1])
        d = documents[rows].double()
        if len(q) == 0 or len(d) == 0:
            continue
        similarity = q @ d.T
        if document_scales is not None:
            similarity = similarity * document_scales[rows].double()
        best = similarity.amax(1)
        scores[i] = best.mean() if reduction == "mean" else best.sum()
    scores = scores.float()
    return scores.view(n_q, n_d) if pairs is None else scores
