"""MaxSim in plain torch, for the CPU and for a GPU without Triton."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import torch
from torch import Tensor

from m3kernels.layouts import one_after_another, sequences, spans
from m3kernels.maxsim.maxima import Rows, choose
from m3kernels.packing import from_lengths, lengths

__all__ = [
    "SCRATCH_BYTES_CPU",
    "SCRATCH_BYTES_GPU",
    "documents_at_a_time",
    "maxsim_torch",
    "query_runs",
    "rows_at_a_time",
    "score_blocks",
]

# What a call holds at a time beside its arguments and its result, whatever the number of
# documents and their lengths; more only where a single row of documents, a single query or (on a
# GPU) a single pair needs more. On a CPU a block stays in the cache that way, so that widening
# it costs little; smaller blocks lose to the threads' start. A GPU wants more work in a launch.
SCRATCH_BYTES_CPU = 16 << 20
SCRATCH_BYTES_GPU = 256 << 20

# Query tokens in one product: whole queries up to so many, or one longer query.
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
    query_weights: Tensor | None = None,
) -> Tensor:
    """Score block by block; takes the checked arguments of `m3kernels.maxsim`.

    Each side is packed or in spans, see `m3kernels.layouts`. Documents in spans are read where
    they lie, and copied a block at a time where a block has several of them; queries are packed.

    A block of rows is multiplied with some queries' tokens, and a max over the rows of each
    document goes on from block to block. There are three ways to a block's maxima, in `maxima`:

    - `Widened`, everywhere: the block in float32.
    - `Refined`, for bfloat16 documents on a CPU with bfloat16 arithmetic: a bfloat16 product
      finds the rows that can be a maximum, and those are multiplied again in float32. It returns
      what `Widened` does within float32's rounding, 2e-6 of |q| |d|.
    - `Digits`, for int8 documents on a CPU with VNNI: integer products with the query's tokens
      as two int8 digits a number. A token's maximum is off by at most
      max|q_i| sum_i|d_i| / 64,516; mean scores of unit vectors at d = 1024 by about 1e-6.

    float8_e4m3fn documents are widened exactly.
    """
    if scratch_bytes is None:
        scratch_bytes = SCRATCH_BYTES_CPU if queries.device.type == "cpu" else SCRATCH_BYTES_GPU
    if cu_seqlens_q.ndim == 2:
        order, cu_seqlens_q = one_after_another(cu_seqlens_q)
        queries = queries[order]
        query_weights = None if query_weights is None else query_weights[order]
    n_tokens = lengths(cu_seqlens_q).clamp(min=1)
    if pairs is None:
        sides = (queries, cu_seqlens_q, documents, cu_seqlens_d)
        sums = _score_all(*sides, document_scales, query_weights, scratch_bytes)
        return sums / n_tokens[:, None] if reduction == "mean" else sums
    batch = (queries, cu_seqlens_q, documents, spans(cu_seqlens_d), pairs)
    if queries.device.type == "cpu":
        sums = _score_by_query(*batch, document_scales, query_weights, scratch_bytes)
    else:
        sums = _score_padded(*batch, document_scales, query_weights, scratch_bytes)
    return sums / n_tokens[pairs[:, 0]] if reduction == "mean" else sums


def _score_all(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    document_scales: Tensor | None,
    query_weights: Tensor | None,
    scratch_bytes: int,
) -> Tensor:
    """Sums of all queries against all documents, (n_q, n_d)."""
    n_q, n_d = cu_seqlens_q.numel() - 1, sequences(cu_seqlens_d)
    out = queries.new_zeros(n_q, n_d, dtype=torch.float32)
    batch = (queries, cu_seqlens_q, documents, cu_seqlens_d, document_scales, scratch_bytes)
    for of_q, of_d, sums in score_blocks(*batch, query_weights=query_weights):
        out[of_q, of_d] = sums
    return out


def score_blocks(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    document_scales: Tensor | None,
    scratch_bytes: int,
    allowed: Tensor | None = None,
    query_weights: Tensor | None = None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the sums of some queries against some documents, until all have met.

    Takes the arguments of `maxsim_torch` with packed queries, and `allowed`, (n_d,) or (n_q, n_d)
    bool: the documents that are asked for, None for all. Rows are skipped by whole blocks and the
    products of the others stay as they are, so what is asked for has the same bits; the rest means
    nothing, or is not yielded.

    Yields:
        (queries, documents, sums): two slices, and (queries, documents) float32.
    """
    packed = cu_seqlens_d.ndim == 1
    spans_d = spans(cu_seqlens_d)
    lengths_q, lengths_d = lengths(cu_seqlens_q), spans_d.diff(dim=1)[:, 0]
    cu_d = cu_seqlens_d if packed else from_lengths(lengths_d)
    starts_q, starts_d = cu_seqlens_q.tolist(), cu_d.tolist()
    for first_q, last_q in query_runs(starts_q):
        of_q = slice(first_q, last_q)
        tokens = queries[starts_q[first_q] : starts_q[last_q]].float()
        wanted = allowed
        if allowed is not None and allowed.ndim == 2:
            wanted = allowed[of_q].any(0)
        n = documents_at_a_time(tokens, scratch_bytes)
        for first in range(0, lengths_d.numel(), n):
            last = min(first + n, lengths_d.numel())
            of_d = slice(first, last)
            if wanted is not None and not bool(wanted[of_d].any()):
                continue
            if tokens.shape[0] == 0:
                yield of_q, of_d, tokens.new_zeros(last_q - first_q, last - first)
                continue
            cu_part = cu_d[first : last + 1] - starts_d[first]
            rows, offsets = slice(starts_d[first], starts_d[last]), None
            if not packed:
                rows, offsets = slice(None), spans_d[of_d, 0] - cu_part[:-1]
            maxima = _maxima(
                tokens,
                documents[rows],
                None if document_scales is None else document_scales[rows],
                cu_part,
                offsets,
                scratch_bytes,
                None if wanted is None else wanted[of_d],
            )  # (documents, tokens)
            if query_weights is not None:
                of_block = slice(starts_q[first_q], starts_q[last_q])
                maxima = _weighed(maxima, query_weights[of_block])
            # Not index_add_, which sums in a varying order on a GPU.
            sums = torch.segment_reduce(
                maxima.T.contiguous(), "sum", lengths=lengths_q[of_q], unsafe=True
            )
            yield of_q, of_d, sums.masked_fill_(lengths_d[of_d] == 0, 0.0)


