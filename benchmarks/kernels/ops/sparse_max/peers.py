"""Sparse-max's peers. There is no GPU kernel for it anywhere that we found."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.bench import Prepared
from benchmarks.kernels.draws import CSR, VOCABULARY
from benchmarks.kernels.ops.sparse_max.case import SparseMaxInputs

__all__ = ["dense_scatter", "dict_loop"]

_SPECIAL = (0, 1, 2, 3)


def dict_loop(inputs: SparseMaxInputs) -> Prepared:
    """FlagEmbedding's way: weights to the host, then a dict a text, token by token.

    Its keys are strings and its values NumPy scalars.
    """
    case = inputs.case
    hidden = inputs.hidden.view(case.sequences, case.tokens, case.dim)
    ids = inputs.token_ids.view(case.sequences, case.tokens)
    linear = torch.nn.functional.linear

    def run() -> list[dict[str, Any]]:
        weights = torch.relu(linear(hidden, inputs.weight[None], inputs.bias[None])).squeeze(-1)
        rows = weights.float().cpu().numpy()
        return [
            _one_text(row, row_ids)
            for row, row_ids in zip(rows, ids.cpu().numpy().tolist(), strict=True)
        ]

    return Prepared(run, lambda rows: _to_csr(rows, inputs.hidden.device), "ends in Python dicts")


def dense_scatter(inputs: SparseMaxInputs) -> Prepared:
    """A (texts, vocabulary) matrix of zeros and a scattered maximum, as serving engines do."""
    case = inputs.case
    ids = inputs.token_ids.view(case.sequences, case.tokens)

    def run() -> Tensor:
        weights = torch.relu(inputs.hidden @ inputs.weight + inputs.bias).view(ids.shape)
        dense = weights.new_zeros(case.sequences, VOCABULARY)
        dense.scatter_reduce_(1, ids, weights, "amax")
        dense[:, : len(_SPECIAL)] = 0  # they are the first ids
        return dense

    return Prepared(run, _dense_to_csr, "ends in a dense matrix")


def _one_text(weights: Any, ids: list[int]) -> dict[str, Any]:
    largest: dict[str, Any] = {}
    for weight, token_id in zip(weights, ids, strict=True):
        if token_id in _SPECIAL or weight <= 0:
            continue
        name = str(token_id)
        if weight > largest.get(name, 0):
            largest[name] = weight
    return largest


def _to_csr(rows: list[dict[str, Any]], device: torch.device) -> CSR:
    ordered = [sorted((int(name), float(weight)) for name, weight in row.items()) for row in rows]
    counts = torch.tensor([0] + [len(row) for row in ordered])
    flat = [item for row in ordered for item in row]
    return (
        counts.cumsum(0).to(device),
        torch.tensor([token_id for token_id, _ in flat], dtype=torch.int64, device=device),
        torch.tensor([weight for _, weight in flat], device=device),
    )


def _dense_to_csr(dense: Tensor) -> CSR:
    rows, ids = dense.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=dense.shape[0])
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return indptr, ids, dense[rows, ids]
