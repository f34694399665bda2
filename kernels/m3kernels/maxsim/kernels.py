"""MaxSim in Triton.

All pairs: the documents' packed rows are cut into tiles of BLOCK_D rows without a look at where
documents begin. A tile is multiplied with BLOCK_Q packed query rows, again without a look at where
queries begin, so raggedness costs the matrix units nothing, long documents are split and short
queries share a tile. Only then does each document in the tile take the max over its own rows.
That max is partial where a document goes on in the next tile; a second, small kernel takes the max
of the partial ones and sums over each query's rows.

    packed documents            partial maxima                    scores
    rows   0 ┌────────┐ doc 0   (tile 0, doc 0) ──────────────┐   ┌ doc 0
             │ tile 0 │ ─────   (tile 0, doc 1) ─┐ max        ├─> │ doc 1
         128 ├────────┤ doc 1                    ├─ doc 1 ────┤   └ doc 2
             │ tile 1 │         (tile 1, doc 1) ─┘  then sum  │
             │        │ ─────   (tile 1, doc 2) ─┐  over each │
         256 ├────────┤ doc 2                    ├─ doc 2 ────┘
             │ tile 2 │         (tile 2, doc 2) ─┘ query's rows
             └────────┘

The partial maxima of tile t and document i stand in row t + i: from one (tile, document) to the
next either the tile or the document goes up, so no two share a row, and no list is needed.

int8 documents are multiplied as integers, with queries that `maxsim_digits_kernel` splits in two
int8 digits a number. Where there are many query rows they are the product's M instead of the
documents, so that a max over a document's rows is one along N.

A pair list runs one program for each pair, or a few that share the document's tiles where pairs
are few.

Every max is over the same numbers whatever the split, every sum has one order, and there are no
atomics: the same inputs give the same bytes. No integer argument is specialised, so that new
lengths never compile a kernel anew.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "maxsim_digits_kernel",
    "maxsim_pairs_kernel",
    "maxsim_pairs_sums_kernel",
    "maxsim_sums_kernel",
    "maxsim_tiles_kernel",
]


@triton.jit
def _nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _load(
    source, row, column, n_rows,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Load [ROWS, COLUMNS] from (n_rows, DIM) at (row, column); places outside are 0."""
    if TMA:
        return source.load([row, column])
    else:
        o_row = row + tl.arange(0, ROWS)
        o_column = column + tl.arange(0, COLUMNS)
        pointers = source + o_row.to(tl.int64)[:, None] * DIM + o_column[None, :]
        m_row = (o_row < n_rows)[:, None]
        if DIM % COLUMNS == 0:
            return tl.load(pointers, mask=m_row, other=0.0)
        return tl.load(pointers, mask=m_row & (o_column < DIM)[None, :], other=0.0)


@triton.jit
def _multiply(
    b_d, b_q, acc,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr, DRAIN: tl.constexpr, Q_ON_M: tl.constexpr,
):  # fmt: skip
    """Add the products of a step to acc.

    What is widened is multiplied from registers. On sm_90 that goes on while the next step begins,
    and triton (3.6, 3.7; their issue 9433) lets that step write to those registers. DRAIN makes
    each step wait for its products, as triton does where something looks at them.
    """
    left, right = (b_q, b_d) if Q_ON_M else (b_d, b_q)
    acc = tl.dot(
        left.to(COMPUTE), right.to(COMPUTE).T, acc,
        input_precision=PRECISION, out_dtype=acc.dtype,
    )  # fmt: skip
    if DRAIN and left.dtype != COMPUTE:
        acc += 0.0
    return acc


@triton.jit
def _zeros(
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, DIGITS: tl.constexpr, Q_ON_M: tl.constexpr
):  # fmt: skip
    """Return the products before the first step; with DIGITS each query row has two columns."""
    if DIGITS:
        return tl.zeros([BLOCK_D, 2 * BLOCK_Q], tl.int32)
    elif Q_ON_M:
        return tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    else:
        return tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)


