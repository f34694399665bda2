"""MaxSim: late-interaction scores of packed queries against packed documents."""

from __future__ import annotations

# `import torch` would not do here: the name `torch` of this package is its own submodule.
from torch import Tensor, float32, int8, no_grad

from m3kernels.dispatch import choose
from m3kernels.maxsim.reference import maxsim_reference
from m3kernels.maxsim.torch import maxsim_torch
from m3kernels.packing import FLOAT_DTYPES, check_cu_seqlens, check_pairs, check_tensor

__all__ = ["maxsim"]

_IMPLEMENTATIONS = {"torch": maxsim_torch, "reference": maxsim_reference}


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
) -> Tensor:
    """Score queries against documents by late interaction.

    With q_1 .. q_N the vectors of a query and d_j those of a document,

        score = (1 / N) sum_i max_j q_i . d_j

    which is s_mul of the BGE-M3 paper (arXiv 2402.03216, section 3.2) and FlagEmbedding's
    `colbert_score`; "sum" leaves the division out, as ColBERT does (arXiv 2004.12832).
    A query or a document without tokens scores 0.0. A NaN or an infinity reaches the scores of its
    own query or document and no others, and a NaN is never hidden by the max.

    Scores are accumulated in float32 whatever the inputs are. The same inputs give the same bytes.
    There is no gradient: the result never requires one.

    Args:
        queries: (sum_q, d) float32, float16 or bfloat16, the query vectors one after another.
        cu_seqlens_q: (n_q + 1,) int64 or int32; query i has the rows cu_seqlens_q[i] up to
            cu_seqlens_q[i + 1].
        documents: (sum_d, d) float32, float16 or bfloat16, or int8 with `document_scales`.
            The dtype may differ from the queries'.
        cu_seqlens_d: (n_d + 1,) int64 or int32, the same for the documents.
        pairs: (n_pairs, 2) int64 or int32, each row a (query, document) to score, in any order;
            None scores all of them.
        document_scales: (sum_d,) float32, float16 or bfloat16: token j scores
            document_scales[j] * (q_i . d_j). Required with int8 documents, and only taken there.
        reduction: "mean" or "sum" over the query's tokens.
        backend: "torch" or "reference"; None picks the best one for the device.

    Returns:
        (n_q, n_d) float32, or (n_pairs,) float32 where `pairs` is given.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: an argument has another shape, device or value. The message names it. The
            checks read the cu_seqlens and the pairs, so on a GPU the call waits for the device.
        NotImplementedError: `backend` has no kernel in this version.
    """
    check_tensor("queries", queries, ndim=2, dtypes=FLOAT_DTYPES)
    device = queries.device
    check_tensor("documents", documents, ndim=2, dtypes=(*FLOAT_DTYPES, int8), device=device)
    if documents.shape[1] != queries.shape[1]:
        raise ValueError(
            f"documents has vectors of {documents.shape[1]}; expected {queries.shape[1]}, "
            "as queries has"
        )
    cu_q = check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, rows=queries.shape[0], device=device)
    cu_d = check_cu_seqlens("cu_seqlens_d", cu_seqlens_d, rows=documents.shape[0], device=device)
    if pairs is not None:
        pairs = check_pairs(
            pairs, n_queries=cu_q.numel() - 1, n_documents=cu_d.numel() - 1, device=device
        )
    if documents.dtype == int8 and document_scales is None:
        raise ValueError("document_scales is None; expected (sum_d,) scales for int8 documents")
    if document_scales is not None:
        if documents.dtype != int8:
            raise ValueError(
                f"document_scales is given with {documents.dtype} documents; expected None, "
                "scales go with int8 documents"
            )
        check_tensor(
            "document_scales", document_scales, ndim=1, dtypes=FLOAT_DTYPES, device=device
        )
        if document_scales.shape[0] != documents.shape[0]:
            raise ValueError(
                f"document_scales has {document_scales.shape[0]} entries; "
                f"expected {documents.shape[0]}, one a row of documents"
            )
        document_scales = document_scales.to(float32)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean' or 'sum'")

    implementation = choose("maxsim", backend, _IMPLEMENTATIONS)
    with no_grad():
        return implementation(queries, cu_q, documents, cu_d, pairs, document_scales, reduction)