def _weighed(maxima: Tensor, weights: Tensor) -> Tensor:
    """Maxima (.., tokens) times their tokens' weights; of weight 0, 0 whatever the maximum is."""
    return torch.where(weights == 0, 0.0, maxima * weights)


def _score_by_query(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    spans_d: Tensor,
    pairs: Tensor,
    document_scales: Tensor | None,
    query_weights: Tensor | None,
    scratch_bytes: int,
) -> Tensor:
    """Sums of the pairs, (n_pairs,): the pairs of a query share its products."""
    out = queries.new_zeros(pairs.shape[0], dtype=torch.float32)
    _, lengths_d, order = _lengths_of_pairs(pairs, cu_seqlens_q, spans_d)
    # By query, then by document, so that neighbours in memory are read where they lie.
    order = order[pairs[order, 1].argsort(stable=True)]
    order = order[pairs[order, 0].argsort(stable=True)]
    ids, counts = torch.unique_consecutive(pairs[order, 0], return_counts=True)
    starts_q = cu_seqlens_q.tolist()
    for i_q, places in zip(ids.tolist(), torch.split(order, counts.tolist()), strict=True):
        of_query = slice(starts_q[i_q], starts_q[i_q + 1])
        tokens = queries[of_query].float()
        for part in torch.split(places, documents_at_a_time(tokens, scratch_bytes)):
            i_d = pairs[part, 1]
            cu_part = from_lengths(lengths_d[part])
            offsets = spans_d[i_d, 0] - cu_part[:-1]
            maxima = _maxima(tokens, documents, document_scales, cu_part, offsets, scratch_bytes)
            if query_weights is not None:
                maxima = _weighed(maxima, query_weights[of_query])
            out[part] = maxima.sum(1)
    return out


