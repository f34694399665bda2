"""What things are called, wherever they meet: vectors, modes and other choices, keys of payloads
and of metadata. Each stands here and nowhere else.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "COLBERT",
    "DENSE",
    "LONG_DOCUMENTS",
    "METADATA",
    "MIGRATION",
    "MODES",
    "OURS",
    "SPARSE",
    "TEXT",
    "VECTORS",
    "LongDocuments",
    "Mode",
]

DENSE, SPARSE, COLBERT = "dense", "sparse", "colbert"
VECTORS = (DENSE, SPARSE, COLBERT)
"""The names of the three vectors in every collection, of a hit's component scores, and of the
views of `M3Embeddings`."""

Mode = Literal["dense", "sparse", "colbert", "rrf", "dbsf", "weighted"]
"""How a search ranks; `collection/requests.py` defines each."""
MODES: tuple[Mode, ...] = get_args(Mode)

LongDocuments = Literal["pool", "truncate", "error"]
"""What to do with a document of more ColBERT vectors than Qdrant takes: merge the most similar
ones until they fit, keep the first ones, or refuse the document."""
LONG_DOCUMENTS: tuple[LongDocuments, ...] = get_args(LongDocuments)

TEXT = "text"
"""Payload key of a document's text: top level, where other Qdrant apps can use it too."""
OURS = "_m3"
"""Payload key of what m3qdrant keeps for itself; `collection/provenance.py` says what."""

METADATA = "m3qdrant"
"""Key of a collection's metadata: its model, and what Qdrant's own settings don't tell."""
MIGRATION = "m3qdrant_migration"
"""Key of a collection's metadata: how far a copy into it has come, while it isn't complete."""
