"""MaxSim's alignment in plain torch, for the CPU and for a GPU without Triton.

A matrix product finds the document tokens that can be a query token's best. Those, about one for
each, are multiplied again pair by pair, because a matrix product may round equal rows differently
at different places, and then the first of them would not be the best one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from m3kernels.packing import from_lengths, lengths, segment_ids

__all__ = ["maxsim_alignment_torch"]

# What a call holds at a time beside its arguments and its result; more only where one row of a
# document needs it.
SCRATCH_BYTES = 32 << 20

# Pairs of rows that are multiplied again at a time, in float32.
_EXACT_BYTES = 2 << 20

_NOWHERE = torch.iinfo(torch.int32).max


def maxsim_alignment_torch(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor,
    document_scales: Tensor | None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> tuple[Tensor, Tensor]:
    """Align by query, some documents at a time; takes `m3kernels.maxsim_alignment`'s arguments."""
    lengths_q, lengths_d = lengths(cu_seqlens_q), lengths(cu_seqlens_d)
    cu_out = from_lengths(lengths_q[pairs[:, 0]])
    n = int(cu_out[-1])
    positions = torch.full((n,), -1, dtype=torch.int32, device=queries.device)
    similarities = queries.new_zeros(n, dtype=torch.float32)
    starts_q = cu_seqlens_q.tolist()

    wanted = ((lengths_q[pairs[:, 0]] > 0) & (lengths_d[pairs[:, 1]] > 0)).nonzero()[:, 0]
    order = wanted[pairs[wanted, 0].argsort(stable=True)]
    ids, counts = torch.unique_consecutive(pairs[order, 0], return_counts=True)
    for i_q, places in zip(ids.tolist(), torch.split(order, counts.tolist()), strict=True):
        tokens = queries[starts_q[i_q] : starts_q[i_q + 1]].float()
        # Of a row: its products, their limits and which are near, its copies, its numbers.
        most = max(scratch_bytes // (9 * tokens.shape[0] + 12 * tokens.shape[1] + 40), 1)
        for part in _runs(places, lengths_d[pairs[places, 1]].tolist(), most):
            i_d = pairs[part, 1]
            at, best = _align(tokens, documents, cu_seqlens_d, i_d, document_scales, most)
            o_out = cu_out[part, None] + torch.arange(tokens.shape[0], device=at.device)
            positions[o_out] = at
            similarities[o_out] = best
    return positions, similarities


def _runs(places: Tensor, sizes: list[int], most: int) -> Iterator[Tensor]:
    """Yield runs of places whose sizes together are at most `most`, or one that is larger."""
    first, rows = 0, 0
    for i, size in enumerate(sizes):
        if i > first and rows + size > most:
            yield places[first:i]
            first, rows = i, 0
        rows += size
    if first < len(sizes):
        yield places[first:]


def _align(
    tokens: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    i_d: Tensor,
    document_scales: Tensor | None,
    most: int,
) -> tuple[Tensor, Tensor]:
    """Positions and similarities of tokens (T, d) in documents i_d (n,), (n, T) each."""
    cu = from_lengths(lengths(cu_seqlens_d)[i_d])
    at = torch.full((i_d.numel(), tokens.shape[0]), -1, dtype=torch.int32, device=i_d.device)
    best = tokens.new_full(at.shape, -torch.inf)
    neighbours = bool((i_d.diff() == 1).all())
    start = int(cu_seqlens_d[i_d[0]])
    for begin in range(0, int(cu[-1]), most):
        end = min(begin + most, int(cu[-1]))
        segments = segment_ids(cu.clamp(begin, end), end - begin)
        places = torch.arange(begin, end, device=i_d.device) - cu[segments]
        rows: slice | Tensor = cu_seqlens_d[i_d[segments]] + places
        if neighbours:  # they are read where they lie
            rows = slice(start + begin, start + end)
        scales = None if document_scales is None else document_scales[rows]
        found, similarity = _largest(
            tokens, documents[rows].float(), scales, segments, places, i_d.numel()
        )
        # A later block wins only where it is larger, so that of equal ones the first stays.
        later = (similarity > best) | (similarity.isnan() & ~best.isnan()) | (at < 0)
        later &= found >= 0
        at = torch.where(later, found, at)
        best = torch.where(later, similarity, best)
    return at, best


def _largest(
    tokens: Tensor,
    rows: Tensor,
    scales: Tensor | None,
    segments: Tensor,
    places: Tensor,
    n: int,
) -> tuple[Tensor, Tensor]:
    """The first largest product of each token in each segment of the rows.

    Returns the places int32, -1 for a segment without rows, and the products, (n, T) each.
    """
    n_tokens = tokens.shape[0]
    rough = rows @ tokens.T  # (R, T)
    norms = torch.linalg.vector_norm(rows, dim=1)
    if scales is not None:
        rough *= scales[:, None]
        norms *= scales.abs()
    best = rough.new_full((n, n_tokens), -torch.inf)
    best.scatter_reduce_(0, segments[:, None].expand_as(rough), rough, "amax")
    longest = norms.new_zeros(n).scatter_reduce_(0, segments, norms, "amax")

    # Both ways to a product are within g = d 2^-24 |q| |d| of it (Higham, Accuracy and Stability
    # of Numerical Algorithms, section 3.1), so what wins by one is within 4 g of the other's
    # best. Twice that is for the second order and the scale, the rest for subnormal numbers.
    dim = tokens.shape[1]
    lengths_of_tokens = torch.linalg.vector_norm(tokens, dim=1)
    margin = (8 * dim * 2.0**-24) * longest[:, None] * lengths_of_tokens + 8 * dim * 2.0**-126
    finite = best.isfinite()
    # A NaN margin comes of an infinite or NaN row, whose segment is looked at number by number.
    least = torch.where(finite, (best - margin).nan_to_num_(nan=-torch.inf), torch.inf)
    near = rough >= least[segments]
    if not bool(finite.all()):
        near |= rough.isnan() | (rough == torch.where(finite, torch.nan, best)[segments])
    i_row, i_token = near.nonzero(as_tuple=True)
    exact = _products(tokens, rows, i_row, i_token)
    if scales is not None:
        exact *= scales[i_row]
    slots = segments[i_row] * n_tokens + i_token
    near_rough = rough[i_row, i_token]
    exact = torch.where(finite.view(-1)[slots] & exact.isfinite(), exact, near_rough)

    largest = exact.new_full((n * n_tokens,), -torch.inf)
    largest.scatter_reduce_(0, slots, exact, "amax")
    wins = (exact == largest[slots]) | exact.isnan()
    at = torch.full((n * n_tokens,), _NOWHERE, dtype=torch.int64, device=rows.device)
    at.scatter_reduce_(0, slots[wins], places[i_row[wins]], "amin")
    at = torch.where(at == _NOWHERE, -1, at).to(torch.int32)
    return at.view(n, n_tokens), largest.view(n, n_tokens)


def _products(tokens: Tensor, rows: Tensor, i_row: Tensor, i_token: Tensor) -> Tensor:
    """The products of rows with tokens, pair by pair: the same bits at every place."""
    out = tokens.new_empty(i_row.numel())
    step = max(_EXACT_BYTES // (4 * max(tokens.shape[1], 1)), 1)
    for first in range(0, i_row.numel(), step):
        part = slice(first, first + step)
        out[part] = (rows[i_row[part]] * tokens[i_token[part]]).sum(1)
    return out
