"""Lexical scores: their cases, the float64 scores, and the peers."""

from __future__ import annotations

from benchmarks.kernels.bench import Bench, Contender
from benchmarks.kernels.ops.lexical import peers
from benchmarks.kernels.ops.lexical.case import Lexical, LexicalInputs, cases, exact

__all__ = ["BENCH", "Lexical", "LexicalInputs", "exact"]

BENCH = Bench(
    cases,
    peers=(
        Contender("dict loop", "FlagEmbedding", peers.dict_loop),
        Contender("dense product", "dense torch", peers.dense_product),
        Contender("embedding_bag", "plain torch", peers.embedding_bag),
        Contender("torch.sparse", "torch.sparse", peers.torch_sparse),
        Contender("scipy", "scipy", peers.scipy_product),
    ),
)
