"""Cases of the best documents: every query against every document, the k best of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import m3kernels
import torch
from torch import Tensor

from benchmarks.kernels.bench import Case, Prepared
from benchmarks.kernels.expected import SIZES, Expected, Work
from benchmarks.kernels.ops.maxsim.case import Lengths, MaxSim, MaxSimInputs, exact

__all__ = ["Topk", "TopkInputs", "cases"]

# ||out - expected|| / ||expected|| that passes for the scores of what a contender found: one that
# screens without proof misses some of the best.
_ROOM = 0.05


@dataclass(frozen=True)
class Topk:
    """The k best of some documents for each query."""

    name: str
    queries: int
    query_tokens: int
    documents: int
    lengths: Lengths
    dim: int
    k: int
    dtype: str = "float32"
    op: ClassVar[str] = "maxsim_topk"

    def __str__(self) -> str:
        return f"the {self.k} best of {self.vectors()}"

    def vectors(self) -> MaxSim:
        """The vectors, as MaxSim's cases draw them."""
        return MaxSim(
            self.name, self.queries, self.query_tokens, self.documents, self.lengths, self.dim,
            self.dtype,
        )  # fmt: skip

    def work(self, document_tokens: int) -> Work:
        """Both sides are read once; a score and an id a result.

        The floor is that of the exact rows; the documents in int8 have a quarter of their bytes.
        """
        query_tokens = self.queries * self.query_tokens
        return Work(
            bytes=(query_tokens + document_tokens) * self.dim * SIZES[self.dtype]
            + 12 * self.queries * self.k,
            flops=2 * query_tokens * document_tokens * self.dim,
        )

    def draw(self, generator: torch.Generator) -> TopkInputs:
        """Draw queries and documents."""
        drawn = self.vectors().draw(generator)
        return TopkInputs(self, drawn, exact(drawn))


@dataclass(frozen=True)
class TopkInputs:
    """Packed queries and documents, and their scores in float64."""

    case: Topk
    drawn: MaxSimInputs
    scores: Tensor  # (n_q, n_d)

    def expected(self) -> Expected:
        """The k largest scores in float64.

        Contenders that are exact are held to more than the tolerance, by `exactly`.
        """
        work = self.case.work(self.drawn.documents.shape[0])
        best = torch.topk(self.scores, self.case.k, dim=1).values
        return Expected(work, _ROOM, torch.stack([best, best]))

    def found(self, ids: Tensor) -> Tensor:
        """The float64 scores of the ids that a contender found, twice (n_q, k)."""
        scores = self.scores.gather(1, ids)
        return torch.stack([scores, scores])

    def exactly(self, out: Any) -> Tensor:
        """The scores that a contender found, and the float64 ones of its ids; NaN if not exact."""
        scores, ids = out[0].double(), out[1]
        found = torch.stack([scores, self.scores.gather(1, ids)])
        best = torch.topk(self.scores, self.case.k, dim=1).values
        exact = bool(((found - best).abs() <= 1e-6).all())
        return found if exact else torch.full_like(found, torch.nan)

    def agreement(self, ids: Tensor) -> str:
        """How many of a contender's results are among the k best."""
        best = torch.topk(self.scores, self.case.k, dim=1).indices
        same = (ids[:, :, None] == best[:, None]).any(2).sum(1).double().mean()
        return f"{float(same):.3g} of the {self.case.k} best"

    def ours(self, backend: str | None) -> Prepared:
        """m3kernels.maxsim_topk on the exact rows."""
        drawn = self.drawn
        return Prepared(
            lambda: m3kernels.maxsim_topk(
                drawn.queries,
                drawn.cu_seqlens_q,
                drawn.documents,
                drawn.cu_seqlens_d,
                self.case.k,
                backend=backend,
                validate=False,
            ),
            self.exactly,
        )


def cases(device: str, quick: bool) -> list[Case]:
    """Return the cases for a device: m3-tiny's 224 dimensions, and BGE-M3's 1,024."""
    short = Lengths("uniform", 20, 157)
    if quick:
        return [Topk("d224", 1, 32, 100, short, 224, 10)]
    large = 100_000 if device == "cuda" else 1000
    return [
        Topk("d224", 1, 32, large, short, 224, 10),
        Topk("d224-100", 1, 32, large, short, 224, 100),
        Topk("d224-8-queries", 8, 32, large, short, 224, 10),
        Topk("d1024", 1, 32, large, short, 1024, 10),
    ]
