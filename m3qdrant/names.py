"""What things are called, wherever they meet: vectors, modes, payload and metadata keys; and the
default weights. Each stands here and nowhere else.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "COLBERT",
    "DEFAULT_WEIGHTS",
    "DENSE",
    "METADATA",
    "MIGRATION",
    "MODES",
    "OURS",
    "SPARSE",
    "TEXT",
    "VECTORS",
    "Mode",
]

DENSE, SPARSE, COLBERT = "dense", "sparse", "colbert"
VECTORS = (DENSE, SPARSE, COLBERT)
"""The names of the three vectors in every collection, of a hit's component scores, and of the
views of `M3Embeddings`."""

Mode = Literal["dense", "sparse", "colbert", "rrf", "dbsf", "weighted"]
"""How a search ranks; `collection/requests.py` defines each."""
MODES: tuple[Mode, ...] = get_args(Mode)

DEFAULT_WEIGHTS = (0.4, 0.2, 0.4)
"""Of the dense, the lexical and the ColBERT score, in the integrated score."""

TEXT = "text"
"""Payload key of a document's text: top level, where other Qdrant apps can use it too."""
OURS = "_m3"
"""Payload key of what m3qdrant keeps for itself; `collection/provenance.py` says what."""

METADATA = "m3qdrant"
"""Key of a collection's metadata: its model, and what Qdrant's own settings don't tell."""
MIGRATION = "m3qdrant_migration"
"""Key of a collection's metadata: how far a copy into it has come, while it isn't complete."""
