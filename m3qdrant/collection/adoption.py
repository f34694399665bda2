"""Collections of before: what names their model covers its heads alone.

Earlier versions took a model's heads for its identity, so that a body that was trained further,
with the heads of its base, passed for the base. An encoder says what it was called then; a
collection of that name is adopted where some of its documents, encoded again, get the vectors that
are stored. Its metadata then hold the new name, and the old one, which its documents still have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from m3qdrant.collection import calls
from m3qdrant.collection.calls import Steps
from m3qdrant.collection.layout import ModelId
from m3qdrant.collection.provenance import LONGEST, Provenance
from m3qdrant.names import DENSE, METADATA, OURS, TEXT

__all__ = ["Sample", "adopt", "sample"]

_DOCUMENTS = 8
_LOOKED_AT = 256
_CHARACTERS = 200
"""Documents of about this length are encoded again: long enough to say something, and quick."""
_ALIKE, _ALIKE_IN_BFLOAT16 = 0.9999, 0.998
"""The least cosine of two vectors of one text by one model. float16's roundings stay far above; a
body that differs by less is not told from another."""


@dataclass(frozen=True)
class Sample:
    """Some documents of a collection, to be encoded again.

    Attributes:
        texts: what they were made from.
        lengths: the tokens that each was cut to.
        dense: (n, dim) float32, as stored.
        documents: how many points the collection has, where that is known; 0 where it is empty.
    """

    texts: list[str]
    lengths: list[int]
    dense: NDArray[np.float32]
    documents: int

    def part(self, positions: Sequence[int]) -> Sample:
        """Some of them."""
        return Sample(
            [self.texts[i] for i in positions],
            [self.lengths[i] for i in positions],
            self.dense[list(positions)],
            self.documents,
        )

    def differing(self, dense: NDArray[np.float32], *, coarse: bool) -> int:
        """How many of them have other vectors than `dense` (n, dim).

        `coarse` says that these were computed in bfloat16.
        """
        norms = np.linalg.norm(self.dense, axis=1) * np.linalg.norm(dense, axis=1)
        cosines = (self.dense * dense).sum(axis=1) / np.maximum(norms, 1e-12)
        return int((cosines < (_ALIKE_IN_BFLOAT16 if coarse else _ALIKE)).sum())


def sample(name: str, model: ModelId) -> Steps[Sample]:
    """Some documents of a collection, with texts that their vectors were made from.

    Args:
        name: the collection's.
        model: what its metadata say.
    """
    records, _ = yield from calls.scroll(name, limit=_LOOKED_AT, with_payload=[TEXT, OURS])
    total = (yield from calls.count(name)).count
    chosen = list(_certain(records, model)) or list(_likely(records))
    chosen = sorted(chosen, key=lambda each: abs(len(each[1]) - _CHARACTERS))[:_DOCUMENTS]
    ids = [id for id, _, _ in chosen]
    found: list[models.Record] = []
    if ids:
        found = yield from calls.retrieve(name, ids, with_vectors=[DENSE], arrays=True)
    vectors = {record.id: _dense(record) for record in found}
    kept = [each for each in chosen if vectors.get(each[0]) is not None]
    return Sample(
        [text for _, text, _ in kept],
        [length for _, _, length in kept],
        np.array([vectors[id] for id, _, _ in kept], dtype=np.float32),
        total,
    )


def adopt(name: str, old: ModelId, new: ModelId) -> Steps[ModelId]:
    """Write a model's new name into a collection's metadata, beside the old one; what they say."""
    adopted = ModelId(old.name, new.fingerprint, old.fingerprint)
    info = yield from calls.get_collection(name)
    ours = (info.config.metadata or {}).get(METADATA) or {}
    changed = {**ours, "fingerprint": adopted.fingerprint, "former": adopted.former}
    yield from calls.update_collection(name, {METADATA: changed})
    return adopted


_Chosen = tuple[models.ExtendedPointId, str, int]
"""A point's id, its text, and the tokens that it was cut to."""


def _certain(records: Sequence[models.Record], model: ModelId) -> Iterator[_Chosen]:
    """Documents whose text is what was encoded: its digest tells the length it was cut to too."""
    length = LONGEST
    for record in sorted(records, key=lambda each: abs(len(_text(each)) - _CHARACTERS)):
        made = Provenance.read(record.payload)
        text = _text(record)
        if not text.strip() or made is None or made.model != model.fingerprint:
            continue
        found = made.cut_to(text, (length, LONGEST))
        if found is not None:
            length = found
            yield record.id, text, found


def _likely(records: Sequence[models.Record]) -> Iterator[_Chosen]:
    """Documents that don't say what was encoded: all of their text, as far as anyone knows."""
    for record in records:
        if (text := _text(record)).strip():
            yield record.id, text, LONGEST


def _text(record: models.Record) -> str:
    text = (record.payload or {}).get(TEXT)
    return text if isinstance(text, str) else ""


def _dense(record: models.Record) -> object:
    vectors = record.vector
    return vectors.get(DENSE) if isinstance(vectors, dict) else None
