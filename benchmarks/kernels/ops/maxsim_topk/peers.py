"""Other ways to the best documents: ours from int8 documents, plain torch, and NumKong."""

from __future__ import annotations

import m3kernels
import torch
from torch import Tensor

from benchmarks.kernels.bench import Prepared, Unsupported, package
from benchmarks.kernels.ops.maxsim_topk.case import TopkInputs

__all__ = ["certified", "matmul_max", "numkong", "unproven"]


def certified(inputs: TopkInputs) -> Prepared:
    """Ours, from int8 and the exact rows of a few; the documents are quantized beforehand."""
    drawn, k = inputs.drawn, inputs.case.k
    documents = m3kernels.certify(drawn.documents, drawn.cu_seqlens_d)

    def run() -> m3kernels.CertifiedTopk:
        return m3kernels.certified_topk(
            drawn.queries, drawn.cu_seqlens_q, documents, k, validate=False
        )

    rescored = float(run().rescored.double().mean())
    return Prepared(run, inputs.exactly, f"{rescored:.4g} documents scored again, exact")


def unproven(inputs: TopkInputs) -> Prepared:
    """Ours, from int8 alone."""
    drawn, k = inputs.drawn, inputs.case.k
    narrow, scales = m3kernels.quantize_tokens(drawn.documents)

    def run() -> tuple[Tensor, Tensor]:
        return m3kernels.maxsim_topk(
            drawn.queries,
            drawn.cu_seqlens_q,
            narrow,
            drawn.cu_seqlens_d,
            k,
            document_scales=scales,
            validate=False,
        )

    return Prepared(run, lambda out: inputs.found(out[1]), inputs.agreement(run()[1]))


def matmul_max(inputs: TopkInputs) -> Prepared:
    """One product of all tokens, the maximum over each document, and torch.topk."""
    drawn, case = inputs.drawn, inputs.case
    if case.documents > 10_000:
        raise Unsupported("the products of all tokens take too much memory")
    lengths = drawn.cu_seqlens_d.diff()
    segments = torch.repeat_interleave(
        torch.arange(case.documents, device=lengths.device), lengths
    )

    def run() -> tuple[Tensor, Tensor]:
        products = drawn.documents @ drawn.queries.T
        maxima = products.new_full((case.documents, products.shape[1]), -torch.inf)
        maxima.scatter_reduce_(0, segments[:, None].expand_as(products), products, "amax")
        scores = maxima.view(-1, case.queries, case.query_tokens).mean(2).T
        best = torch.topk(scores, case.k, dim=1)
        return best.values, best.indices

    return Prepared(run, inputs.exactly)


def numkong(inputs: TopkInputs) -> Prepared:
    """NumKong: int8 screening of packed documents, then the angular distances of the winners."""
    nk = package("numkong")
    drawn, case = inputs.drawn, inputs.case
    if drawn.documents.is_cuda:
        raise Unsupported("CPU only")
    documents = [nk.maxsim_pack(rows.numpy()) for rows in drawn.each_document()]

    def run() -> tuple[Tensor, Tensor]:
        distances = []
        for query in drawn.padded_queries():
            packed = nk.maxsim_pack(query.numpy())
            distances.append([nk.maxsim_packed(packed, document) for document in documents])
        best = torch.topk(torch.tensor(distances), case.k, dim=1, largest=False)
        return best.values, best.indices

    return Prepared(
        run, lambda out: inputs.found(out[1]), f"one thread, {inputs.agreement(run()[1])}"
    )
