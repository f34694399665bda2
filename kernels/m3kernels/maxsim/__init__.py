"""MaxSim: late-interaction scores of queries against documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from m3kernels.dispatch import choose
from m3kernels.layouts import (
    Padded,
    Slices,
    check_numbers,
    check_side,
    check_where_values,
    sequences,
    settle,
)
from m3kernels.maxsim.cpu import maxsim_torch
from m3kernels.maxsim.gradient import gradients, kept_rows
from m3kernels.maxsim.reference import maxsim_reference
from m3kernels.packing import (
    FLOAT_DTYPES,
    check_capturing,
    check_no_gradient,
    check_no_tangent,
    check_pairs,
    check_pairs_values,
    wants_gradient,
)
from m3kernels.precision import as_written
from m3kernels.registering import op
from m3kernels.token_vectors import QUANTIZED_DTYPES, unsupported

__all__ = ["maxsim"]


def maxsim(
    queries: Tensor | Padded | Slices,
    cu_seqlens_q: Tensor | None,
    documents: Tensor | Padded | Slices,
    cu_seqlens_d: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
    document_scales: Tensor | None = None,
    query_weights: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
    validate: bool = True,
) -> Tensor:
    """Score queries against documents by late interaction.

    With q_1 .. q_N the vectors of a query and d_j those of a document,

        score = (1 / N) sum_i max_j q_i . d_j

    which is s_mul of the BGE-M3 paper (arXiv 2402.03216, section 3.2) and FlagEmbedding's
    `colbert_score`; "sum" leaves the division out, as ColBERT does (arXiv 2004.12832).
    A query or a document without tokens scores 0.0. A NaN or an infinity reaches the scores of its
    own query or document and no others, and a NaN is never hidden by the max.

    Scores are accumulated in float32 whatever the inputs are, under torch.autocast too. int8
    documents are multiplied as integers on GPUs and on CPUs with VNNI, with queries of two int8
    digits, which rounds a number by 1 / 64,516 of its vector's largest at most; two infinities in
    one query vector are NaN there. The same inputs give the same bytes. The op is
    `torch.ops.m3kernels.maxsim`, so torch.compile and torch.export trace it (a number of documents
    that may be one is dynamic for torch.export only with
    `torch.fx.experimental._config.backed_size_oblivious`). With Triton and `validate=False` the
    call never waits for the device, and a CUDA graph can record it; `warmup` compiles what it
    needs.

    **Layouts.** Either side is packed, with its cu_seqlens, or a `Padded` or a `Slices` with None
    in their place; nothing is copied to score documents. What differs is what is read. On a CPU
    that is each document's own rows. On a GPU the padding of `Padded` documents is multiplied with
    the rest, so that a batch costs what its whole tensor costs, unless there is one query; and a
    `Slices` document is read once for each query. Queries that are not packed are copied, which
    waits for a GPU.

    **Masks and weights.** A masked token is no token: it is left out of the max, or of the sum and
    of N. (ColBERT and sentence-transformers leave masked document tokens out too; PyLate's plain
    path counts their similarity as 0, which wins over negative ones.) `query_weights` w makes the
    score (1 / N) sum_i w_i max_j q_i . d_j with N the number of tokens, whatever they weigh, as
    sentence-transformers' `length_normalize` divides by it: for a weighted mean, divide the
    weights. A token of weight 0 adds 0 even if its maximum is not finite.

    **Gradient.** Of the scores by queries, documents and query_weights, where they require one:
    each query token passes its share to its best document token, the first of equal ones. Then,
    and only then, the best token of each (query token, document) is kept, 4 bytes, and the maxima
    are taken as `maxsim_alignment` takes them. Sums have one order, so the same inputs give the
    same bytes. int8 and float8 documents and their scales have no gradient. There are no second
    derivatives.

    Args:
        queries: (sum_q, d) float32, float16 or bfloat16, the query vectors one after another, or
            a layout of such vectors.
        cu_seqlens_q: (n_q + 1,) int64 or int32; query i has the rows cu_seqlens_q[i] up to
            cu_seqlens_q[i + 1]. None with a layout.
        documents: (sum_d, d) float32, float16 or bfloat16, or int8 or float8_e4m3fn with
            `document_scales`, or a layout of such vectors. The dtype may differ from the queries'.
        cu_seqlens_d: (n_d + 1,) int64 or int32, the same for the documents. None with a layout.
        pairs: (n_pairs, 2) int64 or int32, each row a (query, document) to score, in any order;
            None scores all of them.
        document_scales: (sum_d,) float32, float16 or bfloat16, for `Padded` documents
            (n_d, longest): token j scores document_scales[j] * (q_i . d_j). Required with int8 and
            float8 documents, and only taken there; `quantize_tokens` makes both.
        query_weights: (sum_q,) float32, float16 or bfloat16, for `Padded` queries (n_q, longest):
            a factor for each query token's maximum.
        reduction: "mean" or "sum" over the query's tokens.
        backend: "triton", "torch" or "reference"; None picks the best one for the device.
        validate: compare the values of the offsets, lengths and `pairs` with the shapes, which
            waits for a GPU. With False, wrong values there give wrong scores.

    Returns:
        (n_q, n_d) float32, or (n_pairs,) float32 where `pairs` is given.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: an argument has another shape, device or value, or requires a gradient that
            there is not, or `backend` can't run here. The message names it.
    """
    q = check_side("queries", queries, cu_seqlens_q, dtypes=FLOAT_DTYPES)
    device = q.rows.device
    d = check_side(
        "documents", documents, cu_seqlens_d, dtypes=(*FLOAT_DTYPES, *QUANTIZED_DTYPES),
        device=device,
    )  # fmt: skip
    if d.rows.shape[1] != q.rows.shape[1]:
        raise ValueError(
            f"documents has vectors of {d.rows.shape[1]}; expected {q.rows.shape[1]}, "
            "as queries has"
        )
    if pairs is not None:
        pairs = check_pairs(pairs, device=device)
    quantized = d.rows.dtype in QUANTIZED_DTYPES
    if quantized and document_scales is None:
        raise ValueError(
            f"document_scales is None; expected (sum_d,) scales for {d.rows.dtype} documents"
        )
    if document_scales is not None:
        if not quantized:
            raise ValueError(
                f"document_scales is given with {d.rows.dtype} documents; expected None, "
                "scales go with int8 and float8_e4m3fn documents"
            )
        document_scales = check_numbers("document_scales", document_scales, d, dtypes=FLOAT_DTYPES)
        check_no_gradient("document_scales", document_scales)
        check_no_gradient("documents", d.rows)
    if query_weights is not None:
        query_weights = check_numbers("query_weights", query_weights, q, dtypes=FLOAT_DTYPES)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean' or 'sum'")
    check_no_tangent("maxsim", q.rows, d.rows, document_scales, query_weights)
    arguments = (
        q.rows, q.where, d.rows, d.where, pairs, document_scales, reduction, backend, validate,
        query_weights, q.mask, d.mask, q.longest, d.longest,
    )  # fmt: skip
    # How many rows are kept depends on values where queries are not packed: no tracer likes that.
    traced = torch.compiler.is_compiling() and not (pairs is None and q.where.ndim == 1)
    if wants_gradient(q.rows, d.rows, query_weights) and not traced:
        scores: Tensor = _maxsim_kept(*arguments)[0]
    else:
        scores = _maxsim(*arguments)
    return scores


_ARGUMENTS = (
    "Tensor queries, Tensor cu_seqlens_q, Tensor documents, Tensor cu_seqlens_d, "
    "Tensor? pairs, Tensor? document_scales, str reduction, str? backend, bool validate, "
    "Tensor? query_weights=None, Tensor? mask_q=None, Tensor? mask_d=None, "
    "SymInt? longest_q=None, SymInt? longest_d=None"
)


@op("m3kernels::maxsim", schema=f"({_ARGUMENTS}) -> Tensor")
def _maxsim(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    backend: str | None,
    validate: bool,
    query_weights: Tensor | None = None,
    mask_q: Tensor | None = None,
    mask_d: Tensor | None = None,
    longest_q: int | None = None,
    longest_d: int | None = None,
) -> Tensor:
    """What depends on values, hidden from tracers: the checks and the choice of a backend."""
    device = queries.device
    if validate:
        _check_values(queries, cu_seqlens_q, documents, cu_seqlens_d, pairs, longest_q, longest_d)
    chosen = choose("maxsim", backend, device, unsupported(queries, documents))
    with as_written(device):
        look = validate or chosen != "triton"
        queries, cu_seqlens_q, order = settle(queries, cu_seqlens_q, mask_q, look=look)
        if order is not None and query_weights is not None:
            query_weights = query_weights[order]
        documents, cu_seqlens_d, order = settle(documents, cu_seqlens_d, mask_d, look=look)
        if order is not None and document_scales is not None:
            document_scales = document_scales[order]
        arguments = (
            queries, cu_seqlens_q, documents, cu_seqlens_d, pairs, document_scales, reduction,
        )  # fmt: skip
        match chosen:
            case "triton":
                from m3kernels.maxsim.routes import maxsim_triton_anyhow

                padded = longest_d is not None
                return maxsim_triton_anyhow(*arguments, query_weights, padded=padded)
            case "torch":
                return maxsim_torch(*arguments, query_weights=query_weights)
            case _:
                return maxsim_reference(*arguments, query_weights)


@_maxsim.register_fake
def _(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    *_: object,
    **__: object,
) -> Tensor:
    n_q, n_d = sequences(cu_seqlens_q), sequences(cu_seqlens_d)
    shape = (n_q, n_d) if pairs is None else (pairs.shape[0],)
    return queries.new_empty(shape, dtype=torch.float32)


@op("m3kernels::maxsim_kept", schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)")
def _maxsim_kept(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    backend: str | None,
    validate: bool,
    query_weights: Tensor | None = None,
    mask_q: Tensor | None = None,
    mask_d: Tensor | None = None,
    longest_q: int | None = None,
    longest_d: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores, and what their gradient needs: see `kept_rows`."""
    if validate:
        _check_values(queries, cu_seqlens_q, documents, cu_seqlens_d, pairs, longest_q, longest_d)
    choose("maxsim", backend, queries.device, unsupported(queries, documents))
    with as_written(queries.device):
        return kept_rows(
            queries, cu_seqlens_q, documents, cu_seqlens_d, pairs, document_scales, reduction,
            backend, query_weights, mask_q, mask_d,
        )  # fmt: skip


