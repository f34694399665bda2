"""MaxSim's peers that are packages of their own, each through its best entry point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.bench import Prepared, Unsupported, package
from benchmarks.kernels.ops.maxsim.case import MaxSimInputs

__all__ = ["flash_maxsim", "late_interaction", "maxsim_cpu"]

_INT32 = 2**31

# The largest vectors that maxsim-cpu 0.1.0 takes; with longer ones the process dies.
_MAXSIM_CPU_DIM = 128

# From here on flash-maxsim's padded kernel walks over d in steps; its packed and int8 kernels
# hold whole vectors at any d.
_FLASH_STEPS_OVER = 512


def late_interaction(inputs: MaxSimInputs) -> Prepared:
    """late-interaction-kernels: padded for one length, packed for several, fp8 by its own."""
    lik = package("late_interaction_kernels")
    case = inputs.case
    queries, documents = inputs.padded_queries(), inputs.documents
    mean = _mean_of(case.query_tokens)
    if not documents.is_cuda:
        if inputs.scales is not None:
            raise Unsupported("float documents only, without CUDA")
        scorer = lik.MaxSimScorer(normalize=False)
        padded = inputs.padded_documents()
        mask = inputs.mask() if inputs.fixed_length is None else None
        return Prepared(
            lambda: scorer.score(queries, padded, d_mask=mask),
            mean,
            "its torch fallback, padded" if mask is not None else "its torch fallback",
        )
    if documents.dtype == torch.float8_e4m3fn:
        return _late_interaction_fp8(inputs)
    if inputs.scales is not None:
        raise Unsupported("no int8 documents")
    # Its offsets are int32, so more elements than that are scored in parts.
    if inputs.fixed_length is not None:
        parts = _whole_documents(inputs.padded_documents())
        return Prepared(_joined([partial(lik.maxsim, queries, part) for part in parts]), mean)
    calls: list[Callable[[], Tensor]] = []
    cu_q, longest_q = inputs.cu_seqlens_q.int(), case.query_tokens
    for first, last in _runs(inputs.lengths, _INT32 // case.dim):
        cu_d = inputs.cu_seqlens_d[first : last + 1]
        rows = documents[int(cu_d[0]) : int(cu_d[-1])]
        cu_d = (cu_d - cu_d[0]).int()
        longest = max(inputs.lengths[first:last])
        calls.append(
            partial(lik.maxsim_varlen, inputs.queries, rows, cu_q, cu_d, longest_q, longest)
        )
    return Prepared(_joined(calls), mean, f"packed, {len(calls)} part(s)")


def _late_interaction_fp8(inputs: MaxSimInputs) -> Prepared:
    fp8 = package("late_interaction_kernels.fp8")
    assert inputs.scales is not None
    documents = inputs.padded_documents()
    scales = inputs.scales.view(documents.shape[:2])
    queries, query_scales = fp8.quantize_fp8_per_token(inputs.padded_queries())
    return Prepared(
        lambda: fp8.maxsim_inference_fp8(queries, documents, scale_Q=query_scales, scale_D=scales),
        _mean_of(inputs.case.query_tokens),
        "queries in fp8 too",
    )


def flash_maxsim(inputs: MaxSimInputs) -> Prepared:
    """flash-maxsim: padded, or packed up to d = 512; int8 with int8 queries."""
    flash = package("flash_maxsim")
    case, documents = inputs.case, inputs.documents
    if not documents.is_cuda:
        raise Unsupported("needs CUDA")
    if documents.dtype == torch.float8_e4m3fn:
        raise Unsupported("no fp8 documents")
    mean = _mean_of(case.query_tokens)
    queries = inputs.padded_queries()
    if inputs.scales is not None:
        if case.queries > 1 or inputs.fixed_length is None:
            raise Unsupported("int8 for one query and padded documents only")
        padded = inputs.padded_documents()
        scales = inputs.scales.view(padded.shape[:2]).half()
        query, query_scales = flash.quantize_query_int8(queries[0])
        return Prepared(
            lambda: flash.flash_maxsim_int8x8(
                queries[0], padded, scales, Q_int8=query, q_scales=query_scales
            )[None],
            mean,
            "queries in int8 too",
        )
    if inputs.fixed_length is None and case.dim <= _FLASH_STEPS_OVER:
        # It converts to float16 whatever it gets, so that is done beforehand.
        half, cu_d = documents.half(), inputs.cu_seqlens_d.int()
        halves = list(queries.half())
        return Prepared(
            lambda: torch.stack([flash.flash_maxsim_packed(q, half, cu_d) for q in halves]),
            mean,
            "packed, float16",
        )
    padded = inputs.padded_documents()
    lengths = None if inputs.fixed_length is not None else inputs.cu_seqlens_d.diff().int()
    note = "padded" if lengths is not None else ""
    if case.queries == 1:
        return Prepared(
            lambda: flash.flash_maxsim(queries[0], padded, doc_lengths=lengths)[None], mean, note
        )
    return Prepared(
        lambda: flash.flash_maxsim_batched(queries, padded, doc_lengths=lengths), mean, note
    )


def maxsim_cpu(inputs: MaxSimInputs) -> Prepared:
    """maxsim-cpu: NumPy arrays of float32, one query a call."""
    module = package("maxsim_cpu")
    case = inputs.case
    if inputs.documents.is_cuda:
        raise Unsupported("CPU only")
    if inputs.documents.dtype != torch.float32:
        raise Unsupported("float32 only")
    if case.dim > _MAXSIM_CPU_DIM:
        raise Unsupported(f"crashes above d = {_MAXSIM_CPU_DIM}")
    queries = [query.numpy() for query in inputs.padded_queries()]
    documents: Any
    if inputs.fixed_length is not None:
        documents, score = inputs.padded_documents().numpy(), module.maxsim_scores
    else:
        documents = [document.numpy() for document in inputs.each_document()]
        score = module.maxsim_scores_variable
    mean = _mean_of(case.query_tokens)
    return Prepared(
        lambda: [score(query, documents) for query in queries],
        lambda rows: mean(torch.stack([torch.from_numpy(row) for row in rows])),
    )


def _mean_of(tokens: int) -> Callable[[Any], Tensor]:
    """The packages sum over the query's tokens; ours is the mean."""
    return lambda sums: sums / tokens


def _joined(calls: list[Callable[[], Tensor]]) -> Callable[[], Tensor]:
    if len(calls) == 1:
        return calls[0]
    return lambda: torch.cat([call() for call in calls], dim=1)


def _whole_documents(padded: Tensor) -> list[Tensor]:
    """Runs of padded documents of fewer than 2^31 elements."""
    step = max((_INT32 - 1) // padded[0].numel(), 1)
    return [padded[first : first + step] for first in range(0, padded.shape[0], step)]


def _runs(lengths: list[int], rows: int) -> list[tuple[int, int]]:
    """Runs (first, last) of documents with fewer than `rows` tokens together."""
    runs, first, tokens = [], 0, 0
    for i, length in enumerate(lengths):
        if tokens + length >= rows and i > first:
            runs.append((first, i))
            first, tokens = i, 0
        tokens += length
    return [*runs, (first, len(lengths))]
