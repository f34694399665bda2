"""The gradient of lexical scores by the weights of both sides.

    score(q, d) = sum over the ids in both of w_q[id] * w_d[id], g(q, d) the gradient by it

    by w_q[id]   sum over the documents with the id of g(q, d) w_d[id], and so for w_d

Shared terms are listed, one entry for each (term of a query, document that has it), and each
side's weights take the sums over their own entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.packing import segment_ids

__all__ = ["gradients"]

CSR = tuple[Tensor, Tensor, Tensor]


def gradients(
    grad: Tensor, wanted: list[bool], q_csr: CSR, d_csr: CSR, backend: str | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients by the queries' and the documents' values, empty where not wanted.

    `grad` (n_q, n_d) is that by the scores.
    """
    wide = torch.float64 if backend == "reference" else torch.float32
    (rows_q, ids_q, from_q), (rows_d, ids_d, from_d) = _terms(q_csr), _terms(d_csr)
    values_q, values_d = q_csr[2][from_q:].to(wide), d_csr[2][from_d:].to(wide)
    # The documents' terms by id: those of one id lie together, by document.
    order = ids_d.argsort(stable=True)
    sorted_ids = ids_d[order]
    first = torch.searchsorted(sorted_ids, ids_q)
    counts = torch.searchsorted(sorted_ids, ids_q, right=True) - first
    n_entries = int(counts.sum())
    terms_q = torch.arange(ids_q.numel(), device=grad.device).repeat_interleave(
        counts, output_size=n_entries
    )
    begin = counts.cumsum(0) - counts
    places = torch.arange(n_entries, device=grad.device) - begin[terms_q] + first[terms_q]
    terms_d = order[places]
    shares = grad[rows_q[terms_q], rows_d[terms_d]].to(wide)

    by_q, by_d = q_csr[2].new_empty(0), d_csr[2].new_empty(0)
    if wanted[0]:
        by_q = _sums(terms_q + from_q, _times(shares, values_d[terms_d]), q_csr[2])
    if wanted[1]:
        by_d = _sums(terms_d + from_d, _times(shares, values_q[terms_q]), d_csr[2])
    return by_q, by_d


def _terms(csr: CSR) -> tuple[Tensor, Tensor, int]:
    """The row and the id of each term, (nnz,) int64 each, and the place of the first."""
    indptr, indices, _ = csr
    indptr = indptr.clamp(0, indices.shape[0]).cummax(0).values
    start, end = torch.stack([indptr[0], indptr[-1]]).tolist()
    return segment_ids(indptr, end - start), indices[start:end].to(torch.int64), start


def _times(shares: Tensor, weights: Tensor) -> Tensor:
    """Products, where a share or a weight of 0 is no term."""
    return torch.where((shares == 0) | (weights == 0), 0.0, shares * weights)


def _sums(into: Tensor, parts: Tensor, values: Tensor) -> Tensor:
    """Sum parts by the term that they go into, in their order; shaped as values."""
    out = torch.zeros(values.shape, dtype=values.dtype, device=values.device)
    if into.numel():
        order = into.argsort(stable=True)
        found, counts = torch.unique_consecutive(into[order], return_counts=True)
        sums = torch.segment_reduce(parts[order], "sum", lengths=counts, unsafe=True)
        out[found] = sums.to(values.dtype)
    return out
