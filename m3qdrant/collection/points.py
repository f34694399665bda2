"""Embeddings to Qdrant's models and back. No I/O.

Everything is checked on the way in, a document at a time, so that no engine ever sees a vector
that would damage it (see `check`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from m3kernels.packing import from_lengths, segment_ids
from qdrant_client import models
from torch import Tensor

from m3qdrant.collection.documents import Document
from m3qdrant.collection.layout import Layout
from m3qdrant.collection.provenance import Provenance
from m3qdrant.encode import (
    M3Embeddings,
    SparseRow,
    SparseVectors,
    TokenVectors,
    clusters,
    pool_tokens,
)
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE, SPARSE, LongDocuments

__all__ = [
    "as_stored",
    "check",
    "fit",
    "fitted",
    "rounded",
    "sparse_vector",
    "to_points",
    "vectors",
    "widths",
    "with_colbert",
]


def widths(embeddings: M3Embeddings) -> tuple[int, int]:
    """The widths of the dense and of the ColBERT vectors.

    Raises:
        InputError: one of the three views is missing.
    """
    dense, _, colbert = _all_views(embeddings)
    return dense.shape[-1], colbert.vectors.shape[-1]


def check(
    embeddings: M3Embeddings, layout: Layout, *, any_length: bool = False
) -> Iterator[tuple[int, str, str]]:
    """What is wrong with each text's vectors: (position, field, reason), the first fault of each.

    Checked: finite numbers everywhere; at least one ColBERT vector and, but for `any_length`, no
    more than the collection takes; lexical ids that are unsigned 32-bit, ascending and unique,
    with positive weights.

    Raises:
        InputError: a view is missing, or is not as wide as the collection's vectors.
    """
    for name, width, wanted in zip(
        (DENSE, COLBERT), widths(embeddings), (layout.dim, layout.colbert_dim), strict=True
    ):
        if width != wanted:
            raise InputError(f"{name} vectors have {width} dimensions, the collection {wanted}")
    dense, sparse, colbert = _all_views(embeddings)
    faults: dict[int, tuple[str, str]] = {}

    def mark(positions: Tensor, field: str, reason: str) -> None:
        for position in sorted(set(positions.tolist())):
            faults.setdefault(position, (field, reason))

    not_finite = "holds NaN or infinity; look at the text, or encode in float32"
    mark((~_finite(dense)).nonzero().flatten(), DENSE, not_finite)
    owner = segment_ids(colbert.cu_seqlens)
    mark(owner[~_finite(colbert.vectors)], COLBERT, not_finite)
    mark((colbert.lengths == 0).nonzero().flatten(), COLBERT, "has no vectors")
    too_long = colbert.lengths > (colbert.lengths if any_length else layout.max_tokens)
    for position in too_long.nonzero().flatten().tolist():
        faults.setdefault(
            position,
            (
                COLBERT,
                f"{int(colbert.lengths[position])} vectors, but Qdrant takes at most "
                f"{layout.max_tokens} of {layout.colbert_dim} dimensions; merge them with "
                f"long_documents='pool', or split the text",
            ),
        )
    owner = segment_ids(sparse.indptr)
    mark(owner[~sparse.values.isfinite()], SPARSE, not_finite)
    mark(owner[sparse.values <= 0], SPARSE, "holds a weight that is not positive")
    mark(owner[sparse.indices < 0], SPARSE, "holds a negative token id")
    same = owner[1:] == owner[:-1]
    falling = same & (sparse.indices[1:] <= sparse.indices[:-1])
    mark(owner[1:][falling], SPARSE, "token ids are not ascending and unique")
    for position in sorted(faults):
        yield (position, *faults[position])


def _finite(rows: Tensor) -> Tensor:
    """Which rows hold finite numbers only.

    A sum shows whatever isn't, and costs a tenth of `isfinite`. It may overflow by itself, so the
    few rows where it is not finite are looked at.
    """
    finite = rows.sum(1).isfinite()
    doubtful = (~finite).nonzero().flatten()
    finite[doubtful] = rows[doubtful].isfinite().all(1)
    return finite


def as_stored(vectors: Tensor, datatype: str) -> Tensor:
    """Vectors as float32, rounded to the collection's datatype where that is float16.

    Rounded here, for documents and queries alike, so that every engine compares the same numbers.
    """
    return vectors.half().float() if datatype == "float16" else vectors.float()


def rounded(embeddings: M3Embeddings, layout: Layout) -> M3Embeddings:
    """All three views on the CPU as a collection keeps them, in float32."""
    dense, sparse, colbert = _all_views(embeddings)
    vectors = as_stored(colbert.vectors, layout.schema.colbert_datatype)
    return M3Embeddings(
        as_stored(dense, layout.schema.dense_datatype),
        sparse,
        TokenVectors(vectors, colbert.cu_seqlens),
        fingerprint=embeddings.fingerprint,
    )


def vectors(
    embeddings: M3Embeddings, layout: Layout, *, arrays: bool = False
) -> Iterator[dict[str, Any]]:
    """Each text's named vectors as Qdrant takes them: lists, and a `SparseVector`.

    With `arrays` the dense and the ColBERT vectors are float32 numpy arrays, which `QdrantEdge`
    takes, and which spare it half a million Python floats a long document.
    """
    for row, terms, tokens in zip(*_all_views(rounded(embeddings, layout)), strict=True):
        yield {
            DENSE: row.numpy() if arrays else row.tolist(),
            SPARSE: sparse_vector(terms),
            COLBERT: tokens.numpy() if arrays else tokens.tolist(),
        }


def sparse_vector(row: SparseRow) -> models.SparseVector:
    """One text's lexical weights as Qdrant's model."""
    return models.SparseVector(indices=row.indices.tolist(), values=row.values.tolist())


def fit(
    embeddings: M3Embeddings, layout: Layout, long_documents: LongDocuments
) -> tuple[M3Embeddings, list[int]]:
    """The embeddings with as many ColBERT vectors a text as the collection keeps.

    Args:
        embeddings: checked.
        layout: gives the most vectors a document may have, and the schema's `token_pooling`.
        long_documents: what to do where that is not enough ("error": nothing, `check` refused).

    Returns:
        The embeddings, and the positions of the texts that were too long even after
        `token_pooling`, so that `long_documents` decided.
    """
    colbert = embeddings.colbert
    assert colbert is not None  # as `check` made sure
    factor, limit = layout.schema.token_pooling, layout.max_tokens
    too_long = (-(-colbert.lengths // factor) > limit).nonzero().flatten().tolist()
    if too_long and long_documents == "truncate":
        colbert = _first_tokens(colbert, factor * limit)
    if too_long or factor > 1:
        colbert = pool_tokens(colbert, factor=factor, limit=limit)
        embeddings = replace(embeddings, colbert=colbert)
    return embeddings, too_long


def fitted(vectors: Tensor, layout: Layout, long_documents: LongDocuments) -> list[list[int]]:
    """The tokens that each ColBERT vector stands for which `fit` gives a document.

    Args:
        vectors: (n, dim), one a token.
        layout: as `fit` takes it.
        long_documents: likewise.
    """
    factor, limit = layout.schema.token_pooling, layout.max_tokens
    if long_documents == "truncate":
        vectors = vectors[: factor * limit]
    return clusters(vectors, min(-(-len(vectors) // factor), limit))


def _first_tokens(colbert: TokenVectors, limit: int) -> TokenVectors:
    kept = [tokens[:limit] for tokens in colbert]
    return TokenVectors(torch.cat(kept), from_lengths([len(tokens) for tokens in kept]))


def with_colbert(embeddings: M3Embeddings, vectors: Tensor) -> M3Embeddings:
    """The embeddings of one text with other ColBERT vectors, (n, dim)."""
    return replace(embeddings, colbert=TokenVectors(vectors, from_lengths([len(vectors)])))


def to_points(
    documents: Sequence[Document],
    provenances: Sequence[Provenance],
    embeddings: M3Embeddings,
    layout: Layout,
    *,
    arrays: bool = False,
) -> list[models.PointStruct]:
    """Points of documents whose embeddings passed `check` and `fit`.

    See `vectors` for `arrays`.
    """
    return [
        # no second validation of half a million floats by pydantic: they were checked before
        models.PointStruct.model_construct(
            id=item.point_id, vector=named, payload=provenance.payload_of(item)
        )
        for item, provenance, named in zip(
            documents, provenances, vectors(embeddings, layout, arrays=arrays), strict=True
        )
    ]


def _all_views(embeddings: M3Embeddings) -> tuple[Tensor, SparseVectors, TokenVectors]:
    views = embeddings.to("cpu")
    if views.dense is None or views.sparse is None or views.colbert is None:
        missing = [name for name in (DENSE, SPARSE, COLBERT) if getattr(views, name) is None]
        raise InputError(f"a store needs all three views; missing: {', '.join(missing)}")
    return views.dense, views.sparse, views.colbert
