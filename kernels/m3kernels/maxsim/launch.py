"""How the MaxSim kernels are launched: tiles, grids, rounds of queries and parts of pairs."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from m3kernels.dispatch import interpreting, launching_on, target_of
from m3kernels.launching import cdiv, launch
from m3kernels.maxsim.kernels import (
    maxsim_digits_kernel,
    maxsim_pairs_kernel,
    maxsim_pairs_sums_kernel,
    maxsim_sums_kernel,
    maxsim_tiles_kernel,
)
from m3kernels.maxsim.tiles import Tile, tile_for
from m3kernels.packing import aligned
from m3kernels.target import Target, processors
from m3kernels.token_vectors import product_dtype

__all__ = [
    "BLOCK_N",
    "BLOCK_T",
    "PROGRAMS_WANTED",
    "constants",
    "digits_constants",
    "maxsim_triton",
    "multiplied_as",
    "sums_constants",
    "tile_of",
    "tiles_constants",
]

# What the partial maxima of a call may take; queries beyond it go in several rounds. One round
# takes at least a tile's query rows: BLOCK_Q * 4 bytes for each tile of documents and document.
SCRATCH_BYTES = 256 << 20

# The second kernel: documents, tiles of a long document and query rows of a block.
BLOCK_N = 16
BLOCK_T = 16
_BLOCK_ROWS = 32

# Query rows of a program that makes digits. In the interpreter it is the program that costs.
_DIGITS_ROWS = 1
_DIGITS_ROWS_INTERPRETED = 64

# Pairs are split while there are fewer programs than this for each multiprocessor.
PROGRAMS_WANTED = 4

_TL: dict[torch.dtype, Any] = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.int8: tl.int8,
}


def maxsim_triton(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    scratch_bytes: int = SCRATCH_BYTES,
    part_of: tuple[int, int] | None = None,
) -> Tensor:
    """Launch the kernels; takes the checked arguments of `m3kernels.maxsim`.

    Never waits for the device. `scratch_bytes` bounds the partial maxima, see `SCRATCH_BYTES`.
    `part_of` is the (sum_d, n_d) of a larger call whose documents these are some of: the scores
    then have the bits that they have there.
    """
    target = target_of(queries.device)
    if target is None:
        raise ValueError(f"no kernel runs on {queries.device}")
    n_queries, n_documents = cu_seqlens_q.shape[0] - 1, cu_seqlens_d.shape[0] - 1
    shape = (n_queries, n_documents) if pairs is None else (pairs.shape[0],)
    scores = queries.new_empty(shape, dtype=torch.float32)
    if 0 in (n_queries, n_documents, scores.numel(), queries.shape[0], documents.shape[0]):
        return scores.zero_()

    mean = reduction == "mean"
    call = _Call(target, aligned(queries), aligned(documents), document_scales, mean)
    cu_q, cu_d = cu_seqlens_q.contiguous(), cu_seqlens_d.contiguous()
    with launching_on(queries.device):
        if pairs is None:
            call.all_pairs(cu_q, cu_d, scores, scratch_bytes, part_of)
        else:
            call.pairs(cu_q, cu_d, pairs.contiguous(), scores, scratch_bytes)
    return scores


@cache
def constants(
    target: Target,
    tile: Tile,
    dim: int,
    compute: torch.dtype,
    scaled: bool,
    tma: bool,
    *,
    emulate: bool = False,
) -> dict[str, Any]:
    """Return the compile-time arguments that the tile kernels share. Not to be written to.

    `tma` is whether tensor descriptors load the tiles. `emulate` widens all floats to float32, for
    an interpreter that gets bfloat16 wrong.
    """
    # "tf32x3" splits each float32 in two tf32 numbers and adds three products: float32's own
    # accuracy on the matrix units. AMD's multiply float32 as it is.
    precise = "tf32x3" if target.backend == "cuda" else "ieee"
    return {
        "DIM": dim,
        "BLOCK_D": tile.block_d,
        "BLOCK_Q": tile.block_q,
        "BLOCK_K": tile.block_k,
        "COMPUTE": tl.float32 if emulate and compute != torch.int8 else _TL[compute],
        "PRECISION": precise if compute == torch.float32 else "tf32",
        "DRAIN": target.family == "sm_90",
        "SCALED": scaled,
        "DIGITS": compute == torch.int8,
        "TMA": tma,
    }


@cache
def tiles_constants(target: Target, tile: Tile) -> dict[str, Any]:
    """Return the compile-time arguments that only the kernel of all pairs has."""
    return {"FLAT": tile.flat, "Q_ON_M": tile.q_on_m, "COUNTED": target.family == "sm_100"}


@cache
def sums_constants(mean: bool) -> dict[str, Any]:
    """Return the compile-time arguments of the sums after a tile kernel, all of a launch's but
    BLOCK_D or SPLITS.
    """
    return {"MEAN": mean, "BLOCK_ROWS": _BLOCK_ROWS}


@cache
def digits_constants(target: Target, dim: int) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel that splits queries."""
    interpreted = target.family == "interpreter"
    return {
        "DIM": dim,
        "BLOCK_ROWS": _DIGITS_ROWS_INTERPRETED if interpreted else _DIGITS_ROWS,
        "BLOCK_K": triton.next_power_of_2(dim),
    }


