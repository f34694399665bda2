"""The lexical scores' cases: every query's sparse weights against every document's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import m3kernels
import torch
from torch import Tensor

from benchmarks.kernels.bench import Case, Prepared
from benchmarks.kernels.draws import CSR, VOCABULARY, offsets, zipf
from benchmarks.kernels.expected import TOLERANCE, Expected, Work
from benchmarks.tables import count

__all__ = ["Lexical", "LexicalInputs", "cases", "exact"]


@dataclass(frozen=True)
class Lexical:
    """Every query's sparse weights against every document's."""

    name: str
    queries: int
    documents: int
    query_terms: int
    document_terms: int
    dtype: str = "float32"
    op: ClassVar[str] = "lexical_scores"

    def __str__(self) -> str:
        return (
            f"{count(self.queries, 'query', 'queries')} of about {self.query_terms} terms x "
            f"{self.documents:,} documents of about {self.document_terms}, {self.dtype}"
        )

    def work(self, nnz: int, matches: int) -> Work:
        """An int32 and a float32 a term are read once; one float32 a score is written.

        `matches` counts the (query term, document term) with the same id: one multiplication and
        one addition each.
        """
        rows = self.queries + self.documents
        return Work(
            bytes=8 * nnz + 8 * rows + 4 * self.queries * self.documents, flops=2 * matches
        )

    def draw(self, generator: torch.Generator) -> LexicalInputs:
        """Draw both sides."""
        return LexicalInputs(
            self,
            queries=_csr(self.queries, self.query_terms, generator),
            documents=_csr(self.documents, self.document_terms, generator),
        )


@dataclass(frozen=True)
class LexicalInputs:
    """Two CSR matrices over the vocabulary: indptr int64, indices int32, values float32."""

    case: Lexical
    queries: CSR
    documents: CSR

    def expected(self) -> Expected:
        """The scores in float64."""
        scores, matches = exact(self)
        nnz = self.queries[1].numel() + self.documents[1].numel()
        return Expected(self.case.work(nnz, matches), TOLERANCE[self.case.dtype], scores)

    def ours(self, backend: str | None) -> Prepared:
        """m3kernels.lexical_scores."""
        return Prepared(
            lambda: m3kernels.lexical_scores(
                self.queries, self.documents, backend=backend, validate=False
            )
        )


def cases(device: str, quick: bool) -> list[Case]:
    """Return the cases, the same for each device."""
    if quick:
        return [Lexical("2x100", 2, 100, 12, 50)]
    return [Lexical("1x1000", 1, 1000, 12, 200), Lexical("32x10000", 32, 10_000, 12, 200)]


def exact(inputs: LexicalInputs) -> tuple[Tensor, int]:
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


def _csr(rows: int, terms: int, generator: torch.Generator) -> CSR:
    """Rows of about `terms` ids, frequent ids in many rows, with weights up to 0.3."""
    device = generator.device
    # Half as many draws again, because an id that is drawn twice counts once.
    draws = zipf((rows, terms + terms // 2), generator)
    keys = draws + torch.arange(rows, device=device)[:, None] * VOCABULARY
    keys = torch.unique(keys)
    owners = keys // VOCABULARY
    indices = (keys % VOCABULARY).int()
    values = torch.rand(keys.numel(), device=device, generator=generator).mul_(0.29).add_(0.01)
    return offsets(torch.bincount(owners, minlength=rows)), indices, values
