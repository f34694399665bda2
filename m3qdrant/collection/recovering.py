"""The tokens that a document's stored vectors stand for: its text, encoded again.

A point's provenance says what its vectors were made of: the text's digest tells whether the stored
text is the one, and with which options. Where all is as it was, the encoder gives the same vectors
again, and with them their tokens, and which of these were merged. What isn't certain is left out:
no word is named that might be another's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from qdrant_client import models
from torch import Tensor

from m3qdrant.collection import points
from m3qdrant.collection.layout import Layout
from m3qdrant.collection.provenance import LONGEST, Provenance
from m3qdrant.encode import Encoder, M3Embeddings, SparseRow, TokenSpan, TruncationWarning
from m3qdrant.names import COLBERT, DENSE, SPARSE, TEXT, LongDocuments

__all__ = ["Recovered", "recover", "stored_colbert", "stored_dense", "stored_sparse"]

_ALIKE = {"turbo4": 0.9}
_ALIKE_ELSE = 0.99
"""The least cosine of a stored vector and the same one computed again, by how it is stored."""


@dataclass(frozen=True)
class Recovered:
    """What a document's vectors stand for.

    Attributes:
        tokens: of its text, one a vector before any were merged; None where that isn't known.
        members: for each stored vector the tokens that it stands for.
        note: what isn't known and why, or what else there is to say; None for nothing.
    """

    tokens: list[TokenSpan] | None = None
    members: list[list[int]] | None = None
    note: str | None = None


def recover(
    encoder: Encoder | None, layout: Layout, records: Sequence[models.Record]
) -> list[Recovered]:
    """What the vectors of some points stand for. The texts are encoded in one pass a length.

    Args:
        encoder: the store's.
        layout: the collection's.
        records: points with payload and vectors.
    """
    spans_of = getattr(encoder, "token_spans", None)
    if encoder is None or not callable(spans_of):
        why = "the store has no encoder" if encoder is None else "the encoder names no tokens"
        return [Recovered(note=f"The document's tokens aren't known: {why}.") for _ in records]
    found: dict[int, Recovered] = {}
    made: dict[int, tuple[int, LongDocuments]] = {}
    lengths = [LONGEST]
    for i, record in enumerate(records):
        how = _made(encoder, layout, record, lengths)
        if isinstance(how, str):
            found[i] = _unknown(how)
        else:
            made[i] = how
            lengths = [how[0], LONGEST]
    for length in sorted({length for length, _ in made.values()}):
        chosen = [i for i, (each, _) in made.items() if each == length]
        texts = [_text(records[i]) or "" for i in chosen]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            views = encoder.encode_documents(texts, length)
        for k, (i, tokens) in enumerate(zip(chosen, spans_of(texts, length), strict=True)):
            found[i] = _compared(records[i], views[k], list(tokens), layout, made[i][1])
    return [found[i] for i in range(len(records))]


def _unknown(why: str) -> Recovered:
    return Recovered(
        note=f"The document's tokens aren't known, so its vectors go by numbers: {why}."
    )


def _text(record: models.Record) -> str | None:
    text = (record.payload or {}).get(TEXT)
    return text if isinstance(text, str) else None


def _made(
    encoder: Encoder, layout: Layout, record: models.Record, lengths: Sequence[int]
) -> tuple[int, LongDocuments] | str:
    """The options that a point's vectors were made with, or why they can't be known."""
    text = _text(record)
    if text is None:
        return "it holds no text"
    made = Provenance.read(record.payload)
    if made is None:
        return "another program wrote it, which left no record of how its vectors were made"
    former = layout.model.former if layout.model is not None else None
    if made.model is not None and made.model not in (encoder.fingerprint, former):
        return "its vectors come from another model than the store's encoder"
    how = made.made_with(text, lengths)
    return how or "its text was changed after its vectors were made"


def _compared(
    record: models.Record,
    views: M3Embeddings,
    tokens: list[TokenSpan],
    layout: Layout,
    how: LongDocuments,
) -> Recovered:
    """The tokens, where the vectors that they give are those stored."""
    views = views.to("cpu")
    assert views.colbert is not None
    vectors = views.colbert[0]
    stored = stored_colbert(record)
    members = points.fitted(vectors, layout, how)
    if len(tokens) != len(vectors) or (stored is not None and len(stored) != len(members)):
        return _unknown("its text gives another number of vectors than are stored")
    pooled = torch.stack([vectors[each].float().sum(0) for each in members])
    if not _alike(stored, pooled, layout.schema.colbert_datatype):
        return _unknown("its text gives other ColBERT vectors than are stored")
    dense = stored_dense(record)
    if not _alike(
        None if dense is None else dense[None], views.dense, layout.schema.dense_datatype
    ):
        return _unknown("its text gives another dense vector than is stored")
    if not _same_terms(record, views):
        return _unknown("its text gives other lexical weights than are stored")
    kept = max((i for each in members for i in each), default=-1) + 1
    notes = []
    text = _text(record) or ""
    if views.truncated is not None and bool(views.truncated[0]):
        last = max((token.end or 0 for token in tokens), default=0)
        notes.append(
            f"The model read the text's first {len(tokens) + 1} tokens, up to character {last:,} "
            f"of {len(text):,}."
        )
    if kept < len(tokens):
        notes.append(
            f"ColBERT vectors are stored of the first {kept:,} of {len(tokens):,} tokens."
        )
    return Recovered(tokens, members, " ".join(notes) or None)


def _alike(stored: Tensor | None, again: Tensor | None, datatype: str) -> bool:
    """Whether vectors are those that were stored; True where none are."""
    if stored is None or again is None:
        return True
    if stored.shape != again.shape:
        return False
    cosines = torch.nn.functional.cosine_similarity(stored.float(), again.float(), dim=-1)
    return bool((cosines >= _ALIKE.get(datatype, _ALIKE_ELSE)).all())


def _same_terms(record: models.Record, again: M3Embeddings) -> bool:
    """Whether the terms are those stored; small weights may round to nothing on either side."""
    stored = _vector(record, SPARSE)
    if stored is None or again.sparse is None:
        return True
    held = dict(zip(stored.indices, stored.values, strict=True))
    row = again.sparse[0]
    computed = dict(zip(row.indices.tolist(), row.values.tolist(), strict=True))
    largest = max([*held.values(), *computed.values()], default=0.0)
    return all(
        abs(held.get(id, 0.0) - computed.get(id, 0.0)) <= 0.02 * largest + 1e-3
        for id in {*held, *computed}
    )


def _vector(record: models.Record, name: str) -> Any:
    return record.vector.get(name) if isinstance(record.vector, dict) else None


def stored_dense(record: models.Record) -> Tensor | None:
    """The dense vector of a point, (dim,) float32; None where it has none."""
    vector = _vector(record, DENSE)
    return None if vector is None else _tensor(vector)


def stored_colbert(record: models.Record) -> Tensor | None:
    """The ColBERT vectors of a point, (n, colbert_dim) float32; None where it has none."""
    vectors = _vector(record, COLBERT)
    if vectors is None or not len(vectors):
        return None
    return _tensor(vectors)


def _tensor(numbers: Any) -> Tensor:
    """Lists, or an array that may be for reading only, as a tensor of its own."""
    return torch.from_numpy(np.array(numbers, dtype=np.float32))


def stored_sparse(record: models.Record) -> SparseRow | None:
    """The lexical weights of a point; None where it has none."""
    vector = _vector(record, SPARSE)
    if vector is None:
        return None
    indices = torch.as_tensor(vector.indices, dtype=torch.int64)
    return SparseRow(indices, torch.as_tensor(vector.values, dtype=torch.float64))
