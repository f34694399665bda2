"""Three ways to the largest products of query tokens with the rows of documents, block by block.

`choose` picks one for the tensors and the CPU at hand.
"""

from __future__ import annotations

import math
from functools import cache, cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from m3kernels import cpus
from m3kernels.packing import aligned, segment_ids

__all__ = ["Digits", "Refined", "Rows", "Running", "Widened", "choose"]

# From so many query tokens, and products of them with rows, a product in bfloat16 repays the
# second look at its results.
_NATIVE_TOKENS = 8
_NATIVE_PRODUCTS = 1 << 14

# torch may leave oneDNN for its own loops below 16^3 multiplications.
_NATIVE_WORK = 1 << 16

# Vectors that integer products take. int32 holds the sums of up to 32,768 products (and of
# oneDNN's shift of them to uint8); torch 2.13 gives garbage for vectors of 1.
_DIGITS_DIMS = range(16, (1 << 15) + 1)

# Rows of a block on a CPU: read where they lie, so many that MKL's start of each product counts
# little; or widened, few enough that they stay in the cache.
_ROWS_IN_PLACE = 1 << 15
_ROWS_WIDENED = 1 << 11

# From so many dimensions and rows on, oneDNN's float32 product takes 0.65 to 0.8 times MKL's time.
# It builds a kernel for each shape, so it is asked for blocks of a few sizes only.
_ONEDNN_DIM = 512
_ONEDNN_ROWS = (1 << 14, 1 << 15)

# Rows whose maximum is taken before it is looked at whose they are: most are of one document.
_NEIGHBOURS = 32


class Rows:
    """Whose the rows of a block are: documents one after another, the first and last perhaps cut.

    Attributes:
        begin: rows of the first document that came with the block before.
        length: how many rows each document has, 0 where they differ.
    """

    def __init__(self, cu_seqlens: Tensor, rows: int, begin: int, length: int) -> None:
        """Take the block's own cu_seqlens (n + 1,), from 0 to `rows`."""
        self._cu_seqlens, self._rows = cu_seqlens, rows
        self.begin, self.length = begin, length

    @cached_property
    def segments(self) -> Tensor:
        """The document of each row, (rows,) int64, ascending from 0."""
        return segment_ids(self._cu_seqlens, self._rows)


class Running(Protocol):
    """Maxima over documents whose rows come block by block."""

    row_bytes: int  # what a row of a block may take
    most_rows: int  # of a block on a CPU: more of them leave the cache

    def add(self, block: Tensor, scales: Tensor | None, rows: Rows, first: int, last: int) -> None:
        """Take the rows (R, d) of the documents first:last."""

    def result(self) -> Tensor:
        """(n, tokens) float32; -inf for a document without rows."""


def choose(
    tokens: Tensor,
    documents: Tensor,
    starts: list[int],
    scales: Tensor | None,
    scratch_bytes: int,
) -> Running:
    """The fastest way to the maxima here; each one's own conditions stand with it."""
    n = len(starts) - 1
    if scales is None and Refined.takes(tokens, documents, starts[-1]):
        return Refined(tokens, n, scratch_bytes)
    if Digits.takes(tokens, documents):
        return Digits(tokens, n)
    return Widened(tokens, n, documents.dtype)


class Widened:
    """The products in float32."""

    def __init__(self, tokens: Tensor, n: int, dtype: torch.dtype) -> None:
        self.tokens = tokens
        self.maxima = tokens.new_full((n, tokens.shape[0]), -torch.inf)
        self.most_rows = _ROWS_IN_PLACE if dtype == torch.float32 else _ROWS_WIDENED
        # Used again: memory that is fresh takes about as long as what is done with it.
        self.wide = self.products = tokens.new_empty(0, 0)
        # float32 documents are read where they lie; the others are copied, and float8 takes one
        # copy in 16 bits on its way.
        copies = {torch.float32: 0, torch.float8_e4m3fn: 6}.get(dtype, 4)
        self.row_bytes = 4 * tokens.shape[0] + copies * tokens.shape[1]

    def add(self, block: Tensor, scales: Tensor | None, rows: Rows, first: int, last: int) -> None:
        if block.dtype == torch.float8_e4m3fn and block.device.type == "cpu":
            block, factors = _widen_float8(block)
            scales = factors if scales is None else scales * factors
        n = block.shape[0]
        if block.dtype != torch.float32:
            self.wide = _room(self.wide, n, block.shape[1])
            block = self.wide[:n].copy_(block)
        similarity = self._products(block)
        if scales is not None:
            similarity *= scales[:, None]
        _raise(self.maxima[first:last], rows, similarity)

    def _products(self, block: Tensor) -> Tensor:
        """With all tokens, (R, tokens)."""
        n, dim = block.shape
        if (
            n in _ONEDNN_ROWS
            and dim >= _ONEDNN_DIM
            and block.device.type == "cpu"
            and block.is_contiguous()
            and _onednn_linear()
        ):
            product: Tensor = torch.ops.mkldnn._linear_pointwise(
                block, self.tokens, None, "none", [], ""
            )
            return product
        self.products = _room(self.products, n, self.tokens.shape[0])
        return torch.mm(block, self.tokens.T, out=self.products[:n])

    def result(self) -> Tensor:
        return self.maxima


