"""Embeddings of texts that were never written, documents, and how embeddings are compared."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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


def random_embeddings(
    lengths: list[int], terms: list[int], seed: int = 0, dim: int = 5
) -> M3Embeddings:
    """Embeddings of len(lengths) texts with that many ColBERT vectors and lexical weights."""
    generator = torch.Generator().manual_seed(seed)
    n = len(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    indptr = torch.tensor([0, *terms]).cumsum(0)
    ids = [torch.randperm(50, generator=generator)[:k].sort().values for k in terms]
    return M3Embeddings(
        dense=torch.randn(n, dim, generator=generator),
        sparse=SparseVectors(
            indptr,
            torch.cat([*ids, torch.empty(0, dtype=torch.int64)]).int(),
            torch.rand(int(indptr[-1]), generator=generator) + 0.1,
        ),
        colbert=TokenVectors(torch.randn(int(offsets[-1]), dim, generator=generator), offsets),
        truncated=torch.rand(n, generator=generator) > 0.5,
    )


def views(embeddings: M3Embeddings) -> tuple[Tensor, SparseVectors, TokenVectors]:
    """The three views of embeddings that have them all."""
    assert embeddings.dense is not None
    assert embeddings.sparse is not None
    assert embeddings.colbert is not None
    return embeddings.dense, embeddings.sparse, embeddings.colbert


def tensors(embeddings: M3Embeddings) -> dict[str, Tensor]:
    """All tensors that embeddings are made of, by name."""
    found: dict[str, Tensor] = {}
    for name, view in vars(embeddings).items():
        if isinstance(view, Tensor):
            found[name] = view
        elif view is not None and not isinstance(view, str):
            found |= {f"{name}.{part}": tensor for part, tensor in vars(view).items()}
    return found


def assert_identical(a: M3Embeddings, b: M3Embeddings) -> None:
    """The same views, to the last bit."""
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


def scores_by_hand(
    query: M3Embeddings, item: M3Embeddings, half: Collection[str] = ()
) -> dict[str, float]:
    """The three scores of a pair in float64, by their definitions and numpy alone.

    Args:
        query: embeddings of one text.
        item: embeddings of another.
        half: which of "dense" and "colbert" are kept, and compared, as float16.
    """

    def kept(name: str, tensor: Tensor) -> npt.NDArray[np.float64]:
        values = tensor.numpy()
        return values.astype(np.float16 if name in half else np.float32).astype(np.float64)

    q, d = query.lexical_weights()[0], item.lexical_weights()[0]
    (q_dense, _, q_colbert), (d_dense, _, d_colbert) = views(query), views(item)
    late = kept("colbert", q_colbert[0]) @ kept("colbert", d_colbert[0]).T
    return {
        "dense": float(kept("dense", q_dense[0]) @ kept("dense", d_dense[0])),
        "sparse": math.fsum(weight * d[token] for token, weight in q.items() if token in d),
        "colbert": float(late.max(axis=1).mean()),
    }


def documents(n: int) -> list[Document]:
    return [
        Document(f"d{i}", f"text {i}", {"lang": ("de", "en", "fr")[i % 3], "year": 2000 + i})
        for i in range(n)
    ]
