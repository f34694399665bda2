"""Exact scores of every query and document, and what each mode should find by them.

Scores are `m3qdrant.scoring`'s over the embeddings as the encoder gave them, in float32. A mode's
exact ranking is its definition (in `m3qdrant.collection.requests`) over exact candidates. For
"colbert" and "weighted" there is a second one, over all documents: the difference is what the
candidates cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from m3qdrant import M3Embeddings, scoring
from m3qdrant.weights import DEFAULT_WEIGHTS

Scores: TypeAlias = npt.NDArray[np.float64]

LIMIT = 10
CANDIDATES = 100
FULL = ("colbert", "weighted")
"""Modes that also have a ranking over all documents."""

_RRF = 60

# Scores closer than this are ties: either document may be in the list.
_TIE = 1e-6


@dataclass(frozen=True)
class Oracle:
    """Exact scores, each (queries, documents).

    Attributes:
        dense: e_q . e_d.
        sparse: the lexical score.
        colbert: the mean MaxSim.
    """

    dense: Scores
    sparse: Scores
    colbert: Scores

    @classmethod
    def of(cls, queries: M3Embeddings, documents: M3Embeddings) -> Oracle:
        """Compute them."""
        return cls(
            scoring.dense(queries, documents).double().numpy(),
            scoring.lexical(queries, documents).double().numpy(),
            scoring.colbert(queries, documents).double().numpy(),
        )

    @property
    def weighted(self) -> Scores:
        """The integrated score with the default weights."""
        w1, w2, w3 = DEFAULT_WEIGHTS
        total: Scores = w1 * self.dense + w2 * self.sparse + w3 * self.colbert
        total /= w1 + w2 + w3
        return total

    def ranking(self, mode: str, query: int) -> Scores:
        """The mode's score of each document for a query; -inf where it can't be found."""
        if mode == "dense":
            return self.full_ranking(mode, query)
        if mode == "sparse":
            return _only(self.sparse[query], self.sparse[query] > 0)
        dense = best(self.dense[query], CANDIDATES)
        sparse = best(self.ranking("sparse", query), CANDIDATES)
        candidates = np.zeros(self.dense.shape[1], dtype=bool)
        candidates[dense] = candidates[sparse] = True
        if mode in FULL:
            return _only(getattr(self, mode)[query], candidates)
        late = best(_only(self.colbert[query], candidates), CANDIDATES)
        lists = (
            (dense, self.dense[query][dense]),
            (sparse, self.sparse[query][sparse]),
            (late, self.colbert[query][late]),
        )
        fused = np.zeros_like(self.dense[query])
        for positions, scores in lists:
            fused[positions] += (
                1 / (_RRF + 1 + np.arange(len(positions)))
                if mode == "rrf"
                else _distribution(scores)
            )
        return _only(fused, candidates)

    def full_ranking(self, mode: str, query: int) -> Scores:
        """The score of each document for a query, all of them being candidates."""
        scores: Scores = getattr(self, mode)[query]
        return scores


def recall(found: list[int], ranking: Scores, limit: int = LIMIT) -> float:
    """The share of the `limit` best documents that were found; ties count for each other."""
    wanted = best(ranking, limit)
    if not len(wanted):
        return 1.0
    least = ranking[wanted[-1]] - _TIE
    return float(sum(ranking[position] >= least for position in set(found)) / len(wanted))


def best(ranking: Scores, limit: int) -> npt.NDArray[np.int64]:
    """The positions of the highest finite scores, best first."""
    order = np.argsort(-ranking, kind="stable")[:limit]
    return order[np.isfinite(ranking[order])]


def _only(scores: Scores, kept: npt.NDArray[np.bool_]) -> Scores:
    return np.where(kept, scores, -np.inf)


def _distribution(scores: Scores) -> Scores:
    """Qdrant's distribution-based normalisation: from mean - 3 sd to mean + 3 sd is 0 to 1."""
    deviation = scores.std(ddof=1) if len(scores) > 1 else 0.0
    if deviation == 0:
        return np.full_like(scores, 0.5)
    shares: Scores = (scores - (scores.mean() - 3 * deviation)) / (6 * deviation)
    return shares
