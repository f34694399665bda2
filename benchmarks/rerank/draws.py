"""Documents and queries with the shape of BGE-M3's, and an embedded collection of them.

Token vectors of one document resemble each other, and some documents resemble a query, as real
ones do: numbers that are merely random would make every cascade look bad and every bound loose.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from m3qdrant import Document, M3Embeddings, M3Store, SparseVectors, TokenVectors

__all__ = ["COLLECTION", "Shape", "build", "documents", "queries"]

COLLECTION = "measured"
_TOPICS = 64
_PORTION = 256


@dataclass(frozen=True)
class Shape:
    """How large everything is.

    Attributes:
        dim: width of a vector.
        tokens: vectors of a document.
        query_tokens: vectors of a query.
    """

    dim: int = 1024
    tokens: int = 128
    query_tokens: int = 32


def documents(shape: Shape, first: int, n: int, seed: int) -> M3Embeddings:
    """Documents number `first` and the n - 1 behind it, the same whatever portion they are of."""
    topics = _topics(shape, seed)
    rows, dense = [], []
    for i in range(first, first + n):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        chosen = torch.randint(_TOPICS, (3,), generator=generator)
        noise = torch.randn(shape.tokens, shape.dim, generator=generator)
        which = chosen[torch.randint(3, (shape.tokens,), generator=generator)]
        rows.append(_unit(topics[which] * 0.8 + noise / shape.dim**0.5))
        dense.append(_unit(rows[-1].mean(0, keepdim=True)))
    return _embeddings(torch.cat(dense), torch.cat(rows), n, shape.tokens)


def queries(shape: Shape, n: int, seed: int) -> M3Embeddings:
    """N queries, drawn as documents are."""
    short = Shape(shape.dim, shape.query_tokens)
    topics = _topics(shape, seed)
    rows = []
    for i in range(n):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + 500_000_000 + i)
        which = torch.randint(_TOPICS, (short.tokens,), generator=generator)
        noise = torch.randn(short.tokens, shape.dim, generator=generator)
        rows.append(_unit(topics[which] * 0.8 + noise / shape.dim**0.5))
    dense = torch.cat([_unit(each.mean(0, keepdim=True)) for each in rows])
    return _embeddings(dense, torch.cat(rows), n, short.tokens)


def build(folder: Path, shape: Shape, n: int, seed: int) -> None:
    """Store n documents in an embedded collection, with the defaults of a schema."""
    with M3Store(folder, COLLECTION) as store:
        for first in range(0, n, _PORTION):
            count = min(_PORTION, n - first)
            named = [Document(f"d{i:07}", f"document {i}") for i in range(first, first + count)]
            embedded = documents(shape, first, count, seed)
            store.add(named, embeddings=embedded, optimize=False)


def _topics(shape: Shape, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return _unit(torch.randn(_TOPICS, shape.dim, generator=generator))


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def _embeddings(dense: Tensor, rows: Tensor, n: int, tokens: int) -> M3Embeddings:
    weights = SparseVectors(
        torch.arange(n + 1), torch.zeros(n, dtype=torch.int32), torch.full((n,), 0.5)
    )
    return M3Embeddings(dense, weights, TokenVectors(rows, torch.arange(n + 1) * tokens))
