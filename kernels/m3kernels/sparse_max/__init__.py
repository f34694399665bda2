"""Sparse-max: token states to one lexical weight for each token id of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from m3kernels.dispatch import choose
from m3kernels.packing import (
    FLOAT_DTYPES,
    INDEX_DTYPES,
    check_capturing,
    check_cu_seqlens,
    check_cu_seqlens_values,
    check_no_tangent,
    check_tensor,
)
from m3kernels.precision import as_written
from m3kernels.registering import op
from m3kernels.sparse_max.cpu import sparse_max_torch
from m3kernels.sparse_max.gradient import gradients
from m3kernels.sparse_max.reference import sparse_max_reference

__all__ = ["sparse_max"]

CSR: TypeAlias = tuple[Tensor, Tensor, Tensor]

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
    validate: bool = True,
    trim: bool = True,
) -> CSR:
    """Turn token states into lexical weights, as CSR.

    Token t weighs w_t = relu(hidden_t . weight + bias). A sequence's weight of a token id is the
    largest w_t over the places where the id stands; ignored ids and weights of 0 are left out.
    This is the lexical head of BGE-M3 (arXiv 2402.03216, section 3.2; FlagEmbedding's
    `_process_token_weights`).

    A NaN weight is kept, and wins over the other weights of its id, so that a check of `values`
    finds it; FlagEmbedding drops it, and a broken model looks like a text without words.

    Weights are accumulated in float32 whatever the inputs are, under torch.autocast too. The same
    inputs give the same bytes. The op is `torch.ops.m3kernels.sparse_max`, so torch.compile traces
    it with `trim=False`. With Triton, `validate=False` and `trim=False` the call never waits for
    the device, and a CUDA graph can record it; `warmup` compiles what it needs.

    The values have a gradient by hidden, weight and bias, where they require one: each value
    passes its own on to the token that it is the weight of, the first of equal ones. The backward
    pass weighs the tokens again to find those, and waits for a GPU; nothing more is kept or
    computed in the forward pass. Sums have one order, so the same inputs give the same bytes.
    There are no second derivatives.

    Args:
        hidden: (sum_t, d) float32, float16 or bfloat16, the last hidden states, packed.
        weight: (d,) or (1, d) float32, float16 or bfloat16.
        bias: () or (1,) float32, float16 or bfloat16.
        token_ids: (sum_t,) int64 or int32, from 0 to 2^31 - 1.
        cu_seqlens: (n + 1,) int64 or int32; sequence i has the rows cu_seqlens[i] up to
            cu_seqlens[i + 1].
        ignore_ids: ids that get no weight: cls, pad, eos and unk of XLM-RoBERTa. Triton compiles
            its first kernel once for each set of them.
        backend: "triton", "torch" or "reference"; None picks the best one for the device.
        validate: compare the values of `token_ids` and `cu_seqlens` with their limits, which waits
            for a GPU. With False, wrong values there give wrong rows.
        trim: cut indices and values to the nnz entries that there are, which waits for a GPU.

    Returns:
        indptr (n + 1,) int64, indices (nnz,) int32 ascending and unique in each row, values (nnz,)
        float32, each above 0 or NaN. With `trim=False` indices and values are (sum_t,), and the
        entries from nnz = indptr[-1] on mean nothing; `lexical_scores(..., validate=False)` takes
        such rows as they are.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: an argument has another shape, device or value, or `backend` can't run here.
            The message names it.
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
    cu_seqlens = check_cu_seqlens("cu_seqlens", cu_seqlens, device=device)
    check_no_tangent("sparse_max", hidden, weight, bias)
    indptr, indices, values = _sparse_max(
        hidden, weight, bias, token_ids, cu_seqlens, list(ignore_ids), backend, validate
    )
    if trim:
        nnz = int(indptr[-1])
        indices, values = indices[:nnz], values[:nnz]
    return indptr, indices, values


