"""Lexical scores: products of sparse term weights."""

from __future__ import annotations

from typing import TypeAlias

# `import torch` would not do here: the name `torch` of this package is its own submodule.
from torch import Tensor, no_grad

from m3kernels.dispatch import choose
from m3kernels.lexical.reference import lexical_scores_reference
from m3kernels.lexical.torch import lexical_scores_torch
from m3kernels.packing import check_csr

__all__ = ["lexical_scores"]

CSR: TypeAlias = tuple[Tensor, Tensor, Tensor]

_IMPLEMENTATIONS = {"torch": lexical_scores_torch, "reference": lexical_scores_reference}


def lexical_scores(q_csr: CSR, d_csr: CSR, *, backend: str | None = None) -> Tensor:
    """Score queries against documents by the lexical weights of the terms that they share.

        score(q, d) = sum over the ids in both of w_q[id] * w_d[id]

    which is s_lex of the BGE-M3 paper (arXiv 2402.03216, section 3.2) and FlagEmbedding's
    `compute_lexical_matching_score`. A row without terms scores 0.0. A stored weight of 0
    counts as no term. A NaN or an infinity reaches the scores of the pairs that share its id and
    no others.

    Args:
        q_csr: the queries, (indptr (n_q + 1,) int64 or int32, indices (nnz,) int64 or int32,
            values (nnz,) float32, float16 or bfloat16); the indices of a row ascend and none
            stands twice, as `sparse_max` returns them.
        d_csr: the documents, the same.
        backend: "torch" or "reference"; None picks the best one for the device.

    Returns:
        (n_q, n_d) float32. The same inputs give the same bytes. It never requires a gradient.

    Raises:
        TypeError: an argument is no triple of tensors or has another dtype.
        ValueError: an argument has another shape, device or value. The message names it. The
            checks read the indices, so on a GPU the call waits for the device.
        NotImplementedError: `backend` has no kernel in this version.
    """
    q = check_csr("q_csr", q_csr)
    d = check_csr("d_csr", d_csr, device=q[0].device)
    implementation = choose("lexical_scores", backend, _IMPLEMENTATIONS)
    with no_grad():
        return implementation(q, d)
