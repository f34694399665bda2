"""Maximal marginal relevance: hits that are good and not all the same (Carbonell, Goldstein 1998).

From a ranking, one hit after another is taken that maximises

    (1 - diversity) * relevance - diversity * (largest cosine with a hit already taken)

Relevance is the ranking's own score, scaled to 0..1 over the ranking, so that every mode can be
diversified: a reciprocal rank score is near 0.03, a lexical one has no bound. Similarity is that
of the dense vectors. On our side, since Qdrant's own MMR knows only the dense mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["diversify"]


def diversify(
    scores: Sequence[float], vectors: Sequence[Any], diversity: float, limit: int
) -> list[int]:
    """Positions in a ranking, in the order in which they are taken.

    Args:
        scores: n scores, best first.
        vectors: n dense vectors, L2-normalised.
        diversity: from 0 (the ranking itself) to 1 (the first hit, then ever the least similar).
        limit: how many to take, at most n.
    """
    if not scores:
        return []
    relevance: NDArray[np.float64] = np.asarray(scores, dtype=np.float64)
    spread = relevance.max() - relevance.min()
    relevance = (relevance - relevance.min()) / spread if spread > 0 else relevance * 0.0
    matrix = np.asarray(vectors, dtype=np.float32)
    taken = [0]
    left = np.ones(len(scores), dtype=bool)
    left[0] = False
    nearest = matrix @ matrix[0]
    while len(taken) < min(limit, len(scores)):
        gain = (1 - diversity) * relevance - diversity * nearest
        best = int(np.argmax(np.where(left, gain, -np.inf)))  # the first of equals: the ranking's
        taken.append(best)
        left[best] = False
        nearest = np.maximum(nearest, matrix @ matrix[best])
    return taken
