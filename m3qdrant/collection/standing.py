"""Where a document stands in a ranking, and what its components have to do with it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from m3qdrant.collection.fusion import PointId, Ranking, Scores, parts
from m3qdrant.names import VECTORS, Mode
from m3qdrant.rank import Component

__all__ = ["Fused", "Standing", "standing"]


class Standing(NamedTuple):
    """A point's place in a ranking.

    Attributes:
        point: its id.
        rank: its place, from 1; None where it isn't in it.
        score: what the mode makes of the components.
        components: the three scores, and their shares of it.
    """

    point: PointId
    rank: int | None
    score: float
    components: tuple[Component, ...]


class Fused(NamedTuple):
    """A list that was fused: the place of each point, and what it adds to its score."""

    ranks: dict[PointId, int]
    adds: dict[PointId, float]

    @classmethod
    def of(cls, mode: Mode, ranking: Ranking) -> Fused:
        """From a list, best first."""
        return cls(
            {id: rank for rank, (id, _) in enumerate(ranking, 1)}, dict(parts(mode, ranking))
        )


def standing(
    mode: Mode,
    weights: Sequence[float],
    scores: Scores,
    lists: Mapping[str, Fused],
    point: PointId,
    rank: int | None,
    score: float | None = None,
) -> Standing:
    """Where a point stands.

    Args:
        mode: how was ranked.
        weights: of the three scores in `weighted`.
        scores: by vector, the point's among them where it has any.
        lists: in `rrf` and `dbsf` those that were fused, by vector.
        point: its id.
        rank: its place.
        score: what it was ranked by; None: what the components give.
    """
    found = {name: scores[name].get(point, 0.0) for name in VECTORS}
    components = []
    for weight, name in zip(weights, VECTORS, strict=True):
        if mode in ("rrf", "dbsf"):
            fused = lists.get(name) or Fused({}, {})
            place, share = fused.ranks.get(point), fused.adds.get(point, 0.0)
            components.append(Component(name, found[name], None, share, place))
        elif mode == "weighted":
            total = math.fsum(weights)
            share = weight * found[name] / total
            components.append(Component(name, found[name], weight / total, share))
        else:
            own = name == mode
            share = found[name] if score is None else score
            components.append(Component(name, found[name], float(own), share if own else 0.0))
    if score is None:
        score = math.fsum(component.share for component in components)
    return Standing(point, rank, score, tuple(components))
