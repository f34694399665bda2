"""Lexical scores as the formula reads, one query and one document at a time."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["lexical_scores_reference"]


def lexical_scores_reference(
    q_csr: tuple[Tensor, Tensor, Tensor], d_csr: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Sum in float64, round once to float32 at the end.

        score(q, d) = sum over the ids in both of w_q[id] * w_d[id]

    Source: s_lex in arXiv 2402.03216, section 3.2. Takes the checked arguments of
    `m3kernels.lexical_scores`; slow on purpose.
    """
    queries, documents = _rows(q_csr), _rows(d_csr)
    scores = torch.zeros(len(queries), len(documents), dtype=torch.float64)
    for i_q, q in enumerate(queries):
        for i_d, d in enumerate(documents):
            scores[i_q, i_d] = sum(q[i] * d[i] for i in sorted(q.keys() & d.keys()))
    return scores.float().to(q_csr[0].device)


def _rows(csr: tuple[Tensor, Tensor, Tensor]) -> list[dict[int, float]]:
    indptr, indices, values = (part.tolist() for part in csr)
    return [
        {i: w for i, w in zip(indices[start:end], values[start:end], strict=True) if w != 0.0}
        for start, end in pairwise(indptr)
    ]