def multiplied_as(queries: torch.dtype, documents: torch.dtype) -> torch.dtype:
    """Return the dtype of the product: int8 documents are multiplied as they are, with queries of
    two int8 digits, and others as `product_dtype` says.
    """
    return documents if documents == torch.int8 else product_dtype(queries, documents)


@lru_cache(4096)
def tile_of(
    target: Target,
    queries: torch.dtype,
    documents: torch.dtype,
    dim: int,
    query_rows: int,
    *,
    pairs: bool = False,
) -> Tile:
    """Return the tile of a call with so many packed query rows, or rows of each pair's query."""
    compute = multiplied_as(queries, documents)
    return tile_for(
        target.family,
        compute.itemsize,
        query_rows,
        widened=documents != compute,
        pairs=pairs,
        dim=dim,
        aligned=_aligned(queries, documents, dim),
    )


def _aligned(queries: torch.dtype, documents: torch.dtype, dim: int) -> bool:
    """Whether the rows of both begin at multiples of 16 bytes."""
    return dim * min(queries.itemsize, documents.itemsize) % 16 == 0


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
        self.compute = multiplied_as(queries.dtype, documents.dtype)
        self.sum_q, self.dim = queries.shape
        self.sum_d = documents.shape[0]
        # A tensor descriptor takes rows of a multiple of 16 bytes; others are read by pointers.
        self.tma = target.tma and _aligned(queries.dtype, documents.dtype, self.dim)

    def _tile(self, query_rows: int, *, pairs: bool = False) -> Tile:
        dtypes = self.queries.dtype, self.documents.dtype
        return tile_of(self.target, *dtypes, self.dim, query_rows, pairs=pairs)

    def _operands(self, tile: Tile) -> tuple[Any, Any, Tensor, Tensor]:
        """The documents, the queries and the scales of both as the kernels take them."""
        # Without scales the pointers are never read, but they must be some.
        queries, rows_q, scales_q = self.queries, tile.block_q, self.queries
        if self.compute == torch.int8:
            queries, scales_q = self._digits()
            rows_q *= 2
        scales_d = self.documents if self.scales is None else self.scales.contiguous()
        if not self.tma:
            return self.documents, queries, scales_d, scales_q
        return (
            TensorDescriptor.from_tensor(self.documents, [tile.block_d, tile.block_k]),
            TensorDescriptor.from_tensor(queries, [rows_q, tile.block_k]),
            scales_d,
            scales_q,
        )

    def _digits(self) -> tuple[Tensor, Tensor]:
        """The queries as two int8 digits a number, (2 * sum_q, d), and their scales, (sum_q,)."""
        digits = self.queries.new_empty(2 * self.sum_q, self.dim, dtype=torch.int8)
        scales = self.queries.new_empty(self.sum_q, dtype=torch.float32)
        constants = digits_constants(self.target, self.dim)
        grid = (cdiv(self.sum_q, constants["BLOCK_ROWS"]),)
        launch(
            maxsim_digits_kernel, grid, self.queries, digits, scales, self.sum_q,
            options={}, **constants,
        )  # fmt: skip
        return digits, scales

    def _constants(self, tile: Tile) -> dict[str, Any]:
        scaled = self.scales is not None
        return constants(
            self.target, tile, self.dim, self.compute, scaled, self.tma, emulate=interpreting()
        )

    def all_pairs(
        self,
        cu_q: Tensor,
        cu_d: Tensor,
        scores: Tensor,
        scratch_bytes: int,
        part_of: tuple[int, int] | None,
    ) -> None:
        n_queries, n_documents = scores.shape
        tile = self._tile(self.sum_q)
        operands = self._operands(tile)
        n_tiles = cdiv(self.sum_d, tile.block_d)
        slots = n_tiles + n_documents
        # Sums are taken round by round, so the rounds decide their order.
        sum_d, n_d = part_of or (self.sum_d, n_documents)
        slots_of_all = cdiv(sum_d, tile.block_d) + n_d
        width = max(scratch_bytes // (4 * slots_of_all) // tile.block_q, 1) * tile.block_q
        width = min(width, self.sum_q)
        partial = scores.new_empty(slots * width)
        n_ranges = min(n_tiles, processors(scores.device) * tile.blocks)
        constants = self._constants(tile)
        for first_q in range(0, self.sum_q, width):
            end_q = min(first_q + width, self.sum_q)
            launch(
                maxsim_tiles_kernel, (cdiv(end_q - first_q, tile.block_q) * n_ranges,),
                *operands, cu_d, partial,
                n_documents, self.sum_d, self.sum_q, first_q, end_q, n_ranges,
                options=tile.options, **tiles_constants(self.target, tile), **constants,
            )  # fmt: skip
            # A grid's second dimension ends at 65,535.
            for first_query in range(0, n_queries, 65_535):
                grid = (cdiv(n_documents, BLOCK_N), min(n_queries - first_query, 65_535))
                launch(
                    maxsim_sums_kernel, grid, partial, cu_q, cu_d, scores,
                    n_documents, self.sum_d, first_q, end_q, first_query,
                    options={}, BLOCK_D=tile.block_d, BLOCK_N=BLOCK_N, BLOCK_T=BLOCK_T,
                    **sums_constants(self.mean),
                )  # fmt: skip

    def pairs(
        self, cu_q: Tensor, cu_d: Tensor, pairs: Tensor, scores: Tensor, scratch_bytes: int
    ) -> None:
        n_pairs = pairs.shape[0]
        n_queries, n_documents = cu_q.shape[0] - 1, cu_d.shape[0] - 1
        tile = self._tile(-(-self.sum_q // n_queries), pairs=True)
        operands = self._operands(tile)
        # A power of two, so that at most seven kernels are compiled.
        splits = 1
        wanted = processors(scores.device) * PROGRAMS_WANTED
        while splits < 64 and n_pairs * splits < wanted:
            splits *= 2
        while splits > 1 and n_pairs * splits * self.sum_q * 4 > scratch_bytes:
            splits //= 2
        partial = scores if splits == 1 else scores.new_empty(n_pairs * splits * self.sum_q)
        launch(
            maxsim_pairs_kernel, (n_pairs * splits,),
            *operands, cu_q, cu_d, pairs, partial, scores,
            n_queries, n_documents, self.sum_d, self.sum_q,
            options=tile.options, SPLITS=splits, MEAN=self.mean, **self._constants(tile),
        )  # fmt: skip
        if splits > 1:
            launch(
                maxsim_pairs_sums_kernel, (n_pairs,), partial, cu_q, cu_d, pairs, scores,
                n_queries, n_documents, self.sum_d, self.sum_q,
                options={}, SPLITS=splits, **sums_constants(self.mean),
            )  # fmt: skip
