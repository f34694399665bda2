"""MaxSim: its cases, the float64 scores, and the peers."""

from __future__ import annotations

from benchmarks.kernels.bench import Bench, Contender
from benchmarks.kernels.ops.maxsim import packages, peers
from benchmarks.kernels.ops.maxsim.case import Lengths, MaxSim, MaxSimInputs, cases, exact

__all__ = ["BENCH", "Lengths", "MaxSim", "MaxSimInputs", "exact"]

BENCH = Bench(
    cases,
    peers=(
        Contender("einsum a document", "FlagEmbedding", peers.einsum_a_document),
        Contender("matmul + max", "plain torch", peers.matmul_max),
        Contender("matmul + max, float32", "plain torch", peers.matmul_max_float32),
        Contender(
            "late-interaction-kernels", "late-interaction-kernels", packages.late_interaction
        ),
        Contender("flash-maxsim", "flash-maxsim", packages.flash_maxsim),
        Contender("maxsim-cpu", "maxsim-cpu", packages.maxsim_cpu),
    ),
)
