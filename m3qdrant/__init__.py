"""BGE-M3's dense, sparse and ColBERT vectors in Qdrant.

The public names are imported on first use (PEP 562), so `import m3qdrant` loads neither torch nor
qdrant. Each layer imports only from those above it:

    errors, progress, heap                   what all share
    embeddings, model, encoder, scoring      texts to vectors, vectors to scores; without Qdrant
    documents, payload, provenance, report   what is stored and what its point remembers, as data
    schema, convert, pooling, filters        how it is stored; embeddings and points, both ways
    edge/                                    the embedded engine behind qdrant-client's interface
    calls, query, hits, diversity,           what is asked of Qdrant, each operation written once:
      collection, chunks, batches,           generators of calls, no I/O
      ingest, versions
    transport, failures                      who carries the calls out: connections and retries
    base, store, aio                         M3Store and AsyncM3Store
    migrate, equality, doctor, findings      whole collections: copied, compared, examined
    sources, corpus, demo, verify            where documents come from; what the commands run
    tables, cli/                             the command line
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3qdrant import errors as errors
    from m3qdrant import scoring as scoring
    from m3qdrant.aio import AsyncM3Store as AsyncM3Store
    from m3qdrant.documents import Document as Document
    from m3qdrant.edge import AsyncQdrantEdge as AsyncQdrantEdge
    from m3qdrant.edge import QdrantEdge as QdrantEdge
    from m3qdrant.embeddings import M3Embeddings as M3Embeddings
    from m3qdrant.embeddings import SparseVectors as SparseVectors
    from m3qdrant.embeddings import TokenVectors as TokenVectors
    from m3qdrant.encoder import M3Encoder as M3Encoder
    from m3qdrant.hits import Hit as Hit
    from m3qdrant.report import IngestReport as IngestReport
    from m3qdrant.schema import M3Schema as M3Schema
    from m3qdrant.store import M3Store as M3Store

__version__ = "0.1.0"

_HOME = {
    "AsyncM3Store": "aio",
    "AsyncQdrantEdge": "edge",
    "Document": "documents",
    "Hit": "hits",
    "IngestReport": "report",
    "M3Embeddings": "embeddings",
    "M3Encoder": "encoder",
    "M3Schema": "schema",
    "M3Store": "store",
    "QdrantEdge": "edge",
    "SparseVectors": "embeddings",
    "TokenVectors": "embeddings",
}
_MODULES = ("errors", "scoring")

__all__ = [*sorted(_HOME), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"m3qdrant.{name}")
    if name in _HOME:
        return getattr(import_module(f"m3qdrant.{_HOME[name]}"), name)
    raise AttributeError(f"module 'm3qdrant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
