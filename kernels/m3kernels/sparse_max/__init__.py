"""Sparse-max: token states to one lexical weight for each token id of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

# `import torch` would not do here: the name `torch` of this package is its own submodule.
from torch import Tensor, int32, no_grad

from m3kernels.dispatch import choose
from m3kernels.packing import FLOAT_DTYPES, INDEX_DTYPES, check_cu_seqlens, check_tensor
from m3kernels.sparse_max.reference import sparse_max_reference
from m3kernels.sparse_max.torch import sparse_max_torch

__all__ = ["sparse_max"]

_IMPLEMENTATIONS = {"torch": sparse_max_torch, "reference": sparse_max_reference}
_LARGEST_ID = 2**31 - 1


def sparse_max(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    *,
    ignore_ids: Sequence[int] = (0, 1, 2, 3),
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn token states into lexical weights, as CSR.

    Token t weighs w_t = relu(hidden_t . weight + bias). A sequence's weight of a token id is the
    largest w_t over the places where the id stands; ignored ids and weights of 0 are left out.
    This is the lexical head of BGE-M3 (arXiv 2402.03216, section 3.2; FlagEmbedding's
    `_process_token_weights`).

    A NaN weight is kept, and wins over the other weights of its id, so that a check of `values`
    finds it; FlagEmbedding drops it, and a broken model looks like a text without words.

    Weights are accumulated in float32 whatever the inputs are. The same inputs give the same
    bytes. There is no gradient: the result never requires one.

    Args:
        hidden: (sum_t, d) float32, float16 or bfloat16, the last hidden states, packed.
        weight: (d,) or (1, d) float32, float16 or bfloat16.
        bias: () or (1,) float32, float16 or bfloat16.
        token_ids: (sum_t,) int64 or int32, from 0 to 2^31 - 1.
        cu_seqlens: (n + 1,) int64 or int32; sequence i has the rows cu_seqlens[i] up to
            cu_seqlens[i + 1].
        ignore_ids: ids that get no weight: cls, pad, eos and unk of XLM-RoBERTa.
        backend: "torch" or "reference"; None picks the best one for the device.

    Returns:
        indptr (n + 1,) int64, indices (nnz,) int32 ascending and unique in each row, values (nnz,)
        float32, each above 0 or NaN.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: an argument has another shape, device or value. The message names it. The
            checks read cu_seqlens and token_ids, so on a GPU the call waits for the device.
        NotImplementedError: `backend` has no kernel in this version.
    """
    check_tensor("hidden", hidden, ndim=2, dtypes=FLOAT_DTYPES)
    rows, dim = hidden.shape
    device = hidden.device
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[0] == 1:
        weight = weight[0]
    check_tensor("weight", weight, ndim=1, dtypes=FLOAT_DTYPES, device=device)
    if weight.shape[0] != dim:
        raise ValueError(
            f"weight has {weight.shape[0]} entries; expected {dim}, the columns of hidden"
        )
    if isinstance(bias, Tensor) and tuple(bias.shape) == (1,):
        bias = bias[0]
    check_tensor("bias", bias, ndim=0, dtypes=FLOAT_DTYPES, device=device)
    check_tensor("token_ids", token_ids, ndim=1, dtypes=INDEX_DTYPES, device=device)
    if token_ids.shape[0] != rows:
        raise ValueError(
            f"token_ids has {token_ids.shape[0]} entries; expected {rows}, the rows of hidden"
        )
    cu_seqlens = check_cu_seqlens("cu_seqlens", cu_seqlens, rows=rows, device=device)
    if rows:
        for found in (int(token_ids.min()), int(token_ids.max())):
            if not 0 <= found <= _LARGEST_ID:
                raise ValueError(f"token_ids has {found}; expected 0 <= id <= {_LARGEST_ID}")

    implementation = choose("sparse_max", backend, _IMPLEMENTATIONS)
    with no_grad():
        indptr, indices, values = implementation(
            hidden, weight, bias, token_ids, cu_seqlens, tuple(ignore_ids)
        )
    return indptr, indices.to(int32), values
