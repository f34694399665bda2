"""MaxSim's alignment: which document token each query token matches best, and how well."""

from __future__ import annotations

import torch
from torch import Tensor

from m3kernels.dispatch import choose
from m3kernels.maxsim_alignment.cpu import maxsim_alignment_torch
from m3kernels.maxsim_alignment.reference import maxsim_alignment_reference
from m3kernels.packing import (
    check_capturing,
    check_cu_seqlens,
    check_cu_seqlens_values,
    check_pairs,
    check_pairs_values,
)
from m3kernels.precision import as_written
from m3kernels.registering import op
from m3kernels.token_vectors import check_token_vectors, unsupported

__all__ = ["maxsim_alignment"]


def maxsim_alignment(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor,
    *,
    document_scales: Tensor | None = None,
    backend: str | None = None,
    validate: bool = True,
) -> tuple[Tensor, Tensor]:
    """Find the best document token of each query token, what late interaction sums.

    With q_1 .. q_N the vectors of a pair's query and d_0 .. d_{M-1} those of its document,

        position[i] = argmax_j q_i . d_j        similarity[i] = max_j q_i . d_j

    so that the mean of a pair's similarities is its score by `maxsim` (up to the order of
    float32 sums), and the positions say what the score is made of.

    - Of document tokens with equal similarities the first one counts. Equal rows of a document
      have equal similarities, wherever they lie.
    - A document without tokens gives the position -1 and the similarity 0.0, which is its share
      of `maxsim`'s score.
    - NaN counts as larger than every number, as in `torch.argmax`: the similarity is NaN and the
      position that of the first token whose similarity is NaN.

    Similarities are accumulated in float32 whatever the inputs are. The same inputs give the same
    bytes. There is no gradient: to ask for one is an error. The op is
    `torch.ops.m3kernels.maxsim_alignment`, so torch.compile traces it. The number of results
    depends on the lengths of the pairs' queries, so a call waits for a GPU once, even with
    `validate=False`, and no CUDA graph can record it.

    Args:
        queries: (sum_q, d) float32, float16 or bfloat16, the query vectors one after another.
        cu_seqlens_q: (n_q + 1,) int64 or int32; query i has the rows cu_seqlens_q[i] up to
            cu_seqlens_q[i + 1].
        documents: (sum_d, d) float32, float16 or bfloat16, or int8 or float8_e4m3fn with
            `document_scales`. The dtype may differ from the queries'.
        cu_seqlens_d: (n_d + 1,) int64 or int32, the same for the documents.
        pairs: (n_pairs, 2) int64 or int32, each row a (query, document), in any order.
        document_scales: (sum_d,) float32, float16 or bfloat16, one factor a row of int8 and
            float8 documents; see `maxsim`.
        backend: "triton", "torch" or "reference"; None picks the best one for the device.
        validate: compare the values of `cu_seqlens_q`, `cu_seqlens_d` and `pairs` with the shapes,
            which waits for a GPU. With False, wrong values there give wrong results.

    Returns:
        positions int32 and similarities float32, both (n,) with n the tokens of the pairs' queries
        together: those of the first pair in the order of its query's tokens, then those of the
        second. Pair p has the places cu[p] up to cu[p + 1] of
        `cu = torch.nn.functional.pad(cu_seqlens_q.diff()[pairs[:, 0]].cumsum(0), (1, 0))`.
        A position counts from the document's first token.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: an argument has another shape, device or value, or `backend` can't run here.
            The message names it.
    """
    document_scales = check_token_vectors(queries, documents, document_scales)
    device = queries.device
    cu_q = check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, device=device)
    cu_d = check_cu_seqlens("cu_seqlens_d", cu_seqlens_d, device=device)
    pairs = check_pairs(pairs, device=device)
    with torch.no_grad():
        positions, similarities = _maxsim_alignment(
            queries, cu_q, documents, cu_d, pairs, document_scales, backend, validate
        )
    return positions, similarities


@op(
    "m3kernels::maxsim_alignment",
    schema="(Tensor queries, Tensor cu_seqlens_q, Tensor documents, Tensor cu_seqlens_d, "
    "Tensor pairs, Tensor? document_scales, str? backend, bool validate) -> (Tensor, Tensor)",
)
def _maxsim_alignment(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor,
    document_scales: Tensor | None,
    backend: str | None,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    """What depends on values, hidden from tracers: the checks and the choice of a backend."""
    device = queries.device
    if validate:
        check_capturing(device)
        check_cu_seqlens_values("cu_seqlens_q", cu_seqlens_q, rows=queries.shape[0])
        check_cu_seqlens_values("cu_seqlens_d", cu_seqlens_d, rows=documents.shape[0])
        n_queries, n_documents = cu_seqlens_q.shape[0] - 1, cu_seqlens_d.shape[0] - 1
        check_pairs_values(pairs, n_queries=n_queries, n_documents=n_documents)
    arguments = (queries, cu_seqlens_q, documents, cu_seqlens_d, pairs, document_scales)
    with as_written(device):
        match choose("maxsim_alignment", backend, device, unsupported(queries, documents)):
            case "triton":
                from m3kernels.maxsim_alignment.launch import maxsim_alignment_triton

                return maxsim_alignment_triton(*arguments)
            case "torch":
                return maxsim_alignment_torch(*arguments)
            case _:
                return maxsim_alignment_reference(*arguments)


@_maxsim_alignment.register_fake
def _(queries: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    n = torch.library.get_ctx().new_dynamic_size()
    return queries.new_empty(n, dtype=torch.int32), queries.new_empty(n, dtype=torch.float32)
