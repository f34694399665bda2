"""Embeddings of texts that were never written, with the statistics of real ones, and documents."""

from __future__ import annotations

import numpy as np
import torch

from m3qdrant import Document, M3Embeddings, SparseVectors, TokenVectors

DIM, COLBERT_DIM, VOCAB = 24, 16, 60


def random_views(n: int, seed: int, tokens: int = 6) -> M3Embeddings:
    """Embeddings with the statistics of real ones: unit vectors, few lexical weights."""
    rng = np.random.default_rng(seed)

    def unit(rows: int, dim: int) -> torch.Tensor:
        vectors = torch.from_numpy(rng.standard_normal((rows, dim), dtype=np.float32))
        return torch.nn.functional.normalize(vectors + 0.5, dim=-1)

    lengths = rng.integers(1, tokens + 1, n)
    terms = [np.sort(rng.choice(VOCAB, rng.integers(2, 8), replace=False)) for _ in range(n)]
    return M3Embeddings(
        dense=unit(n, DIM),
        sparse=SparseVectors(
            torch.tensor([0, *map(len, terms)]).cumsum(0),
            torch.from_numpy(np.concatenate(terms)).int(),
            torch.from_numpy(rng.uniform(0.01, 0.4, sum(map(len, terms))).astype(np.float32)),
        ),
        colbert=TokenVectors(
            unit(int(lengths.sum()), COLBERT_DIM), torch.tensor([0, *lengths]).cumsum(0)
        ),
    )


def documents(n: int) -> list[Document]:
    return [
        Document(f"d{i}", f"text {i}", {"lang": ("de", "en", "fr")[i % 3], "year": 2000 + i})
        for i in range(n)
    ]
