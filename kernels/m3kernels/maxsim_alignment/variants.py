"""What a launch of MaxSim's alignment kernels compiles, for `m3kernels.aot`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from m3kernels.maxsim_alignment.kernels import (
    maxsim_alignment_kernel,
    maxsim_alignment_merge_kernel,
)
from m3kernels.maxsim_alignment.launch import MERGE_BLOCK, constants, tile_for
from m3kernels.target import Target
from m3kernels.token_vectors import product_dtype
from m3kernels.variant import TYPE_NAMES, Variant, signature

__all__ = ["variants"]

_TYPES = {
    **dict.fromkeys(("p_best", "p_best_of"), "*fp32"),
    **dict.fromkeys(("p_at", "p_at_of"), "*i32"),
    **dict.fromkeys(("p_cu_q", "p_cu_d", "p_pairs", "p_cu_out"), "*i64"),
    **dict.fromkeys(("n_queries", "n_documents", "sum_d", "sum_q", "n_out"), "i32"),
}


def variants(target: Target) -> Iterator[Variant]:
    """Yield what `maxsim_alignment_triton` compiles on a target for 1024 and 224 dimensions."""
    inputs = [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.int8),
        (torch.float16, torch.int8),
    ]
    if target.fp8:
        inputs += [(torch.float16, torch.float8_e4m3fn), (torch.bfloat16, torch.float8_e4m3fn)]
    for queries, documents in inputs:
        compute = product_dtype(queries, documents)
        tile = tile_for(target, compute.itemsize)
        of_d, of_q = TYPE_NAMES[documents], TYPE_NAMES[queries]
        scaled = documents.itemsize == 1
        operands = {"p_documents": f"*{of_d}", "p_queries": f"*{of_q}"}
        operands["p_scales"] = "*fp32" if scaled else f"*{of_d}"
        for dim, splits in ((1024, 1), (224, 8)):
            yield Variant(
                f"maxsim_alignment {of_q} with {of_d} d={dim} parts={splits}",
                maxsim_alignment_kernel,
                signature(maxsim_alignment_kernel, _TYPES) | operands,
                constants(target, tile, dim, compute, scaled) | {"SPLITS": splits},
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
                aligned=("p_documents", "p_queries"),
                multiplies=True,
            )
    yield Variant(
        "maxsim_alignment merge",
        maxsim_alignment_merge_kernel,
        signature(maxsim_alignment_merge_kernel, _TYPES),
        {"SPLITS": 8, "BLOCK": MERGE_BLOCK},
        num_warps=4,
    )
