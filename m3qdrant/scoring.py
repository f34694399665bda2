"""The four scores of BGE-M3, each of all queries against all documents.

Formulas: Chen et al. 2024, "M3-Embedding" (arXiv 2402.03216), section 3.1, as FlagEmbedding's
`compute_score` has them. Every function takes `M3Embeddings` of n_q queries and of n_d documents
and returns an (n_q, n_d) float32 tensor; where a view is missing it raises `InputError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import m3kernels
from torch import Tensor

from m3qdrant.encode import M3Embeddings, SparseVectors, TokenVectors
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE, SPARSE
from m3qdrant.weights import DEFAULT_WEIGHTS, check_weights

__all__ = ["colbert", "dense", "lexical", "weighted"]


V = TypeVar("V", Tensor, SparseVectors, TokenVectors)


def _both(name: str, queries: V | None, documents: V | None) -> tuple[V, V]:
    """The two sides' views of that name.

    Raises:
        InputError: one has none.
    """
    if queries is None or documents is None:
        side = "queries" if queries is None else "documents"
        raise InputError(f"the {side} hold no {name} view: encode them with {name}=True")
    return queries, documents


@contextmanager
def _kernel_errors(name: str) -> Iterator[None]:
    """Views that no encoder made, or that two different ones did, as an error of ours."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"the {name} views don't go together: {error}") from error


def dense(queries: M3Embeddings, documents: M3Embeddings) -> Tensor:
    """s_dense = e_q . e_d, the dot product of the normalised CLS vectors."""
    q, d = _both(DENSE, queries.dense, documents.dense)
    if q.shape[-1] != d.shape[-1]:
        raise InputError(f"dense vectors of {q.shape[-1]} and of {d.shape[-1]} dimensions")
    return q.float() @ d.float().T


def lexical(queries: M3Embeddings, documents: M3Embeddings) -> Tensor:
    """s_lex = the sum of w_q * w_d over the token ids that query and document share."""
    q, d = _both(SPARSE, queries.sparse, documents.sparse)
    with _kernel_errors(SPARSE):
        return m3kernels.lexical_scores(_csr(q), _csr(d))


def colbert(queries: M3Embeddings, documents: M3Embeddings) -> Tensor:
    """s_mul = (1 / n_q) sum_i max_j q_i . d_j: each query token's best match, averaged."""
    q, d = _both(COLBERT, queries.colbert, documents.colbert)
    with _kernel_errors(COLBERT):
        return m3kernels.maxsim(*_packed(q), *_packed(d), reduction="mean")


def weighted(
    queries: M3Embeddings,
    documents: M3Embeddings,
    weights: Sequence[float] = DEFAULT_WEIGHTS,
) -> Tensor:
    """The integrated score (w1 s_dense + w2 s_lex + w3 s_mul) / (w1 + w2 + w3).

    A view whose weight is 0 is not computed and may be missing.
    """
    weights = check_weights(weights)
    total: Tensor | None = None
    for weight, score in zip(weights, (dense, lexical, colbert), strict=True):
        if weight:
            part = score(queries, documents) * (weight / sum(weights))
            total = part if total is None else total + part
    if total is None:  # check_weights lets no sum of zero through
        raise AssertionError
    return total


def _csr(sparse: SparseVectors) -> tuple[Tensor, Tensor, Tensor]:
    return sparse.indptr, sparse.indices, sparse.values


def _packed(colbert: TokenVectors) -> tuple[Tensor, Tensor]:
    return colbert.vectors, colbert.cu_seqlens
