"""Whether the lexical head should be a column more of the ColBERT linear.

Folded, the states are read once for both heads; apart, the ColBERT product keeps a width that
cuBLAS likes, and `sparse_max` reads the states once more. What folding saves is the first of
sparse-max's kernels; what it costs is what the wider product takes longer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
from m3kernels.dispatch import target_of
from m3kernels.sparse_max.kernels import weigh_kernel
from m3kernels.sparse_max.launch import weigh_constants
from torch import Tensor

from benchmarks.gpu.environment import device_of
from benchmarks.timing import Run, clock_for, quantile

__all__ = ["run"]

_DIM = 1024
# Columns are padded to 8, as a product in 16 bits wants them.
_FOLDED = _DIM + 8


def run(*, dry: bool) -> dict[str, Any]:
    """Time the product with and without the column, and the kernel that it would replace."""
    device = device_of(dry=dry)
    target = target_of(device)
    assert target is not None
    clock = clock_for(device)
    rows: list[dict[str, Any]] = []
    for sequences, tokens in ((1, 64),) if dry else ((64, 512), (8, 8192), (1, 64)):
        n = sequences * tokens
        dtype = torch.float32 if dry else torch.bfloat16
        hidden = torch.randn(n, _DIM, device=device).to(dtype)
        weights = torch.randn(_FOLDED, _DIM, device=device).to(dtype)
        bias, ids = torch.zeros((), device=device, dtype=dtype), torch.arange(n, device=device)
        words = torch.empty(n, dtype=torch.int64, device=device)
        options = weigh_constants(target, _DIM, dtype.itemsize, (0, 1, 2, 3))

        def weigh(
            hidden: Tensor = hidden,
            weight: Tensor = weights[-1],
            rest: tuple[Any, ...] = (bias, ids, words, n),
            options: dict[str, Any] = options,
        ) -> None:
            grid = (triton.cdiv(rest[-1], options["BLOCK_T"]),)
            weigh_kernel[grid](hidden, weight, *rest, **options, num_warps=1)

        runs: dict[str, Run] = {
            "product": partial(_product, hidden, weights[:_DIM]),
            "folded product": partial(_product, hidden, weights),
            "weigh": weigh,
        }
        seconds = {}
        for name, call in runs.items():
            call()
            seconds[name] = quantile(
                sorted(clock.once(call) for _ in range(3 if dry else 30)), 0.5
            )
        saves = seconds["weigh"] - (seconds["folded product"] - seconds["product"])
        rows.append({"shape": f"{sequences} x {tokens}", "seconds": seconds, "saves_s": saves})
    return {
        "status": "ok",
        "summary": ", ".join(f"{row['shape']}: {row['saves_s'] * 1e6:+.1f} us" for row in rows),
        "shapes": rows,
    }


def _product(hidden: Tensor, weights: Tensor) -> Tensor:
    return hidden @ weights.T