@_maxsim_kept.register_fake
def _(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    *_: object,
    **__: object,
) -> tuple[Tensor, Tensor, Tensor]:
    n_q, n_d = sequences(cu_seqlens_q), sequences(cu_seqlens_d)
    scores = queries.new_empty(
        (n_q, n_d) if pairs is None else (pairs.shape[0],), dtype=torch.float32
    )
    n: int | torch.SymInt = n_d * queries.shape[0]
    if pairs is not None or cu_seqlens_q.ndim == 2:
        n = torch.library.get_ctx().new_dynamic_size()
    rows = queries.new_empty((n,), dtype=torch.int32)
    return scores, rows, queries.new_empty((n,), dtype=torch.float32)


@op(
    "m3kernels::maxsim_gradients",
    schema="(Tensor grad, Tensor? rows, Tensor? similarities, bool[] wanted, "
    "Tensor queries, Tensor cu_seqlens_q, Tensor documents, Tensor cu_seqlens_d, Tensor? pairs, "
    "Tensor? document_scales, str reduction, str? backend, Tensor? query_weights, "
    "Tensor? mask_q, Tensor? mask_d) -> (Tensor, Tensor, Tensor)",
)
def _maxsim_gradients(
    grad: Tensor,
    rows: Tensor | None,
    similarities: Tensor | None,
    wanted: list[bool],
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    document_scales: Tensor | None,
    reduction: str,
    backend: str | None,
    query_weights: Tensor | None,
    mask_q: Tensor | None,
    mask_d: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by queries, documents and query_weights; empty where they aren't wanted."""
    with as_written(queries.device):
        return gradients(
            grad, rows, similarities, wanted, queries, cu_seqlens_q, documents, cu_seqlens_d,
            pairs, document_scales, reduction, backend, query_weights, mask_q, mask_d,
        )  # fmt: skip


@_maxsim_gradients.register_fake
def _(
    grad: Tensor,
    rows: Tensor | None,
    similarities: Tensor | None,
    wanted: list[bool],
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        queries.new_empty(queries.shape if wanted[0] else (0,)),
        documents.new_empty(documents.shape if wanted[1] else (0,)),
        queries.new_empty(queries.shape[:1] if wanted[2] else (0,), dtype=torch.float32),
    )


# Where the arguments stand in the schema.
_QUERIES, _DOCUMENTS, _WEIGHTS = 0, 2, 9


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    (
        queries, cu_q, documents, cu_d, pairs, scales, reduction, backend, _, weights,
        mask_q, mask_d, _, _,
    ) = inputs  # fmt: skip
    rows = similarities = None
    if isinstance(output, (tuple, list)):
        _, rows, similarities = output
        ctx.mark_non_differentiable(rows, similarities)
        if weights is None:
            similarities = None
    ctx.save_for_backward(
        rows, similarities, queries, cu_q, documents, cu_d, pairs, scales, weights, mask_q, mask_d
    )
    ctx.reduction, ctx.backend, ctx.n_inputs = reduction, backend, len(inputs)


def _backward(ctx: Any, grad: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    rows, similarities, *sides, weights, mask_q, mask_d = ctx.saved_tensors
    places = (_QUERIES, _DOCUMENTS, _WEIGHTS)
    needs = ctx.needs_input_grad  # the dispatcher leaves out arguments that are the default
    wanted = [place < len(needs) and bool(needs[place]) for place in places]
    found = _maxsim_gradients(
        grad, rows, similarities, wanted, *sides, ctx.reduction, ctx.backend, weights,
        mask_q, mask_d,
    )  # fmt: skip
    every: list[Tensor | None] = [None] * ctx.n_inputs
    for place, gradient, asked in zip(places, found, wanted, strict=True):
        every[place] = gradient if asked else None
    return tuple(every)


_maxsim.register_autograd(_backward, setup_context=_setup_context)
_maxsim_kept.register_autograd(_backward, setup_context=_setup_context)


def _check_values(
    queries: Tensor,
    cu_seqlens_q: Tensor,
    documents: Tensor,
    cu_seqlens_d: Tensor,
    pairs: Tensor | None,
    longest_q: int | None,
    longest_d: int | None,
) -> None:
    check_capturing(queries.device)
    check_where_values("queries", cu_seqlens_q, rows=queries.shape[0], longest=longest_q)
    check_where_values("documents", cu_seqlens_d, rows=documents.shape[0], longest=longest_d)
    if pairs is not None:
        n_q, n_d = sequences(cu_seqlens_q), sequences(cu_seqlens_d)
        check_pairs_values(pairs, n_queries=n_q, n_documents=n_d)
