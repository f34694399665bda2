"""MaxSim's alignment in Triton.

A program takes one pair, or one of SPLITS parts of its document where pairs are few: it multiplies
tiles of document rows with tiles of the query's and keeps, for each query row, the largest product
so far and where it was. A second kernel takes the largest over the parts.

    tile 0     tile 1          kept for a query row
    .2 .7 .1   .7 .3 .6        (.7, row 1): the second .7 is not larger

Equal rows have equal products in any tile, and a later product wins only where it is larger, so of
equal ones the first stays. NaN is larger than all, and the first NaN stays. There are no atomics:
the same inputs give the same bytes. No integer argument is specialised, so that new lengths never
compile a kernel anew.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["maxsim_alignment_kernel", "maxsim_alignment_merge_kernel"]


@triton.jit
def _nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _rows_of(p_index, p_cu, n, sum_rows):
    """Return the rows (from, to) of the sequence that a pair names.

    Indices and offsets that were not validated stay in bounds.
    """
    i = tl.minimum(tl.maximum(tl.load(p_index), 0), n - 1)
    start = tl.minimum(tl.maximum(tl.load(p_cu + i), 0), sum_rows)
    end = tl.minimum(tl.maximum(tl.load(p_cu + i + 1), start), sum_rows)
    return start.to(tl.int32), end.to(tl.int32)


@triton.jit
def _load(source, row, column, end, DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Load [ROWS, COLUMNS] from (.., DIM) at (row, column); rows from end on are 0."""
    o_row = row + tl.arange(0, ROWS)
    o_column = column + tl.arange(0, COLUMNS)
    pointers = source + o_row.to(tl.int64)[:, None] * DIM + o_column[None, :]
    mask = (o_row < end)[:, None]
    if DIM % COLUMNS != 0:
        mask = mask & (o_column < DIM)[None, :]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _later_wins(value, at, best, best_at):
    """Whether a later (value, at) replaces the best so far; at is -1 where there is none."""
    larger = (value > best) | ((value != value) & (best == best)) | (best_at < 0)
    return larger & (at >= 0)


@triton.jit(
    do_not_specialize=["n_queries", "n_documents", "sum_d", "sum_q", "n_out"],
    do_not_specialize_on_alignment=["p_cu_q", "p_cu_d", "p_pairs", "p_cu_out"],
)
def maxsim_alignment_kernel(
    p_documents, p_queries, p_scales, p_cu_q, p_cu_d, p_pairs, p_cu_out, p_at, p_best,
    n_queries, n_documents, sum_d, sum_q, n_out,
    SPLITS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr, DRAIN: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Align one pair a program, or one of SPLITS parts of its document.

    p_pairs   (n_pairs, 2) int64
    p_cu_out  (n_pairs + 1,) int64, where a pair's results begin
    p_at      (SPLITS, n_out) int32, -1 where a part has no rows
    p_best    (SPLITS, n_out) float32, 0 there if there is one part
    grid      (n_pairs * SPLITS,)
    """
    i_pair = (tl.program_id(0) // SPLITS).to(tl.int64)
    i_split = tl.program_id(0) % SPLITS
    start_q, end_q = _rows_of(p_pairs + 2 * i_pair, p_cu_q, n_queries, sum_q)
    start_d, end_d = _rows_of(p_pairs + 2 * i_pair + 1, p_cu_d, n_documents, sum_d)
    p_out = tl.load(p_cu_out + i_pair) + i_split * n_out.to(tl.int64)
    p_at += p_out
    p_best += p_out

    n_tiles = tl.cdiv(end_d - start_d, BLOCK_D)
    first = i_split * n_tiles // SPLITS
    last = (i_split + 1) * n_tiles // SPLITS
    STEPS: tl.constexpr = (DIM + BLOCK_K - 1) // BLOCK_K
    for i_q in range(start_q, end_q, BLOCK_Q):
        o_q = i_q + tl.arange(0, BLOCK_Q)
        best = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        best_at = tl.full([BLOCK_Q], -1, tl.int32)
        for tile in range(first, last):
            row = start_d + tile * BLOCK_D
            acc = tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)
            for step in tl.range(STEPS):
                i_k = step * BLOCK_K
                b_d = _load(p_documents, row, i_k, end_d, DIM, BLOCK_D, BLOCK_K)
                b_q = _load(p_queries, i_q, i_k, end_q, DIM, BLOCK_Q, BLOCK_K)
                acc = tl.dot(b_d.to(COMPUTE), b_q.to(COMPUTE).T, acc, input_precision=PRECISION)
                if DRAIN and b_d.dtype != COMPUTE:  # see `_multiply` of the MaxSim kernels
                    acc += 0.0
            o_d = row + tl.arange(0, BLOCK_D)
            m_d = o_d < end_d
            if SCALED:
                acc *= tl.load(p_scales + o_d, mask=m_d, other=0.0)[:, None]
            here = tl.reduce(tl.where(m_d[:, None], acc, float("-inf")), 0, _nan_max)
            is_best = (acc == here[None, :]) | (acc != acc)
            place = tl.where(m_d[:, None] & is_best, (o_d - start_d)[:, None], 2147483647)
            at = tl.min(place, 0)
            later = _later_wins(here, at, best, best_at)
            best = tl.where(later, here, best)
            best_at = tl.where(later, at, best_at)
        if SPLITS == 1:
            best = tl.where(best_at < 0, 0.0, best)
        tl.store(p_at + (o_q - start_q), best_at, mask=o_q < end_q)
        tl.store(p_best + (o_q - start_q), best, mask=o_q < end_q)


@triton.jit(do_not_specialize=["n_out"])
def maxsim_alignment_merge_kernel(
    p_at_of, p_best_of, p_at, p_best, n_out, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):
    """Take the largest over the parts, the first of equal ones; grid (cdiv(n_out, BLOCK),).

    p_at_of, p_best_of  (SPLITS, n_out), what `maxsim_alignment_kernel` left
    """
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n_out
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    best_at = tl.full([BLOCK], -1, tl.int32)
    for split in range(SPLITS):
        p = split * n_out.to(tl.int64) + o
        value = tl.load(p_best_of + p, mask=m, other=0.0)
        at = tl.load(p_at_of + p, mask=m, other=-1)
        later = _later_wins(value, at, best, best_at)
        best = tl.where(later, value, best)
        best_at = tl.where(later, at, best_at)
    tl.store(p_best + o, tl.where(best_at < 0, 0.0, best), mask=m)
    tl.store(p_at + o, best_at, mask=m)