@triton.jit
def _similarity(
    acc, p_scales, p_q_scales, o_d, m_d, o_q, m_q, SCALED: tl.constexpr, DIGITS: tl.constexpr
):  # fmt: skip
    """Return the products in float32, [documents, queries], times their scales.

    A query row's two digits are next to each other, and so are their sums in a thread's registers.
    """
    if DIGITS:
        high, low = tl.split(tl.reshape(acc, [acc.shape[0], acc.shape[1] // 2, 2]))
        similarity = high.to(tl.float32) * 254.0 + low.to(tl.float32)
        similarity *= tl.load(p_q_scales + o_q, mask=m_q, other=0.0)[None, :]
    else:
        similarity = acc
    if SCALED:
        similarity *= tl.load(p_scales + o_d, mask=m_d, other=0.0)[:, None]
    return similarity


@triton.jit(do_not_specialize=["sum_q"])
def maxsim_digits_kernel(
    p_queries, p_digits, p_q_scales, sum_q,
    DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write each query row as two int8 digits a number and one scale.

    With s = max|q| / 127, q = s (h + l / 254) and h, l from -127 to 127, so that a number is
    rounded by s / 508 at most: 2^-15.9 of the row's largest. A row with a NaN has the scale NaN.
    Of one with an infinity only the infinity's sign is kept, and the scale is infinite: times a 0
    it is NaN, as in a float product. Two infinities in a row make it NaN.

    p_digits    (sum_q, 2, DIM) int8
    p_q_scales  (sum_q,) float32, s / 254
    grid        (cdiv(sum_q, BLOCK_ROWS),)
    """
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    o_k = tl.arange(0, BLOCK_K)
    m_r = o_r < sum_q
    m = m_r[:, None] & (o_k < DIM)[None, :]
    q = tl.load(p_queries + o_r[:, None] * DIM + o_k[None, :], mask=m, other=0.0).to(tl.float32)
    largest = tl.reduce(tl.abs(q), 1, _nan_max)
    infinite = tl.abs(q) == float("inf")
    n_infinite = tl.sum(infinite.to(tl.int32), 1)
    finite = largest < float("inf")
    # Not 0 for a row of zeros, nor a denormal number.
    scale = tl.maximum(tl.where(finite, largest, 1.0), 1e-28) / 127.0
    numbers = tl.where(finite[:, None], q / scale[:, None], 0.0)
    high = tl.floor(numbers + 0.5)
    low = tl.floor((numbers - high) * 254.0 + 0.5)
    high = tl.where(infinite, tl.where(q > 0.0, 1.0, -1.0), high)
    p = p_digits + 2 * o_r[:, None] * DIM + o_k[None, :]
    tl.store(p, high.to(tl.int8), mask=m)
    tl.store(p + DIM, low.to(tl.int8), mask=m)
    not_finite = tl.where(n_infinite == 1, largest, float("nan"))
    tl.store(p_q_scales + o_r, tl.where(finite, scale / 254.0, not_finite), mask=m_r)


@triton.jit(
    do_not_specialize=["n_documents", "sum_d", "sum_q", "first_q", "end_q", "n_ranges"],
    do_not_specialize_on_alignment=["p_cu_d"],
)
def maxsim_tiles_kernel(
    documents, queries, p_scales, p_q_scales, p_cu_d, p_partial,
    n_documents, sum_d, sum_q, first_q, end_q, n_ranges,
    FLAT: tl.constexpr, Q_ON_M: tl.constexpr, COUNTED: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr, DRAIN: tl.constexpr, SCALED: tl.constexpr,
    DIGITS: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Partial maxima of query rows first_q up to end_q.

    documents  (sum_d, DIM), queries (sum_q, DIM): pointers, or descriptors where TMA
    p_partial  (tiles + n_documents, end_q - first_q) float32
    grid       (query tiles * n_ranges,): the query tiles of one range of document tiles run side
               by side, so that the documents come from memory once and from L2 after that

    With DIGITS the queries are those of `maxsim_digits_kernel`, as (2 * sum_q, DIM).
    """
    n_tiles_q = tl.cdiv(end_q - first_q, BLOCK_Q)
    i_q = first_q + (tl.program_id(0) % n_tiles_q) * BLOCK_Q
    i_range = (tl.program_id(0) // n_tiles_q).to(tl.int64)
    n_tiles = tl.cdiv(sum_d, BLOCK_D)
    first = (i_range * n_tiles // n_ranges).to(tl.int32)
    last = ((i_range + 1) * n_tiles // n_ranges).to(tl.int32)

    p_partial += i_q - first_q
    p_q_scales += i_q
    stride = (end_q - first_q).to(tl.int64)
    STEPS: tl.constexpr = (DIM + BLOCK_K - 1) // BLOCK_K
    DIGITS_OF: tl.constexpr = 2 if DIGITS else 1
    ROWS_Q: tl.constexpr = DIGITS_OF * BLOCK_Q
    row_q = i_q * DIGITS_OF
    n_rows_q = sum_q * DIGITS_OF
    if FLAT:
        # One loop over tiles and dimensions: the next tile's loads are under way while this
        # one's maxima are taken.
        acc = _zeros(BLOCK_D, BLOCK_Q, DIGITS, Q_ON_M)
        i_doc = 0
        if STEPS == 1:
            b_q = _load(queries, row_q, 0, n_rows_q, DIM, ROWS_Q, BLOCK_K, TMA)
        for step in tl.range((last - first) * STEPS):
            tile = first + step // STEPS
            i_k = (step % STEPS) * BLOCK_K
            b_d = _load(documents, tile * BLOCK_D, i_k, sum_d, DIM, BLOCK_D, BLOCK_K, TMA)
            if STEPS > 1:
                b_q = _load(queries, row_q, i_k, n_rows_q, DIM, ROWS_Q, BLOCK_K, TMA)
            acc = _multiply(b_d, b_q, acc, COMPUTE, PRECISION, DRAIN, Q_ON_M)
            # With one step a tile this is always so. The compiler must not know: it pipelines no
            # loop whose body has another loop outside of a branch.
            ends = tile < last if STEPS == 1 else i_k + BLOCK_K >= DIM
            if ends:
                if tile == first:  # here the first tiles are under way already
                    i_doc = _document_before(p_cu_d, tile, n_documents, BLOCK_D)
                i_last = _document_of(p_cu_d, tile, i_doc, n_documents, sum_d, BLOCK_D)
                _store_maxima(
                    acc, p_scales, p_q_scales, p_cu_d, p_partial, tile, i_doc, i_last, sum_d,
                    stride, end_q - i_q, BLOCK_D, BLOCK_Q, SCALED, DIGITS, Q_ON_M, COUNTED,
                )  # fmt: skip
                i_doc = i_last
                acc = _zeros(BLOCK_D, BLOCK_Q, DIGITS, Q_ON_M)
    else:
        i_doc = _document_before(p_cu_d, first, n_documents, BLOCK_D)
        # STEPS, which the compiler must not know: sm_100's fails where it unrolls the whole loop.
        n_steps = tl.minimum(STEPS, (last - first) * STEPS)
        for tile in range(first, last):
            # Before the product: sm_100's compiler can't move accumulators past this search.
            i_last = _document_of(p_cu_d, tile, i_doc, n_documents, sum_d, BLOCK_D)
            acc = _zeros(BLOCK_D, BLOCK_Q, DIGITS, Q_ON_M)
            for step in tl.range(n_steps):
                i_k = step * BLOCK_K
                b_d = _load(documents, tile * BLOCK_D, i_k, sum_d, DIM, BLOCK_D, BLOCK_K, TMA)
                b_q = _load(queries, row_q, i_k, n_rows_q, DIM, ROWS_Q, BLOCK_K, TMA)
                acc = _multiply(b_d, b_q, acc, COMPUTE, PRECISION, DRAIN, Q_ON_M)
            _store_maxima(
                acc, p_scales, p_q_scales, p_cu_d, p_partial, tile, i_doc, i_last, sum_d,
                stride, end_q - i_q, BLOCK_D, BLOCK_Q, SCALED, DIGITS, Q_ON_M, COUNTED,
            )  # fmt: skip
            i_doc = i_last


@triton.jit
def _store_maxima(
    acc, p_scales, p_q_scales, p_cu_d, p_partial, tile, i_first, i_last, sum_d, stride, n_left,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, SCALED: tl.constexpr, DIGITS: tl.constexpr,
    Q_ON_M: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """Store the max of each document over its rows in a tile.

    acc      what `_zeros` began
    i_first  a document that holds the tile's first row, or one before it that has no rows here
    i_last   the document that holds the tile's last row
    n_left   how many of the BLOCK_Q query rows there are
    """
    o_d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    o_q = tl.arange(0, BLOCK_Q)
    if Q_ON_M:
        similarity = acc
    else:
        similarity = _similarity(
            acc, p_scales, p_q_scales, o_d, o_d < sum_d, o_q, o_q < n_left, SCALED, DIGITS
        )
    end = tl.minimum(tile * BLOCK_D + BLOCK_D, sum_d)
    # triton's remove-layout-conversions (3.6, 3.7; their pull request 9036) drops what an outer
    # loop carries where nothing but a `for`'s bounds uses it, so that each tile would look at all
    # documents before it. sm_100's compiler knows no accumulators in tensor memory in a `while`.
    if COUNTED:
        for i_doc in range(i_first, i_last + 1):
            _store_maximum(
                similarity, p_cu_d, p_partial, i_doc, tile, o_d, o_q, end, stride, n_left,
                BLOCK_D, Q_ON_M,
            )  # fmt: skip
    else:
        i_doc = i_first
        while i_doc <= i_last:
            _store_maximum(
                similarity, p_cu_d, p_partial, i_doc, tile, o_d, o_q, end, stride, n_left,
                BLOCK_D, Q_ON_M,
            )  # fmt: skip
            i_doc += 1


@triton.jit
def _store_maximum(
    similarity, p_cu_d, p_partial, i_doc, tile, o_d, o_q, end, stride, n_left,
    BLOCK_D: tl.constexpr, Q_ON_M: tl.constexpr,
):  # fmt: skip
    """Store the max of one document over its rows in a tile."""
    start = tl.maximum(tl.load(p_cu_d + i_doc), tile * BLOCK_D).to(tl.int32)
    stop = tl.minimum(tl.load(p_cu_d + i_doc + 1), end).to(tl.int32)
    # One comparison: before the start it wraps around.
    m_d = (o_d - start).to(tl.uint32) < (stop - start).to(tl.uint32)
    if Q_ON_M:
        best = tl.reduce(tl.where(m_d[None, :], similarity, float("-inf")), 1, _nan_max)
    else:
        best = tl.reduce(tl.where(m_d[:, None], similarity, float("-inf")), 0, _nan_max)
    p_best = p_partial + (tile + i_doc) * stride + o_q
    # An empty document, or one that ended with the tile before, has no rows here.
    tl.store(p_best, best, mask=o_q < tl.where(stop > start, n_left, 0))


@triton.jit
def _document_before(p_cu_d, tile, n_documents, BLOCK_D: tl.constexpr, WIDE: tl.constexpr = 15):
    """Return the document of the last row before a tile: it may hold the tile's first row too.

    Reads WIDE places in a step, which wait together. Each is a number of its own and not a lane:
    around a sum over lanes the compiler waits for every single wgmma.
    """
    row = tile * BLOCK_D - 1
    i_doc = 0
    span = n_documents  # the documents from i_doc on that are left
    while span > 1:
        stride = (span + WIDE) // (WIDE + 1)
        steps = 0
        for i in tl.static_range(1, WIDE + 1):
            begin = tl.load(p_cu_d + i_doc + i * stride, mask=i * stride < span, other=row + 1)
            steps += (begin <= row).to(tl.int32)
        i_doc += steps * stride
        span = tl.minimum(span - steps * stride, stride)
    return i_doc


@triton.jit
def _document_of(p_cu_d, tile, i_first, n_documents, sum_d, BLOCK_D: tl.constexpr):
    """Return the document that holds a tile's last row: the last that begins there or before.

    It is i_first or a later one, nearly always that or the next, so the search doubles its steps
    before it halves them. Offsets that were not validated can't make it run on, nor leave
    i_first up to n_documents.
    """
    row = tl.minimum(tile * BLOCK_D + BLOCK_D, sum_d) - 1
    i_doc = i_first
    above = i_doc + 1
    distance = 1
    begin = tl.load(p_cu_d + above, mask=above < n_documents, other=row + 1)
    while begin <= row:
        i_doc = above
        distance *= 2
        above = i_doc + distance
        begin = tl.load(p_cu_d + above, mask=above < n_documents, other=row + 1)
    above = tl.minimum(above, n_documents)
    while above - i_doc > 1:
        middle = (i_doc + above) // 2
        begins_later = tl.load(p_cu_d + middle) > row
        above = tl.where(begins_later, middle, above)
        i_doc = tl.where(begins_later, i_doc, middle)
    return i_doc


@triton.jit(
    do_not_specialize=["n_documents", "sum_d", "first_q", "end_q", "first_query"],
    do_not_specialize_on_alignment=["p_cu_q", "p_cu_d"],
)
def maxsim_sums_kernel(
    p_partial, p_cu_q, p_cu_d, p_scores,
    n_documents, sum_d, first_q, end_q, first_query,
    MEAN: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Add the sums over a query's rows within first_q up to end_q to its scores.

    p_scores  (n_queries, n_documents) float32; the round that begins with row 0 writes all of them
    grid      (cdiv(n_documents, BLOCK_N), queries from first_query on)

    Up to BLOCK_T tiles of a document are read one after another, for BLOCK_N documents at a time.
    Those of a longer one are read BLOCK_T at a time, so that a book waits no longer than it must.
    """
    i_d = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    i_query = first_query + tl.program_id(1)
    m_d = i_d < n_documents
    start = tl.load(p_cu_d + i_d, mask=m_d, other=0)
    start = tl.minimum(tl.maximum(start, 0), sum_d)
    end = tl.load(p_cu_d + i_d + 1, mask=m_d, other=0)
    end = tl.minimum(tl.maximum(end, start), sum_d)
    tile = start // BLOCK_D
    n_tiles = tl.where(end > start, (end - 1) // BLOCK_D - tile + 1, 0)
    most = tl.max(n_tiles, 0)

    start_q = tl.load(p_cu_q + i_query)
    end_of_q = tl.load(p_cu_q + i_query + 1)
    from_q = tl.maximum(start_q, first_q) - first_q
    to_q = tl.minimum(end_of_q, end_q) - first_q
    stride = (end_q - first_q).to(tl.int64)

    total = tl.zeros([BLOCK_N], tl.float32)
    for i_q in range(from_q, to_q, BLOCK_ROWS):
        o_q = i_q + tl.arange(0, BLOCK_ROWS)
        m_q = (o_q < to_q)[None, :]
        best = tl.full([BLOCK_N, BLOCK_ROWS], float("-inf"), tl.float32)
        for t in range(tl.minimum(most, BLOCK_T)):
            p_best = p_partial + (tile + t + i_d)[:, None] * stride + o_q[None, :]
            m_best = (t < n_tiles)[:, None] & m_q
            best = _nan_max(best, tl.load(p_best, mask=m_best, other=float("-inf")))
        if most > BLOCK_T:
            for n in range(BLOCK_N):
                m_n = tl.arange(0, BLOCK_N) == n
                n_tiles_n = tl.sum(tl.where(m_n, n_tiles, 0), 0)
                slot = tl.sum(tl.where(m_n, tile + i_d, 0), 0)
                for t in range(BLOCK_T, n_tiles_n, BLOCK_T):
                    o_t = t + tl.arange(0, BLOCK_T)
                    p_best = p_partial + (slot + o_t)[:, None] * stride + o_q[None, :]
                    m_best = (o_t < n_tiles_n)[:, None] & m_q
                    here = tl.load(p_best, mask=m_best, other=float("-inf"))
                    here = tl.reduce(here, 0, _nan_max)[None, :]
                    best = tl.where(m_n[:, None], _nan_max(best, here), best)
        total += tl.sum(tl.where(m_q, best, 0.0), 1)

    p_score = p_scores + i_query.to(tl.int64) * n_documents + i_d
    total = tl.where(n_tiles > 0, total, 0.0)
    # What the rounds before wrote of a query that began there.
    total += tl.load(p_score, mask=i_d < tl.where(start_q < first_q, n_documents, 0), other=0.0)
    if MEAN:
        # The last round of a query divides, so that it rounds once.
        length = tl.maximum(end_of_q - start_q, 1).to(tl.float32)
        total = tl.where(end_of_q <= end_q, tl.div_rn(total, length), total)
    # A query that no row of this round belongs to keeps what it has, and the first round writes
    # the 0 of an empty one.
    written = (to_q > from_q) | (first_q == 0)
    tl.store(p_score, total, mask=i_d < tl.where(written, n_documents, 0))


@triton.jit
def _rows_of(p_index, p_cu, n, sum_rows):
    """Return the rows (from, to) of the sequence that a pair names.

    Indices and offsets that were not validated stay in bounds.
    """
    i = tl.minimum(tl.maximum(tl.load(p_index), 0), n - 1)
    start = tl.minimum(tl.maximum(tl.load(p_cu + i), 0), sum_rows)
    end = tl.minimum(tl.maximum(tl.load(p_cu + i + 1), start), sum_rows)
    return start.to(tl.int32), end.to(tl.int32)


@triton.jit(
    do_not_specialize=["n_queries", "n_documents", "sum_d", "sum_q"],
    do_not_specialize_on_alignment=["p_cu_q", "p_cu_d", "p_pairs"],
)
def maxsim_pairs_kernel(
    documents, queries, p_scales, p_q_scales, p_cu_q, p_cu_d, p_pairs, p_partial, p_scores,
    n_queries, n_documents, sum_d, sum_q,
    SPLITS: tl.constexpr, MEAN: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr, DRAIN: tl.constexpr, SCALED: tl.constexpr,
    DIGITS: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Score one pair a program, or take the maxima of one of SPLITS parts of its document.

    p_pairs    (n_pairs, 2) int64
    p_partial  (n_pairs, SPLITS, sum_q) float32, for the maxima of the parts; unused with 1
    p_scores   (n_pairs,) float32; unused with more
    grid       (n_pairs * SPLITS,)
    """
    i_pair = (tl.program_id(0) // SPLITS).to(tl.int64)
    i_split = tl.program_id(0) % SPLITS
    start_q, end_q = _rows_of(p_pairs + 2 * i_pair, p_cu_q, n_queries, sum_q)
    start_d, end_d = _rows_of(p_pairs + 2 * i_pair + 1, p_cu_d, n_documents, sum_d)

    n_tiles = tl.cdiv(end_d - start_d, BLOCK_D)
    first = i_split * n_tiles // SPLITS
    last = (i_split + 1) * n_tiles // SPLITS
    STEPS: tl.constexpr = (DIM + BLOCK_K - 1) // BLOCK_K
    DIGITS_OF: tl.constexpr = 2 if DIGITS else 1
    ROWS_Q: tl.constexpr = DIGITS_OF * BLOCK_Q
    total = 0.0
    for i_q in range(start_q, end_q, BLOCK_Q):
        o_q = i_q + tl.arange(0, BLOCK_Q)
        best = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        acc = _zeros(BLOCK_D, BLOCK_Q, DIGITS, False)
        for step in tl.range((last - first) * STEPS):
            row = start_d + (first + step // STEPS) * BLOCK_D
            i_k = (step % STEPS) * BLOCK_K
            b_d = _load(documents, row, i_k, sum_d, DIM, BLOCK_D, BLOCK_K, TMA)
            b_q = _load(
                queries, i_q * DIGITS_OF, i_k, sum_q * DIGITS_OF, DIM, ROWS_Q, BLOCK_K, TMA
            )
            acc = _multiply(b_d, b_q, acc, COMPUTE, PRECISION, DRAIN, False)
            # As in `maxsim_tiles_kernel`.
            ends = row < end_d if STEPS == 1 else i_k + BLOCK_K >= DIM
            if ends:
                o_d = row + tl.arange(0, BLOCK_D)
                m_d = o_d < end_d
                similarity = _similarity(
                    acc, p_scales, p_q_scales, o_d, m_d, o_q, o_q < end_q, SCALED, DIGITS
                )
                here = tl.reduce(tl.where(m_d[:, None], similarity, float("-inf")), 0, _nan_max)
                best = _nan_max(best, here)
                acc = _zeros(BLOCK_D, BLOCK_Q, DIGITS, False)
        if SPLITS == 1:
            total += tl.sum(tl.where(o_q < end_q, best, 0.0), 0)
        else:
            p_best = p_partial + tl.program_id(0).to(tl.int64) * sum_q + (o_q - start_q)
            tl.store(p_best, best, mask=o_q < end_q)
    if SPLITS == 1:
        if MEAN:
            total = tl.div_rn(total, tl.maximum(end_q - start_q, 1).to(tl.float32))
        tl.store(p_scores + i_pair, tl.where(n_tiles > 0, total, 0.0))


@triton.jit(
    do_not_specialize=["n_queries", "n_documents", "sum_d", "sum_q"],
    do_not_specialize_on_alignment=["p_cu_q", "p_cu_d", "p_pairs"],
)
def maxsim_pairs_sums_kernel(
    p_partial, p_cu_q, p_cu_d, p_pairs, p_scores, n_queries, n_documents, sum_d, sum_q,
    SPLITS: tl.constexpr, MEAN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Take the max over a pair's parts and sum over its query's rows; grid (n_pairs,)."""
    i_pair = tl.program_id(0).to(tl.int64)
    start_q, end_q = _rows_of(p_pairs + 2 * i_pair, p_cu_q, n_queries, sum_q)
    start_d, end_d = _rows_of(p_pairs + 2 * i_pair + 1, p_cu_d, n_documents, sum_d)
    n_rows = end_q - start_q
    total = 0.0
    for i_q in range(0, n_rows, BLOCK_ROWS):
        o_q = i_q + tl.arange(0, BLOCK_ROWS)
        best = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
        for split in range(SPLITS):
            p_best = p_partial + (i_pair * SPLITS + split) * sum_q + o_q
            best = _nan_max(best, tl.load(p_best, mask=o_q < n_rows, other=float("-inf")))
        total += tl.sum(tl.where(o_q < n_rows, best, 0.0), 0)
    if MEAN:
        total = tl.div_rn(total, tl.maximum(n_rows, 1).to(tl.float32))
    tl.store(p_scores + i_pair, tl.where(end_d > start_d, total, 0.0))
