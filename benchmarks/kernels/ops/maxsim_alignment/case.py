"""The alignment's cases: one query's tokens against some documents', pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import m3kernels
import torch
from torch import Tensor

from benchmarks.kernels.bench import Case, Prepared
from benchmarks.kernels.expected import SIZES, TOLERANCE, Expected, Work
from benchmarks.kernels.ops.maxsim.case import Lengths, MaxSim, MaxSimInputs

__all__ = ["Alignment", "AlignmentInputs", "cases"]


@dataclass(frozen=True)
class Alignment:
    """A query against each of some documents."""

    name: str
    query_tokens: int
    documents: int
    lengths: Lengths
    dim: int
    dtype: str
    op: ClassVar[str] = "maxsim_alignment"

    def __str__(self) -> str:
        return f"alignment of {self.vectors()}"

    def vectors(self) -> MaxSim:
        """The vectors, as MaxSim's cases draw them."""
        tokens, documents = self.query_tokens, self.documents
        return MaxSim(self.name, 1, tokens, documents, self.lengths, self.dim, self.dtype)

    def work(self, document_tokens: int) -> Work:
        """Both sides are read once; a position and a similarity a query token and pair."""
        return Work(
            bytes=(self.query_tokens + document_tokens) * self.dim * SIZES[self.dtype]
            + 8 * self.query_tokens * self.documents,
            flops=2 * self.query_tokens * document_tokens * self.dim,
        )

    def draw(self, generator: torch.Generator) -> AlignmentInputs:
        """Draw a query and documents; the pairs are all of them."""
        drawn = self.vectors().draw(generator)
        i_d = torch.arange(self.documents, device=generator.device)
        return AlignmentInputs(self, drawn, torch.stack([torch.zeros_like(i_d), i_d], 1))


@dataclass(frozen=True)
class AlignmentInputs:
    """Packed vectors, and pairs (n, 2) of the query with each document."""

    case: Alignment
    drawn: MaxSimInputs
    pairs: Tensor

    def expected(self) -> Expected:
        """The largest products in float64: once to be returned, once at the positions."""
        query = self.drawn.queries.double()
        best = torch.cat(
            [(query @ document.double().T).amax(1) for document in self.drawn.each_document()]
        )
        work = self.case.work(self.drawn.documents.shape[0])
        return Expected(work, TOLERANCE[self.case.dtype], torch.stack([best, best]))

    def found(self, out: Any) -> Tensor:
        """What a contender returned, (2, n) float64: its similarities, and its positions'."""
        positions, similarities = out
        tokens = self.case.query_tokens
        starts = self.drawn.cu_seqlens_d[:-1].repeat_interleave(tokens)
        query = self.drawn.queries.double().repeat(self.case.documents, 1)
        rows = self.drawn.documents[starts + positions.long()].double()
        return torch.stack([similarities.double(), (query * rows).sum(1)])

    def ours(self, backend: str | None) -> Prepared:
        """m3kernels.maxsim_alignment."""
        drawn = self.drawn
        return Prepared(
            lambda: m3kernels.maxsim_alignment(
                drawn.queries,
                drawn.cu_seqlens_q,
                drawn.documents,
                drawn.cu_seqlens_d,
                self.pairs,
                backend=backend,
                validate=False,
            ),
            self.found,
        )


def cases(device: str, quick: bool) -> list[Case]:
    """Return the cases for a device: the documents of a page of hits, and of a rerank."""
    dtype = "bfloat16" if device == "cuda" else "float32"
    if quick:
        return [Alignment("hits", 32, 10, Lengths("fixed", 64, 64), 128, dtype)]
    ragged = Lengths("log-normal", 8, 2048, median=256)
    return [
        Alignment("hits", 32, 10, ragged, 1024, dtype),
        Alignment("rerank", 32, 100, ragged, 1024, dtype),
        Alignment("d224", 32, 100, ragged, 224, dtype),
    ]
