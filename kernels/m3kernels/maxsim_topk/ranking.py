"""The best of many scores, some at a time: scores and ids as one number that sorts.

A float32 score becomes the int32 of the same order, with the id counted down below it:

    int64   [ score, ordered | 2^32 - 1 - id ]

so that the largest numbers are the best scores and, of equal ones, the smallest ids. No two are
equal, which leaves no choice to a sort: the same scores give the same ids on every device, however
they are cut into parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Best", "keys_of"]

_ABSENT = torch.iinfo(torch.int64).min
_NAN = -(2**31) + 1  # below -inf, above what is absent
_IDS = 2**32 - 1

# Keys that wait beside the best so far, before they are looked through: 4 MB.
_WAITING = 1 << 19


def keys_of(scores: Tensor, ids: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Return scores (n, m) float32 of documents ids (m,) int64 as keys (n, m) int64.

    A NaN ranks below every number, and what is not allowed (bool, (m,) or (n, m)) is no result.
    """
    bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0, to which it is equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ordered = ordered.masked_fill_(scores.isnan(), _NAN)
    keys = (ordered.to(torch.int64) << 32) + (_IDS - ids)
    return keys if allowed is None else keys.masked_fill_(~allowed, _ABSENT)


class Best:
    """The k best of the keys that were added, for each of n queries."""

    def __init__(self, n: int, k: int, device: torch.device) -> None:
        self.k = k
        self.best = torch.empty((n, 0), dtype=torch.int64, device=device)
        self.waiting: list[Tensor] = []
        self.most = max(_WAITING // max(n, 1), k)

    def add(self, keys: Tensor) -> None:
        """Take keys (n, m)."""
        # Of many keys only k can stay, and a sum of small looks is dearer than one large.
        if keys.shape[1] > self.k:
            keys = torch.topk(keys, self.k, dim=1, sorted=False).values
        self.waiting.append(keys)
        if sum(part.shape[1] for part in self.waiting) > self.most:
            self._look()

    def _look(self) -> None:
        keys = torch.cat([self.best, *self.waiting], 1)
        self.waiting.clear()
        self.best = torch.topk(keys, min(self.k, keys.shape[1]), dim=1).values

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores (n, k) float32 and ids (n, k) int64, the best first; -inf and -1 past them."""
        self._look()
        keys = self.best.new_full((self.best.shape[0], self.k), _ABSENT)
        keys[:, : self.best.shape[1]] = self.best
        ordered = (keys >> 32).to(torch.int32)
        scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
        scores = scores.masked_fill(ordered == _NAN, torch.nan)
        absent = keys == _ABSENT
        ids = (_IDS - (keys & _IDS)).masked_fill(absent, -1)
        return scores.masked_fill(absent, -torch.inf), ids
