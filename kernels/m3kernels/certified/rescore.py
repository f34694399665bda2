"""Scores of a few documents from their exact rows, as `maxsim` computes them among all."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.certified.documents import CertifiedDocuments
from m3kernels.maxsim.cpu import documents_at_a_time, rows_at_a_time
from m3kernels.maxsim.maxima import Widened
from m3kernels.packing import lengths
from m3kernels.subsets import rows_of

__all__ = ["rescore_torch", "rescore_triton"]

# A product of so many rows rounds each as a larger one does. MKL takes other ways for few rows,
# and for the odd ones at the end.
_ROWS_OF_ALIKE = 512
_EVEN = 64


def rescore_torch(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: CertifiedDocuments,
    ids: Tensor,
    reduction: str,
    scratch_bytes: int,
) -> Tensor:
    """Scores (n_q, n) of a run of queries with documents ids (n,).

    A matrix product may round a row differently in a block of few rows. So rows of whole blocks
    of `maxsim_torch` are multiplied in blocks of many rows, and the last block of a group of
    documents, which has fewer, again as it is.
    """
    tokens = queries.float()
    lengths_q = lengths(cu_seqlens_q)
    if tokens.shape[0] == 0:
        return tokens.new_zeros(lengths_q.shape[0], ids.shape[0])
    widened = Widened(tokens, 0, torch.float32)
    n_rows = rows_at_a_time(widened.row_bytes, widened.most_rows, scratch_bytes, tokens.device)
    group = documents_at_a_time(tokens, scratch_bytes)
    cu = documents.cu_seqlens
    n_d = cu.shape[0] - 1

    maxima = tokens.new_full((ids.shape[0], tokens.shape[0]), -torch.inf)
    rows, segments, _ = rows_of(cu, ids)
    of_group = ids[segments] // group
    start, end = cu[of_group * group], cu[((of_group + 1) * group).clamp(max=n_d)]
    last_block = start + (end - start) // n_rows * n_rows  # where the rest of a group begins
    in_rest = rows >= last_block

    whole, of_whole = rows[~in_rest], segments[~in_rest]
    most = min(n_rows, max(-(-whole.shape[0] // _EVEN) * _EVEN, _ROWS_OF_ALIKE))
    block = tokens.new_zeros(most, tokens.shape[1])
    for first in range(0, whole.shape[0], n_rows):
        part = slice(first, first + n_rows)
        n = whole[part].shape[0]
        documents.exact_rows(whole[part], out=block[:n])
        room = min(most, max(-(-n // _EVEN) * _EVEN, _ROWS_OF_ALIKE))
        _raise(maxima, of_whole[part], (block[:room] @ tokens.T)[:n])

    rest, of_rest, begins, ends = (part[in_rest] for part in (rows, segments, last_block, end))
    for begin in torch.unique(begins).tolist():
        here = begins == begin
        block = documents.exact_rows(torch.arange(begin, int(ends[here][0]), device=ids.device))
        products = block @ tokens.T
        _raise(maxima, of_rest[here], products[rest[here] - begin])

    sums = torch.segment_reduce(maxima.T.contiguous(), "sum", lengths=lengths_q, unsafe=True)
    sums.masked_fill_(lengths(cu)[ids] == 0, 0.0)
    return sums / lengths_q.clamp(min=1)[:, None] if reduction == "mean" else sums


def rescore_triton(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: CertifiedDocuments,
    ids: Tensor,
    reduction: str,
) -> Tensor:
    """Scores (n_q, n) of all queries with documents ids (n,), by the kernels."""
    from m3kernels.maxsim.launch import maxsim_triton

    rows, _, cu = rows_of(documents.cu_seqlens, ids)
    return maxsim_triton(
        queries, cu_seqlens_q, documents.exact_rows(rows), cu, None, None, reduction,
        part_of=(documents.rows.shape[0], documents.cu_seqlens.shape[0] - 1),
    )  # fmt: skip


def _raise(maxima: Tensor, segments: Tensor, products: Tensor) -> None:
    maxima.scatter_reduce_(0, segments[:, None].expand_as(products), products, "amax")
