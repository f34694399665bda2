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

A pair list runs one program for each pair, or a few that share the document's tiles where pairs
are few.

Every max is over the same numbers whatever the split, every sum has one order, and there are no
atomics: the same inputs give the same bytes. No integer argument is specialised, so that new
lengths never compile a kernel anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from m3kernels.dispatch import interpreting, target_of
from m3kernels.maxsim.tiles import TILES, Tile, tile_for
from m3kernels.packing import aligned
from m3kernels.target import Target, processors
from m3kernels.variant import Variant

# What the partial maxima of a call may take; queries beyond it go in several rounds. One round
# takes at least a tile's query rows: BLOCK_Q * 4 bytes for each tile of documents and document.
SCRATCH_BYTES = 256 << 20

# The second kernel: documents and query rows of a block.
_BLOCK_N = 16
_BLOCK_ROWS = 32

# Pairs are split while there are fewer programs than this for each multiprocessor.
_PROGRAMS_WANTED = 4

_TL: dict[torch.dtype, Any] = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


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


@triton.jit(
    do_not_specialize=["n_documents", "sum_d", "sum_q", "first_q", "end_q", "n_ranges"],
    do_not_specialize_on_alignment=["p_cu_d"],
)
def _maxsim_tiles_kernel(
    documents, queries, p_scales, p_cu_d, p_partial,
    n_documents, sum_d, sum_q, first_q, end_q, n_ranges, FLAT: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr, SCALED: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Partial maxima of query rows first_q up to end_q.

    documents  (sum_d, DIM), queries (sum_q, DIM): pointers, or descriptors where TMA
    p_partial  (tiles + n_documents, end_q - first_q) float32
    grid       (query tiles * n_ranges,): the query tiles of one range of document tiles run side
               by side, so that the documents come from memory once and from L2 after that
    """
    n_tiles_q = tl.cdiv(end_q - first_q, BLOCK_Q)
    i_q = first_q + (tl.program_id(0) % n_tiles_q) * BLOCK_Q
    i_range = (tl.program_id(0) // n_tiles_q).to(tl.int64)
    n_tiles = tl.cdiv(sum_d, BLOCK_D)
    first = (i_range * n_tiles // n_ranges).to(tl.int32)
    last = ((i_range + 1) * n_tiles // n_ranges).to(tl.int32)

    # From the document of the last row before the range on: it may hold the first row too.
    i_doc = _document_of(p_cu_d, first - 1, 0, n_documents, sum_d, BLOCK_D)
    p_partial += i_q - first_q
    stride = (end_q - first_q).to(tl.int64)
    STEPS: tl.constexpr = (DIM + BLOCK_K - 1) // BLOCK_K
    if FLAT:
        # One loop over tiles and dimensions: the next tile's loads are under way while this
        # one's maxima are taken.
        acc = tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)
        for step in tl.range((last - first) * STEPS):
            tile = first + step // STEPS
            i_k = (step % STEPS) * BLOCK_K
            b_d = _load(documents, tile * BLOCK_D, i_k, sum_d, DIM, BLOCK_D, BLOCK_K, TMA)
            b_q = _load(queries, i_q, i_k, sum_q, DIM, BLOCK_Q, BLOCK_K, TMA)
            acc = tl.dot(b_d.to(COMPUTE), b_q.to(COMPUTE).T, acc, input_precision=PRECISION)
            if i_k + BLOCK_K >= DIM:
                i_last = _document_of(p_cu_d, tile, i_doc, n_documents, sum_d, BLOCK_D)
                _store_maxima(
                    acc, p_scales, p_cu_d, p_partial, tile, i_doc, i_last, sum_d,
                    stride, end_q - i_q, SCALED,
                )  # fmt: skip
                i_doc = i_last
                acc = tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)
    else:
        for tile in range(first, last):
            # Before the product: sm_100's compiler can't move accumulators past this search.
            i_last = _document_of(p_cu_d, tile, i_doc, n_documents, sum_d, BLOCK_D)
            acc = tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)
            for step in tl.range(STEPS):
                i_k = step * BLOCK_K
                b_d = _load(documents, tile * BLOCK_D, i_k, sum_d, DIM, BLOCK_D, BLOCK_K, TMA)
                b_q = _load(queries, i_q, i_k, sum_q, DIM, BLOCK_Q, BLOCK_K, TMA)
                acc = tl.dot(b_d.to(COMPUTE), b_q.to(COMPUTE).T, acc, input_precision=PRECISION)
            _store_maxima(
                acc, p_scales, p_cu_d, p_partial, tile, i_doc, i_last, sum_d,
                stride, end_q - i_q, SCALED,
            )  # fmt: skip
            i_doc = i_last


@triton.jit
def _store_maxima(
    acc, p_scales, p_cu_d, p_partial, tile, i_first, i_last, sum_d, stride, n_left,
    SCALED: tl.constexpr,
):  # fmt: skip
    """Store the max of each document over its rows in a tile.

    acc      [BLOCK_D, BLOCK_Q]
    i_first  a document that holds the tile's first row, or one before it that has no rows here
    i_last   the document that holds the tile's last row
    n_left   how many of the BLOCK_Q query rows there are
    """
    BLOCK_D: tl.constexpr = acc.shape[0]
    BLOCK_Q: tl.constexpr = acc.shape[1]
    o_d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    o_q = tl.arange(0, BLOCK_Q)
    if SCALED:
        acc *= tl.load(p_scales + o_d, mask=o_d < sum_d, other=0.0)[:, None]
    end = tl.minimum(tile * BLOCK_D + BLOCK_D, sum_d)
    for i_doc in range(i_first, i_last + 1):
        start = tl.maximum(tl.load(p_cu_d + i_doc), tile * BLOCK_D).to(tl.int32)
        stop = tl.minimum(tl.load(p_cu_d + i_doc + 1), end).to(tl.int32)
        m_d = (o_d >= start) & (o_d < stop)
        best = tl.reduce(tl.where(m_d[:, None], acc, float("-inf")), 0, _nan_max)
        p_best = p_partial + (tile + i_doc) * stride + o_q
        # An empty document, or one that ended with the tile before, has no rows here.
        tl.store(p_best, best, mask=o_q < tl.where(stop > start, n_left, 0))


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
def _maxsim_sums_kernel(
    p_partial, p_cu_q, p_cu_d, p_scores,
    n_documents, sum_d, first_q, end_q, first_query,
    MEAN: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Add the sums over a query's rows within first_q up to end_q to its scores.

    p_scores  (n_queries, n_documents) float32
    grid      (cdiv(n_documents, BLOCK_N), queries from first_query on)
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
        for t in range(most):
            p_best = p_partial + (tile + t + i_d)[:, None] * stride + o_q[None, :]
            m_best = (t < n_tiles)[:, None] & m_q
            best = _nan_max(best, tl.load(p_best, mask=m_best, other=float("-inf")))
        total += tl.sum(tl.where(m_q, best, 0.0), 1)

    p_score = p_scores + i_query.to(tl.int64) * n_documents + i_d
    total = tl.where(n_tiles > 0, total, 0.0)
    if MEAN:
        # The last round of a query divides, so that it rounds once.
        length = tl.maximum(end_of_q - start_q, 1).to(tl.float32)
        total += tl.where(start_q < first_q, tl.load(p_score, mask=m_d, other=0.0), 0.0)
        total = tl.where(end_of_q <= end_q, tl.div_rn(total, length), total)
    else:
        total += tl.where(start_q < first_q, tl.load(p_score, mask=m_d, other=0.0), 0.0)
    # A query that no row of this round belongs to keeps what it has: the 0 of an empty one too.
    tl.store(p_score, total, mask=i_d < tl.where(to_q > from_q, n_documents, 0))


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
def _maxsim_pairs_kernel(
    documents, queries, p_scales, p_cu_q, p_cu_d, p_pairs, p_partial, p_scores,
    n_queries, n_documents, sum_d, sum_q,
    SPLITS: tl.constexpr, MEAN: tl.constexpr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr, SCALED: tl.constexpr, TMA: tl.constexpr,
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
    total = 0.0
    for i_q in range(start_q, end_q, BLOCK_Q):
        o_q = i_q + tl.arange(0, BLOCK_Q)
        best = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        acc = tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)
        for step in tl.range((last - first) * STEPS):
            row = start_d + (first + step // STEPS) * BLOCK_D
            i_k = (step % STEPS) * BLOCK_K
            b_d = _load(documents, row, i_k, sum_d, DIM, BLOCK_D, BLOCK_K, TMA)
            b_q = _load(queries, i_q, i_k, sum_q, DIM, BLOCK_Q, BLOCK_K, TMA)
            acc = tl.dot(b_d.to(COMPUTE), b_q.to(COMPUTE).T, acc, input_precision=PRECISION)
            if i_k + BLOCK_K >= DIM:
                o_d = row + tl.arange(0, BLOCK_D)
                m_d = o_d < end_d
                if SCALED:
                    acc *= tl.load(p_scales + o_d, mask=m_d, other=0.0)[:, None]
                here = tl.reduce(tl.where(m_d[:, None], acc, float("-inf")), 0, _nan_max)
                best = _nan_max(best, here)
                acc = tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)
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
def _maxsim_pairs_sums_kernel(
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


def maxsim_triton(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    scratch_bytes: int = SCRATCH_BYTES,
) -> Tensor:
    """Launch the kernels; takes the checked arguments of `m3kernels.maxsim`.

    Never waits for the device. `scratch_bytes` bounds the partial maxima, see `SCRATCH_BYTES`.
    """
    target = target_of(queries.device)
    if target is None:
        raise ValueError(f"no kernel runs on {queries.device}")
    n_queries, n_documents = cu_seqlens_q.shape[0] - 1, cu_seqlens_d.shape[0] - 1
    shape = (n_queries, n_documents) if pairs is None else (pairs.shape[0],)
    scores = queries.new_zeros(shape, dtype=torch.float32)
    if 0 in (n_queries, n_documents, scores.numel(), queries.shape[0], documents.shape[0]):
        return scores

    mean = reduction == "mean"
    call = _Call(target, aligned(queries), aligned(documents), document_scales, mean)
    cu_q, cu_d = cu_seqlens_q.contiguous(), cu_seqlens_d.contiguous()
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(queries):
        if pairs is None:
            call.all_pairs(cu_q, cu_d, scores, scratch_bytes)
        else:
            call.pairs(cu_q, cu_d, pairs.contiguous(), scores, scratch_bytes)
    return scores


def constants(
    target: Target, tile: Tile, dim: int, compute: torch.dtype, scaled: bool, emulate: bool = False
) -> dict[str, Any]:
    """Return the compile-time arguments that the tile kernels share.

    `emulate` widens everything to float32, for an interpreter that gets bfloat16 wrong.
    """
    # "tf32x3" splits each float32 in two tf32 numbers and adds three products: float32's own
    # accuracy on the matrix units. AMD's multiply float32 as it is.
    precise = "tf32x3" if target.backend == "cuda" else "ieee"
    return {
        "DIM": dim,
        "BLOCK_D": tile.block_d,
        "BLOCK_Q": tile.block_q,
        "BLOCK_K": tile.block_k,
        "COMPUTE": tl.float32 if emulate else _TL[compute],
        "PRECISION": precise if compute == torch.float32 else "tf32",
        "SCALED": scaled,
        "TMA": target.tma,
    }


def product_dtype(queries: torch.dtype, documents: torch.dtype) -> torch.dtype:
    """Return the dtype that both sides are widened to, without loss, for the product.

    int8 and float8_e4m3fn fit float16 and bfloat16 exactly, so such documents take the queries'.
    """
    if queries == documents or documents in (torch.int8, torch.float8_e4m3fn):
        return queries
    return torch.float32


class _Call:
    """One launch: the packed rows, and the tile that suits them."""

    def __init__(
        self,
        target: Target,
        queries: Tensor,
        documents: Tensor,
        scales: Tensor | None,
        mean: bool,
    ) -> None:
        self.target = target
        self.queries, self.documents = queries, documents
        self.scales = scales
        self.mean = mean
        self.compute = product_dtype(queries.dtype, documents.dtype)
        self.sum_q, self.dim = queries.shape
        self.sum_d = documents.shape[0]

    def _tile(self, query_rows: int, *, pairs: bool = False) -> Tile:
        return tile_for(self.target.family, self.compute.itemsize, query_rows, pairs=pairs)

    def _operands(self, tile: Tile) -> tuple[Any, Any, Tensor]:
        """The documents, the queries and the scales as the kernels take them."""
        # Without scales the pointer is never read, but it must be one.
        scales = self.documents if self.scales is None else self.scales.contiguous()
        if not self.target.tma:
            return self.documents, self.queries, scales
        return (
            TensorDescriptor.from_tensor(self.documents, [tile.block_d, tile.block_k]),
            TensorDescriptor.from_tensor(self.queries, [tile.block_q, tile.block_k]),
            scales,
        )

    def _options(self, tile: Tile) -> dict[str, Any]:
        return constants(
            self.target,
            tile,
            self.dim,
            self.compute,
            self.scales is not None,
            emulate=interpreting(),
        ) | {"num_warps": tile.num_warps, "num_stages": tile.num_stages}

    def all_pairs(self, cu_q: Tensor, cu_d: Tensor, scores: Tensor, scratch_bytes: int) -> None:
        n_queries, n_documents = scores.shape
        tile = self._tile(self.sum_q)
        documents, queries, scales = self._operands(tile)
        n_tiles = triton.cdiv(self.sum_d, tile.block_d)
        slots = n_tiles + n_documents
        width = max(scratch_bytes // (4 * slots) // tile.block_q, 1) * tile.block_q
        width = min(width, self.sum_q)
        partial = scores.new_empty(slots * width)
        n_ranges = min(n_tiles, processors(scores.device) * tile.blocks)
        for first_q in range(0, self.sum_q, width):
            end_q = min(first_q + width, self.sum_q)
            _maxsim_tiles_kernel[(triton.cdiv(end_q - first_q, tile.block_q) * n_ranges,)](
                documents, queries, scales, cu_d, partial,
                n_documents, self.sum_d, self.sum_q, first_q, end_q, n_ranges,
                FLAT=tile.flat,
                **self._options(tile),
            )  # fmt: skip
            # A grid's second dimension ends at 65,535.
            for first_query in range(0, n_queries, 65_535):
                grid = (
                    triton.cdiv(n_documents, _BLOCK_N),
                    min(n_queries - first_query, 65_535),
                )
                _maxsim_sums_kernel[grid](
                    partial, cu_q, cu_d, scores,
                    n_documents, self.sum_d, first_q, end_q, first_query,
                    MEAN=self.mean, BLOCK_D=tile.block_d,
                    BLOCK_N=_BLOCK_N, BLOCK_ROWS=_BLOCK_ROWS,
                )  # fmt: skip

    def pairs(
        self, cu_q: Tensor, cu_d: Tensor, pairs: Tensor, scores: Tensor, scratch_bytes: int
    ) -> None:
        n_pairs = pairs.shape[0]
        n_queries, n_documents = cu_q.shape[0] - 1, cu_d.shape[0] - 1
        tile = self._tile(-(-self.sum_q // n_queries), pairs=True)
        documents, queries, scales = self._operands(tile)
        # A power of two, so that at most seven kernels are compiled.
        splits = 1
        wanted = processors(scores.device) * _PROGRAMS_WANTED
        while splits < 64 and n_pairs * splits < wanted:
            splits *= 2
        while splits > 1 and n_pairs * splits * self.sum_q * 4 > scratch_bytes:
            splits //= 2
        partial = scores if splits == 1 else scores.new_empty(n_pairs * splits * self.sum_q)
        _maxsim_pairs_kernel[(n_pairs * splits,)](
            documents, queries, scales, cu_q, cu_d, pairs, partial, scores,
            n_queries, n_documents, self.sum_d, self.sum_q,
            SPLITS=splits, MEAN=self.mean,
            **self._options(tile),
        )  # fmt: skip
        if splits > 1:
            _maxsim_pairs_sums_kernel[(n_pairs,)](
                partial, cu_q, cu_d, pairs, scores,
                n_queries, n_documents, self.sum_d, self.sum_q,
                SPLITS=splits, MEAN=self.mean, BLOCK_ROWS=_BLOCK_ROWS,
            )  # fmt: skip


# -- what a launch compiles, for `m3kernels.aot`

_NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.float8_e4m3fn: "fp8e4nv",
}


def variants(target: Target) -> Iterator[Variant]:
    """Yield what `maxsim_triton` compiles on a target for 1024 dimensions, a tile at a time."""
    inputs = [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
        (torch.float16, torch.int8),
        (torch.bfloat16, torch.int8),
    ]
    if target.fp8:
        inputs += [(torch.float16, torch.float8_e4m3fn), (torch.bfloat16, torch.float8_e4m3fn)]
    for queries, documents in inputs:
        compute = product_dtype(queries, documents)
        for tile in TILES[target.family, compute.itemsize]:
            yield from _tile_variants(target, tile, queries, documents, compute)
    tile = TILES[target.family, 2][0]
    sums = {"MEAN": True, "BLOCK_ROWS": _BLOCK_ROWS}
    yield Variant(
        "maxsim sums",
        _maxsim_sums_kernel,
        _signature(_maxsim_sums_kernel),
        sums | {"BLOCK_D": tile.block_d, "BLOCK_N": _BLOCK_N},
        num_warps=4,
    )
    yield Variant(
        "maxsim pairs sums",
        _maxsim_pairs_sums_kernel,
        _signature(_maxsim_pairs_sums_kernel),
        sums | {"SPLITS": 8},
        num_warps=4,
    )


def _tile_variants(
    target: Target,
    tile: Tile,
    queries: torch.dtype,
    documents: torch.dtype,
    compute: torch.dtype,
    dim: int = 1024,
) -> Iterator[Variant]:
    of_d, of_q = _NAMES[documents], _NAMES[queries]
    operands = {"documents": f"*{of_d}", "queries": f"*{of_q}", "p_scales": f"*{of_d}"}
    aligned: tuple[str, ...] = ("documents", "queries")
    if target.tma:
        operands["documents"] = f"tensordesc<{of_d}[{tile.block_d},{tile.block_k}]>"
        operands["queries"] = f"tensordesc<{of_q}[{tile.block_q},{tile.block_k}]>"
        aligned = ()
    scaled = documents != compute and queries == compute
    if scaled:
        operands["p_scales"] = "*fp32"
    shared = constants(target, tile, dim, compute, scaled)
    shape = f"{of_q} x {of_d} {tile.block_d}x{tile.block_q}x{tile.block_k}"
    kernels: list[tuple[str, Any, dict[str, Any]]] = [
        ("tiles", _maxsim_tiles_kernel, {"FLAT": tile.flat})
    ]
    if tile.pairs:
        kernels.append(("pairs", _maxsim_pairs_kernel, {"SPLITS": 1, "MEAN": True}))
    for name, kernel, extra in kernels:
        yield Variant(
            f"maxsim {name} {shape}",
            kernel,
            _signature(kernel) | operands,
            shared | extra,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            aligned=aligned,
            multiplies=True,
            tma=target.tma,
            blocks=tile.blocks,
        )


def _signature(kernel: Any) -> dict[str, str]:
    """Types of the arguments that are the same in every variant."""
    types = {"p_partial": "*fp32", "p_scores": "*fp32"}
    types |= {"p_cu_q": "*i64", "p_cu_d": "*i64", "p_pairs": "*i64"}
    lengths = ("n_queries", "n_documents", "sum_d", "sum_q", "first_q", "end_q", "n_ranges")
    types |= dict.fromkeys((*lengths, "first_query"), "i32")
    return {name: types[name] for name in kernel.arg_names if name in types}
