"""MaxSim's peers that need torch alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.kernels.bench import Prepared, Unsupported
from benchmarks.kernels.ops.maxsim.case import MaxSimInputs

__all__ = ["einsum_a_document", "matmul_max", "matmul_max_float32"]

# Elements of the largest tensor that `matmul_max` makes: 1 GB of bfloat16.
_ELEMENTS = 1 << 29


def einsum_a_document(inputs: MaxSimInputs) -> Prepared:
    """FlagEmbedding's `colbert_score`: a loop over the pairs, an einsum, a max and a sum each."""
    if inputs.scales is not None:
        raise Unsupported("float documents only")
    queries = list(inputs.padded_queries())
    documents = inputs.each_document()

    def run() -> list[list[Tensor]]:
        scores = []
        for query in queries:
            row = []
            for document in documents:
                similarity = torch.einsum("in,jn->ij", query, document)
                row.append(similarity.amax(-1).sum() / query.shape[0])
            scores.append(row)
        return scores

    return Prepared(run, lambda rows: torch.stack([torch.stack(row) for row in rows]))


def matmul_max(inputs: MaxSimInputs) -> Prepared:
    """One product of all tokens with all query tokens, then the maximum over each document.

    Quantized documents are widened to the queries' dtype first.
    """
    return Prepared(_matmul_max(inputs, _rounded), note=f"the product is {inputs.case.dtype}")


def matmul_max_float32(inputs: MaxSimInputs) -> Prepared:
    """The same without rounding the product: it is written in float32, as it was summed."""
    if not inputs.documents.is_cuda or inputs.scales is not None or inputs.case.dtype == "float32":
        raise Unsupported("a product of 16-bit tensors on a GPU")
    return Prepared(_matmul_max(inputs, _summed))


def _rounded(documents: Tensor, queries: Tensor) -> Tensor:
    product = documents.to(queries.dtype) @ queries.T
    # torch's reductions of bfloat16 are slow on a CPU
    return product if product.is_cuda else product.float()


def _summed(documents: Tensor, queries: Tensor) -> Tensor:
    return torch.mm(documents, queries.T, out_dtype=torch.float32)


def _matmul_max(
    inputs: MaxSimInputs, multiply: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[], Tensor]:
    case, queries, documents, scales = inputs.case, inputs.queries, inputs.documents, inputs.scales
    lengths = inputs.cu_seqlens_d.diff()
    tokens_q = queries.shape[0]
    # A document's share of the largest tensor: its product, or its widened self.
    floats = max(tokens_q, case.dim if scales is not None else 0)
    mean = sum(inputs.lengths) / len(inputs.lengths)
    step = max(int(_ELEMENTS / (floats * mean)), 1)
    starts = inputs.cu_seqlens_d.tolist()

    def run() -> Tensor:
        maxima = []
        for first in range(0, case.documents, step):
            last = min(first + step, case.documents)
            rows = slice(starts[first], starts[last])
            product = multiply(documents[rows], queries)  # (rows, query tokens)
            if scales is not None:
                product *= scales[rows, None].to(product.dtype)
            if inputs.fixed_length is not None:
                maxima.append(product.view(-1, inputs.fixed_length, tokens_q).amax(1))
            else:
                maxima.append(_segment_max(product, lengths[first:last]))
        best = torch.cat(maxima).float()  # (documents, query tokens)
        return best.view(-1, case.queries, case.query_tokens).mean(2).T

    return run


def _segment_max(product: Tensor, lengths: Tensor) -> Tensor:
    """Maximum over each document's rows, (documents, query tokens), by the device's faster way."""
    if product.is_cuda:
        return torch.segment_reduce(product, "max", lengths=lengths, axis=0, unsafe=True)
    places = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
    out = product.new_full((lengths.numel(), product.shape[1]), -torch.inf)
    return out.scatter_reduce_(0, places[:, None].expand_as(product), product, "amax")
