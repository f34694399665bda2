"""How the best documents are found on a GPU: MaxSim's kernels over ranges of documents."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.maxsim.launch import maxsim_triton
from m3kernels.maxsim_topk.ranking import Best, keys_of
from m3kernels.subsets import rows_of, runs

__all__ = ["SCRATCH_BYTES", "maxsim_topk_triton"]

# What a range's scores and their keys may take, and the copy of its rows where only some documents
# are allowed; MaxSim's own scratch comes on top.
SCRATCH_BYTES = 256 << 20

# A score, its bits, their order, the key and what torch.topk makes of it.
_SCORE_BYTES = 40


def maxsim_topk_triton(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    k: int,
    allowed: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    scratch_bytes: int = SCRATCH_BYTES,
) -> tuple[Tensor, Tensor]:
    """Score range by range and keep the best; takes `m3kernels.maxsim_topk`'s arguments.

    Where only some documents are allowed, their rows are gathered, a range's at a time.
    """
    device = queries.device
    n_q, n_d = cu_seqlens_q.shape[0] - 1, cu_seqlens_d.shape[0] - 1
    all_of_them = (documents.shape[0], n_d)
    best = Best(n_q, k, device)
    most = max(scratch_bytes // (_SCORE_BYTES * max(n_q, 1)), 1)
    if allowed is None:
        starts = cu_seqlens_d[::most].tolist() + cu_seqlens_d[-1:].tolist()
        for i, first in enumerate(range(0, n_d, most)):
            last = min(first + most, n_d)
            rows = slice(starts[i], starts[i + 1])
            cu = cu_seqlens_d[first : last + 1] - starts[i]
            scores = maxsim_triton(
                queries, cu_seqlens_q, documents[rows], cu, None,
                None if document_scales is None else document_scales[rows], reduction,
                part_of=all_of_them,
            )  # fmt: skip
            best.add(keys_of(scores, torch.arange(first, last, device=device)))
        return best.result()

    row_bytes = max(documents.shape[1] * documents.element_size(), 1)
    union = allowed if allowed.ndim == 1 else allowed.any(0)
    found = union.nonzero()[:, 0]
    for ids in runs(cu_seqlens_d, found, most, scratch_bytes // row_bytes):
        places, _, cu = rows_of(cu_seqlens_d, ids)
        scores = maxsim_triton(
            queries, cu_seqlens_q, _rows(documents, places), cu, None,
            None if document_scales is None else document_scales[places], reduction,
            part_of=all_of_them,
        )  # fmt: skip
        may = None if allowed.ndim == 1 else allowed[:, ids]
        best.add(keys_of(scores, ids, may))
    return best.result()


def _rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """Rows of vectors; float8 goes as bytes, since not every torch can index it."""
    if vectors.dtype == torch.float8_e4m3fn:
        return vectors.view(torch.uint8)[rows].view(vectors.dtype)
    return vectors[rows]