class Refined:
    """A bfloat16 product to find the candidates, and float32 products of those alone.

    The native product sums in float32 and rounds the sum x to a bfloat16 a. Rounding never swaps
    two numbers, so among the rows with the largest a is the one with the largest x, and only
    rows that tie need float32: about one in a document for each query token.

    A query that is not in bfloat16 already is q = r + l with r its rounding. Then |x - q.d| is at
    most m = |l| |d| (Cauchy-Schwarz), and a row can win only where
    a >= best - 2 m - 2^-8 (|best| + 2 m), the last term for the rounding of both numbers.
    """

    most_rows = 1 << 16  # to look through; the products take their rows in smaller blocks

    def __init__(self, tokens: Tensor, n: int, scratch_bytes: int) -> None:
        n_tokens, dim = tokens.shape
        self.tokens = tokens
        self.rounded = tokens.bfloat16()
        lost = torch.linalg.vector_norm(tokens - self.rounded.float(), dim=1)
        self.lost = lost if bool(lost.any()) else None  # (tokens,)
        self.rough = self.rounded.new_full((n, n_tokens), -torch.inf)
        self.maxima = tokens.new_full((n, n_tokens), -torch.inf)
        self.norms = tokens.new_zeros(n)
        # A product in bfloat16, the least that counts, where it does, and the places of those that
        # do, at most one in eight; half of the scratch is left for float32 rows.
        self.row_bytes = 2 * (2 + 2 + 2 + 4) * n_tokens
        self.exact_rows = max(scratch_bytes // 2 // (10 * dim + 4 * n_tokens), 1)

    @staticmethod
    def takes(tokens: Tensor, documents: Tensor, n_rows: int) -> bool:
        return (
            documents.dtype == torch.bfloat16
            and documents.device.type == "cpu"
            and tokens.shape[0] >= _NATIVE_TOKENS
            and n_rows * tokens.shape[0] >= _NATIVE_PRODUCTS
            and cpus.has("avx512_bf16")
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            # An infinity has no rest l, and a large float32 rounds to one.
            and bool(tokens.bfloat16().isfinite().all())
        )

    def add(self, block: Tensor, scales: Tensor | None, rows: Rows, first: int, last: int) -> None:
        maxima = self.maxima[first:last]
        if block.numel() * self.tokens.shape[0] < _NATIVE_WORK:
            _raise(maxima, rows, block.float() @ self.tokens.T)
            return
        similarity = self._rough_products(block)
        rough = self.rough[first:last]
        _raise(rough, rows, similarity)
        segments = rows.segments
        # A NaN compares false, and `result` puts it back.
        least = self._least(rough, block, segments, first).index_select(0, segments)
        n = similarity.numel()
        near = block.new_zeros(math.ceil(n / 8), 8, dtype=torch.bool)
        torch.ge(similarity, least, out=near.view(-1)[:n].view_as(similarity))
        # Few are near, and looking for eight at once takes a fifth of the time.
        eights = near.view(torch.int64)[:, 0].nonzero()[:, 0]
        if eights.numel() * 64 > n:
            # So many ties (documents that repeat a row) go faster as one product.
            places = near.view(-1)[:n].view_as(similarity).any(1).nonzero()[:, 0]
            for near_rows in torch.split(places, self.exact_rows):
                exact = block.index_select(0, near_rows).float() @ self.tokens.T
                _scatter_max(maxima, segments[near_rows], exact)
        else:
            i_eight, i_bit = near[eights].nonzero(as_tuple=True)
            places = eights[i_eight] * 8 + i_bit
            n_tokens = self.tokens.shape[0]
            of_rows, columns = places // n_tokens, places % n_tokens
            exact = self._products(block, of_rows, columns)
            places = segments[of_rows] * n_tokens + columns
            maxima.view(-1).scatter_reduce_(0, places, exact, "amax")

    def _rough_products(self, block: Tensor) -> Tensor:
        """The products with the rounded tokens, (R, tokens) bfloat16.

        oneDNN builds a kernel for each new shape, which takes longer than most products, so the
        rows are a power of two, and the last product begins within the one before.
        """
        n = block.shape[0]
        size = n if n <= 64 else min(1 << (n.bit_length() - 2), 4096)
        out = block.new_empty(n, self.tokens.shape[0])
        for i in (*range(0, n - size, size), n - size):
            torch.mm(block[i : i + size], self.rounded.T, out=out[i : i + size])
        return out

    def _least(self, rough: Tensor, block: Tensor, segments: Tensor, first: int) -> Tensor:
        """The smallest rough product (documents, tokens) that may belong to a maximum."""
        if self.lost is None:
            return rough
        norms = self.norms[first : first + rough.shape[0]]
        norms.scatter_reduce_(0, segments, torch.linalg.vector_norm(block, dim=1).float(), "amax")
        best = rough.float()
        # 1% for the norms' own rounding to bfloat16, 0.6 * 2^-8 for that of the result.
        margin = 2.02 * norms[:, None] * self.lost
        least: Tensor = best - margin - (best.abs() + margin) * (1.6 * 2**-8)
        # inf - inf: a row too large for its norm excludes nothing.
        return least.nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf).bfloat16()

    def _products(self, block: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The float32 products of rows of the block with tokens, pair by pair.

        Into buffers that are used again, which halves the time.
        """
        size, dim = min(256, self.exact_rows), block.shape[1]
        out = self.tokens.new_empty(rows.numel())
        narrow = block.new_empty(size, dim)
        left, right = self.tokens.new_empty(2, size, dim)
        for i in range(0, rows.numel(), size):
            n = min(size, rows.numel() - i)
            torch.index_select(block, 0, rows[i : i + n], out=narrow[:n])
            torch.index_select(self.tokens, 0, columns[i : i + n], out=right[:n])
            left[:n].copy_(narrow[:n]).mul_(right[:n])
            torch.sum(left[:n], 1, out=out[i : i + n])
        return out

    def result(self) -> Tensor:
        return self.maxima.masked_fill_(self.rough.isnan(), math.nan)


class Digits:
    """Integer products of int8 documents with query tokens of two int8 digits.

    q = s (h + l / 254) with s = max|q| / 127 and h, l from -127 to 127: the error of a number is
    at most s / 508. The sums are exact in int32.
    """

    most_rows = 4096

    def __init__(self, tokens: Tensor, n: int) -> None:
        n_tokens = tokens.shape[0]
        # Not 0 for a token of zeros, nor a denormal number.
        self.scales = tokens.abs().amax(1).clamp(min=1e-30) / 127
        numbers = tokens / self.scales[:, None]
        high = numbers.round()
        low = ((numbers - high) * 254).round()
        self.digits = torch.cat([high, low]).to(torch.int8)
        self.maxima = tokens.new_full((n, n_tokens), -torch.inf)
        self.row_bytes = (8 + 4 + 4) * n_tokens + tokens.shape[1]

    @staticmethod
    def takes(tokens: Tensor, documents: Tensor) -> bool:
        return (
            documents.dtype == torch.int8
            and documents.device.type == "cpu"
            and documents.shape[1] in _DIGITS_DIMS
            and cpus.has("vnni")  # without it, float32 is faster
            and _exact_int_mm()
            and bool(tokens.isfinite().all())
        )

    def add(self, block: Tensor, scales: Tensor | None, rows: Rows, first: int, last: int) -> None:
        n_tokens = self.maxima.shape[1]
        # One row may be contiguous with any stride, which gives garbage here.
        sums = torch._int_mm(aligned(block), self.digits.T)  # (R, 2 * tokens) int32
        similarity = sums[:, :n_tokens].float()
        similarity.mul_(254).add_(sums[:, n_tokens:])
        if scales is not None:
            similarity *= scales[:, None]
        _raise(self.maxima[first:last], rows, similarity)

    def result(self) -> Tensor:
        return self.maxima.mul_(self.scales / 254)


@cache
def _onednn_linear() -> bool:
    """Whether torch has oneDNN's product of float32 matrices, and it is one, on a CPU like those
    that it was measured on.
    """
    parts: Any = torch.backends
    if not (cpus.has("avx512") and parts.mkl.is_available() and parts.mkldnn.is_available()):
        return False
    ones = torch.ones(2, 16, device="cpu")
    try:
        product = torch.ops.mkldnn._linear_pointwise(ones, ones * 3, None, "none", [], "")
    except (AttributeError, RuntimeError):  # torch's own, and of no other's business
        return False
    return bool((product == 48).all())


@cache
def _exact_int_mm() -> bool:
    """Whether torch multiplies int8 matrices, and exactly.

    oneDNN saturates partial sums where it may not use VNNI (ONEDNN_MAX_CPU_ISA).
    """
    if not hasattr(torch, "_int_mm"):
        return False
    ones = torch.ones(16, 64, dtype=torch.int8, device="cpu")
    return bool((torch._int_mm(ones * 127, ones.T * 127) == 64 * 127**2).all())


def _raise(maxima: Tensor, rows: Rows, values: Tensor) -> None:
    """Raise maxima (n, tokens) to the largest of each document's values, (R, tokens) of rows."""
    length, n = rows.length, values.shape[0]
    if not length:
        _scatter_max(maxima, rows.segments, values)
        return
    head = min(-rows.begin % length, n)  # of the first, which is cut
    whole = (n - head) // length
    middle = values[head : head + whole * length].view(whole, length, values.shape[1])
    first = int(head > 0)
    some = maxima[first : first + whole]
    if whole:
        torch.maximum(some, middle.amax(1), out=some)
    for i, part in ((0, values[:head]), (first + whole, values[head + whole * length :])):
        if part.shape[0]:
            torch.maximum(maxima[i], part.amax(0), out=maxima[i])


def _scatter_max(maxima: Tensor, segments: Tensor, values: Tensor) -> None:
    """Raise maxima (n, tokens) to the largest of the values (R, tokens) of each segment (R,).

    The segments ascend. The max of a NaN is NaN.
    """
    n = values.shape[0] // _NEIGHBOURS
    if values.device.type == "cpu" and n > _NEIGHBOURS:
        whole = n * _NEIGHBOURS
        of = segments[:whole].view(n, _NEIGHBOURS)
        alike = of[:, 0] == of[:, -1]
        rows = values[:whole].view(n, _NEIGHBOURS, values.shape[1])
        if bool(alike.all()):
            _scatter_each(maxima, of[:, 0], rows.amax(1))
        elif int(alike.count_nonzero()) * 2 > n:
            places = alike.nonzero()[:, 0]
            best = rows.amax(1).index_select(0, places)
            _scatter_each(maxima, of[:, 0].index_select(0, places), best)
            places = alike.logical_not().nonzero()[:, 0]
            rest = rows.index_select(0, places).flatten(0, 1)
            _scatter_each(maxima, of.index_select(0, places).flatten(), rest)
        else:
            whole = 0
        segments, values = segments[whole:], values[whole:]
    _scatter_each(maxima, segments, values)


def _scatter_each(maxima: Tensor, segments: Tensor, values: Tensor) -> None:
    # An index expanded from one column takes torch's row-wise path, ten times the speed of
    # segment_reduce(max).
    maxima.scatter_reduce_(0, segments[:, None].expand_as(values), values, "amax")


def _room(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """The buffer, or a new one where it is too small."""
    return buffer if buffer.shape[0] >= rows else buffer.new_empty(rows, columns)


def _widen_float8(block: Tensor) -> tuple[Tensor, Tensor]:
    """float8_e4m3fn (R, d) as float32 rows and a float32 factor for each, (R,).

    torch converts number by number, at 13 times the time of this: an e4m3 number's exponent and
    mantissa, shifted to their place in a float16, are the number times 2^-8, subnormals too. Only
    its NaN would become a number, 480 / 256, so that a row with one gets the factor NaN.
    """
    raw = block.view(torch.int8)
    is_nan = (raw & 0x7F).amax(1) == 0x7F
    # The shift of the sign-extended byte leaves the sign twice.
    bits = raw.to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000)
    factors = torch.where(is_nan, math.nan, 256.0).float()
    return bits.view(torch.float16).float(), factors
