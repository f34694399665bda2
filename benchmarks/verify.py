"""What the ops must give, in float64, and whether a contender gave it.

Written apart from m3kernels' own references, so that an error there cannot hide one here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.cases import VOCABULARY, Work
from benchmarks.inputs import CSR, Inputs, LexicalInputs, MaxSimInputs, SparseMaxInputs

# ||out - expected|| / ||expected|| that passes, by the dtype of the documents or the states. Room
# for a product that is rounded to its inputs' dtype, or for queries that a peer quantizes too;
# not for TF32 where float32 was asked for.
TOLERANCE = {
    "float32": 2e-5,
    "float16": 2e-3,
    "bfloat16": 5e-3,
    "int8": 5e-3,
    "float8_e4m3fn": 5e-3,
}

# A single element may be off by this many tolerances, relative to the largest value.
_WORST = 5.0

_SCRATCH_BYTES = 256 << 20


@dataclass(frozen=True)
class Check:
    """How far an output is from the expected one."""

    relative: float  # ||out - expected|| / ||expected||
    largest: float  # max |out - expected|
    ok: bool
    why: str = ""

    def __str__(self) -> str:
        return self.why or f"max error {self.largest:.2g}, relative {self.relative:.2g}"


@dataclass(frozen=True)
class Expected:
    """The float64 result of a case, and the work that it takes at least."""

    work: Work
    tolerance: float
    values: Tensor | CSR

    def check(self, got: Tensor | CSR) -> Check:
        """Compare an output of the shape that the op promises."""
        if isinstance(self.values, tuple):
            if not isinstance(got, tuple):
                return Check(float("nan"), float("nan"), ok=False, why="no CSR triple")
            return _check_csr(got, self.values, self.tolerance)
        if isinstance(got, tuple):
            return Check(float("nan"), float("nan"), ok=False, why="no tensor")
        return check_values(got, self.values, self.tolerance)


def expect(inputs: Inputs) -> Expected:
    """Compute what the op gives for `inputs`."""
    if isinstance(inputs, MaxSimInputs):
        work = inputs.case.work(inputs.documents.shape[0])
        tolerance = TOLERANCE[inputs.case.document_dtype or inputs.case.dtype]
        return Expected(work, tolerance, maxsim(inputs))
    if isinstance(inputs, SparseMaxInputs):
        csr = sparse_max(inputs)
        work = inputs.case.work(csr[1].numel())
        return Expected(work, TOLERANCE[inputs.case.dtype], csr)
    scores, matches = lexical(inputs)
    nnz = inputs.queries[1].numel() + inputs.documents[1].numel()
    return Expected(inputs.case.work(nnz, matches), TOLERANCE[inputs.case.dtype], scores)


def maxsim(inputs: MaxSimInputs) -> Tensor:
    """Return the mean over query tokens of the best product, (n_q, n_d) float64.

    Places past a document's end repeat its last token, which leaves the maximum alone.
    """
    case, device = inputs.case, inputs.documents.device
    lengths = inputs.cu_seqlens_d.diff()
    order = lengths.argsort()  # neighbours are of like length, so little is repeated
    queries = inputs.queries.double()
    out = torch.zeros(case.queries, case.documents, dtype=torch.float64, device=device)
    first = 0
    while first < case.documents:
        last = _fits(case.dim + queries.shape[0], lengths, order, first)
        block = order[first:last]
        first = last
        longest = max(int(lengths[block].max()), 1)
        places = torch.arange(longest, device=device)
        places = torch.minimum(places, lengths[block, None] - 1).clamp_(min=0)
        rows = inputs.cu_seqlens_d[block, None] + places  # (documents, longest)
        rows.clamp_(max=inputs.documents.shape[0] - 1)
        tokens = _gather(inputs.documents, rows).double()
        if inputs.scales is not None:
            tokens *= inputs.scales[rows].double()[..., None]
        best = (tokens @ queries.T).amax(1)  # (documents, query tokens)
        best = best.view(block.numel(), case.queries, case.query_tokens).mean(2)
        out[:, block] = best.T.masked_fill(lengths[block] == 0, 0.0)
    return out


def sparse_max(inputs: SparseMaxInputs) -> CSR:
    """Return the largest positive weight of each id of each sequence; values are float64."""
    weights = inputs.hidden.double() @ inputs.weight.double() + inputs.bias.double()
    rows = torch.arange(inputs.case.sequences, device=weights.device)
    keys = torch.repeat_interleave(rows, inputs.cu_seqlens.diff()) * VOCABULARY
    keys += inputs.token_ids
    kept = (weights > 0) & (inputs.token_ids > 3)  # cls 0, pad 1, eos 2, unk 3
    unique, places = torch.unique(keys[kept], return_inverse=True)
    values = weights.new_zeros(unique.numel())
    values.scatter_reduce_(0, places, weights[kept], "amax")
    counts = torch.bincount(unique // VOCABULARY, minlength=rows.numel())
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return indptr, unique % VOCABULARY, values


def lexical(inputs: LexicalInputs) -> tuple[Tensor, int]:
    """Return the scores (n_q, n_d) float64 and the number of products that they sum."""
    indptr_d, indices_d, values_d = inputs.documents
    n_q, n_d = inputs.case.queries, inputs.case.documents
    rows_d = torch.repeat_interleave(torch.arange(n_d, device=indptr_d.device), indptr_d.diff())
    scores = torch.zeros(n_q, n_d, dtype=torch.float64, device=indptr_d.device)
    matches = 0
    starts = inputs.queries[0].tolist()
    for i in range(n_q):
        terms = slice(starts[i], starts[i + 1])
        query = torch.zeros(VOCABULARY, dtype=torch.float64, device=indptr_d.device)
        query[inputs.queries[1][terms].long()] = inputs.queries[2][terms].double()
        weights = query[indices_d.long()]
        matches += int((weights != 0).sum())
        scores[i].index_add_(0, rows_d, weights * values_d.double())
    return scores, matches


def check_values(got: Tensor, expected: Tensor, tolerance: float) -> Check:
    """Compare two tensors; NaN and another shape never pass."""
    if got.shape != expected.shape:
        why = f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
        return Check(float("nan"), float("nan"), ok=False, why=why)
    difference = got.double() - expected
    norm = float(expected.norm())
    relative = float(difference.norm()) / norm if norm else float(difference.norm())
    largest = float(difference.abs().max()) if difference.numel() else 0.0
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    ok = relative <= tolerance and largest <= _WORST * tolerance * max(scale, 1e-30)
    return Check(relative, largest, ok)


def _check_csr(got: CSR, expected: CSR, tolerance: float) -> Check:
    """Compare as vectors over (row, id); an absent entry is 0.

    Where the float64 weight is a hair above 0, rounding decides whether it is an entry.
    """
    if got[0].shape != expected[0].shape:
        return Check(float("nan"), float("nan"), ok=False, why=f"{got[0].numel() - 1} rows")
    (got_keys, ok_order), (expected_keys, _) = _keys(got), _keys(expected)
    if not ok_order:
        return Check(float("nan"), float("nan"), ok=False, why="indices do not ascend")
    keys, places = torch.unique(torch.cat([got_keys, expected_keys]), return_inverse=True)
    vectors = torch.zeros(2, keys.numel(), dtype=torch.float64, device=keys.device)
    vectors[0, places[: got_keys.numel()]] = got[2].double()
    vectors[1, places[got_keys.numel() :]] = expected[2].double()
    return check_values(vectors[0], vectors[1], tolerance)


def _keys(csr: CSR) -> tuple[Tensor, bool]:
    indptr, indices, _ = csr
    rows = torch.arange(indptr.numel() - 1, device=indptr.device)
    keys = torch.repeat_interleave(rows, indptr.diff()) * VOCABULARY + indices.long()
    return keys, bool((keys.diff() > 0).all())


def _gather(vectors: Tensor, rows: Tensor) -> Tensor:
    """Rows of vectors; float8 goes as bytes, since not every torch can index it."""
    if vectors.dtype == torch.float8_e4m3fn:
        return vectors.view(torch.uint8)[rows].view(vectors.dtype)
    return vectors[rows]


def _fits(floats: int, lengths: Tensor, order: Tensor, first: int) -> int:
    """Return the end of a run of documents that the scratch holds, one at least."""
    # 2,048 documents at most, and `order` ascends, so the last of them bounds the rows.
    last = min(first + 2048, order.numel())
    longest = max(int(lengths[order[last - 1]]), 1)
    return first + max(min(last - first, _SCRATCH_BYTES // (8 * floats * longest)), 1)