def _lengths_of_pairs(
    pairs: Tensor, cu_seqlens_q: Tensor, spans_d: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of each pair's query and document, (n_pairs,) each, and the places of the pairs
    where both have some: the others score 0.
    """
    lengths_q = lengths(cu_seqlens_q)[pairs[:, 0]]
    lengths_d = spans_d.diff(dim=1)[pairs[:, 1], 0]
    return lengths_q, lengths_d, ((lengths_q > 0) & (lengths_d > 0)).nonzero()[:, 0]


def _maxima(
    tokens: Tensor,
    documents: Tensor,
    document_scales: Tensor | None,
    cu_seqlens: Tensor,
    offsets: Tensor | None,
    scratch_bytes: int,
    wanted: Tensor | None = None,
) -> Tensor:
    """Largest products of query tokens with the rows of documents, (n, tokens) float32.

    Blocks have one size whatever the documents' lengths.

    Args:
        tokens: (tokens, d) float32.
        documents: (rows, d) of any dtype.
        document_scales: (rows,) float32 or None.
        cu_seqlens: (n + 1,) int64 of the documents to score, one after another.
        offsets: (n,) int64, how far after its place in `cu_seqlens` a document lies in
            `documents`; None where they lie as `cu_seqlens` says.
        scratch_bytes: see SCRATCH_BYTES_CPU.
        wanted: (n,) bool, the documents that are asked for; blocks without any are skipped.
    """
    starts = cu_seqlens.tolist()
    moved = None if offsets is None else offsets.tolist()
    if moved is not None and len(set(moved)) == 1:  # neighbours
        documents = documents[moved[0] :]
        document_scales = None if document_scales is None else document_scales[moved[0] :]
        offsets = None
    running = choose(tokens, documents, starts, document_scales, scratch_bytes * 3 // 4)
    row_bytes = running.row_bytes
    if offsets is not None:  # the copy of the rows, and their numbers
        row_bytes += documents.shape[1] * documents.element_size() + 16
    n_rows = rows_at_a_time(row_bytes, running.most_rows, scratch_bytes, tokens.device)
    length = _length_of_all(lengths(cu_seqlens))
    for begin in range(0, starts[-1], n_rows):
        end = min(begin + n_rows, starts[-1])
        first, last = bisect_right(starts, begin) - 1, bisect_left(starts, end)
        if wanted is not None and not bool(wanted[first:last].any()):
            continue
        cut = begin - starts[first]
        here = cu_seqlens[first : last + 1].clamp(begin, end)
        whose = Rows(here, end - begin, cut, length)
        rows: slice | Tensor = slice(begin, end)
        if moved is not None and offsets is not None and len(set(moved[first:last])) == 1:
            rows = slice(begin + moved[first], end + moved[first])  # of one, or of neighbours
        elif offsets is not None:
            rows = torch.arange(begin, end, device=offsets.device)
            rows += offsets[first:last][whose.segments]
        scales = None if document_scales is None else document_scales[rows]
        running.add(documents[rows], scales, whose, first, last)
    return running.result()


def _length_of_all(lengths: Tensor) -> int:
    """The rows that every document has, 0 where they differ."""
    least, most = lengths.aminmax() if lengths.numel() else (0, 0)
    return int(most) if int(least) == int(most) else 0


def rows_at_a_time(
    row_bytes: int, most_rows: int, scratch_bytes: int, device: torch.device
) -> int:
    """Rows of a block, of which each takes so many bytes of three quarters of the scratch."""
    # The rest is for the maxima.
    n_rows = max(scratch_bytes * 3 // 4 // row_bytes, 1)
    if device.type == "cpu":
        # A power of two, which `_rough_products` divides without a rest.
        n_rows = min(1 << (n_rows.bit_length() - 1), most_rows)
    return n_rows


def documents_at_a_time(tokens: Tensor, scratch_bytes: int) -> int:
    """Documents whose maxima fit a quarter of the scratch, in float32 and in bfloat16."""
    return max(scratch_bytes // 4 // (6 * max(tokens.shape[0], 1)), 1)


def query_runs(starts: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs (first, last) of queries that are multiplied together."""
    first, n = 0, len(starts) - 1
    while first < n:
        last = max(bisect_right(starts, starts[first] + _BLOCK_Q) - 1, first + 1)
        yield first, last
        first = last


def _score_padded(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    spans_d: Tensor,
    pairs: Tensor,
    document_scales: Tensor | None,
    query_weights: Tensor | None,
    scratch_bytes: int,
) -> Tensor:
    """Sums of the pairs, (n_pairs,), by padded blocks of pairs: few launches on a GPU."""
    dim = queries.shape[1]
    scratch = scratch_bytes // 4
    queries = queries.float()
    out = queries.new_zeros(pairs.shape[0])
    start_q, start_d = cu_seqlens_q[pairs[:, 0]], spans_d[pairs[:, 1], 0]
    lengths_q, lengths_d, scored = _lengths_of_pairs(pairs, cu_seqlens_q, spans_d)
    end_q, end_d = start_q + lengths_q, start_d + lengths_d

    # Pairs of like size share a block, so that little of it is padding: queries of one power of
    # two, then documents from long to short.
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
            best = similarity.amax(2)
            if query_weights is not None:
                best = _weighed(best, query_weights[i_q])
            out[block] = best.masked_fill_(past_q, 0.0).sum(1)
    return out
