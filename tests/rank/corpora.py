"""Documents by their token vectors, drawn anew, as pages; and the exact answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m3qdrant.rank import Dtype, Found, Part, ResidentVectors, TokenPage

__all__ = ["best", "corpus", "documents", "held", "page", "plain", "queries"]


def documents(seed: int, n: int = 60, dim: int = 32, most: int = 12) -> list[Tensor]:
    """Unit vectors, (1 to most, dim) each."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, most + 1, (n,), generator=generator).tolist()
    drawn = [torch.randn(length, dim, generator=generator) + 0.3 for length in lengths]
    return [torch.nn.functional.normalize(each, dim=1) for each in drawn]


def queries(seed: int, n: int = 5, dim: int = 32) -> list[Tensor]:
    return documents(seed, n, dim, 7)


def page(rows: Sequence[Tensor], first: int = 0, names: Sequence[str] | None = None) -> TokenPage:
    """Documents numbered from `first` on."""
    n = len(rows)
    return TokenPage(
        list(range(first, first + n)),
        list(names) if names is not None else [f"d{first + i:04}" for i in range(n)],
        [(first + i, 0.5) for i in range(n)],
        torch.cat(list(rows)).numpy() if n else np.empty((0, 32), np.float32),
        np.array([len(each) for each in rows], np.int64),
    )


def held(vectors: ResidentVectors, pages: Sequence[TokenPage]) -> list[Part]:
    """A part a page."""
    parts = []
    for each in pages:
        filling = vectors.filling(len(each.rows) + 3)
        filling.add(each)
        parts.append(filling.part())
    return parts


def corpus(dtype: Dtype, pages: Sequence[TokenPage], dim: int = 32) -> ResidentVectors:
    vectors = ResidentVectors(dim, dtype, torch.device("cpu"))
    marks = {id: mark for p in pages for id, mark in zip(p.ids, p.marks, strict=True)}
    vectors.change(held(vectors, pages), marks, tidy=False)
    return vectors


def best(rows: dict[int, Tensor], query: Tensor, k: int) -> list[tuple[int, float]]:
    """The k best by their definition, in float64; equal ones by number."""
    scores = {
        i: float((query.double() @ each.double().T).max(1).values.sum().float())
        for i, each in rows.items()
    }
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:k]


def plain(found: Sequence[Found]) -> list[tuple[int, float]]:
    return [(int(each.id), each.score) for each in found]
