"""MaxSim's gradient: each query token passes its share to its best document token.

    score = (1 / N) sum_i w_i max_j q_i . d_j,   j* the first of the largest, g the gradient by it

    by q_i   g / N w_i d_j*        by d_j*   the same w_i q_i, summed over all that it is best for
    by w_i   g / N q_i . d_j*

Which document row is best for a query token is found once, by `maxsim_alignment`, as entries: one
for each (document, query token), or for each (pair, token of its query). The gradient's sums over
entries are gathers of rows with weights, sorted by where they go, each in one order: the same
inputs give the same bytes, on a GPU too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from m3kernels.layouts import as_packed, one_after_another, sequences, settle, spans
from m3kernels.maxsim_alignment import maxsim_alignment
from m3kernels.packing import from_lengths, lengths, segment_ids

__all__ = ["gradients", "kept_rows"]

# Query tokens that are aligned as one query where the whole batch meets all documents: a tile of
# the kernel's, or a block of a matrix product.
_TOKENS_GPU = 32
_TOKENS_CPU = 512


class _Queries(NamedTuple):
    """Queries, packed: the row that each token has in the caller's matrix, and cu_seqlens."""

    rows: Tensor
    cu_seqlens: Tensor


def kept_rows(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    backend: str | None,
    query_weights: Tensor | None,
    mask_q: Tensor | None,
    mask_d: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score, and keep what the gradient needs; takes the checked arguments of `m3kernels.maxsim`.

    Returns:
        The scores, and of each entry the best row of `documents`, int32, -1 for a document without
        tokens, and its similarity, float32. Entries are (n_d, query tokens), or, where there are
        pairs, the tokens of the first pair's query, then those of the second.
    """
    packed = _packed(cu_seqlens_q, mask_q)
    rows, similarities = _align(
        queries, packed, documents, cu_seqlens_d, pairs, document_scales, backend, mask_d
    )
    n_tokens = lengths(packed.cu_seqlens)
    values = similarities
    if pairs is None:
        values = values.view(sequences(cu_seqlens_d), packed.rows.shape[0])
    else:
        n_tokens = n_tokens[pairs[:, 0]]
    if query_weights is not None:
        weights = query_weights[packed.rows[_tokens(packed, pairs)]]
        values = torch.where(weights == 0, 0.0, values * weights)
    if pairs is None:
        values = values.T.contiguous()  # (tokens, documents)
    scores = torch.segment_reduce(values, "sum", lengths=n_tokens, unsafe=True)
    if reduction == "mean":
        n_tokens = n_tokens.clamp(min=1)
        scores /= n_tokens[:, None] if pairs is None else n_tokens
    return scores, rows, similarities


def gradients(
    grad: Tensor,
    rows: Tensor | None,
    similarities: Tensor | None,
    wanted: list[bool],
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    backend: str | None,
    query_weights: Tensor | None,
    mask_q: Tensor | None,
    mask_d: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by queries, documents and query_weights, empty where not wanted.

    `grad` is that by the scores; `rows` and `similarities` are those of `kept_rows`, or None to
    find them again.
    """
    # The reference sums in float64, as it scores.
    wide = torch.float64 if backend == "reference" else torch.float32
    packed = _packed(cu_seqlens_q, mask_q)
    if rows is None or (wanted[2] and similarities is None):
        rows, similarities = _align(
            queries, packed, documents, cu_seqlens_d, pairs, document_scales, backend, mask_d
        )
    shares = grad.to(wide)
    n_tokens = lengths(packed.cu_seqlens).clamp(min=1)
    tokens = _tokens(packed, pairs)
    if pairs is None:
        if reduction == "mean":
            shares = shares / n_tokens[:, None]
        of_query = segment_ids(packed.cu_seqlens, tokens.shape[0])
        shares = shares.T[:, of_query].flatten()
        tokens = tokens.expand(grad.shape[1], -1).flatten()
    else:
        if reduction == "mean":
            shares = shares / n_tokens[pairs[:, 0]]
        shares = shares.repeat_interleave(lengths(packed.cu_seqlens)[pairs[:, 0]])
    rows_q, rows_d = packed.rows[tokens], rows.to(torch.int64)

    by_queries, by_documents = queries.new_empty(0), documents.new_empty(0)
    by_weights = queries.new_empty(0, dtype=torch.float32)
    if wanted[2] and similarities is not None:
        by_weights = _sums(
            rows_q, shares * similarities, torch.zeros_like(rows_q),
            shares.new_ones(1, 1), queries.shape[0], torch.float32,
        )[:, 0]  # fmt: skip
    factors = shares
    if query_weights is not None:
        factors = factors * query_weights[rows_q]
    # What passes nothing on is left out: times an infinity it would be NaN.
    kept = ((rows_d >= 0) & (factors != 0)).nonzero()[:, 0]
    rows_q, rows_d, factors = rows_q[kept], rows_d[kept], factors[kept]
    if wanted[0]:
        scaled = factors
        if document_scales is not None:
            scaled = factors * document_scales[rows_d]
        by_queries = _sums(rows_q, scaled, rows_d, documents, queries.shape[0], queries.dtype)
    if wanted[1]:
        by_documents = _sums(rows_d, factors, rows_q, queries, documents.shape[0], documents.dtype)
    return by_queries, by_documents, by_weights


def _packed(cu_seqlens_q: Tensor, mask_q: Tensor | None) -> _Queries:
    """Where the queries' tokens are, one after another."""
    if cu_seqlens_q.ndim == 1:
        n_rows = int(cu_seqlens_q[-1])
        return _Queries(torch.arange(n_rows, device=cu_seqlens_q.device), cu_seqlens_q)
    rows, cu_seqlens = one_after_another(cu_seqlens_q)
    if mask_q is None:
        return _Queries(rows, cu_seqlens)
    return _Queries(rows[mask_q.flatten()], from_lengths(mask_q.sum(1)))


def _tokens(packed: _Queries, pairs: Tensor | None) -> Tensor:
    """Which packed token each entry is of; where there are no pairs, for one document."""
    if pairs is None:
        return torch.arange(packed.rows.shape[0], device=packed.rows.device)
    return one_after_another(spans(packed.cu_seqlens)[pairs[:, 0]])[0]


def _align(
    queries: Tensor,
    packed: _Queries,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    backend: str | None,
    mask_d: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Entries' best rows of `documents` (int32) and their similarities (float32)."""
    device = queries.device
    documents, cu_d, order = settle(documents, cu_seqlens_d, mask_d, look=True)
    if order is not None and document_scales is not None:
        document_scales = document_scales[order]
    start = spans(cu_d)[:, 0]
    n_rows, n_documents = packed.rows.shape[0], start.shape[0]
    cu_q = packed.cu_seqlens
    if pairs is None:
        step = _TOKENS_CPU if device.type == "cpu" else _TOKENS_GPU
        cu_q = torch.arange(0, n_rows + step, step, device=device).clamp(max=n_rows)
        n_parts = cu_q.shape[0] - 1
        pairs = torch.cartesian_prod(
            torch.arange(n_documents, device=device), torch.arange(n_parts, device=device)
        ).view(-1, 2)
        pairs = pairs.flip(1)  # by document
    n_tokens = lengths(cu_q)[pairs[:, 0]]
    of_entry = start[pairs[:, 1]].repeat_interleave(n_tokens)
    if cu_d.ndim == 2:
        cu_d, pairs = as_packed(cu_d, pairs)
    with torch.no_grad():
        at, similarities = maxsim_alignment(
            queries[packed.rows], cu_q, documents, cu_d, pairs,
            document_scales=document_scales, backend=backend, validate=False,
        )  # fmt: skip
    rows = of_entry + at
    if order is not None:
        rows = order[torch.where(at < 0, 0, rows)]
    return torch.where(at < 0, -1, rows).to(torch.int32), similarities


def _sums(
    into: Tensor, factors: Tensor, of: Tensor, table: Tensor, n: int, dtype: torch.dtype
) -> Tensor:
    """Rows into[e] get the sum of factors[e] * table[of[e]] over entries e, in their order.

    Returns (n, d) of `dtype`; each row is rounded once.
    """
    out = torch.zeros(n, table.shape[1], dtype=dtype, device=table.device)
    if 0 in (into.numel(), table.shape[1]):
        return out
    order = into.argsort(stable=True)
    found, counts = torch.unique_consecutive(into[order], return_counts=True)
    used, places = torch.unique(of, return_inverse=True)
    out[found] = embedding_bag(
        places[order],
        table[used].to(factors.dtype),
        from_lengths(counts),
        mode="sum",
        per_sample_weights=factors[order],
        include_last_offset=True,
    ).to(dtype)
    return out
