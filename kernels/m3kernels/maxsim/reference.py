"""MaxSim as the formula reads, one query and one document at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.layouts import spans

__all__ = ["maxsim_exact", "maxsim_reference"]


def maxsim_reference(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    query_weights: Tensor | None = None,
) -> Tensor:
    """Score in float64, round once to float32 at the end.

    Takes the checked arguments of `m3kernels.maxsim`; slow on purpose.
    """
    return maxsim_exact(
        queries, cu_seqlens_q, documents, cu_seqlens_d, pairs, document_scales, reduction,
        query_weights,
    ).float()  # fmt: skip


def maxsim_exact(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    query_weights: Tensor | None = None,
) -> Tensor:
    """Return the scores in float64; torch differentiates it.

        score(Q, D) = (1 / |Q|) sum_{q in Q} w_q max_{d in D} q . d    (0 where Q or D is empty)

    Source: s_mul in arXiv 2402.03216, section 3.2, where all w_q are 1.
    """
    spans_q, spans_d = spans(cu_seqlens_q).tolist(), spans(cu_seqlens_d).tolist()
    n_q, n_d = len(spans_q), len(spans_d)
    wanted = (
        [(i_q, i_d) for i_q in range(n_q) for i_d in range(n_d)]
        if pairs is None
        else pairs.tolist()
    )

    scores = [torch.zeros(0, dtype=torch.float64, device=queries.device)]
    for i_q, i_d in wanted:
        rows_q, rows_d = slice(*spans_q[i_q]), slice(*spans_d[i_d])
        q, d = queries[rows_q].double(), documents[rows_d].double()
        if len(q) == 0 or len(d) == 0:
            scores.append(scores[0].new_zeros(1))
            continue
        similarity = q @ d.T
        if document_scales is not None:
            similarity = similarity * document_scales[rows_d].double()
        best = similarity.max(1).values  # of equal ones the first has the gradient
        if query_weights is not None:
            weights = query_weights[rows_q].double()
            best = torch.where(weights == 0, weights * best.nan_to_num(), weights * best)
        scores.append((best.mean() if reduction == "mean" else best.sum())[None])
    every = torch.cat(scores)
    return every.view(n_q, n_d) if pairs is None else every
