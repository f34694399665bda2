"""How kernels made for packed rows score sequences with gaps, and queries with weights.

- **Padded documents** are packed ones with a document of padding after each: the tile kernel takes
  the matrix as it lies, and every other score is left out. Padding is multiplied with the rest, so
  a padded batch costs what its whole tensor costs.
- **Slices**, and padded documents for a single query, make a pair list: the pair kernel begins
  where a document does and reads no other rows, but reads a document once for each query.
- **Queries** are few and are packed by a copy.
- **Weights** count per query token, so each token becomes a query of its own, whose score is its
  maximum; then they are summed. A pair list takes the maxima of `maxsim_alignment`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.layouts import all_pairs, as_packed, one_after_another, sequences, spans
from m3kernels.maxsim.launch import SCRATCH_BYTES, maxsim_triton
from m3kernels.maxsim_alignment.launch import maxsim_alignment_triton
from m3kernels.packing import lengths

__all__ = ["maxsim_triton_anyhow"]


def maxsim_triton_anyhow(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    query_weights: Tensor | None = None,
    *,
    padded: bool = False,
    scratch_bytes: int = SCRATCH_BYTES,
) -> Tensor:
    """Launch the kernels for sides that are packed or in spans; see `m3kernels.layouts`.

    Takes the checked arguments of `m3kernels.maxsim`. `padded` says that the documents' spans come
    in order and don't overlap; `scratch_bytes` bounds the partial maxima.
    """
    if cu_seqlens_q.ndim == 2:
        order, cu_seqlens_q = one_after_another(cu_seqlens_q)
        queries = queries[order]
        query_weights = None if query_weights is None else query_weights[order]
    n_queries, n_documents = sequences(cu_seqlens_q), sequences(cu_seqlens_d)
    if query_weights is not None:
        sides = (queries, cu_seqlens_q, documents, cu_seqlens_d)
        if pairs is None and (padded or cu_seqlens_d.ndim == 1):
            sums = _weighed(*sides, document_scales, query_weights, padded, scratch_bytes)
            n_tokens = lengths(cu_seqlens_q)[:, None]
        else:
            every = all_pairs(n_queries, n_documents, queries.device) if pairs is None else pairs
            sums = _weighed_pairs(*sides, every, document_scales, query_weights)
            sums = sums.view(n_queries, n_documents) if pairs is None else sums
            n_tokens = lengths(cu_seqlens_q)
            n_tokens = n_tokens[:, None] if pairs is None else n_tokens[pairs[:, 0]]
        return sums / n_tokens.clamp(min=1) if reduction == "mean" else sums

    def scores(cu_d: Tensor, some: Tensor | None) -> Tensor:
        return maxsim_triton(
            queries, cu_seqlens_q, documents, cu_d, some, document_scales, reduction,
            scratch_bytes,
        )  # fmt: skip

    if cu_seqlens_d.ndim == 1:
        return scores(cu_seqlens_d, pairs)
    if pairs is None and padded and n_queries > 1:
        ends = cu_seqlens_d.flatten()
        rows = ends.new_full((1,), documents.shape[0])
        return scores(torch.cat([ends, rows]), None)[:, ::2].contiguous()
    every = all_pairs(n_queries, n_documents, queries.device) if pairs is None else pairs
    found = scores(*as_packed(cu_seqlens_d, every))
    return found.view(n_queries, n_documents) if pairs is None else found


def _weighed(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    document_scales: Tensor | None,
    query_weights: Tensor,
    padded: bool,
    scratch_bytes: int,
) -> Tensor:
    """Sums of all queries' weighed maxima, (n_q, n_d), some query rows at a time."""
    n_rows, n_documents = queries.shape[0], sequences(cu_seqlens_d)
    sums = queries.new_zeros(sequences(cu_seqlens_q), n_documents, dtype=torch.float32)
    cu_q = cu_seqlens_q.clamp(0, n_rows).cummax(0).values  # in bounds whatever it says
    step = max(scratch_bytes // (4 * max(n_documents, 1)), 1)
    for first in range(0, n_rows, step):
        last = min(first + step, n_rows)
        maxima = maxsim_triton_anyhow(
            queries[first:last], torch.arange(last - first + 1, device=queries.device),
            documents, cu_seqlens_d, None, document_scales, "sum",
            padded=padded, scratch_bytes=scratch_bytes,
        )  # fmt: skip
        weights = query_weights[first:last, None]
        maxima = torch.where(weights == 0, 0.0, maxima * weights)
        here = lengths(cu_q.clamp(first, last))
        sums += torch.segment_reduce(maxima, "sum", lengths=here, unsafe=True)
    return sums


def _weighed_pairs(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor,
    document_scales: Tensor | None,
    query_weights: Tensor,
) -> Tensor:
    """Sums of the pairs' weighed maxima, (n_pairs,)."""
    cu_d, of_pairs = cu_seqlens_d, pairs
    if cu_d.ndim == 2:
        cu_d, of_pairs = as_packed(cu_d, pairs)
    _, maxima = maxsim_alignment_triton(
        queries, cu_seqlens_q, documents, cu_d, of_pairs, document_scales
    )
    rows, cu = one_after_another(spans(cu_seqlens_q)[pairs[:, 0]])
    weights = query_weights[rows]
    maxima = torch.where(weights == 0, 0.0, maxima * weights)
    return torch.segment_reduce(maxima, "sum", lengths=lengths(cu), unsafe=True)
