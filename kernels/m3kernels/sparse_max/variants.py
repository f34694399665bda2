"""What a launch of the sparse-max kernels compiles, for `m3kernels.aot`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from m3kernels.sparse_max.kernels import own_kernel, sort_kernel, weigh_kernel, write_kernel
from m3kernels.sparse_max.launch import (
    BLOCK_RUNS,
    RUNS,
    merge_constants,
    sort_constants,
    warps,
    weigh_constants,
)
from m3kernels.target import Target
from m3kernels.variant import TYPE_NAMES, Variant, signature

__all__ = ["variants"]

_TYPES = {
    **dict.fromkeys(("p_ids", "p_words", "p_cu", "p_sorted", "p_indptr"), "*i64"),
    **dict.fromkeys(("p_sequences", "p_owners", "p_totals", "p_blocks", "p_indices"), "*i32"),
    "p_values": "*fp32",
    **dict.fromkeys(("n", "sum_t"), "i32"),
}


def variants(target: Target) -> Iterator[Variant]:
    """Yield what `sparse_max_triton` compiles on a target for 1024 dimensions."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = TYPE_NAMES[dtype]
        yield Variant(
            f"sparse_max weigh {name}",
            weigh_kernel,
            signature(weigh_kernel, _TYPES)
            | dict.fromkeys(("p_hidden", "p_weight", "p_bias"), f"*{name}"),
            weigh_constants(target, 1024, dtype.itemsize, (0, 1, 2, 3)),
            num_warps=1,
            aligned=("p_hidden", "p_weight", "p_words"),
        )
    for run, (name, kernel, constants) in product(
        RUNS,
        (
            ("sort", sort_kernel, sort_constants),
            ("own", own_kernel, merge_constants),
            ("write", write_kernel, merge_constants),
        ),
    ):
        types = signature(kernel, _TYPES)
        yield Variant(
            f"sparse_max {name} runs of {run}",
            kernel,
            types,
            constants(run, BLOCK_RUNS),
            num_warps=warps(target, run),
            # What the launcher allocates.
            aligned=tuple(p for p, kind in types.items() if "*" in kind and p != "p_cu"),
        )
