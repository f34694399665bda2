"""Sparse-max: its cases, the float64 weights, and the peers."""

from __future__ import annotations

from benchmarks.kernels.bench import Bench, Contender
from benchmarks.kernels.ops.sparse_max import peers
from benchmarks.kernels.ops.sparse_max.case import SparseMax, SparseMaxInputs, cases, exact

__all__ = ["BENCH", "SparseMax", "SparseMaxInputs", "exact"]

BENCH = Bench(
    cases,
    peers=(
        Contender("dict loop", "FlagEmbedding", peers.dict_loop),
        Contender("dense scatter", "plain torch", peers.dense_scatter),
    ),
    ours_too=(
        Contender(
            "m3kernels, trimmed",
            "m3kernels, trimmed",
            SparseMaxInputs.trimmed,
            ours=True,
            required=True,
        ),
    ),
)
