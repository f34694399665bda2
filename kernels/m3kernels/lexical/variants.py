"""What a launch of the lexical kernel compiles, for `m3kernels.aot`."""

from __future__ import annotations

from collections.abc import Iterator

from m3kernels.lexical.kernels import INTEGERS, lexical_kernel
from m3kernels.lexical.launch import BLOCK_S, BLOCK_T, NUM_WARPS
from m3kernels.target import Target
from m3kernels.variant import Variant

__all__ = ["variants"]


def variants(target: Target) -> Iterator[Variant]:
    """Yield what `lexical_scores_triton` compiles: every dtype, and mixed ones."""
    sides = [
        (("fp32", "i32"), ("fp32", "i32")),
        (("fp16", "i32"), ("fp16", "i32")),
        (("bf16", "i32"), ("bf16", "i32")),
        (("fp32", "i64"), ("fp32", "i64")),
        (("bf16", "i64"), ("fp32", "i32")),
        (("fp32", "i32"), ("fp16", "i64")),
    ]
    for (weights_t, ids_t), (weights_s, ids_s) in sides:
        types = dict.fromkeys(INTEGERS, "i32")
        types |= {"p_indptr_t": "*i64", "p_ids_t": f"*{ids_t}", "p_weights_t": f"*{weights_t}"}
        types |= {"p_indptr_s": "*i64", "p_ids_s": f"*{ids_s}", "p_weights_s": f"*{weights_s}"}
        yield Variant(
            f"lexical {weights_t} {ids_t} in {weights_s} {ids_s}",
            lexical_kernel,
            types | {"p_scores": "*fp32"},
            {"BLOCK_S": BLOCK_S, "BLOCK_T": BLOCK_T},
            num_warps=NUM_WARPS,
        )
