"""Vectors that tests draw: as arrays, and as the lists that qdrant-client takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from qdrant_client import models

__all__ = ["as_lists", "named", "rows", "struct"]

_FLOATS = st.floats(width=32, allow_nan=False)

dense = arrays.arrays(np.float32, st.integers(0, 40), elements=_FLOATS)
rows = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 40)), elements=_FLOATS
)
"""Wide enough for lengths of two bytes."""


@st.composite
def sparse(draw: st.DrawFn) -> models.SparseVector:
    indices = draw(st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=8))
    size = len(indices)
    values = draw(st.lists(_FLOATS, min_size=size, max_size=size))
    return models.SparseVector(indices=indices, values=values)


named = st.dictionaries(st.text(max_size=12), st.one_of(dense, rows, sparse()), max_size=4)

struct = st.one_of(dense, rows, named)
"""What a point's vector may be."""


def as_lists(vector: Any) -> Any:
    """Without arrays."""
    if isinstance(vector, dict):
        return {name: as_lists(each) for name, each in vector.items()}
    return vector.tolist() if isinstance(vector, np.ndarray) else vector
