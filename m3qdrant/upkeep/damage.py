"""Stored points read one by one for what no ingest can have written: bytes damaged on the disk.

The model's dense and ColBERT vectors have length 1, its lexical weights are finite and never
negative, and a document's id leads to its point's id. Its text and its payload have the digests
that the point keeps of them, unless somebody changed them, as an application may. An engine serves
what it finds in its files, so this is where an overwritten page shows. Vectors that were brought
along may have any length; of them only what is not finite is told. A vector that was overwritten
by another of length 1, and indexes beside the vectors, can't be seen from here: the checksums of
the files show those (`edge.verify_files`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from qdrant_client import models

from m3qdrant.collection import (
    LONGEST,
    Layout,
    Provenance,
    Steps,
    calls,
    lengths_allowed,
    point_id,
)
from m3qdrant.errors import EngineError, StoreDamagedError
from m3qdrant.names import COLBERT, DENSE, SPARSE, TEXT, VECTORS
from m3qdrant.progress import Advance

__all__ = ["Damage", "Named", "faults", "look"]

_SHOWN = 20
_FIRST_PAGE = 8
_LARGEST_PAGE = 256
_PAGE_VECTORS = 4096
"""About how many ColBERT vectors are held at a time; a page is one point at least."""
_SEARCHES = 50
"""Texts for whose digest all lengths are tried that they may have been cut to: 30 ms each."""


@dataclass
class Named:
    """Some documents: how many, and the first of them, each with a word on it."""

    count: int = 0
    shown: list[tuple[str, str]] = field(default_factory=list)

    def add(self, id: str, word: str = "") -> None:
        """One more."""
        self.count += 1
        if len(self.shown) < _SHOWN:
            self.shown.append((id, word))


@dataclass
class Damage:
    """What was read, and what of it is damaged.

    Attributes:
        read: how many points were read.
        damaged: those that can't be what was written.
        texts: those with another text than their vectors were made of.
        payloads: those with another payload than was ingested.
    """

    read: int = 0
    damaged: Named = field(default_factory=Named)
    texts: Named = field(default_factory=Named)
    payloads: Named = field(default_factory=Named)


class _Digests:
    """Whether points hold what the digests beside it say."""

    def __init__(self) -> None:
        self._lengths = {LONGEST: None}  # that texts were found to be cut to, the last one first
        self._searches = _SEARCHES

    def same_text(self, made: Provenance, text: str) -> bool:
        """Whether it is the one that the vectors were made of, whatever it was cut to."""
        found = made.cut_to(text, self._lengths, others=self._searches > 0)
        if found not in self._lengths:
            self._searches -= 1
        if found is not None:
            self._lengths = {found: None, **self._lengths}
        return found is not None


def look(name: str, layout: Layout, most: int | None, advance: Advance) -> Steps[Damage]:
    """Read a collection in pages of bounded size.

    Args:
        name: the collection's.
        layout: the collection's.
        most: how many points to read, the first by their ids, which are hashes; None reads all.
        advance: is told how many were read.
    """
    found, digests = Damage(), _Digests()
    allowed = lengths_allowed(layout)
    offset: models.ExtendedPointId | None = None
    page = _FIRST_PAGE
    while most is None or found.read < most:
        limit = page if most is None else min(page, most - found.read)
        try:
            records, following = yield from calls.scroll(
                name,
                limit=limit,
                offset=offset,
                with_payload=True,
                with_vectors=list(VECTORS),
                arrays=True,
            )
        except EngineError as error:
            if type(error) not in (EngineError, StoreDamagedError):
                raise
            if limit > 1:  # one of them can't be read: which is found one by one
                page = 1
                continue
            records, following = yield from calls.scroll(name, limit=1, offset=offset)
            found.damaged.add(f"point {records[0].id}", "it can't be read")
            records = []
            found.read += 1
        for record in records:
            made = Provenance.read(record.payload)
            id = made.id if made else f"point {record.id}"
            if wrong := "; ".join(faults(record, allowed)):
                found.damaged.add(id, wrong)
            elif made is not None and record.payload is not None:
                if not digests.same_text(made, record.payload[TEXT]):
                    found.texts.add(id)
                if made.is_payload(record.payload) is False:
                    found.payloads.add(id)
        found.read += len(records)
        advance(found.read)
        offset = following
        if offset is None:
            break
        longest = max((_tokens(record) for record in records), default=1)
        page = max(1, min(_LARGEST_PAGE, _PAGE_VECTORS // max(1, longest)))
    return found


def faults(record: models.Record, allowed: Mapping[str, float]) -> Iterator[str]:
    """What is wrong with a point, in words.

    Args:
        record: with payload and vectors.
        allowed: see `lengths_allowed`.
    """
    made = Provenance.read(record.payload)
    if made is not None:
        if not isinstance((record.payload or {}).get(TEXT), str):
            yield "its text is missing"
        if point_id(made.id) != str(record.id):
            yield "its id is another point's"
    unit = bool(allowed) and made is not None and made.model is not None
    vectors: Any = record.vector if isinstance(record.vector, dict) else {}
    for name in (DENSE, COLBERT):
        vector = vectors.get(name)
        if vector is None:
            if unit:
                yield f"its {name} vector is missing"
            continue
        wrong = _lengths(vector, allowed[name] if unit else math.inf)
        if wrong:
            yield f"{name}: {wrong}"
    sparse = vectors.get(SPARSE)
    if sparse is not None:
        values = np.asarray(sparse.values, dtype=np.float64)
        if not np.isfinite(values).all():
            yield "sparse: a weight is not finite"
        elif unit and (values < 0).any():
            yield "sparse: a weight is negative"
        if len(set(sparse.indices)) != len(sparse.indices):
            yield "sparse: a term stands there twice"


def _lengths(vector: Sequence[Any], allowed: float) -> str:
    rows = np.atleast_2d(np.asarray(vector, dtype=np.float64))
    if not np.isfinite(rows).all():
        return "numbers that are not finite"
    lengths = np.linalg.norm(rows, axis=1)
    off = np.abs(lengths - 1) > allowed
    if not off.any():
        return ""
    worst = lengths[np.argmax(np.abs(lengths - 1))]
    return f"{int(off.sum())} of {len(rows)} vectors are not of length 1 but {worst:.3g}"


def _tokens(record: models.Record) -> int:
    vectors: Any = record.vector if isinstance(record.vector, dict) else {}
    return len(vectors.get(COLBERT, ()))
