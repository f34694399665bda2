"""The right answers, in float64, and who agrees with them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["disagreement", "maxsim"]


def maxsim(queries: Sequence[Tensor], documents: Sequence[Tensor]) -> Tensor:
    """Mean over each query's vectors of its best similarity, (n_q, n_d) float64."""
    rows = torch.cat([each.double() for each in documents])
    starts = torch.tensor([0, *map(len, documents)]).cumsum(0)
    scores = []
    for query in queries:
        products = query.double() @ rows.T
        best = [products[:, a:b].amax(1).mean() for a, b in pairwise(starts.tolist())]
        scores.append(torch.stack(best))
    return torch.stack(scores)


def disagreement(found: Tensor, right: Tensor, tolerance: float) -> str | None:
    """How scores (n_q, n_d) differ from the right ones; None where they don't."""
    if found.shape != right.shape:
        return f"{tuple(found.shape)} scores, not {tuple(right.shape)}"
    off = float((found.double() - right).abs().max()) if right.numel() else 0.0
    return None if off <= tolerance else f"off by {off:.2g}, more than {tolerance:.2g}"
