"""The kernels of BGE-M3's three scores, over packed sequences.

    maxsim           late-interaction (ColBERT) scores of queries against documents
    maxsim_alignment the best document token of each query token
    maxsim_topk      the best documents of each query, by maxsim
    sparse_max       token states to lexical weights, the largest for each token id
    lexical_scores   products of sparse lexical weights
    certified_topk   the same from int8, proven to be exact; certify makes the documents
    quantize_tokens  token vectors in eight bits, for maxsim's documents
    Padded, Slices   sequences that lie otherwise than one after another, for maxsim
    warmup           compiles the kernels before they are needed

Each op is a subpackage of the same shape: the public function with its checks and its dispatch in
``__init__``, a plain ``reference``, ``cpu`` in torch alone, ``kernels`` in Triton with their
``launch``, and the ``variants`` that a launch compiles. ``ops`` lists them. The ops are also
torch's, ``torch.ops.m3kernels.*``, so that torch.compile traces them.
"""

# `maxsim` and `sparse_max` name both a subpackage and its function. Importing a subpackage binds
# its name here once, before the lines below bind the function over it; Python doesn't bind it
# again for a later `import m3kernels.maxsim.reference`, so the function stays.
from m3kernels.certified import CertifiedDocuments, CertifiedTopk, certified_topk, certify
from m3kernels.layouts import Padded, Slices
from m3kernels.lexical import lexical_scores
from m3kernels.maxsim import maxsim
from m3kernels.maxsim_alignment import maxsim_alignment
from m3kernels.maxsim_topk import maxsim_topk
from m3kernels.quantize import quantize_tokens
from m3kernels.sparse_max import sparse_max
from m3kernels.warming import warmup

__all__ = [
    "CertifiedDocuments",
    "CertifiedTopk",
    "Padded",
    "Slices",
    "certified_topk",
    "certify",
    "lexical_scores",
    "maxsim",
    "maxsim_alignment",
    "maxsim_topk",
    "quantize_tokens",
    "sparse_max",
    "warmup",
]
