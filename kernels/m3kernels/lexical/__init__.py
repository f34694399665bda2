"""Lexical scores: products of sparse term weights."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from m3kernels.dispatch import choose
from m3kernels.lexical.cpu import lexical_scores_torch
from m3kernels.lexical.gradient import gradients
from m3kernels.lexical.reference import lexical_scores_reference
from m3kernels.packing import check_capturing, check_csr, check_csr_values, check_no_tangent
from m3kernels.precision import as_written
from m3kernels.registering import op

__all__ = ["lexical_scores"]

CSR: TypeAlias = tuple[Tensor, Tensor, Tensor]


def lexical_scores(
    q_csr: CSR, d_csr: CSR, *, backend: str | None = None, validate: bool = True
) -> Tensor:
    """Score queries against documents by the lexical weights of the terms that they share.

        score(q, d) = sum over the ids in both of w_q[id] * w_d[id]

    which is s_lex of the BGE-M3 paper (arXiv 2402.03216, section 3.2) and FlagEmbedding's
    `compute_lexical_matching_score`. A row without terms scores 0.0. A stored weight of 0
    counts as no term. A NaN or an infinity reaches the scores of the pairs that share its id and
    no others.

    Products are summed in float32 whatever the weights are, under torch.autocast too. The same
    inputs give the same bytes. The op is `torch.ops.m3kernels.lexical_scores`, so torch.compile
    traces it. With Triton and `validate=False` the call never waits for the device, and a CUDA
    graph can record it; `warmup` compiles what it needs.

    The scores have a gradient by both sides' values, where they require one, so that with
    `sparse_max` a lexical head can be trained; that by a stored 0 too. The backward pass lists
    every shared term of a query and a document, 24 bytes or so each, and waits for a GPU. Sums
    have one order, so the same inputs give the same bytes. There are no second derivatives.

    Args:
        q_csr: the queries, (indptr (n_q + 1,) int64 or int32, indices (nnz,) int64 or int32,
            values (nnz,) float32, float16 or bfloat16); the indices of a row ascend and none
            stands twice, as `sparse_max` returns them.
        d_csr: the documents, the same. The dtypes may differ from the queries'.
        backend: "triton", "torch" or "reference"; None picks the best one for the device.
        validate: compare the values of each indptr and indices with the shapes and with one
            another, which waits for a GPU. With False, indices and values may be longer than
            indptr[-1], as `sparse_max(..., trim=False)` returns them: entries from indptr[-1] on
            are ignored. Wrong values of indptr or indices then give wrong scores.

    Returns:
        (n_q, n_d) float32.

    Raises:
        TypeError: an argument is no triple of tensors or has another dtype.
        ValueError: an argument has another shape, device or value, or `backend` can't run here.
            The message names it.
    """
    q = check_csr("q_csr", q_csr)
    d = check_csr("d_csr", d_csr, device=q[0].device)
    check_no_tangent("lexical_scores", q[2], d[2])
    scores: Tensor = _lexical_scores(*q, *d, backend, validate)
    return scores


@op(
    "m3kernels::lexical_scores",
    schema="(Tensor indptr_q, Tensor indices_q, Tensor values_q, "
    "Tensor indptr_d, Tensor indices_d, Tensor values_d, str? backend, bool validate) -> Tensor",
)
def _lexical_scores(
    indptr_q: Tensor,
    indices_q: Tensor,
    values_q: Tensor,
    indptr_d: Tensor,
    indices_d: Tensor,
    values_d: Tensor,
    backend: str | None,
    validate: bool,
) -> Tensor:
    """What depends on values, hidden from tracers: the checks and the choice of a backend."""
    q, d = (indptr_q, indices_q, values_q), (indptr_d, indices_d, values_d)
    if validate:
        check_capturing(indptr_q.device)
        check_csr_values("q_csr", q)
        check_csr_values("d_csr", d)
    with as_written(indptr_q.device):
        match choose("lexical_scores", backend, indptr_q.device, _unsupported(q, d)):
            case "triton":
                from m3kernels.lexical.launch import lexical_scores_triton

                return lexical_scores_triton(q, d)
            case "torch":
                return lexical_scores_torch(_plain(q, validate), _plain(d, validate))
            case _:
                return lexical_scores_reference(_plain(q, validate), _plain(d, validate))


@_lexical_scores.register_fake
def _(
    indptr_q: Tensor, indices_q: Tensor, values_q: Tensor, indptr_d: Tensor, *_: object
) -> Tensor:
    return values_q.new_empty((indptr_q.shape[0] - 1, indptr_d.shape[0] - 1), dtype=torch.float32)


@op(
    "m3kernels::lexical_scores_gradients",
    schema="(Tensor grad, bool[] wanted, Tensor indptr_q, Tensor indices_q, Tensor values_q, "
    "Tensor indptr_d, Tensor indices_d, Tensor values_d, str? backend) -> (Tensor, Tensor)",
)
def _lexical_scores_gradients(
    grad: Tensor,
    wanted: list[bool],
    indptr_q: Tensor,
    indices_q: Tensor,
    values_q: Tensor,
    indptr_d: Tensor,
    indices_d: Tensor,
    values_d: Tensor,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """The gradients by values_q and values_d; empty where they aren't wanted."""
    with as_written(grad.device):
        return gradients(
            grad, wanted, (indptr_q, indices_q, values_q), (indptr_d, indices_d, values_d), backend
        )


@_lexical_scores_gradients.register_fake
def _(
    grad: Tensor,
    wanted: list[bool],
    indptr_q: Tensor,
    indices_q: Tensor,
    values_q: Tensor,
    indptr_d: Tensor,
    indices_d: Tensor,
    values_d: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor]:
    return (
        values_q.new_empty(values_q.shape if wanted[0] else (0,)),
        values_d.new_empty(values_d.shape if wanted[1] else (0,)),
    )


# Where the values stand among the arguments.
_VALUES = (2, 5)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *sides, ctx.backend, _ = inputs
    ctx.save_for_backward(*sides)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = [bool(ctx.needs_input_grad[place]) for place in _VALUES]
    found = _lexical_scores_gradients(grad, wanted, *ctx.saved_tensors, ctx.backend)
    asked = [part if needs else None for part, needs in zip(found, wanted, strict=True)]
    return (None, None, asked[0], None, None, asked[1], None, None)


_lexical_scores.register_autograd(_backward, setup_context=_setup_context)


def _plain(csr: CSR, validated: bool) -> CSR:
    """Return a CSR as the plain backends take it: no entry outside the rows."""
    indptr, indices, values = csr
    if not validated:
        # As valid as indptr can be made; the slice waits for a GPU, as these backends do anyway.
        indptr = indptr.clamp(0, indices.shape[0]).cummax(0).values
        start, end = torch.stack([indptr[0], indptr[-1]]).tolist()
        indptr, indices, values = indptr - start, indices[start:end], values[start:end]
    return indptr, indices, values


def _unsupported(q: CSR, d: CSR) -> str | None:
    """Why the Triton kernel can't take these tensors, or None."""
    if max(q[0].shape[0], d[0].shape[0]) > 2**31:
        return "the kernel takes fewer than 2^31 rows"
    return None
