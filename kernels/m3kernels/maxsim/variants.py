"""What a launch of the MaxSim kernels compiles, for `m3kernels.aot`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from m3kernels.maxsim.kernels import (
    maxsim_digits_kernel,
    maxsim_pairs_kernel,
    maxsim_pairs_sums_kernel,
    maxsim_sums_kernel,
    maxsim_tiles_kernel,
)
from m3kernels.maxsim.launch import (
    BLOCK_N,
    BLOCK_T,
    constants,
    digits_constants,
    multiplied_as,
    sums_constants,
    tiles_constants,
)
from m3kernels.maxsim.tiles import Tile, tiles_of
from m3kernels.target import Target
from m3kernels.variant import TYPE_NAMES, Variant, signature

__all__ = ["variants"]

_TYPES = {
    **dict.fromkeys(("p_partial", "p_scores", "p_q_scales"), "*fp32"),
    "p_digits": "*i8",
    **dict.fromkeys(("p_cu_q", "p_cu_d", "p_pairs"), "*i64"),
    **dict.fromkeys(("n_queries", "n_documents", "sum_d", "sum_q"), "i32"),
    **dict.fromkeys(("first_q", "end_q", "n_ranges", "first_query"), "i32"),
}


# The document that a tile begins with goes on from tile to tile.
_PLACE = r"scf\.if %ends\S* -> \(i32\)|scf\.for %tile\S* = .*iter_args\(.*%i_doc"

# Beside 1024 dimensions: one step of tiles and pairs, and two and four steps.
_DIMS = {
    torch.bfloat16: ((64, False), (64, True), (128, False), (256, False)),
    torch.int8: ((128, False), (128, True)),
}


def variants(target: Target) -> Iterator[Variant]:
    """Yield what `maxsim_triton` compiles on a target, a tile at a time.

    Every tile and pair of dtypes for 1024 dimensions, and some of 64 to 256.
    """
    inputs = [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.int8),
    ]
    if target.fp8:
        inputs += [(torch.float16, torch.float8_e4m3fn), (torch.bfloat16, torch.float8_e4m3fn)]
    for queries, documents in inputs:
        compute = multiplied_as(queries, documents)
        for dim, pairs in ((1024, False), (1024, True), *_DIMS.get(documents, ())):
            tiles = tiles_of(
                target.family,
                compute.itemsize,
                widened=documents != compute,
                pairs=pairs,
                dim=dim,
            )
            for tile in tiles:
                yield _tile_variant(target, tile, queries, documents, compute, dim, pairs)
    for queries in (torch.float32, torch.float16, torch.bfloat16):
        name = TYPE_NAMES[queries]
        types = signature(maxsim_digits_kernel, _TYPES)
        yield Variant(
            f"maxsim digits {name}",
            maxsim_digits_kernel,
            types | {"p_queries": f"*{name}"},
            digits_constants(target, 1024),
            num_warps=4,
            aligned=("p_queries", "p_digits", "p_q_scales"),
        )
    for block_d in sorted({tile.block_d for tile in tiles_of(target.family, 2)}):
        yield Variant(
            f"maxsim sums of {block_d}",
            maxsim_sums_kernel,
            signature(maxsim_sums_kernel, _TYPES),
            sums_constants(True) | {"BLOCK_D": block_d, "BLOCK_N": BLOCK_N, "BLOCK_T": BLOCK_T},
            num_warps=4,
        )
    yield Variant(
        "maxsim pairs sums",
        maxsim_pairs_sums_kernel,
        signature(maxsim_pairs_sums_kernel, _TYPES),
        sums_constants(True) | {"SPLITS": 8},
        num_warps=4,
    )


def _tile_variant(
    target: Target,
    tile: Tile,
    queries: torch.dtype,
    documents: torch.dtype,
    compute: torch.dtype,
    dim: int,
    pairs: bool,
) -> Variant:
    digits = compute == torch.int8
    of_d, of_q = TYPE_NAMES[documents], "i8" if digits else TYPE_NAMES[queries]
    operands = {"documents": f"*{of_d}", "queries": f"*{of_q}", "p_scales": f"*{of_d}"}
    aligned: tuple[str, ...] = ("documents", "queries")
    if target.tma:
        rows_q = 2 * tile.block_q if digits else tile.block_q
        operands["documents"] = f"tensordesc<{of_d}[{tile.block_d},{tile.block_k}]>"
        operands["queries"] = f"tensordesc<{of_q}[{rows_q},{tile.block_k}]>"
        aligned = ()
    scaled = documents in (torch.int8, torch.float8_e4m3fn)
    if scaled:
        operands["p_scales"] = "*fp32"
    shape = f"{tile.block_d}x{tile.block_q}x{tile.block_k}"
    name = f"{TYPE_NAMES[queries]} x {of_d} {shape}{' q-on-m' if tile.q_on_m else ''}"
    if digits:
        name = f"digits x i8 {shape}"
    kernel, kind, extra = (
        (maxsim_pairs_kernel, "pairs", {"SPLITS": 1, "MEAN": True})
        if pairs
        else (maxsim_tiles_kernel, "tiles", tiles_constants(target, tile))
    )
    return Variant(
        f"maxsim {kind} {name}{'' if dim == 1024 else f' d={dim}'}",
        kernel,
        signature(kernel, _TYPES) | operands,
        constants(target, tile, dim, compute, scaled, target.tma) | extra,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        aligned=aligned,
        multiplies=True,
        tma=target.tma,
        blocks=tile.blocks,
        keeps="" if pairs else _PLACE,
    )
