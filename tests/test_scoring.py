"""The four formulas against loops in float64 over each text's own views."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from m3qdrant import M3Embeddings, SparseVectors, TokenVectors, scoring
from m3qdrant.errors import InputError
from m3qdrant.weights import check_weights
from tests.views import random_embeddings, views


def by_hand(query: M3Embeddings, document: M3Embeddings) -> tuple[float, float, float]:
    """(dense, lexical, ColBERT) of one pair, from its definition."""
    (q_dense, _, q_colbert), (d_dense, _, d_colbert) = views(query), views(document)
    dense = float(q_dense[0].double() @ d_dense[0].double())
    q, d = query.lexical_weights()[0], document.lexical_weights()[0]
    lexical = math.fsum(weight * d[token] for token, weight in q.items() if token in d)
    products = q_colbert[0].double().numpy() @ d_colbert[0].double().numpy().T
    colbert = float(np.mean(products.max(axis=1))) if products.size else 0.0
    return dense, lexical, colbert


@pytest.fixture
def pair() -> tuple[M3Embeddings, M3Embeddings]:
    return (
        random_embeddings([3, 0, 1], [10, 0, 30], seed=1),
        random_embeddings([2, 7, 0, 1], [30, 20, 5, 0], seed=2),
    )


def test_all_pairs(pair: tuple[M3Embeddings, M3Embeddings]) -> None:
    queries, documents = pair
    expected = torch.tensor([[by_hand(q, d) for d in documents] for q in queries])
    assert expected[..., 1].count_nonzero() > 3
    for view, score in enumerate((scoring.dense, scoring.lexical, scoring.colbert)):
        scores = score(queries, documents)
        assert scores.dtype is torch.float32
        torch.testing.assert_close(scores, expected[..., view], rtol=1e-5, atol=1e-5)
    for weights in ((0.4, 0.2, 0.4), (1, 0.3, 1), (0, 1, 0), (2, 0, 5)):
        torch.testing.assert_close(
            scoring.weighted(queries, documents, weights),
            (expected * torch.tensor(weights)).sum(-1) / sum(weights),
            rtol=1e-5,
            atol=1e-5,
        )


def test_a_view_of_weight_zero_may_be_missing(pair: tuple[M3Embeddings, M3Embeddings]) -> None:
    queries, documents = (M3Embeddings(dense=side.dense) for side in pair)
    torch.testing.assert_close(
        scoring.weighted(queries, documents, (3, 0, 0)), scoring.dense(queries, documents)
    )
    with pytest.raises(InputError, match="queries hold no sparse view"):
        scoring.weighted(queries, documents)
    with pytest.raises(InputError, match="documents hold no colbert view"):
        scoring.colbert(pair[0], documents)


def test_views_that_do_not_go_together(pair: tuple[M3Embeddings, M3Embeddings]) -> None:
    queries, documents = pair
    _, sparse, colbert = views(documents)
    wide = M3Embeddings(
        dense=torch.ones(4, 9),
        sparse=SparseVectors(sparse.indptr, sparse.indices.flip(0), sparse.values),
        colbert=TokenVectors(torch.ones(10, 9), colbert.cu_seqlens),
    )
    with pytest.raises(InputError, match="dense vectors of 5 and of 9 dimensions"):
        scoring.dense(queries, wide)
    with pytest.raises(InputError, match="sparse views don't go together"):
        scoring.lexical(queries, wide)
    with pytest.raises(InputError, match="colbert views don't go together"):
        scoring.colbert(queries, wide)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ((1, 1), "not 2"),
        ((0, 0, 0), "all zero"),
        ((1, -1, 1), "not negative"),
        ((1, math.nan, 1), "finite"),
        ((1, math.inf, 1), "finite"),
        ((1e308, 1e308, 1e308), "too large"),
        ((1, "a", 1), "three numbers"),
        (("0.4", 0.2, 0.4), "three numbers"),
        ((True, 0, 1), "three numbers"),
        (3, "three numbers"),
    ],
)
def test_bad_weights(weights: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check_weights(weights)


def test_weights_are_numbers_of_any_library() -> None:
    for given in (np.array([2, 1, 1]), torch.tensor([2, 1, 1]), [Decimal("2"), np.int8(1), 1.0]):
        assert check_weights(given) == (2.0, 1.0, 1.0)  # type: ignore[arg-type]
