"""MaxSim in plain torch, for the CPU and for a GPU without Triton."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from m3kernels.packing import lengths, segment_ids

# What a call holds at a time beside its arguments, their float32 queries and its result; a single
# document (or pair) that needs more takes what it needs. On a CPU a block that was widened to
# float32 stays in the cache, so that float16, bfloat16 and int8 documents cost what float32 ones
# do; smaller blocks lose to the threads' start. A GPU wants more work in a launch.
SCRATCH_BYTES_CPU = 8 << 20
SCRATCH_BYTES_GPU = 256 << 20

# Query tokens in one product. Enough for the matrix units, and it bounds the products' size.
_BLOCK_Q = 512


def maxsim_torch(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    scratch_bytes: int | None = None,
) -> Tensor:
    """Score block by block in float32; takes the checked arguments of `m3kernels.maxsim`.

    Low-precision inputs are widened rather than multiplied as they are: a bfloat16 product on the
    CPU rounds its result too, which moved mean scores by up to 6e-4.
    """
    if scratch_bytes is None:
        scratch_bytes = SCRATCH_BYTES_CPU if queries.device.type == "cpu" else SCRATCH_BYTES_GPU
    scratch = scratch_bytes // 4
    widened = queries.float()
    n_tokens = lengths(cu_seqlens_q).clamp(min=1)
    if pairs is None:
        n_tokens = n_tokens[:, None]
        sums = _score_all(widened, cu_seqlens_q, documents, cu_seqlens_d, document_scales, scratch)
    else:
        n_tokens = n_tokens[pairs[:, 0]]
        sums = _score_pairs(
            widened, cu_seqlens_q, documents, cu_seqlens_d, pairs, document_scales, scratch
        )
    return sums / n_tokens if reduction == "mean" else sums


def _score_all(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    document_scales: Tensor | None,
    scratch: int,
) -> Tensor:
    """Sums of all queries against all documents, (n_q, n_d); `scratch` counts floats."""
    sum_q, dim = queries.shape
    lengths_q, lengths_d = lengths(cu_seqlens_q), lengths(cu_seqlens_d)
    out = queries.new_zeros(lengths_q.numel(), lengths_d.numel())
    if sum_q == 0:
        return out
    block_q = min(sum_q, _BLOCK_Q)
    starts = cu_seqlens_d.tolist()
    # float32 documents are read where they lie; the others are copied.
    floats = block_q if documents.dtype == torch.float32 else block_q + dim
    for first, last in _blocks(
        cu_seqlens_d.cpu(), max_rows=scratch // floats, max_sequences=scratch // sum_q
    ):
        rows = slice(starts[first], starts[last])
        block = documents[rows].float()  # (R, d)
        segments = segment_ids(cu_seqlens_d[first : last + 1], block.shape[0])
        maxima = block.new_full((last - first, sum_q), -torch.inf)
        for i in range(0, sum_q, block_q):
            similarity = block @ queries[i : i + block_q].T  # (R, block_q)
            if document_scales is not None:
                similarity *= document_scales[rows, None]
            # An index expanded from one column takes torch's row-wise path, ten times the speed
            # of segment_reduce(max). The max of a NaN is NaN.
            maxima[:, i : i + block_q].scatter_reduce_(
                0, segments[:, None].expand_as(similarity), similarity, "amax"
            )
        # Not index_add_, which sums in a varying order on a GPU.
        out[:, first:last] = torch.segment_reduce(
            maxima.T.contiguous(), "sum", lengths=lengths_q, axis=0, unsafe=True
        )
    return out.masked_fill_(lengths_d == 0, 0.0)


def _blocks(cu_seqlens: Tensor, *, max_rows: int, max_sequences: int) -> Iterator[tuple[int, int]]:
    """Yield runs (first, last) of sequences within both limits, or one sequence that is not."""
    n = cu_seqlens.numel() - 1
    first = 0
    while first < n:
        limit = cu_seqlens[first] + max_rows
        last = int(torch.searchsorted(cu_seqlens, limit, right=True)) - 1
        last = max(min(last, first + max_sequences, n), first + 1)
        yield first, last
        first = last


def _score_pairs(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor,
    document_scales: Tensor | None,
    scratch: int,
) -> Tensor:
    """Sums of the pairs, (n_pairs,), by padded blocks of pairs; `scratch` counts floats."""
    dim = queries.shape[1]
    out = queries.new_zeros(pairs.shape[0])
    start_q, end_q = cu_seqlens_q[pairs[:, 0]], cu_seqlens_q[pairs[:, 0] + 1]
    start_d, end_d = cu_seqlens_d[pairs[:, 1]], cu_seqlens_d[pairs[:, 1] + 1]
    lengths_q, lengths_d = end_q - start_q, end_d - start_d

    # Pairs of like size share a block, so that little of it is padding: queries of one power of
    # two, then documents from long to short.
    scored = ((lengths_q > 0) & (lengths_d > 0)).nonzero()[:, 0]
    scored = scored[lengths_d[scored].argsort(descending=True, stable=True)]
    powers = torch.frexp(lengths_q[scored].float()).exponent
    for power in torch.unique(powers).tolist():
        order = scored[powers == power]
        longest_q = int(lengths_q[order].max())
        sorted_lengths_d = lengths_d[order].tolist()
        first = 0
        while first < len(sorted_lengths_d):
            longest_d = sorted_lengths_d[first]
            floats = (longest_q + longest_d) * dim + longest_q * longest_d
            block = order[first : first + max(scratch // floats, 1)]
            first += block.numel()
            # Places past a document's end repeat its last token, which leaves the max alone.
            i_d = start_d[block, None] + torch.arange(longest_d, device=out.device)
            i_d = torch.minimum(i_d, end_d[block, None] - 1)
            i_q = start_q[block, None] + torch.arange(longest_q, device=out.device)
            past_q = i_q >= end_q[block, None]
            i_q = torch.minimum(i_q, end_q[block, None] - 1)
            similarity = queries[i_q] @ documents[i_d].float().mT  # (pairs, query, document)
            if document_scales is not None:
                similarity *= document_scales[i_d][:, None]
            out[block] = similarity.amax(2).masked_fill_(past_q, 0.0).sum(1)
    return out
