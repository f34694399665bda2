"""The best documents by MaxSim: the cases, the float64 scores, ours from int8, and the peers."""

from __future__ import annotations

from benchmarks.kernels.bench import Bench, Contender
from benchmarks.kernels.ops.maxsim_topk import peers
from benchmarks.kernels.ops.maxsim_topk.case import Topk, TopkInputs, cases

__all__ = ["BENCH", "Topk", "TopkInputs"]

BENCH = Bench(
    cases,
    peers=(
        Contender("certified_topk", "m3kernels, int8", peers.certified, ours=True, required=True),
        Contender("int8 without proof", "m3kernels, int8", peers.unproven, ours=True),
        Contender("matmul + max + topk", "plain torch", peers.matmul_max),
        Contender("NumKong", "NumKong", peers.numkong),
    ),
)
