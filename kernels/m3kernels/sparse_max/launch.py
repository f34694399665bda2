"""How the sparse-max kernels are launched: the sizes of their blocks, and their buffers."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from m3kernels.dispatch import launching_on, target_of
from m3kernels.launching import cdiv, launch
from m3kernels.packing import aligned
from m3kernels.sparse_max.kernels import own_kernel, sort_kernel, weigh_kernel, write_kernel
from m3kernels.target import Target

__all__ = [
    "BLOCK_RUNS",
    "RUNS",
    "merge_constants",
    "sort_constants",
    "sparse_max_triton",
    "warps",
    "weigh_constants",
]

# Tokens of a run, for sequences up to a mean length and for longer ones. Sorting takes longer with
# longer runs, finding owners with more of them in a sequence: on an H100 512 x 128 tokens take 66
# us with 128 and 75 with 256, and 8 x 8,192 take 155 and 131.
RUNS = (128, 256)
_LONG = 512

# Tokens of a program of the first kernel, which is one warp: 4 KB of states are under way for it
# in some 64 registers, and a multiprocessor runs 32 such programs. With 4 tokens the registers
# spill on some targets. In the interpreter it is the program that costs.
_TOKENS = 2
_TOKENS_INTERPRETED = 64

# Words that a run is compared with at a time, and runs that are searched at a time.
_CHUNK = 16
_GROUP = 8

# Runs whose owners are counted together, see `write_kernel`.
BLOCK_RUNS = 256

# Sequences that a search for a token's sequence looks at in one step: steps wait for one another,
# reads do not.
_WIDE = 256


def sparse_max_triton(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    ignore_ids: tuple[int, ...],
    run: int | None = None,
    block_runs: int = BLOCK_RUNS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernels; takes the checked arguments of `m3kernels.sparse_max`.

    Never waits for the device. `run` is a power of two from 16 on, None for the one that suits the
    mean length; `block_runs` is one from 1 on.

    Returns:
        indptr (n + 1,), indices (sum_t,), values (sum_t,): the entries up to indptr[-1] are the
        CSR and those after it are 0.
    """
    target = target_of(hidden.device)
    if target is None:
        raise ValueError(f"no kernel runs on {hidden.device}")
    sum_t, dim = hidden.shape
    n = cu_seqlens.shape[0] - 1
    indices = hidden.new_empty(sum_t, dtype=torch.int32)
    values = hidden.new_empty(sum_t, dtype=torch.float32)
    if sum_t == 0 or n == 0:
        return cu_seqlens.new_zeros(n + 1), indices.zero_(), values.zero_()
    indptr = cu_seqlens.new_empty(n + 1)

    if run is None:
        run = RUNS[sum_t > _LONG * n]
    hidden, weight = aligned(hidden), aligned(weight)
    token_ids, cu_seqlens = token_ids.contiguous(), cu_seqlens.contiguous()
    n_runs = cdiv(sum_t, run)
    words = cu_seqlens.new_empty(sum_t)
    in_order = cu_seqlens.new_empty(sum_t)
    sequences = indices.new_empty(sum_t)
    owners = indices.new_empty(sum_t)
    totals = indices.new_empty(n_runs)
    blocks = indices.new_empty(cdiv(n_runs, block_runs))
    weigh = weigh_constants(target, dim, hidden.dtype.itemsize, ignore_ids)
    options = {"num_warps": warps(target, run)}
    with launching_on(hidden.device):
        launch(
            weigh_kernel, (cdiv(sum_t, weigh["BLOCK_T"]),),
            hidden, weight, bias, token_ids, words, sum_t, options={"num_warps": 1}, **weigh,
        )  # fmt: skip
        launch(
            sort_kernel, (n_runs,),
            words, cu_seqlens, in_order, sequences, indices, values, blocks, n, sum_t,
            options=options, **sort_constants(run, block_runs),
        )  # fmt: skip
        launch(
            own_kernel, (n_runs,),
            in_order, sequences, cu_seqlens, owners, totals, blocks, n, sum_t,
            options=options, **merge_constants(run, block_runs),
        )  # fmt: skip
        launch(
            write_kernel, (n_runs,),
            in_order, sequences, cu_seqlens, owners, totals, blocks, indptr, indices, values,
            n, sum_t, options=options, **merge_constants(run, block_runs),
        )  # fmt: skip
    return indptr, indices, values


def weigh_constants(
    target: Target, dim: int, itemsize: int, ignore_ids: tuple[int, ...]
) -> dict[str, Any]:
    # 16 bytes a lane: then both the states and the weights load as they are needed.
    lanes = target.warp_size * 16 // itemsize
    return {
        # One kernel for a set of ids, however it is written.
        "IGNORED": tuple(sorted({id for id in ignore_ids if 0 <= id < 2**31})),
        "DIM": dim,
        "BLOCK_T": _TOKENS_INTERPRETED if target.family == "interpreter" else _TOKENS,
        "BLOCK_K": min(lanes, triton.next_power_of_2(max(dim, 1))),
    }


def sort_constants(run: int, block_runs: int) -> dict[str, int]:
    return {"RUN": run, "CHUNK": min(_CHUNK, run), "WIDE": _WIDE, "BLOCK_RUNS": block_runs}


def merge_constants(run: int, block_runs: int) -> dict[str, int]:
    return {"RUN": run, "GROUP": _GROUP, "BLOCK_RUNS": block_runs}


def warps(target: Target, run: int) -> int:
    """One word of a run a thread."""
    return max(run // target.warp_size, 1)
