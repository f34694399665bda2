"""The alignment's peers, which need torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.kernels.bench import Prepared
from benchmarks.kernels.ops.maxsim_alignment.case import AlignmentInputs

__all__ = ["einsum_a_pair", "matmul_max"]


def einsum_a_pair(inputs: AlignmentInputs) -> Prepared:
    """A loop over the pairs: an einsum, and a max with its places."""
    query, documents = inputs.drawn.queries, inputs.drawn.each_document()

    def run() -> tuple[Tensor, Tensor]:
        found = [torch.einsum("in,jn->ij", query, document).max(1) for document in documents]
        return torch.cat([at for _, at in found]), torch.cat([best for best, _ in found])

    return Prepared(run, inputs.found)


def matmul_max(inputs: AlignmentInputs) -> Prepared:
    """One product of all tokens, then a max with its places over each document."""
    query, documents, lengths = inputs.drawn.queries, inputs.drawn.documents, inputs.drawn.lengths

    def run() -> tuple[Tensor, Tensor]:
        found = [part.max(1) for part in torch.split(query @ documents.T, lengths, dim=1)]
        return torch.cat([at for _, at in found]), torch.cat([best for best, _ in found])

    return Prepared(run, inputs.found, f"the product is {inputs.case.dtype}")
