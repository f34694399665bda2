"""Lexical scores in plain torch, for the CPU and for a GPU without Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.packing import segment_ids

# Queries that share one pass over the documents. Their ids times their number is the scratch:
# 64 queries of 100 ids take at most 64 * 6,400 floats, 1.6 MB.
BLOCK_QUERIES = 64

# XLM-RoBERTa has 250,002 ids, so its ids have a place of their own in the filter; larger ids
# share places, which costs time and changes nothing else.
_FILTER_BITS = 18


def lexical_scores_torch(
    q_csr: tuple[Tensor, Tensor, Tensor],
    d_csr: tuple[Tensor, Tensor, Tensor],
    block_queries: int = BLOCK_QUERIES,
) -> Tensor:
    """Join the documents with some queries' ids at a time; takes checked arguments.

    A dense matrix over the vocabulary would be 1 MB a query. Only the ids that some query of the
    block holds become columns.
    """
    indptr_q, indices_q, values_q = q_csr
    n_q, n_d = indptr_q.numel() - 1, d_csr[0].numel() - 1
    out = values_q.new_zeros(n_q, n_d, dtype=torch.float32)
    starts = indptr_q.tolist()
    for first in range(0, n_q, block_queries):
        last = min(first + block_queries, n_q)
        terms = slice(starts[first], starts[last])
        rows = segment_ids(indptr_q[first : last + 1], starts[last] - starts[first])
        out[first:last] = _block(
            rows, last - first, indices_q[terms], values_q[terms].float(), d_csr
        )
    return out


def _block(
    rows_q: Tensor,
    n_q: int,
    indices_q: Tensor,
    values_q: Tensor,
    d_csr: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Scores of one block of queries, (n_q, n_d); rows_q is the query of each of its terms."""
    indptr_d, indices_d, values_d = d_csr
    ids, columns = torch.unique(indices_q, return_inverse=True)
    compact = values_q.new_zeros(ids.numel(), n_q)  # (ids, queries)
    compact[columns, rows_q] = values_q

    # Most terms of the documents are in no query, and a look-up in 256 KB drops them for much
    # less than a binary search each, which was four fifths of the time.
    seen = torch.zeros(1 << _FILTER_BITS, dtype=torch.bool, device=ids.device)
    seen[ids & (seen.numel() - 1)] = True
    hits = seen[indices_d & (seen.numel() - 1)].nonzero()[:, 0]
    places = torch.searchsorted(ids, indices_d[hits])
    # A filter hit past the last id has no place; any row will do, the comparison drops it.
    places.clamp_(max=max(ids.numel() - 1, 0))
    # A stored 0 is no term: times an infinity it would be NaN.
    shared = (ids[places] == indices_d[hits]) & (values_d[hits] != 0)
    hits, places = hits[shared], places[shared]
    weights = values_d[hits].float()

    # The bag below also adds 0 * weight for the queries without the id, so NaN and infinities
    # would reach queries that don't share it. They are added apart.
    finite = weights.isfinite()
    out = torch.nn.functional.embedding_bag(
        places[finite],
        compact,
        torch.searchsorted(hits[finite], indptr_d),
        mode="sum",
        per_sample_weights=weights[finite],
        include_last_offset=True,
    )  # (n_d, queries)
    if not bool(finite.all()):
        odd = ~finite
        rows_d = torch.searchsorted(indptr_d, hits[odd], right=True) - 1
        shares = compact[places[odd]]
        out.index_add_(0, rows_d, torch.where(shares == 0, 0.0, shares * weights[odd, None]))
    return out.T
