"""Embeddings to Qdrant's models and back. No I/O.

Everything is checked on the way in, a document at a time, so that no engine ever sees a vector
that would damage it (see `check`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from m3kernels.packing import segment_ids
from qdrant_client import models
from torch import Tensor

from m3qdrant.documents import OURS, TEXT, Document
from m3qdrant.embeddings import M3Embeddings, SparseRow, SparseVectors, TokenVectors
from m3qdrant.errors import DocumentError, InputError
from m3qdrant.schema import COLBERT, DENSE, SPARSE, Layout

__all__ = ["as_stored", "check", "document", "to_points", "vectors", "widths"]


def widths(embeddings: M3Embeddings) -> tuple[int, int]:
    """The widths of the dense and of the ColBERT vectors.

    Raises:
        InputError: one of the three views is missing.
    """
    dense, _, colbert = _all_views(embeddings)
    return dense.shape[-1], colbert.vectors.shape[-1]


def check(embeddings: M3Embeddings, layout: Layout) -> Iterator[tuple[int, str, str]]:
    """What is wrong with each text's vectors: (position, field, reason), the first fault of each.

    Checked: finite numbers everywhere; at least one ColBERT vector and no more than the collection
    takes; lexical ids that are unsigned 32-bit, ascending and unique, with positive weights.

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
    mark((~dense.isfinite().all(1)).nonzero().flatten(), DENSE, not_finite)
    owner = segment_ids(colbert.cu_seqlens)
    mark(owner[~colbert.vectors.isfinite().all(1)], COLBERT, not_finite)
    mark((colbert.lengths == 0).nonzero().flatten(), COLBERT, "has no vectors")
    for position in (colbert.lengths > layout.max_tokens).nonzero().flatten().tolist():
        faults.setdefault(
            position,
            (
                COLBERT,
                f"{int(colbert.lengths[position])} vectors, but Qdrant takes at most "
                f"{layout.max_tokens} of {layout.colbert_dim} dimensions; split the text, or cut "
                f"it with max_length={layout.max_tokens + 1}",
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


def as_stored(colbert: Tensor, layout: Layout) -> Tensor:
    """ColBERT vectors as float32, rounded to the collection's datatype.

    Rounded here, for documents and queries alike, so that every engine compares the same numbers.
    """
    if layout.schema.colbert_datatype == "float16":
        return colbert.half().float()
    return colbert.float()


def vectors(
    embeddings: M3Embeddings, layout: Layout, *, arrays: bool = False
) -> Iterator[dict[str, Any]]:
    """Each text's named vectors as Qdrant takes them: lists, and a `SparseVector`.

    With `arrays` the dense and the ColBERT vectors are float32 numpy arrays, which `QdrantEdge`
    takes, and which spare it half a million Python floats a long document.
    """
    dense, sparse, colbert = _all_views(embeddings)
    rounded = TokenVectors(as_stored(colbert.vectors, layout), colbert.cu_seqlens)
    for row, terms, tokens in zip(dense.float(), sparse, rounded, strict=True):
        yield {
            DENSE: row.numpy() if arrays else row.tolist(),
            SPARSE: sparse_vector(terms),
            COLBERT: tokens.numpy() if arrays else tokens.tolist(),
        }


def sparse_vector(row: SparseRow) -> models.SparseVector:
    """One text's lexical weights as Qdrant's model."""
    return models.SparseVector(indices=row.indices.tolist(), values=row.values.tolist())


def to_points(
    documents: Sequence[Document],
    embeddings: M3Embeddings,
    layout: Layout,
    *,
    arrays: bool = False,
) -> tuple[list[models.PointStruct], list[DocumentError]]:
    """Points of the documents that can be stored, and an error for each that can't.

    See `vectors` for `arrays`.
    """
    errors = [
        DocumentError(documents[position].id, field, reason)
        for position, field, reason in check(embeddings, layout)
    ]
    bad = {error.id for error in errors}
    good = [i for i, item in enumerate(documents) if item.id not in bad]
    kept = embeddings[good] if errors else embeddings
    points = [
        # no second validation of half a million floats by pydantic: they were checked above
        models.PointStruct.model_construct(
            id=documents[i].point_id,
            vector=named,
            payload={
                **documents[i].payload,
                TEXT: documents[i].text,
                OURS: {"id": documents[i].id},
            },
        )
        for i, named in zip(good, vectors(kept, layout, arrays=arrays), strict=True)
    ]
    return points, errors


def document(point: models.ScoredPoint | models.Record) -> Document:
    """The document that a point was made from.

    A point that another program wrote has no id of ours: it goes by its point id.
    """
    payload = dict(point.payload or {})
    ours = payload.pop(OURS, None)
    text = payload.pop(TEXT, "")
    id = ours.get("id") if isinstance(ours, dict) else None
    return Document(id if isinstance(id, str) else str(point.id), str(text), payload)


def _all_views(embeddings: M3Embeddings) -> tuple[Tensor, SparseVectors, TokenVectors]:
    views = embeddings.to("cpu")
    if views.dense is None or views.sparse is None or views.colbert is None:
        missing = [name for name in (DENSE, SPARSE, COLBERT) if getattr(views, name) is None]
        raise InputError(f"a store needs all three views; missing: {', '.join(missing)}")
    return views.dense, views.sparse, views.colbert
