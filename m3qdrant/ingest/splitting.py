"""Documents that are too long for the model, as documents of a passage each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from m3qdrant.collection import Document
from m3qdrant.encode import Encoder
from m3qdrant.errors import DocumentError
from m3qdrant.ingest.chunks import Sourced
from m3qdrant.ingest.cutting import splitter
from m3qdrant.names import TEXT

__all__ = ["split_documents"]


def split_documents(
    documents: Iterable[Any], encoder: Encoder, max_length: int = 8192
) -> Iterator[Any]:
    """Documents as `M3Store.add` takes them, the long ones in passages that are documents.

        store.add(split_documents(documents, encoder))

    A document that fits into one passage stays as it is. Of document "a", longer than that, the
    passages have the ids "a#1", "a#2", ..., its payload, and "part_of": "a". What is no document
    stays as it is too, for `add` to say what is wrong with it. Passages of an earlier text stay in
    the collection, beside those of a shorter one of today, until an `add` with `prune`.

    Args:
        documents: any iterable, read as it is asked for.
        encoder: whose tokens are meant: the store's.
        max_length: as of `add`; a passage has 400 tokens where it is more.
    """
    split = splitter(encoder, max_length)
    for position, item in enumerate(documents):
        place = item.place if isinstance(item, Sourced) else None
        try:
            document = Document.of(item.item if isinstance(item, Sourced) else item, position)
        except DocumentError:
            yield item
            continue
        parts = split(document.text)
        first, second = next(parts, None), next(parts, None)
        if first is None or second is None:
            yield item
            continue
        payload = {**document.payload, "part_of": document.id}
        for number, part in enumerate(chain([first, second], parts), 1):
            found = {"id": f"{document.id}#{number}", TEXT: part, "payload": payload}
            yield found if place is None else Sourced(found, place)
