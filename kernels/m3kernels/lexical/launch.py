"""How the lexical kernel is launched: which side is searched, and in which grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m3kernels.dispatch import launching_on, target_of
from m3kernels.launching import cdiv, launch
from m3kernels.lexical.kernels import lexical_kernel

__all__ = ["BLOCK_S", "BLOCK_T", "NUM_WARPS", "lexical_scores_triton", "work"]

CSR = tuple[Tensor, Tensor, Tensor]

# Lanes of a program: rows that are searched, and terms that are looked up at a time. Queries have
# some 12 to 30 terms. With two warps a thread has four look-ups under way.
BLOCK_S = 16
BLOCK_T = 16
NUM_WARPS = 2

# What a grid's second dimension ends at.
_GRID_BLOCKS = 65_535


def lexical_scores_triton(q_csr: CSR, d_csr: CSR, grid_blocks: int = _GRID_BLOCKS) -> Tensor:
    """Launch the kernel; takes the checked arguments of `m3kernels.lexical_scores`.

    Never waits for the device. `grid_blocks` is the second dimension that a grid may have.
    """
    if target_of(q_csr[0].device) is None:
        raise ValueError(f"no kernel runs on {q_csr[0].device}")
    n_q, n_d = q_csr[0].shape[0] - 1, d_csr[0].shape[0] - 1
    nnz_q, nnz_d = q_csr[1].shape[0], d_csr[1].shape[0]
    if 0 in (n_q, n_d, nnz_q, nnz_d):
        return q_csr[2].new_zeros((n_q, n_d), dtype=torch.float32)
    scores = q_csr[2].new_empty((n_q, n_d), dtype=torch.float32)

    terms, searched, strides = q_csr, d_csr, (n_d, 1)
    if work(n_d, nnz_d, n_q, nnz_q) < work(n_q, nnz_q, n_d, nnz_d):
        terms, searched, strides = d_csr, q_csr, (1, n_d)
    arguments = [part.contiguous() for part in (*terms, *searched)]
    n_t, n_s = terms[0].shape[0] - 1, searched[0].shape[0] - 1
    blocks = cdiv(n_s, BLOCK_S)
    with launching_on(scores.device):
        for first_block in range(0, blocks, grid_blocks):
            launch(
                lexical_kernel, (n_t, min(blocks - first_block, grid_blocks)),
                *arguments, scores,
                terms[1].shape[0], searched[1].shape[0], n_s, first_block, *strides,
                options={"num_warps": NUM_WARPS}, BLOCK_S=BLOCK_S, BLOCK_T=BLOCK_T,
            )  # fmt: skip
    return scores


def work(n_t: int, nnz_t: int, n_s: int, nnz_s: int) -> float:
    """Return the steps that all programs take together to look nnz_t terms up in n_s rows.

    Rows count by their mean length, which is known without a look at the device. Only the time
    depends on it: it decides which side is searched.
    """
    programs = n_t * math.ceil(n_s / BLOCK_S)
    blocks_of_terms = math.ceil(nnz_t / n_t / BLOCK_T)
    return programs * blocks_of_terms * math.log2(nnz_s / n_s + 2)
