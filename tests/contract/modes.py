"""What each mode does, written out once more: hits' scores from their component scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from m3qdrant.names import COLBERT, DENSE, SPARSE, Mode
from m3qdrant.weights import DEFAULT_WEIGHTS
from tests.contract.answers import ids

__all__ = ["assert_by_definition", "expected_scores"]

Components = Mapping[str, Mapping[str, float]]
"""Of each document, by its id, its three scores."""


def assert_by_definition(
    mode: Mode, hits: Sequence[Mapping[str, Any]], components: Components
) -> None:
    """All documents that the mode finds, each with the score that the mode defines, best first.

    Args:
        mode: how was ranked.
        hits: all that were found.
        components: of all documents that could be.
    """
    expected = expected_scores(mode, components)
    assert set(ids(hits)) == expected.keys()
    assert len(hits) == len(expected)
    scores = [hit["score"] for hit in hits]
    # the engine fuses in float32
    assert scores == pytest.approx([expected[id] for id in ids(hits)], abs=2e-5)
    assert scores == sorted(scores, reverse=True)


def expected_scores(mode: Mode, components: Components) -> dict[str, float]:
    """The score of each document that is found, where all of them are candidates."""
    names = (DENSE, SPARSE, COLBERT)
    found = {
        name: {
            id: parts[name] for id, parts in components.items() if name != SPARSE or parts[name]
        }
        for name in names
    }
    if mode in names:
        return found[mode]
    if mode == "weighted":
        total = sum(DEFAULT_WEIGHTS)
        return {
            id: sum(w * parts[name] for w, name in zip(DEFAULT_WEIGHTS, names, strict=True))
            / total
            for id, parts in components.items()
        }
    share = _reciprocal_ranks if mode == "rrf" else _distribution
    shares = [share(scores) for scores in found.values()]
    return {id: sum(each.get(id, 0.0) for each in shares) for id in components}


def _reciprocal_ranks(scores: Mapping[str, float]) -> dict[str, float]:
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    return {id: 1 / (60 + rank) for rank, id in enumerate(ranked, 1)}


def _distribution(scores: Mapping[str, float]) -> dict[str, float]:
    """From three standard deviations below the mean to three above it is 0 to 1."""
    values = np.array(list(scores.values()))
    deviation = values.std(ddof=1)
    low = values.mean() - 3 * deviation
    return {id: float((score - low) / (6 * deviation)) for id, score in scores.items()}
