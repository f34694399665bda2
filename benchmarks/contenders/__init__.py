"""Who is timed: our op and its peers, one small adapter each.

An adapter gets a case's inputs, brings them into the form that its contender likes best, which is
not timed, and returns the call that is. It raises `Unsupported` where the contender has no way to
do the case, and lets every other error through: the suite reports it beside the name.
"""

from __future__ import annotations

from benchmarks.contenders import lexical, maxsim, ours, packages, sparse_max
from benchmarks.contenders.base import Contender, NotInstalled, Prepared, Unsupported

__all__ = ["Contender", "NotInstalled", "Prepared", "Unsupported", "contenders"]

_PEERS = {
    "maxsim": (
        Contender("einsum a document", "FlagEmbedding", maxsim.einsum_a_document),
        Contender("matmul + max", "plain torch", maxsim.matmul_max),
        Contender(
            "late-interaction-kernels", "late-interaction-kernels", packages.late_interaction
        ),
        Contender("flash-maxsim", "flash-maxsim", packages.flash_maxsim),
        Contender("maxsim-cpu", "maxsim-cpu", packages.maxsim_cpu),
    ),
    "sparse_max": (
        Contender("dict loop", "FlagEmbedding", sparse_max.dict_loop),
        Contender("dense scatter", "plain torch", sparse_max.dense_scatter),
    ),
    "lexical_scores": (
        Contender("dict loop", "FlagEmbedding", lexical.dict_loop),
        Contender("dense product", "dense torch", lexical.dense_product),
        Contender("embedding_bag", "plain torch", lexical.embedding_bag),
        Contender("torch.sparse", "torch.sparse", lexical.torch_sparse),
        Contender("scipy", "scipy", lexical.scipy_product),
    ),
}


def contenders(op: str, device: str) -> tuple[Contender, ...]:
    """Return the contenders of an op, ours first."""
    return (*ours.variants(op, device), *_PEERS[op])
