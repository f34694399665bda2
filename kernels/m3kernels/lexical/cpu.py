"""Lexical scores in plain torch, for the CPU and for a GPU without Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.packing import segment_ids

__all__ = ["lexical_scores_torch"]

# Queries that share one pass over the documents. Their ids times their number is the scratch:
# 64 queries of 100 ids take at most 64 * 6,400 floats, 1.6 MB.
BLOCK_QUERIES = 64

# XLM-RoBERTa has 250,002 ids. Tables of a number for each id go up to here.
_ID_BITS = 18


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
    indptr_d, indices_d, values_d = d_csr
    n_q, n_d = indptr_q.numel() - 1, indptr_d.numel() - 1
    out = values_q.new_zeros(n_q, n_d, dtype=torch.float32)
    starts = indptr_q.tolist()
    # Ids that were not validated may be below 0.
    lowest, largest = map(int, indices_d.aminmax()) if indices_d.numel() else (0, 0)
    in_table = lowest >= 0 and largest >> _ID_BITS == 0
    for first in range(0, n_q, block_queries):
        last = min(first + block_queries, n_q)
        terms = slice(starts[first], starts[last])
        ids, columns = torch.unique(indices_q[terms].to(torch.int64), return_inverse=True)
        rows = segment_ids(indptr_q[first : last + 1], starts[last] - starts[first])
        compact = values_q.new_zeros(ids.numel() + 1, last - first, dtype=torch.float32)
        compact[columns, rows] = values_q[terms].float()  # (ids, queries), then a row of zeros
        scores = None
        if in_table:
            scores = _by_table(ids, compact, indptr_d, indices_d, values_d)
        if scores is None:
            scores = _by_search(ids, compact, indptr_d, indices_d, values_d)
        out[first:last] = scores.T
    return out


def _by_table(
    ids: Tensor, compact: Tensor, indptr_d: Tensor, indices_d: Tensor, values_d: Tensor
) -> Tensor | None:
    """Scores (n_d, queries) where a term in no query adds a row of zeros, or None.

    A zero times an infinity is a NaN that doesn't belong there: with NaNs among the scores, None.
    """
    table = torch.full((1 << _ID_BITS,), ids.numel(), dtype=torch.int32, device=ids.device)
    places = ((ids >> _ID_BITS) == 0).nonzero()[:, 0]
    table[ids[places]] = places.to(torch.int32)
    scores = torch.nn.functional.embedding_bag(
        table.index_select(0, indices_d),
        compact,
        indptr_d.to(torch.int32),
        mode="sum",
        per_sample_weights=values_d.float(),
        include_last_offset=True,
    )
    return None if bool(scores.isnan().any()) else scores


def _by_search(
    ids: Tensor, compact: Tensor, indptr_d: Tensor, indices_d: Tensor, values_d: Tensor
) -> Tensor:
    """Scores (n_d, queries) whatever the ids and the weights are."""
    # Most terms of the documents are in no query, and a look-up in 256 KB drops them for much
    # less than a binary search each. Ids too large for the table share places, which costs time
    # and changes nothing else.
    seen = torch.zeros(1 << _ID_BITS, dtype=torch.bool, device=ids.device)
    seen[ids & (seen.numel() - 1)] = True
    hits = seen[indices_d & (seen.numel() - 1)].nonzero()[:, 0]
    found = indices_d[hits].to(torch.int64)
    places = torch.searchsorted(ids, found)
    # A hit past the last id has no place; any will do, the comparison drops it.
    places.clamp_(max=max(ids.numel() - 1, 0))
    # A stored 0 is no term: times an infinity it would be NaN.
    shared = (ids[places] == found) & (values_d[hits] != 0)
    hits, places = hits[shared], places[shared]
    weights = values_d[hits].float()

    # The bag adds 0 * weight for the queries without the id, so NaN and infinities would reach
    # queries that don't share it. They are added apart.
    finite = weights.isfinite()
    out = torch.nn.functional.embedding_bag(
        places[finite],
        compact,
        torch.searchsorted(hits[finite], indptr_d),
        mode="sum",
        per_sample_weights=weights[finite],
        include_last_offset=True,
    )
    if not bool(finite.all()):
        odd = ~finite
        rows_d = torch.searchsorted(indptr_d, hits[odd], right=True) - 1
        shares = compact[places[odd]]
        out.index_add_(0, rows_d, torch.where(shares == 0, 0.0, shares * weights[odd, None]))
    return out
