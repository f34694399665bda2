"""Maximal marginal relevance against its definition, written out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3qdrant.collection.diversity import diversify


def by_definition(
    scores: list[float], vectors: npt.NDArray[np.float32], diversity: float, n: int
) -> list[int]:
    low, high = min(scores), max(scores)
    relevance = [(s - low) / (high - low) if high > low else 0.0 for s in scores]
    taken: list[int] = [0]
    while len(taken) < min(n, len(scores)):
        rest = [i for i in range(len(scores)) if i not in taken]
        taken.append(
            max(
                rest,
                key=lambda i: (
                    (1 - diversity) * relevance[i]
                    - diversity * max(float(vectors[i] @ vectors[j]) for j in taken),
                    -i,
                ),
            )
        )
    return taken


@given(st.integers(1, 12), st.integers(1, 15), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_is_its_definition(n: int, limit: int, diversity: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = sorted(rng.random(n).tolist(), reverse=True)
    taken = diversify(scores, list(vectors), diversity, limit)
    assert len(taken) == len(set(taken)) == min(n, limit)
    expected = by_definition(scores, vectors, diversity, limit)
    if taken != expected:  # two gains within float32 of each other: either order is right
        first = next(i for i, (a, b) in enumerate(zip(taken, expected, strict=True)) if a != b)
        before = taken[:first]
        low, high = min(scores), max(scores)
        gains = [
            (1 - diversity) * (scores[i] - low) / ((high - low) or 1.0)
            - diversity * max(float(vectors[i] @ vectors[j]) for j in before)
            for i in (taken[first], expected[first])
        ]
        assert gains[0] == pytest.approx(gains[1], abs=1e-5)


def test_no_diversity_is_the_ranking_and_copies_come_last() -> None:
    vectors = list(np.eye(4, dtype=np.float32)[[0, 0, 1, 2]])
    scores = [1.0, 0.99, 0.9, 0.8]
    assert diversify(scores, vectors, 0.0, 4) == [0, 1, 2, 3]
    assert diversify(scores, vectors, 0.7, 4) == [0, 2, 3, 1]
    assert diversify([0.5, 0.5], vectors[:2], 0.5, 2) == [0, 1]
    assert diversify([], [], 0.5, 3) == []
