"""MaxSim: late-interaction scores of packed queries against packed documents."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from m3kernels.dispatch import as_written, choose, target_of
from m3kernels.maxsim.cpu import maxsim_torch
from m3kernels.maxsim.reference import maxsim_reference
from m3kernels.packing import (
    FLOAT_DTYPES,
    check_capturing,
    check_cu_seqlens,
    check_cu_seqlens_values,
    check_pairs,
    check_pairs_values,
    check_tensor,
)

__all__ = ["maxsim"]

# Rows are counted in 32 bits, up to the end of the last tile.
_MOST_ROWS = 2**31 - 1024

QUANTIZED_DTYPES = (torch.int8, torch.float8_e4m3fn)


def maxsim(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    *,
    pairs: Tensor | None = None,
    document_scales: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
    validate: bool = True,
) -> Tensor:
    """Score queries against documents by late interaction.

    With q_1 .. q_N the vectors of a query and d_j those of a document,

        score = (1 / N) sum_i max_j q_i . d_j

    which is s_mul of the BGE-M3 paper (arXiv 2402.03216, section 3.2) and FlagEmbedding's
    `colbert_score`; "sum" leaves the division out, as ColBERT does (arXiv 2004.12832).
    A query or a document without tokens scores 0.0. A NaN or an infinity reaches the scores of its
    own query or document and no others, and a NaN is never hidden by the max.

    Scores are accumulated in float32 whatever the inputs are. The same inputs give the same bytes.
    There is no gradient: the result never requires one. The op is `torch.ops.m3kernels.maxsim`, so
    torch.compile traces it. With Triton and `validate=False` the call never waits for the device,
    and a CUDA graph can record it.

    Args:
        queries: (sum_q, d) float32, float16 or bfloat16, the query vectors one after another.
        cu_seqlens_q: (n_q + 1,) int64 or int32; query i has the rows cu_seqlens_q[i] up to
            cu_seqlens_q[i + 1].
        documents: (sum_d, d) float32, float16 or bfloat16, or int8 or float8_e4m3fn with
            `document_scales`. The dtype may differ from the queries'.
        cu_seqlens_d: (n_d + 1,) int64 or int32, the same for the documents.
        pairs: (n_pairs, 2) int64 or int32, each row a (query, document) to score, in any order;
            None scores all of them.
        document_scales: (sum_d,) float32, float16 or bfloat16: token j scores
            document_scales[j] * (q_i . d_j). Required with int8 and float8 documents, and only
            taken there; `quantize_tokens` makes both.
        reduction: "mean" or "sum" over the query's tokens.
        backend: "triton", "torch" or "reference"; None picks the best one for the device.
        validate: compare the values of `cu_seqlens_q`, `cu_seqlens_d` and `pairs` with the shapes,
            which waits for a GPU. With False, wrong values there give wrong scores.

    Returns:
        (n_q, n_d) float32, or (n_pairs,) float32 where `pairs` is given.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: an argument has another shape, device or value, or `backend` can't run here.
            The message names it.
    """
    check_tensor("queries", queries, ndim=2, dtypes=FLOAT_DTYPES)
    device = queries.device
    check_tensor(
        "documents", documents, ndim=2, dtypes=(*FLOAT_DTYPES, *QUANTIZED_DTYPES), device=device
    )
    if documents.shape[1] != queries.shape[1]:
        raise ValueError(
            f"documents has vectors of {documents.shape[1]}; expected {queries.shape[1]}, "
            "as queries has"
        )
    cu_q = check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, device=device)
    cu_d = check_cu_seqlens("cu_seqlens_d", cu_seqlens_d, device=device)
    if pairs is not None:
        pairs = check_pairs(pairs, device=device)
    quantized = documents.dtype in QUANTIZED_DTYPES
    if quantized and document_scales is None:
        raise ValueError(
            f"document_scales is None; expected (sum_d,) scales for {documents.dtype} documents"
        )
    if document_scales is not None:
        if not quantized:
            raise ValueError(
                f"document_scales is given with {documents.dtype} documents; expected None, "
                "scales go with int8 and float8_e4m3fn documents"
            )
        check_tensor(
            "document_scales", document_scales, ndim=1, dtypes=FLOAT_DTYPES, device=device
        )
        if document_scales.shape[0] != documents.shape[0]:
            raise ValueError(
                f"document_scales has {document_scales.shape[0]} entries; "
                f"expected {documents.shape[0]}, one a row of documents"
            )
        document_scales = document_scales.to(torch.float32)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean' or 'sum'")
    with torch.no_grad():
        scores: Tensor = _maxsim(
            queries, cu_q, documents, cu_d, pairs, document_scales, reduction, backend, validate
        )
    return scores


@custom_op(
    "m3kernels::maxsim",
    mutates_args=(),
    schema="(Tensor queries, Tensor cu_seqlens_q, Tensor documents, Tensor cu_seqlens_d, "
    "Tensor? pairs, Tensor? document_scales, str reduction, str? backend, bool validate) "
    "-> Tensor",
)
def _maxsim(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    backend: str | None,
    validate: bool,
) -> Tensor:
    """What depends on values, hidden from tracers: the checks and the choice of a backend."""
    device = queries.device
    if validate:
        check_capturing(device)
        check_cu_seqlens_values("cu_seqlens_q", cu_seqlens_q, rows=queries.shape[0])
        check_cu_seqlens_values("cu_seqlens_d", cu_seqlens_d, rows=documents.shape[0])
        if pairs is not None:
            n_queries, n_documents = cu_seqlens_q.shape[0] - 1, cu_seqlens_d.shape[0] - 1
            check_pairs_values(pairs, n_queries=n_queries, n_documents=n_documents)
    arguments = (
        queries, cu_seqlens_q, documents, cu_seqlens_d, pairs, document_scales, reduction,
    )  # fmt: skip
    with as_written(device):
        match choose("maxsim", backend, device, _unsupported(queries, documents)):
            case "triton":
                from m3kernels.maxsim.launch import maxsim_triton

                return maxsim_triton(*arguments)
            case "torch":
                return maxsim_torch(*arguments)
            case _:
                return maxsim_reference(*arguments)


@_maxsim.register_fake
def _(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    *_: object,
) -> Tensor:
    n_q, n_d = cu_seqlens_q.shape[0] - 1, cu_seqlens_d.shape[0] - 1
    shape = (n_q, n_d) if pairs is None else (pairs.shape[0],)
    return queries.new_empty(shape, dtype=torch.float32)


def _unsupported(queries: Tensor, documents: Tensor) -> str | None:
    """Why the Triton kernel can't take these tensors, or None."""
    dim = queries.shape[1]
    if dim == 0:
        return "vectors have no dimensions"
    if max(queries.shape[0], documents.shape[0]) >= _MOST_ROWS:
        return f"the kernel takes fewer than {_MOST_ROWS:,} rows"
    target = target_of(queries.device)
    if target is not None and target.family == "sm_100" and dim <= 64:
        return f"Triton's compiler fails for {target.name} below 80 dimensions"
    if documents.dtype == torch.float8_e4m3fn and target is not None and not target.fp8:
        return f"{target.name} has no float8_e4m3fn"
    return None
