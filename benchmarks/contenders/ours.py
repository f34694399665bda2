"""m3kernels, through its public functions.

Timed with `validate=False`: the peers don't check their arguments' values either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import m3kernels

from benchmarks.contenders.base import Contender, Prepared, Unsupported
from benchmarks.inputs import CSR, Inputs, LexicalInputs, MaxSimInputs, SparseMaxInputs
from benchmarks.timing import capture


def variants(op: str, device: str) -> tuple[Contender, ...]:
    """Return the ways to call our op that are timed on a device."""
    ours = Contender("m3kernels", "m3kernels", prepare, ours=True, required=True)
    if device != "cuda":
        return (ours,)
    graph = Contender("m3kernels, CUDA graph", "m3kernels, CUDA graph", captured, ours=True)
    plain = Contender(
        "m3kernels, torch", "m3kernels, torch", plain_torch, ours=True, required=True
    )
    trimmed = Contender("m3kernels, trimmed", "m3kernels, trimmed", trim, ours=True, required=True)
    return (ours, graph, *((trimmed,) if op == "sparse_max" else ()), plain)


def prepare(inputs: Inputs) -> Prepared:
    """The op as its defaults pick it, without a wait for the device."""
    return _prepared(inputs, backend=None, note="")


def plain_torch(inputs: Inputs) -> Prepared:
    """The op's plain torch backend."""
    return _prepared(inputs, backend="torch", note="backend='torch'")


def captured(inputs: Inputs) -> Prepared:
    """The op replayed from a CUDA graph, which leaves the launches' cost on the CPU out."""
    prepared = prepare(inputs)
    try:
        replay, output = capture(prepared.run)
    except RuntimeError as error:
        raise Unsupported(f"no capture: {str(error).splitlines()[0]}") from error
    return Prepared(replay, lambda _: prepared.result(output), "replay of a CUDA graph")


def trim(inputs: SparseMaxInputs) -> Prepared:
    """sparse_max with tensors of the right size, which waits for the device to know it."""
    return Prepared(_sparse_max(inputs, backend=None, trim=True), note="trim=True, waits")


def _prepared(inputs: Inputs, *, backend: str | None, note: str) -> Prepared:
    if isinstance(inputs, MaxSimInputs):
        return Prepared(_maxsim(inputs, backend), note=note)
    if isinstance(inputs, LexicalInputs):
        return Prepared(
            lambda: m3kernels.lexical_scores(
                inputs.queries, inputs.documents, backend=backend, validate=False
            ),
            note=note,
        )
    # On a CPU there is nothing to wait for, and the right sizes cost nothing.
    trim = not inputs.hidden.is_cuda
    return Prepared(
        _sparse_max(inputs, backend, trim),
        _cut,
        ", ".join(filter(None, [note, "" if trim else "trim=False"])),
    )


def _maxsim(inputs: MaxSimInputs, backend: str | None) -> Callable[[], Any]:
    return lambda: m3kernels.maxsim(
        inputs.queries,
        inputs.cu_seqlens_q,
        inputs.documents,
        inputs.cu_seqlens_d,
        document_scales=inputs.scales,
        backend=backend,
        validate=False,
    )


def _sparse_max(inputs: SparseMaxInputs, backend: str | None, trim: bool) -> Callable[[], Any]:
    return lambda: m3kernels.sparse_max(
        inputs.hidden,
        inputs.weight,
        inputs.bias,
        inputs.token_ids,
        inputs.cu_seqlens,
        backend=backend,
        validate=False,
        trim=trim,
    )


def _cut(csr: CSR) -> CSR:
    """Without the undefined entries past the last row."""
    indptr, indices, values = csr
    end = int(indptr[-1])
    return indptr, indices[:end], values[:end]
