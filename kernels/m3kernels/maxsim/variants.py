"""What a launch of the MaxSim kernels compiles, for `m3kernels.aot`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from m3kernels.maxsim.kernels import (
    maxsim_pairs_kernel,
    maxsim_pairs_sums_kernel,
    maxsim_sums_kernel,
    maxsim_tiles_kernel,
)
from m3kernels.maxsim.launch import BLOCK_N, BLOCK_ROWS, constants, product_dtype
from m3kernels.maxsim.tiles import TILES, Tile
from m3kernels.target import Target
from m3kernels.variant import TYPE_NAMES, Variant, signature

__all__ = ["variants"]

_TYPES = {
    **dict.fromkeys(("p_partial", "p_scores"), "*fp32"),
    **dict.fromkeys(("p_cu_q", "p_cu_d", "p_pairs"), "*i64"),
    **dict.fromkeys(("n_queries", "n_documents", "sum_d", "sum_q"), "i32"),
    **dict.fromkeys(("first_q", "end_q", "n_ranges", "first_query"), "i32"),
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
    sums = {"MEAN": True, "BLOCK_ROWS": BLOCK_ROWS}
    yield Variant(
        "maxsim sums",
        maxsim_sums_kernel,
        signature(maxsim_sums_kernel, _TYPES),
        sums | {"BLOCK_D": tile.block_d, "BLOCK_N": BLOCK_N},
        num_warps=4,
    )
    yield Variant(
        "maxsim pairs sums",
        maxsim_pairs_sums_kernel,
        signature(maxsim_pairs_sums_kernel, _TYPES),
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
    of_d, of_q = TYPE_NAMES[documents], TYPE_NAMES[queries]
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
        ("tiles", maxsim_tiles_kernel, {"FLAT": tile.flat})
    ]
    if tile.pairs:
        kernels.append(("pairs", maxsim_pairs_kernel, {"SPLITS": 1, "MEAN": True}))
    for name, kernel, extra in kernels:
        yield Variant(
            f"maxsim {name} {shape}",
            kernel,
            signature(kernel, _TYPES) | operands,
            shared | extra,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            aligned=aligned,
            multiplies=True,
            tma=target.tma,
            blocks=tile.blocks,
        )