@op(
    "m3kernels::sparse_max",
    schema="(Tensor hidden, Tensor weight, Tensor bias, Tensor token_ids, Tensor cu_seqlens, "
    "int[] ignore_ids, str? backend, bool validate) -> (Tensor, Tensor, Tensor)",
)
def _sparse_max(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    ignore_ids: list[int],
    backend: str | None,
    validate: bool,
) -> CSR:
    """What depends on values, hidden from tracers: the checks and the choice of a backend."""
    rows, device = hidden.shape[0], hidden.device
    if validate:
        check_capturing(device)
        check_cu_seqlens_values("cu_seqlens", cu_seqlens, rows=rows)
        _check_token_ids_values(token_ids)
    states = (hidden, weight, bias, token_ids)
    ignored = tuple(ignore_ids)
    with as_written(device):
        match choose("sparse_max", backend, device, _unsupported(hidden, cu_seqlens)):
            case "triton":
                from m3kernels.sparse_max.launch import sparse_max_triton

                return sparse_max_triton(*states, cu_seqlens, ignored)
            case "torch":
                csr = sparse_max_torch(*states, _plain(cu_seqlens, rows, validate), ignored)
            case _:
                csr = sparse_max_reference(*states, _plain(cu_seqlens, rows, validate), ignored)
        indptr, indices, values = csr
        room = (0, rows - indices.shape[0])
        return indptr, pad(indices, room), pad(values, room)


@_sparse_max.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    *_: object,
) -> CSR:
    rows = hidden.shape[0]
    return (
        cu_seqlens.new_empty(cu_seqlens.shape[0]),
        hidden.new_empty(rows, dtype=torch.int32),
        hidden.new_empty(rows, dtype=torch.float32),
    )


@op(
    "m3kernels::sparse_max_gradients",
    schema="(Tensor grad, bool[] wanted, Tensor indptr, Tensor indices, Tensor hidden, "
    "Tensor weight, Tensor bias, Tensor token_ids, Tensor cu_seqlens, str? backend) "
    "-> (Tensor, Tensor, Tensor)",
)
def _sparse_max_gradients(
    grad: Tensor,
    wanted: list[bool],
    indptr: Tensor,
    indices: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    token_ids: Tensor,
    cu_seqlens: Tensor,
    backend: str | None,
) -> CSR:
    """The gradients by hidden, weight and bias; empty where they aren't wanted."""
    with as_written(hidden.device):
        cu_seqlens = _plain(cu_seqlens, hidden.shape[0], False)
        return gradients(
            grad, wanted, indptr, indices, hidden, weight, bias, token_ids, cu_seqlens, backend
        )


@_sparse_max_gradients.register_fake
def _(
    grad: Tensor,
    wanted: list[bool],
    indptr: Tensor,
    indices: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    *_: object,
) -> CSR:
    return (
        hidden.new_empty(hidden.shape if wanted[0] else (0,)),
        weight.new_empty(weight.shape if wanted[1] else (0,)),
        bias.new_empty(() if wanted[2] else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: CSR) -> None:
    *states, _, ctx.backend, _ = inputs
    indptr, indices, _ = output
    ctx.mark_non_differentiable(indptr, indices)
    ctx.save_for_backward(indptr, indices, *states)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    wanted = [bool(needs) for needs in ctx.needs_input_grad[:3]]
    found = _sparse_max_gradients(grads[2], wanted, *ctx.saved_tensors, ctx.backend)
    asked = [part if needs else None for part, needs in zip(found, wanted, strict=True)]
    return (*asked, None, None, None, None, None)


_sparse_max.register_autograd(_backward, setup_context=_setup_context)


def _check_token_ids_values(token_ids: Tensor) -> None:
    if not token_ids.shape[0]:
        return
    # One transfer for the two numbers.
    for found in torch.stack([token_ids.amin(), token_ids.amax()]).tolist():
        if not 0 <= found <= _LARGEST_ID:
            raise ValueError(f"token_ids has {found}; expected 0 <= id <= {_LARGEST_ID}")


def _plain(cu_seqlens: Tensor, rows: int, validated: bool) -> Tensor:
    """Return offsets as the plain backends take them: valid, or made so."""
    if validated:
        return cu_seqlens
    cu_seqlens = cu_seqlens.clamp(0, rows).cummax(0).values
    cu_seqlens[-1] = rows
    cu_seqlens[0] = 0
    return cu_seqlens


def _unsupported(hidden: Tensor, cu_seqlens: Tensor) -> str | None:
    """Why the Triton kernels can't take these tensors, or None."""
    if max(hidden.shape[0], cu_seqlens.shape[0]) >= 2**31:
        return "the kernels take fewer than 2^31 rows"
    return None
