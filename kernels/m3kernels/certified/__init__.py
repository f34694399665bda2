"""The best documents from int8, proven to be those of the exact rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from m3kernels.certified.documents import CertifiedDocuments, certify
from m3kernels.certified.search import certified_topk_torch, certified_topk_triton
from m3kernels.dispatch import choose
from m3kernels.maxsim_topk import allowed_documents, check_documents_mask, check_k
from m3kernels.maxsim_topk.reference import maxsim_topk_reference
from m3kernels.packing import (
    FLOAT_DTYPES,
    check_capturing,
    check_cu_seqlens,
    check_cu_seqlens_values,
    check_no_gradient,
    check_tensor,
)
from m3kernels.precision import as_written
from m3kernels.token_vectors import unsupported

__all__ = ["CertifiedDocuments", "CertifiedTopk", "certified_topk", "certify"]


class CertifiedTopk(NamedTuple):
    """What `certified_topk` found.

    Attributes:
        scores: (n_q, k) float32, of the exact rows.
        ids: (n_q, k) int64.
        rescored: (n_q,) int64, how many documents reached a query's k-th score by their bounds,
            and so were scored again.
    """

    scores: Tensor
    ids: Tensor
    rescored: Tensor


def certified_topk(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: CertifiedDocuments,
    k: int,
    *,
    documents_mask: Tensor | Sequence[int] | None = None,
    reduction: str = "mean",
    backend: str | None = None,
    validate: bool = True,
) -> CertifiedTopk:
    """Find the k best documents by late interaction exactly, at the bytes of int8.

    One scan of the int8 documents bounds each score, and the exact rows are read of those
    documents alone whose bound reaches the k-th. What it finds is what `maxsim_topk` finds with
    the exact rows in float32: the same ids, with equal scores by the smallest id also at the k-th
    place, NaN last, and -inf and -1 where there are fewer. The scores are computed in the same
    way. They are the same bits where the CPU's matrix product rounds a row alike in every product
    of 512 rows or more, as MKL's does for queries of more than three tokens; elsewhere they agree
    within float32's rounding, and documents that are closer than that may change places.

    The bound, for a query of N tokens q_i and a document whose rounding left out at most r of a
    row of length D at most,

        |score - score of int8| <= mean_i(|q_i|) r + mean_i(e_i) (D + r)
                                   + 2^-23 (d + 2 N + 64) mean_i(|q_i| + e_i) (D + r)
                                   + 2^-125 (d + 8) N

    by Cauchy and Schwarz, with e_i what the scan's rounding left out of the query's token, the
    third term for what float32 rounds in the scan and in the exact score together (2 d instead of
    d where the scan's products are rounded too), and the fourth for numbers below the normal ones;
    `bounds.py` has the derivation. With "sum" it is N times that. A document or a query with a
    NaN, an infinity or a length of 1e27 or more has no bound, and is always scored again. For
    unit vectors the first two terms are 0.0075 each, the second 0.0001 where the scan takes the
    query in two digits; the last are below 0.0002.

    There is no gradient: to ask for one is an error. A call waits for a GPU.

    Args:
        queries: (sum_q, d) float32, float16 or bfloat16, on the device of `documents.rows`.
        cu_seqlens_q: (n_q + 1,) int64 or int32; query i has the rows cu_seqlens_q[i] up to
            cu_seqlens_q[i + 1].
        documents: what `certify` made.
        k: how many, 1 or more.
        documents_mask: which documents may be found; see `maxsim_topk`.
        reduction: "mean" or "sum" over the query's tokens.
        backend: "triton", "torch" or "reference" (which scores all documents from their exact
            rows); None picks the best one for the device.
        validate: compare the values of `cu_seqlens_q` and the ids in `documents_mask` with what
            they index. With False, wrong values there give wrong results or torch's own errors.

    Returns:
        The scores, the ids, and how many documents were scored again.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, device or value, or `backend` can't run here.
            The message names it.
    """
    check_tensor("queries", queries, ndim=2, dtypes=FLOAT_DTYPES)
    device = queries.device
    if not isinstance(documents, CertifiedDocuments):
        raise TypeError(
            f"documents is a {type(documents).__name__}; "
            "expected CertifiedDocuments, which m3kernels.certify makes"
        )
    if documents.rows.device != device:
        raise ValueError(
            f"documents is certified on {documents.rows.device}, and queries is on {device}; "
            "pass certify's device, or move the queries"
        )
    if documents.rows.shape[1] != queries.shape[1]:
        raise ValueError(
            f"documents has vectors of {documents.rows.shape[1]}; expected {queries.shape[1]}, "
            "as queries has"
        )
    cu_q = check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, device=device)
    check_k(k)
    n_q, n_d = cu_q.shape[0] - 1, documents.cu_seqlens.shape[0] - 1
    mask = check_documents_mask(documents_mask, n_q=n_q, n_d=n_d, device=device)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean' or 'sum'")
    if validate:
        check_capturing(device)
        check_cu_seqlens_values("cu_seqlens_q", cu_q, rows=queries.shape[0])
    check_no_gradient("queries", queries)
    with torch.no_grad(), as_written(device):
        allowed = allowed_documents(mask, n_d=n_d, validate=validate)
        match choose("certified_topk", backend, device, unsupported(queries, documents.rows)):
            case "triton":
                found = certified_topk_triton(queries, cu_q, documents, k, allowed, reduction)
            case "torch":
                found = certified_topk_torch(queries, cu_q, documents, k, allowed, reduction)
            case _:
                found = _reference(queries, cu_q, documents, k, allowed, reduction)
    return CertifiedTopk(*found)


def _reference(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: CertifiedDocuments,
    k: int,
    allowed: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    exact = documents.exact_rows(torch.arange(documents.rows.shape[0], device=queries.device))
    scores, ids = maxsim_topk_reference(
        queries, cu_seqlens_q, exact, documents.cu_seqlens, k, allowed, None, reduction
    )
    n_q, n_d = cu_seqlens_q.shape[0] - 1, documents.cu_seqlens.shape[0] - 1
    if allowed is None:
        allowed = torch.ones(n_d, dtype=torch.bool, device=queries.device)
    return scores, ids, allowed.expand(n_q, n_d).sum(1)
