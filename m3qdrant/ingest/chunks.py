"""An input of any length in chunks: documents, checked, that are encoded and written together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from m3qdrant.collection import Document, numbered
from m3qdrant.errors import DocumentError
from m3qdrant.ingest.report import IngestReport

__all__ = ["Chunk", "Chunker", "Item", "read"]

CHUNK_DOCUMENTS = 128
CHUNK_CHARACTERS = 500_000
"""A chunk ends at either: documents enough to fill batches of like length, characters few enough
that progress shows, and that their ColBERT vectors take half a gigabyte at 1,024 dimensions."""

_DIGITS = re.compile(r"0|-?[1-9][0-9]{0,18}")
"""An id that is an integer, or is spelt like one."""

Item: TypeAlias = Document | Mapping[str, Any] | str


@dataclass(frozen=True)
class Chunk:
    """Documents that are encoded and written together; their ids are unique.

    Attributes:
        documents: checked documents.
        positions: where each of them stood in the input.
    """

    documents: list[Document]
    positions: list[int]


class Chunker:
    """Collects an input's items into chunks; what can't be stored goes to the report."""

    def __init__(
        self,
        report: IngestReport,
        max_documents: int = CHUNK_DOCUMENTS,
        max_characters: int = CHUNK_CHARACTERS,
        seen: set[str] | None = None,
    ) -> None:
        """Start with the first item.

        Args:
            report: counts what comes.
            max_documents: a chunk of so many is full.
            max_characters: a chunk of so many is full.
            seen: collects the point id of every document, for `prune`; those of bad documents too,
                where they have an id, for they aren't gone from the input.
        """
        self._report = report
        self._max_documents = max_documents
        self._max_characters = max_characters
        self._seen = seen
        self._found: dict[str, tuple[Document, int]] = {}
        self._characters = 0
        # the ids that read as integers, those that came as integers and those that came as text
        self._numbers: dict[bool, set[int]] = {True: set(), False: set()}

    def push(self, item: object) -> Chunk | None:
        """Take an item; the chunk, where this one fills it."""
        report, position = self._report, self._report.received
        report.received += 1
        try:
            document = Document.of(item, position)
        except DocumentError as error:
            report.failed.append(error)
            if self._seen is not None:
                self._seen.add(Document(error.id, "").point_id)
            return None
        if self._seen is not None:
            self._seen.add(document.point_id)
        if _DIGITS.fullmatch(document.id):
            number, kind = int(document.id), numbered(item)
            if number in self._numbers[not kind]:
                report.failed.append(_two_kinds(document.id, not kind))
                return None
            self._numbers[kind].add(number)
        # the later one wins, as it would in two chunks
        report.duplicates += self._found.pop(document.id, None) is not None
        self._found[document.id] = (document, position)
        self._characters += len(document.text)
        full = len(self._found) == self._max_documents or self._characters >= self._max_characters
        return self.rest() if full else None

    def rest(self) -> Chunk | None:
        """What has come since the last chunk, if anything."""
        if not self._found:
            return None
        documents, positions = zip(*self._found.values(), strict=True)
        self._found, self._characters = {}, 0
        return Chunk(list(documents), list(positions))


def _two_kinds(id: str, numbered: bool) -> DocumentError:
    kinds = ("an integer", "a string") if numbered else ("a string", "an integer")
    return DocumentError(
        id,
        "id",
        f"was {kinds[0]} before, and is {kinds[1]} now: ids are stored as strings, so that one "
        "document would replace the other; give ids of one kind",
    )


def read(items: Iterable[Item], chunker: Chunker) -> Iterator[Chunk]:
    """Checked documents, a chunk at a time."""
    for item in items:
        if (chunk := chunker.push(item)) is not None:
            yield chunk
    if (chunk := chunker.rest()) is not None:
        yield chunk
