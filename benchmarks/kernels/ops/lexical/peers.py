"""Peers of the lexical scores."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.kernels.bench import Prepared, Unsupported, package
from benchmarks.kernels.draws import CSR, VOCABULARY
from benchmarks.kernels.ops.lexical.case import LexicalInputs

__all__ = ["dense_product", "dict_loop", "embedding_bag", "scipy_product", "torch_sparse"]

# The largest dense matrix of the documents that is worth its memory.
_DENSE_BYTES = 4 << 30


def dict_loop(inputs: LexicalInputs) -> Prepared:
    """FlagEmbedding's `compute_lexical_matching_score`, pair by pair over dicts."""
    queries, documents = _dicts(inputs.queries), _dicts(inputs.documents)

    def run() -> list[list[float]]:
        return [[_shared(query, document) for document in documents] for query in queries]

    device = inputs.documents[0].device
    return Prepared(run, lambda rows: torch.tensor(rows, device=device), "from Python dicts")


def dense_product(inputs: LexicalInputs) -> Prepared:
    """A product of two dense matrices over the vocabulary."""
    size = 4 * inputs.case.documents * VOCABULARY
    if size > _DENSE_BYTES:
        raise Unsupported(f"the dense matrix of the documents has {size / 1e9:.0f} GB")
    queries, documents = _dense(inputs.queries), _dense(inputs.documents)
    return Prepared(lambda: queries @ documents.T, note="dense matrices made beforehand")


def embedding_bag(inputs: LexicalInputs) -> Prepared:
    """Each document sums the queries' weights at its ids: torch's `embedding_bag`."""
    table = _dense(inputs.queries).T.contiguous()  # (vocabulary, queries)
    indptr, indices, values = inputs.documents
    indptr = indptr.to(indices.dtype)

    def run() -> Tensor:
        return torch.nn.functional.embedding_bag(
            indices,
            table,
            indptr,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        ).T

    return Prepared(run, note="dense queries made beforehand")


def torch_sparse(inputs: LexicalInputs) -> Prepared:
    """A CSR matrix of the documents by a dense matrix of the queries."""
    table = _dense(inputs.queries).T.contiguous()
    indptr, indices, values = inputs.documents
    shape = (inputs.case.documents, VOCABULARY)
    matrix = torch.sparse_csr_tensor(indptr.to(indices.dtype), indices, values, shape)
    return Prepared(lambda: (matrix @ table).T, note="dense queries made beforehand")


def scipy_product(inputs: LexicalInputs) -> Prepared:
    """A product of two scipy.sparse matrices."""
    sparse = package("scipy.sparse")
    if inputs.documents[0].is_cuda:
        raise Unsupported("CPU only")
    queries, documents = (
        sparse.csr_matrix(
            (csr[2].numpy(), csr[1].numpy(), csr[0].numpy()),
            shape=(csr[0].numel() - 1, VOCABULARY),
        )
        for csr in (inputs.queries, inputs.documents)
    )
    columns = documents.T.tocsr()  # the faster side for a product with few queries
    return Prepared(
        lambda: (queries @ columns).toarray(), torch.from_numpy, "documents by id beforehand"
    )


def _shared(query: dict[str, float], document: dict[str, float]) -> float:
    score = 0.0
    for name, weight in query.items():
        if name in document:
            score += weight * document[name]
    return score


def _dicts(csr: CSR) -> list[dict[str, float]]:
    indptr, indices, values = (part.tolist() for part in csr)
    names = [str(token_id) for token_id in indices]
    return [
        dict(zip(names[start:end], values[start:end], strict=True))
        for start, end in pairwise(indptr)
    ]


def _dense(csr: CSR) -> Tensor:
    indptr, indices, values = csr
    rows = torch.arange(indptr.numel() - 1, device=indptr.device)
    rows = torch.repeat_interleave(rows, indptr.diff())
    dense = values.new_zeros(indptr.numel() - 1, VOCABULARY)
    dense[rows, indices.long()] = values
    return dense
