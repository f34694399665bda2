"""Sparse-max in Triton.

Four kernels. The first weighs the tokens, and is the only one that reads the states. The others
make CSR of the weights by sorting, so that no buffer grows with the vocabulary. Packed tokens are
cut into runs of RUN without a look at where sequences begin:

    weigh    hidden -> one int64 word a token: (id, weight), such that words in ascending order
             have ascending ids, and of one id the largest weight first
    sort     each run: every sequence's words in the run ascend
    own      a word owns its id if it is the first of the id in its run, weighs more than 0, and no
             other run of its sequence has the id with a larger weight, or the same one earlier
    write    an owner's place in the CSR is the number of owners before it

        run 0                     run 1                     run 2
        ├───────── seq 0 ─────────┼──── seq 0 ──┬─ seq 1 ───┼──── seq 1 ──┬─ seq 2 ...
        │ 5  5  9  12  12  12  40 │ 5  9  9  31 │ 7  8  12  │ 3  3  7  9  │

Only the sequence that a run begins with can come from earlier runs, and only the one that it ends
with can go on: those words, and no others, look their ids up in the sorted words of the other
runs. Sorting costs tokens * RUN comparisons, and the look-ups of each of the last two kernels cost
tokens * (length / RUN) * log2(RUN) reads, nearly all from cache: at RUN = 256 a sequence of 512
tokens looks into one or two other runs, and one of 8,192 takes 300 reads a token where all pairs
would take 8,192 comparisons.

Equal words are ordered by position, so every word has one place whatever runs first, and the only
atomics add integers: the same inputs give the same bytes. Nothing waits for the device, and no
integer argument is specialised, so that new lengths never compile a kernel anew.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["own_kernel", "sort_kernel", "weigh_kernel", "write_kernel"]

# A word is id << 31 | bits ^ _LEAST, with the bits of a weight as an integer: those of numbers
# from 0 up ascend with the number, and a NaN's are above infinity's. A weight of 0 is _LEAST.
_LEAST = tl.constexpr(2**31 - 1)
_NAN_BITS = tl.constexpr(0x7FC00000)
_NO_WORD = tl.constexpr(2**63 - 1)


@triton.jit(
    do_not_specialize=["sum_t"],
    do_not_specialize_on_alignment=["p_bias", "p_ids"],
)
def weigh_kernel(
    p_hidden, p_weight, p_bias, p_ids, p_words, sum_t,
    IGNORED: tl.constexpr, DIM: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Words of BLOCK_T tokens.

    p_hidden  (sum_t, DIM)
    p_weight  (DIM,)
    p_words   (sum_t,) int64
    grid      (cdiv(sum_t, BLOCK_T),)
    """
    o_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    m_t = o_t < sum_t
    # Ids that were not validated still make words in order.
    id = tl.load(p_ids + o_t, mask=m_t, other=0).to(tl.int64) & _LEAST
    m_read = m_t
    for i in tl.static_range(len(IGNORED)):
        m_read &= id != IGNORED[i]

    # A lane adds up its own columns, and lanes are summed once at the end. The loads of four steps
    # are all under way before the first is used.
    acc = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
    for k in tl.range(0, DIM, BLOCK_K, loop_unroll_factor=4):
        o_k = k + tl.arange(0, BLOCK_K)
        p_h = p_hidden + o_t[:, None] * DIM + o_k[None, :]
        if DIM % BLOCK_K == 0:
            b_h = tl.load(p_h, mask=m_read[:, None], other=0.0)
            b_w = tl.load(p_weight + o_k)
        else:
            b_h = tl.load(p_h, mask=m_read[:, None] & (o_k < DIM)[None, :], other=0.0)
            b_w = tl.load(p_weight + o_k, mask=o_k < DIM, other=0.0)
        acc += b_h.to(tl.float32) * b_w.to(tl.float32)[None, :]
    w = tl.sum(acc, 1)
    w += tl.load(p_bias).to(tl.float32)

    # All NaNs alike. A NaN is not <= 0, so it stays.
    bits = tl.where(w != w, _NAN_BITS, w.to(tl.int32, bitcast=True))
    bits = tl.where(w <= 0.0, 0, bits)
    bits = tl.where(m_read, bits, 0)
    tl.store(p_words + o_t, (id << 31) | (bits ^ _LEAST).to(tl.int64), mask=m_t)


@triton.jit
def _begin(p_cu, sequence, n, sum_t):
    """Return where sequences begin, 0 <= begin <= sum_t; sequence n begins at sum_t."""
    inside = (sequence > 0) & (sequence < n)
    begin = tl.load(p_cu + sequence, mask=inside, other=0)
    begin = tl.where(sequence >= n, sum_t, begin)
    return tl.minimum(tl.maximum(begin, 0), sum_t)


