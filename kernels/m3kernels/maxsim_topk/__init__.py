"""The best documents by late interaction, without the matrix of all scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m3kernels.dispatch import choose
from m3kernels.maxsim_topk.cpu import maxsim_topk_torch
from m3kernels.maxsim_topk.reference import maxsim_topk_reference
from m3kernels.packing import (
    INDEX_DTYPES,
    check_capturing,
    check_cu_seqlens,
    check_cu_seqlens_values,
)
from m3kernels.precision import as_written
from m3kernels.registering import op
from m3kernels.token_vectors import check_token_vectors, unsupported

__all__ = ["allowed_documents", "check_documents_mask", "check_k", "maxsim_topk"]


def maxsim_topk(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    k: int,
    *,
    documents_mask: Tensor | Sequence[int] | None = None,
    document_scales: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
    validate: bool = True,
) -> tuple[Tensor, Tensor]:
    """Find the k documents with the highest late-interaction scores for each query.

    The scores are those of `maxsim`, bit for bit. They are taken for some documents at a time and
    the best of those kept, so the memory that a call needs depends on n_q * k and not on the
    number of documents: about 256 MB on a GPU, and 20 MB on a CPU with some 100 bytes a document
    (their offsets), beside the arguments.

    - The best score comes first; of documents with equal scores the one with the smallest id,
      also where the k-th place is shared.
    - A NaN score ranks below every number, -inf too: such documents come last, ids ascending.
    - Where fewer than k documents are there, or allowed, the places past them have the score -inf
      and the id -1.
    - A document without tokens scores 0.0, as it does in `maxsim`, and may be found.

    There is no gradient: to ask for one is an error. The op is
    `torch.ops.m3kernels.maxsim_topk`, so torch.compile traces it. A call waits for a GPU, even
    with `validate=False`, and no CUDA graph can record it.

    Args:
        queries: (sum_q, d) float32, float16 or bfloat16, the query vectors one after another.
        cu_seqlens_q: (n_q + 1,) int64 or int32; query i has the rows cu_seqlens_q[i] up to
            cu_seqlens_q[i + 1].
        documents: (sum_d, d) float32, float16 or bfloat16, or int8 or float8_e4m3fn with
            `document_scales`. The dtype may differ from the queries'.
        cu_seqlens_d: (n_d + 1,) int64 or int32, the same for the documents.
        k: how many, 1 or more.
        documents_mask: which documents may be found; None allows all. A bool tensor (n_d,), or
            (n_q, n_d) for each query its own, or the ids of those that may: an int64 or int32
            tensor (n,) or a sequence of ints, in any order. Documents that no query may find are
            skipped block by block on a CPU, and never read on a GPU.
        document_scales: (sum_d,) float32, float16 or bfloat16, one factor a row of int8 and
            float8 documents; see `maxsim`.
        reduction: "mean" or "sum" over the query's tokens.
        backend: "triton", "torch" or "reference"; None picks the best one for the device.
        validate: compare the values of `cu_seqlens_q` and `cu_seqlens_d` with the shapes, and the
            ids in `documents_mask` with the number of documents. With False, wrong values there
            give wrong results or torch's own errors.

    Returns:
        scores (n_q, k) float32 and ids (n_q, k) int64.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, device or value, or `backend` can't run here.
            The message names it.
    """
    document_scales = check_token_vectors(queries, documents, document_scales)
    device = queries.device
    cu_q = check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, device=device)
    cu_d = check_cu_seqlens("cu_seqlens_d", cu_seqlens_d, device=device)
    check_k(k)
    n_q, n_d = cu_q.shape[0] - 1, cu_d.shape[0] - 1
    mask = check_documents_mask(documents_mask, n_q=n_q, n_d=n_d, device=device)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean' or 'sum'")
    with torch.no_grad():
        scores, ids = _maxsim_topk(
            queries, cu_q, documents, cu_d, k, mask, document_scales, reduction, backend, validate
        )
    return scores, ids


@op(
    "m3kernels::maxsim_topk",
    schema="(Tensor queries, Tensor cu_seqlens_q, Tensor documents, Tensor cu_seqlens_d, int k, "
    "Tensor? documents_mask, Tensor? document_scales, str reduction, str? backend, bool validate) "
    "-> (Tensor, Tensor)",
)
def _maxsim_topk(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    k: int,
    documents_mask: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    backend: str | None,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    """What depends on values, hidden from tracers: the checks and the choice of a backend."""
    device = queries.device
    n_d = cu_seqlens_d.shape[0] - 1
    if validate:
        check_capturing(device)
        check_cu_seqlens_values("cu_seqlens_q", cu_seqlens_q, rows=queries.shape[0])
        check_cu_seqlens_values("cu_seqlens_d", cu_seqlens_d, rows=documents.shape[0])
    arguments = (
        queries, cu_seqlens_q, documents, cu_seqlens_d, k,
        allowed_documents(documents_mask, n_d=n_d, validate=validate),
        document_scales, reduction,
    )  # fmt: skip
    with as_written(device):
        match choose("maxsim_topk", backend, device, unsupported(queries, documents)):
            case "triton":
                from m3kernels.maxsim_topk.launch import maxsim_topk_triton

                return maxsim_topk_triton(*arguments)
            case "torch":
                return maxsim_topk_torch(*arguments)
            case _:
                return maxsim_topk_reference(*arguments)


@_maxsim_topk.register_fake
def _(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    k: int,
    *_: object,
) -> tuple[Tensor, Tensor]:
    shape = (cu_seqlens_q.shape[0] - 1, k)
    return queries.new_empty(shape, dtype=torch.float32), cu_seqlens_q.new_empty(shape)


def check_k(k: object) -> None:
    """Pass if k is a number of results.

    Raises:
        TypeError: it is no int.
        ValueError: it is below 1.
    """
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"k is a {type(k).__name__}; expected an int")
    if k < 1:
        raise ValueError(f"k is {k}; expected 1 or more")


def check_documents_mask(
    mask: Tensor | Sequence[int] | None, *, n_q: int, n_d: int, device: torch.device
) -> Tensor | None:
    """Return a mask as a bool tensor (n_d,) or (n_q, n_d), or ids as an int64 tensor (n,).

    Raises:
        TypeError: another type or dtype.
        ValueError: another shape or device.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        if isinstance(mask, (str, bytes)) or not isinstance(mask, Sequence):
            raise TypeError(
                f"documents_mask is a {type(mask).__name__}; "
                "expected None, a bool tensor or the ids of documents"
            )
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in mask):
            raise TypeError("documents_mask has something other than ints; expected ids")
        return torch.tensor(list(mask), dtype=torch.int64, device=device)
    if mask.device != device:
        raise ValueError(f"documents_mask is on {mask.device}; expected {device}")
    if mask.dtype in INDEX_DTYPES:
        if mask.ndim != 1:
            raise ValueError(
                f"documents_mask has ids of shape {tuple(mask.shape)}; expected 1 dimension"
            )
        return mask.to(torch.int64)
    if mask.dtype != torch.bool:
        raise TypeError(
            f"documents_mask has dtype {str(mask.dtype).removeprefix('torch.')}; "
            "expected bool, or ids in int64 or int32"
        )
    if tuple(mask.shape) not in ((n_d,), (n_q, n_d)):
        raise ValueError(
            f"documents_mask has shape {tuple(mask.shape)}; expected ({n_d},) or ({n_q}, {n_d})"
        )
    return mask


def allowed_documents(mask: Tensor | None, *, n_d: int, validate: bool) -> Tensor | None:
    """Return what `check_documents_mask` returned as a bool tensor, (n_d,) or (n_q, n_d).

    Raises:
        ValueError: an id of no document.
    """
    if mask is None or mask.dtype == torch.bool:
        return mask
    if validate and mask.numel():
        for i in torch.stack([mask.min(), mask.max()]).tolist():
            if not 0 <= i < n_d:
                raise ValueError(
                    f"documents_mask has the id {i}; expected 0 <= id < {n_d}, "
                    "the number of documents"
                )
    allowed = torch.zeros(n_d, dtype=torch.bool, device=mask.device)
    allowed[mask] = True
    return allowed
