"""Sparse-max's cases: token states of equally long sequences to lexical weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import m3kernels
import torch
from torch import Tensor

from benchmarks.kernels.bench import Case, Prepared
from benchmarks.kernels.draws import CSR, ROWS, VOCABULARY, normal, offsets, zipf
from benchmarks.kernels.expected import SIZES, TOLERANCE, Expected, Work
from benchmarks.tables import count
from benchmarks.timing import Run

__all__ = ["SparseMax", "SparseMaxInputs", "cases", "exact"]


@dataclass(frozen=True)
class SparseMax:
    """Token states of equally long sequences to lexical weights."""

    name: str
    sequences: int
    tokens: int
    dim: int
    dtype: str
    op: ClassVar[str] = "sparse_max"

    def __str__(self) -> str:
        return (
            f"{count(self.sequences, 'sequence', 'sequences')} of {self.tokens:,} tokens, "
            f"d = {self.dim}, {self.dtype}"
        )

    def work(self, nnz: int) -> Work:
        """States and int64 ids are read once; (int32, float32) a term and indptr are written."""
        tokens = self.sequences * self.tokens
        return Work(
            bytes=tokens * (self.dim * SIZES[self.dtype] + 8) + 8 * nnz + 8 * self.sequences,
            flops=2 * tokens * self.dim,
        )

    def draw(self, generator: torch.Generator) -> SparseMaxInputs:
        """States, and ids as a tokenizer gives them: <s> ... </s>, few ids often, most rarely."""
        device, dtype = generator.device, getattr(torch, self.dtype)
        rows = self.sequences * self.tokens
        hidden = torch.empty(rows, self.dim, dtype=dtype, device=device)
        for first in range(0, rows, ROWS):
            block = hidden[first : first + ROWS]
            block.copy_(torch.randn(block.shape, device=device, generator=generator))
        # Weights of about 0.05 +- 0.1: seven tokens in ten keep one.
        weight = normal((self.dim,), generator).mul_(0.1).to(dtype)
        bias = torch.tensor(0.05, dtype=dtype, device=device)
        token_ids = zipf((self.sequences, self.tokens), generator)
        token_ids[:, 0], token_ids[:, -1] = 0, 2
        lengths = torch.full((self.sequences,), self.tokens, device=device)
        return SparseMaxInputs(self, hidden, weight, bias, token_ids.view(-1), offsets(lengths))


@dataclass(frozen=True)
class SparseMaxInputs:
    """Packed token states of equally long sequences, and the head's parameters."""

    case: SparseMax
    hidden: Tensor  # (sum_t, d)
    weight: Tensor  # (d,)
    bias: Tensor  # ()
    token_ids: Tensor  # (sum_t,) int64
    cu_seqlens: Tensor  # (n + 1,) int64

    def expected(self) -> Expected:
        """The weights in float64."""
        csr = exact(self)
        return Expected(self.case.work(csr[1].numel()), TOLERANCE[self.case.dtype], csr)

    def ours(self, backend: str | None) -> Prepared:
        """m3kernels.sparse_max; on a GPU without a wait for the sizes."""
        # On a CPU there is nothing to wait for, and the right sizes cost nothing.
        trim = not self.hidden.is_cuda
        return Prepared(self._call(backend, trim), _cut, "" if trim else "trim=False")

    def trimmed(self) -> Prepared:
        """m3kernels.sparse_max with tensors of the right size, known after a wait."""
        return Prepared(self._call(None, True), note="trim=True, waits")

    def _call(self, backend: str | None, trim: bool) -> Run:
        return lambda: m3kernels.sparse_max(
            self.hidden,
            self.weight,
            self.bias,
            self.token_ids,
            self.cu_seqlens,
            backend=backend,
            validate=False,
            trim=trim,
        )


def cases(device: str, quick: bool) -> list[Case]:
    """Return the cases for a device."""
    dtype = "bfloat16" if device == "cuda" else "float32"
    shapes = [(4, 64)] if quick else [(1, 64), (64, 512), (8, 8192), (512, 128)]
    return [SparseMax(f"{n}x{tokens}", n, tokens, 1024, dtype) for n, tokens in shapes]


def exact(inputs: SparseMaxInputs) -> CSR:
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


def _cut(csr: CSR) -> CSR:
    """Without the undefined entries past the last row."""
    indptr, indices, values = csr
    end = int(indptr[-1])
    return indptr, indices[:end], values[:end]