@triton.jit
def _sequence_of(p_cu, row, n, WIDE: tl.constexpr):
    """Return the last sequence that begins at `row` or before, 0 <= sequence < n: it holds it.

    Cuts the sequences into WIDE parts at a time. Whatever p_cu holds, a later row has the same
    sequence or a later one, since both rows look at the same places until they part.
    """
    low = tl.zeros([], tl.int64)
    span = low + n  # the sequences from low on that are left
    while span > 1:
        stride = (span + WIDE - 1) // WIDE
        above = (1 + tl.arange(0, WIDE)) * stride
        begin = tl.load(p_cu + low + above, mask=above < span, other=row + 1)
        steps = tl.sum((begin <= row).to(tl.int64), 0) * stride
        low += steps
        span = tl.minimum(span - steps, stride)
    return low


@triton.jit(do_not_specialize=["n", "sum_t"], do_not_specialize_on_alignment=["p_cu"])
def sort_kernel(
    p_words, p_cu, p_sorted, p_sequences, p_indices, p_values, p_blocks, n, sum_t,
    RUN: tl.constexpr, CHUNK: tl.constexpr, WIDE: tl.constexpr, BLOCK_RUNS: tl.constexpr,
):  # fmt: skip
    """Sort the words of one run, each sequence's by themselves.

    p_sorted     (sum_t,) int64
    p_sequences  (sum_t,) int32, the sequence of each token, and so of each sorted word
    p_indices, p_values and p_blocks are zeroed here, which saves a launch each
    grid         (cdiv(sum_t, RUN),)
    """
    run = tl.program_id(0)
    base = run.to(tl.int64) * RUN
    n_here = tl.minimum(sum_t - base, RUN).to(tl.int32)
    o = tl.arange(0, RUN)
    m = o < n_here
    word = tl.load(p_words + base + o, mask=m, other=0)

    # Between the sequence of the first token and that of the last, halving: most runs have few.
    first = _sequence_of(p_cu, base, n, WIDE)
    last = _sequence_of(p_cu, base + n_here - 1, n, WIDE)
    low = tl.zeros([RUN], tl.int64) + first
    high = tl.zeros([RUN], tl.int64) + last
    span = last - first
    while span > 0:
        middle = (low + high + 1) // 2
        begun = tl.load(p_cu + middle) <= base + o
        low = tl.where(begun, middle, low)
        high = tl.where(begun, high, middle - 1)
        span = span // 2
    begin = tl.maximum(_begin(p_cu, low, n, sum_t) - base, 0).to(tl.int32)
    end = tl.minimum(_begin(p_cu, low + 1, n, sum_t) - base, n_here).to(tl.int32)

    # A word's place is the number of words before it. Words of the run lie along the second axis,
    # one a thread, so that a thread adds up its own comparisons.
    place = begin
    for c in range(0, n_here, CHUNK):
        o_c = (c + tl.arange(0, CHUNK))[:, None]
        other = tl.load(p_words + base + o_c, mask=o_c < n_here, other=0)  # [CHUNK, 1]
        before = (other < word[None, :]) | ((other == word[None, :]) & (o_c < o[None, :]))
        before &= (o_c >= begin[None, :]) & (o_c < end[None, :])
        place += tl.sum(before.to(tl.int32), 0)
    # Offsets that were not validated may make a place wrong, but none outside the run.
    tl.store(p_sorted + base + place, word, mask=m & (place < n_here))
    tl.store(p_sequences + base + o, low.to(tl.int32), mask=m)

    tl.store(p_indices + base + o, tl.zeros([RUN], tl.int32), mask=m)
    tl.store(p_values + base + o, tl.zeros([RUN], tl.float32), mask=m)
    tl.store(p_blocks + run // BLOCK_RUNS, 0, mask=run % BLOCK_RUNS == 0)


@triton.jit
def _repeat(x, GROUP: tl.constexpr):
    """[RUN] -> [GROUP * RUN], so that a thread that has one of RUN has GROUP of them."""
    return tl.reshape(tl.broadcast_to(x[None, :], [GROUP, x.shape[0]]), [GROUP * x.shape[0]])


@triton.jit
def _total(x, GROUP: tl.constexpr):
    """Sum over what `_repeat` repeats: [GROUP * RUN] int32 or bool -> [RUN] int32."""
    return tl.sum(tl.reshape(x.to(tl.int32), [GROUP, x.shape[0] // GROUP]), 0)


@triton.jit
def _look_up(p_words, key, wanted, begin, end, GROUP: tl.constexpr, RUN: tl.constexpr):
    """Look keys up in the sorted words of GROUP runs, GROUP lanes a key side by side.

    The lanes lie in one dimension because threads then have neighbouring keys of one run, which
    read the same places or nearly; how two would be laid out depends on Triton's release.

    p_words     the first run's words
    key         [RUN] int64
    wanted      [RUN], which keys to look up; the others read nothing
    begin, end  the words to search, counted from p_words; the rest belong to other sequences
    Returns [GROUP * RUN]: the first place whose word is key or above, the place after the last
    word, counted from p_words, and whether the lane searched any.
    """
    first = tl.arange(0, GROUP * RUN) // RUN * RUN
    end = tl.minimum(end, GROUP * RUN).to(tl.int32)
    low = tl.maximum(first, tl.maximum(begin, 0).to(tl.int32))
    high = tl.where(_repeat(wanted, GROUP), tl.minimum(first + RUN, end), 0)
    last = high
    searched = low < high
    keys = _repeat(key, GROUP)
    size = RUN
    while size > 0:
        middle = (low + high) // 2
        searching = low < high
        below = tl.load(p_words + middle, mask=searching, other=0) < keys
        high = tl.where(searching & ~below, middle, high)
        low = tl.where(searching & below, middle + 1, low)
        size = size // 2
    return low, last, searched


@triton.jit
def _load_run(p_sorted, p_sequences, run, sum_t, RUN: tl.constexpr):
    """Load a run of sorted words.

    Returns its first place, how many words it has, the places 0 to RUN, which of them there are,
    and the words and their sequences.
    """
    base = run * RUN
    n_here = tl.minimum(sum_t - base, RUN).to(tl.int32)
    o = tl.arange(0, RUN)
    m = o < n_here
    word = tl.load(p_sorted + base + o, mask=m, other=_LEAST)
    sequence = tl.load(p_sequences + base + o, mask=m, other=0)
    return base, n_here, o, m, word, sequence


@triton.jit
def _reach(p_sequences, p_cu, base, n_here, n, sum_t):
    """Return a run's first and last sequence, and where these begin and end.

    They begin no later than the run and end no earlier, whatever p_cu holds.
    """
    first = tl.load(p_sequences + base)
    last = tl.load(p_sequences + base + n_here - 1)
    begin = tl.minimum(_begin(p_cu, first, n, sum_t), base)
    end = tl.maximum(_begin(p_cu, last + 1, n, sum_t), base + n_here)
    return first, last, begin, end


@triton.jit(do_not_specialize=["n", "sum_t"], do_not_specialize_on_alignment=["p_cu"])
def own_kernel(
    p_sorted, p_sequences, p_cu, p_owners, p_totals, p_blocks, n, sum_t,
    RUN: tl.constexpr, GROUP: tl.constexpr, BLOCK_RUNS: tl.constexpr,
):  # fmt: skip
    """Count the owners among the sorted words of one run.

    p_owners  (sum_t,) int32, the owners in the run up to and with each word
    p_totals  (runs,) int32, the owners in the run
    p_blocks  (cdiv(runs, BLOCK_RUNS),) int32, those in BLOCK_RUNS runs
    grid      (runs,)
    """
    run = tl.program_id(0).to(tl.int64)
    base, n_here, o, m, word, sequence = _load_run(p_sorted, p_sequences, run, sum_t, RUN)
    m_second = m & (o > 0)
    word_before = tl.load(p_sorted + base + o - 1, mask=m_second, other=0)
    sequence_before = tl.load(p_sequences + base + o - 1, mask=m_second, other=-1)
    first_of_id = ((word >> 31) != (word_before >> 31)) | (sequence != sequence_before)
    owns = first_of_id & ((word & _LEAST) != _LEAST)

    first, last, begin, end = _reach(p_sequences, p_cu, base, n_here, n, sum_t)

    # The smallest word that has the id: it is in another run where that run's first word from
    # here on is no larger than this run's word.
    key = word >> 31 << 31
    words = _repeat(word, GROUP)
    lost = tl.zeros([RUN], tl.int32)
    for r in range(begin // RUN, run, GROUP):
        p_words = p_sorted + r * RUN
        place, after, _ = _look_up(
            p_words, key, owns & (sequence == first), begin - r * RUN, base - r * RUN, GROUP, RUN
        )
        found = tl.load(p_words + place, mask=place < after, other=_NO_WORD)
        lost += _total(found <= words, GROUP)
    for r in range(run + 1, (end + RUN - 1) // RUN, GROUP):
        p_words = p_sorted + r * RUN
        place, after, _ = _look_up(
            p_words, key, owns & (sequence == last), 0, end - r * RUN, GROUP, RUN
        )
        found = tl.load(p_words + place, mask=place < after, other=_NO_WORD)
        lost += _total(found < words, GROUP)

    owns = (owns & (lost == 0)).to(tl.int32)
    tl.store(p_owners + base + o, tl.cumsum(owns, 0), mask=m)
    total = tl.sum(owns, 0)
    tl.store(p_totals + run, total)
    tl.atomic_add(p_blocks + run // BLOCK_RUNS, total, sem="relaxed")


@triton.jit(do_not_specialize=["n", "sum_t"], do_not_specialize_on_alignment=["p_cu"])
def write_kernel(
    p_sorted, p_sequences, p_cu, p_owners, p_totals, p_blocks, p_indptr, p_indices, p_values,
    n, sum_t, RUN: tl.constexpr, GROUP: tl.constexpr, BLOCK_RUNS: tl.constexpr,
):  # fmt: skip
    """Write the owners of one run, and the row pointers of the sequences that begin in it.

    p_indptr   (n + 1,) int64
    p_indices  (sum_t,) int32
    p_values   (sum_t,) float32
    grid       (runs,)
    """
    run = tl.program_id(0).to(tl.int64)
    base, n_here, o, m, word, sequence = _load_run(p_sorted, p_sequences, run, sum_t, RUN)
    up_to = tl.load(p_owners + base + o, mask=m, other=0)
    before = tl.load(p_owners + base + o - 1, mask=m & (o > 0), other=0)
    owns = up_to != before

    # The owners of earlier runs: by the block, and those of this block by the run, so that the
    # programs read few numbers even where there are very many runs.
    o_b = tl.arange(0, BLOCK_RUNS)
    block = run // BLOCK_RUNS
    earlier = block * BLOCK_RUNS + o_b
    earlier_owners = tl.sum(
        tl.load(p_totals + earlier, mask=earlier < run, other=0).to(tl.int64), 0
    )
    for b in range(0, block, BLOCK_RUNS):
        in_blocks = tl.load(p_blocks + b + o_b, mask=b + o_b < block, other=0)
        earlier_owners += tl.sum(in_blocks.to(tl.int64), 0)

    first, last, begin, end = _reach(p_sequences, p_cu, base, n_here, n, sum_t)

    # Where all sequences lie within their run, the place is the count of owners so far. Else the
    # owners of earlier runs with larger ids go after this one, those of later runs with smaller
    # ids before it.
    out = earlier_owners + before
    key = word >> 31 << 31
    o_g = tl.arange(0, GROUP * RUN) // RUN
    for r in range(begin // RUN, run, GROUP):
        place, _, m_here = _look_up(
            p_sorted + r * RUN, key, owns & (sequence == first), begin - r * RUN, base - r * RUN,
            GROUP, RUN,
        )  # fmt: skip
        m_smaller = m_here & (place > o_g * RUN)
        smaller = tl.load(p_owners + r * RUN + place - 1, mask=m_smaller, other=0)
        total = tl.load(p_totals + r + o_g, mask=m_here, other=0)
        out -= _total(total - smaller, GROUP)
    for r in range(run + 1, (end + RUN - 1) // RUN, GROUP):
        place, _, m_here = _look_up(
            p_sorted + r * RUN, key, owns & (sequence == last), 0, end - r * RUN, GROUP, RUN
        )
        m_smaller = m_here & (place > o_g * RUN)
        out += _total(tl.load(p_owners + r * RUN + place - 1, mask=m_smaller, other=0), GROUP)

    # Offsets that were not validated may make a place wrong.
    m_out = owns & (out >= 0) & (out < sum_t)
    tl.store(p_indices + out, (word >> 31).to(tl.int32), mask=m_out)
    bits = ((word & _LEAST) ^ _LEAST).to(tl.int32)
    tl.store(p_values + out, bits.to(tl.float32, bitcast=True), mask=m_out)

    # A row begins after the owners of all words before its sequence's first. Empty sequences
    # begin with the next one's; those at the end belong to the last run.
    from_sequence = tl.load(p_sequences + base - 1, mask=run > 0, other=-1).to(tl.int64) + 1
    to_sequence = tl.where(base + n_here == sum_t, n, last).to(tl.int64) + 1
    for s in range(from_sequence, to_sequence, RUN):
        o_s = s + o
        m_s = o_s < to_sequence
        words_before = _begin(p_cu, tl.where(m_s, o_s, 0), n, sum_t) - base
        words_before = tl.minimum(tl.maximum(words_before, 0), n_here)
        m_before = m_s & (words_before > 0)
        here = tl.load(p_owners + base + words_before - 1, mask=m_before, other=0)
        tl.store(p_indptr + o_s, earlier_owners + here, mask=m_s)
