"""How MaxSim's alignment kernels are launched: tiles, and parts of documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from m3kernels.dispatch import interpreting, launching_on, target_of
from m3kernels.launching import cdiv, launch
from m3kernels.maxsim_alignment.kernels import (
    maxsim_alignment_kernel,
    maxsim_alignment_merge_kernel,
)
from m3kernels.packing import aligned, from_lengths, nearby
from m3kernels.target import Target, processors
from m3kernels.token_vectors import product_dtype

__all__ = [
    "MERGE_BLOCK",
    "MOST_SPLITS",
    "Tile",
    "constants",
    "maxsim_alignment_triton",
    "tile_for",
]

# Results of a program of the second kernel.
MERGE_BLOCK = 256

# Documents are split while there are fewer programs than this for each multiprocessor, up to this
# many parts.
_PROGRAMS_WANTED = 4
MOST_SPLITS = 64

_TL: dict[torch.dtype, Any] = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


@dataclass(frozen=True)
class Tile:
    """Document rows, query rows and dimensions of a step, warps of a block, steps in flight."""

    block_d: int
    block_q: int
    block_k: int
    num_warps: int
    num_stages: int


def tile_for(target: Target, itemsize: int) -> Tile:
    """Return the tile for a target and the bytes of an element in the product.

    Explanations come in handfuls of pairs, of queries of some 32 tokens and documents of some
    100: one shape, whose 64 rows of documents pad little.
    """
    if target.family == "interpreter":
        return Tile(16, 16, 16, 1, 1)
    stages = 2 if target.backend == "hip" else 3
    if itemsize == 4:  # three products a step: sm_80 has no registers for 32 query rows
        return Tile(64, 16 if target.family == "sm_80" else 32, 32, 4, stages)
    return Tile(64, 32, 64, 4, stages)


def constants(
    target: Target, tile: Tile, dim: int, compute: torch.dtype, scaled: bool, emulate: bool = False
) -> dict[str, Any]:
    """Return the compile-time arguments of the first kernel, without SPLITS.

    `emulate` widens everything to float32, for an interpreter that gets bfloat16 wrong.
    """
    precise = "tf32x3" if target.backend == "cuda" else "ieee"
    return {
        "DIM": dim,
        "BLOCK_D": tile.block_d,
        "BLOCK_Q": tile.block_q,
        "BLOCK_K": tile.block_k,
        "COMPUTE": tl.float32 if emulate else _TL[compute],
        "PRECISION": precise if compute == torch.float32 else "tf32",
        "DRAIN": target.family == "sm_90",
        "SCALED": scaled,
    }


def maxsim_alignment_triton(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor,
    document_scales: Tensor | None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch the kernels; takes the checked arguments of `m3kernels.maxsim_alignment`.

    Waits for the device once, for the number of results. `splits` is how many parts a document
    is cut into, a power of two; None decides.
    """
    target = target_of(queries.device)
    if target is None:
        raise ValueError(f"no kernel runs on {queries.device}")
    n_queries, n_documents = cu_seqlens_q.shape[0] - 1, cu_seqlens_d.shape[0] - 1
    n_pairs = pairs.shape[0]
    if 0 in (n_queries, n_pairs, queries.shape[0]):
        return queries.new_empty(0, dtype=torch.int32), queries.new_empty(0, dtype=torch.float32)
    cu_q, cu_d = cu_seqlens_q.contiguous(), cu_seqlens_d.contiguous()
    # As the kernel reads them, whatever they say.
    offsets, some = nearby(cu_q), nearby(pairs)
    if offsets.device != some.device:
        offsets, some = cu_q, pairs
    i_q = some[:, 0].clamp(0, n_queries - 1)
    start = offsets[i_q].clamp(0, queries.shape[0])
    end = offsets[i_q + 1].clamp(max=queries.shape[0])
    cu_out = from_lengths((end - start).clamp(min=0))
    n_out = int(cu_out[-1])
    if 0 in (n_out, n_documents, documents.shape[0]):
        at = torch.full((n_out,), -1, dtype=torch.int32, device=queries.device)
        return at, queries.new_zeros(n_out, dtype=torch.float32)
    cu_out = cu_out.to(queries.device)
    at = queries.new_empty(n_out, dtype=torch.int32)
    best = queries.new_empty(n_out, dtype=torch.float32)

    if splits is None:
        splits = 1
        wanted = processors(queries.device) * _PROGRAMS_WANTED
        while splits < MOST_SPLITS and n_pairs * splits < wanted:
            splits *= 2
    queries, documents = aligned(queries), aligned(documents)
    compute = product_dtype(queries.dtype, documents.dtype)
    tile = tile_for(target, compute.itemsize)
    scaled = document_scales is not None
    # Without scales the pointer is never read, but it must be one.
    scales = documents if document_scales is None else document_scales.contiguous()
    parts = (at, best)
    if splits > 1:
        parts = (at.new_empty(splits, n_out), best.new_empty(splits, n_out))
    with launching_on(queries.device):
        launch(
            maxsim_alignment_kernel, (n_pairs * splits,),
            documents, queries, scales, cu_q, cu_d, pairs.contiguous(), cu_out, *parts,
            n_queries, n_documents, documents.shape[0], queries.shape[0], n_out,
            SPLITS=splits,
            **constants(
                target, tile, queries.shape[1], compute, scaled, emulate=interpreting()
            ),
            options={"num_warps": tile.num_warps, "num_stages": tile.num_stages},
        )  # fmt: skip
        if splits > 1:
            launch(
                maxsim_alignment_merge_kernel, (cdiv(n_out, MERGE_BLOCK),),
                *parts, at, best, n_out, options={}, SPLITS=splits, BLOCK=MERGE_BLOCK,
            )  # fmt: skip
    return at, best
