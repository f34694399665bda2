"""MaxSim's alignment as the formula reads, one pair at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["maxsim_alignment_reference"]


def maxsim_alignment_reference(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor,
    document_scales: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Multiply in float64, take the first of the largest, round to float32 at the end.

    Takes the checked arguments of `m3kernels.maxsim_alignment`; slow on purpose.
    """
    starts_q, starts_d = cu_seqlens_q.tolist(), cu_seqlens_d.tolist()
    positions = [queries.new_empty(0, dtype=torch.int32)]
    similarities = [queries.new_empty(0, dtype=torch.float32)]
    for i_q, i_d in pairs.tolist():
        q = queries[starts_q[i_q] : starts_q[i_q + 1]].double()
        rows = slice(starts_d[i_d], starts_d[i_d + 1])
        d = documents[rows].double()
        if len(d) == 0:
            positions.append(queries.new_full((len(q),), -1, dtype=torch.int32))
            similarities.append(queries.new_zeros(len(q), dtype=torch.float32))
            continue
        similarity = (q[:, None] * d).sum(2)  # no matmul: equal rows get equal products
        if document_scales is not None:
            similarity = similarity * document_scales[rows].double()
        positions.append(_first_of_largest(similarity))
        similarities.append(similarity.amax(1).float())
    return torch.cat(positions), torch.cat(similarities)


def _first_of_largest(similarity: Tensor) -> Tensor:
    """The first column of each row's maximum, and of its NaN where it has one, int32."""
    best = similarity.amax(1, keepdim=True)
    is_best = (similarity == best) | similarity.isnan()
    # argmax of equal numbers may be any of them; of 0s and falling numbers it is the first 1.
    places = torch.arange(similarity.shape[1], 0, -1, device=similarity.device)
    return (is_best * places).argmax(1).to(torch.int32)
