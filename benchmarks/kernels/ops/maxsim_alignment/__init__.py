"""MaxSim's alignment: its cases, the float64 similarities, and the peers."""

from __future__ import annotations

from benchmarks.kernels.bench import Bench, Contender
from benchmarks.kernels.ops.maxsim_alignment import peers
from benchmarks.kernels.ops.maxsim_alignment.case import Alignment, AlignmentInputs, cases

__all__ = ["BENCH", "Alignment", "AlignmentInputs"]

BENCH = Bench(
    cases,
    peers=(
        Contender("einsum a pair", "FlagEmbedding", peers.einsum_a_pair),
        Contender("matmul + max", "plain torch", peers.matmul_max),
    ),
)
