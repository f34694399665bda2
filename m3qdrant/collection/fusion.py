"""The modes: from the candidates' component scores to one ranking of them. Pure.

    dense, sparse   that one vector's own ranking, of the whole collection
    colbert         mean MaxSim
    weighted        (w1 dense + w2 lexical + w3 MaxSim / n_q) / (w1 + w2 + w3)
    rrf             reciprocal rank fusion: the sum of 1 / (60 + rank) over three rankings
                    (Cormack, Clarke, Buettcher 2009)
    dbsf            distribution-based score fusion: the sum over three rankings of the score,
                    with 0 and 1 three standard deviations below and above its mean

The candidates are the union of the dense and the sparse list, each `candidates` long. The third
ranking of `rrf` and `dbsf` is that of the candidates by mean MaxSim, as long at most.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from qdrant_client import models

from m3qdrant.names import COLBERT, VECTORS, Mode

__all__ = ["Ranking", "Scores", "fused", "ordered", "parts", "settled", "tied"]

PointId: TypeAlias = models.ExtendedPointId
Scores: TypeAlias = "dict[str, dict[PointId, float]]"
"""By vector the score of each point that has one."""
Ranking: TypeAlias = "list[tuple[PointId, float]]"
"""Points and what they are ranked by, best first."""

_RRF = 60


def fused(
    mode: Mode, weights: Sequence[float], lists: Mapping[str, Ranking], scores: Scores
) -> dict[PointId, float]:
    """The mode's score of each candidate that it ranks.

    Args:
        mode: one that ranks candidates.
        weights: of the three scores in `weighted`.
        lists: for `rrf` and `dbsf`: the rankings that are fused.
        scores: of the candidates.
    """
    if mode == COLBERT:
        return dict(scores[COLBERT])
    if mode == "weighted":
        total = math.fsum(weights)
        # what shares no term with the query has a lexical score of 0
        return {
            id: math.fsum(w * scores[name].get(id, 0.0) for w, name in _pairs(weights)) / total
            for id in {id: None for name in VECTORS for id in scores[name]}
        }
    found: dict[PointId, list[float]] = {}
    for ranking in lists.values():
        for id, part in parts(mode, ranking):
            found.setdefault(id, []).append(part)
    # exact sums: the same parts in another order are the same score
    return {id: math.fsum(each) for id, each in found.items()}


def parts(mode: Mode, ranking: Ranking) -> Ranking:
    """In `rrf` and `dbsf`: what one list adds to the score of each point in it."""
    return _reciprocal_ranks(ranking) if mode == "rrf" else _distribution(ranking)


def _pairs(weights: Sequence[float]) -> list[tuple[float, str]]:
    return list(zip(weights, VECTORS, strict=True))


def _reciprocal_ranks(ranking: Ranking) -> Ranking:
    return [(id, 1 / (_RRF + rank)) for rank, (id, _) in enumerate(ranking, 1)]


def _distribution(ranking: Ranking) -> Ranking:
    values = [score for _, score in ranking]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    if deviation == 0:
        return [(id, 0.5) for id, _ in ranking]
    low = statistics.fmean(values) - 3 * deviation
    return [(id, (score - low) / (6 * deviation)) for id, score in ranking]


def ordered(scores: Mapping[PointId, float], names: Mapping[PointId, str]) -> Ranking:
    """Best first; what is equal by the document's id, as far as `names` has it."""
    return sorted(scores.items(), key=lambda entry: (-entry[1], names.get(entry[0], "")))


def settled(ranking: Ranking, names: Mapping[PointId, str]) -> Ranking:
    """A ranking whose neighbours of one score are ordered by `names`, as far as it has them."""
    runs = itertools.groupby(ranking, key=lambda entry: entry[1])
    return [e for _, run in runs for e in sorted(run, key=lambda entry: names.get(entry[0], ""))]


def tied(ranking: Ranking, cuts: Sequence[int] | None = None) -> list[PointId]:
    """Points whose scores are equal to others', so that something else has to order them.

    Args:
        ranking: best first.
        cuts: only those where one of these positions lies between equals; None: all.
    """
    found: list[PointId] = []
    start = 0
    for end in range(1, len(ranking) + 1):
        if end < len(ranking) and ranking[end][1] == ranking[start][1]:
            continue
        if end - start > 1 and (cuts is None or any(start < cut < end for cut in cuts)):
            found += [id for id, _ in ranking[start:end]]
        start = end
    return found
