"""Lexical scores in Triton.

A program takes the terms of one row of one side, usually a query, and looks each one up in
BLOCK_S rows of the other side, usually documents, all (row, term) lanes side by side:

                 term 4   term 9   term 17       one lane: how many ids of the row are <= term?
    document 0     x        x         x          3 9 17 40 52
    document 1     x        x         x              ^ step 2: 9 <= 17, so at least 2
    document 2     x        x         x                ^ step 1: 17 <= 17, so 3
                                                 and the third id is the term: multiply

The rows that are searched are sorted, so a lane takes ceil(log2(longest row + 1)) reads, nearly
all of them from cache: the lanes of a row begin at the same places, and the programs that share a
block of rows are neighbours. Of the weights of those rows only the shared ids' are read.

Each score is summed by one program in one order and there are no atomics: the same inputs give the
same bytes. No integer argument is specialised, so that new lengths never compile a kernel anew.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["INTEGERS", "lexical_kernel"]

INTEGERS = ["nnz_t", "nnz_s", "n_s", "first_block", "stride_t", "stride_s"]
# Nothing is loaded in vectors, so an address at a multiple of 16 would only be a second kernel.
_POINTERS = [
    "p_indptr_t", "p_ids_t", "p_weights_t", "p_indptr_s", "p_ids_s", "p_weights_s", "p_scores",
]  # fmt: skip


@triton.jit
def _clamped(start, end, nnz):
    """Return a row's (first entry, number of entries), in bounds whatever indptr says.

    The number is an int32: no row comes near 2^30 terms.
    """
    start = tl.minimum(tl.maximum(start, 0), nnz)
    end = tl.minimum(tl.maximum(end, start), nnz)
    return start, tl.minimum(end - start, 1 << 30).to(tl.int32)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def lexical_kernel(
    p_indptr_t, p_ids_t, p_weights_t, p_indptr_s, p_ids_s, p_weights_s, p_scores,
    nnz_t, nnz_s, n_s, first_block, stride_t, stride_s,
    BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Scores of one row against BLOCK_S rows of the other side.

    .._t      the CSR of the side whose terms are looked up, .._s of the side that is searched
    p_scores  float32: rows i_t and i_s meet at i_t * stride_t + i_s * stride_s
    grid      (n_t, blocks of rows from first_block on)
    """
    i_t = tl.program_id(0).to(tl.int64)
    start_t, n_terms = _clamped(tl.load(p_indptr_t + i_t), tl.load(p_indptr_t + i_t + 1), nnz_t)
    p_ids_t += start_t
    p_weights_t += start_t

    i_s = (first_block + tl.program_id(1)).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    m_s = i_s < n_s
    start_s, length = _clamped(
        tl.load(p_indptr_s + i_s, mask=m_s, other=0),
        tl.load(p_indptr_s + i_s + 1, mask=m_s, other=0),
        nnz_s,
    )
    p_ids = (p_ids_s + start_s)[:, None]
    p_weights = (p_weights_s + start_s)[:, None]

    # The largest power of two within the longest row is the first step of every search.
    longest = tl.max(length, 0)
    first_step = 1
    while first_step <= longest // 2:
        first_step *= 2

    acc = tl.zeros([BLOCK_S, BLOCK_T], tl.float32)
    for first in range(0, n_terms, BLOCK_T):
        o_t = first + tl.arange(0, BLOCK_T)
        m_t = o_t < n_terms
        term = tl.load(p_ids_t + o_t, mask=m_t, other=0)[None, :]
        w_t = tl.load(p_weights_t + o_t, mask=m_t, other=0.0).to(tl.float32)[None, :]
        # A term of weight 0, and a lane past the last term, searches an empty row.
        limit = tl.where(w_t != 0.0, length[:, None], 0)

        # `place` counts the row's ids that are known to be <= term, `found` is the last of them.
        place = tl.zeros([BLOCK_S, BLOCK_T], tl.int32)
        found = tl.full([BLOCK_S, BLOCK_T], -1, p_ids_s.dtype.element_ty)
        step = first_step
        while step > 0:
            m_here = place + step <= limit
            id = tl.load(p_ids + (place + step - 1), mask=m_here, other=0)
            m_here &= id <= term
            place = tl.where(m_here, place + step, place)
            found = tl.where(m_here, id, found)
            step = step >> 1

        shared = (place > 0) & (found == term)
        w_s = tl.load(p_weights + (place - 1), mask=shared, other=0.0).to(tl.float32)
        # 0 * w would be NaN where w is infinite or NaN, in pairs that don't share the id.
        acc += tl.where(w_s != 0.0, w_t * w_s, 0.0)

    p_score = p_scores + i_t * stride_t + i_s * stride_s
    tl.store(p_score, tl.sum(acc, 1), mask=m_s)
