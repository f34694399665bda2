"""An input of any length in chunks: documents, checked, that are encoded and written together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from m3qdrant.collection import Document, document_id_of, numbered
from m3qdrant.errors import DocumentError, InputError, SourceError
from m3qdrant.ingest.report import IngestReport, PassedOver

__all__ = ["Chunk", "Chunker", "Found", "Item", "Sourced", "read"]

CHUNK_DOCUMENTS = 128
CHUNK_CHARACTERS = 500_000
"""A chunk ends at either: documents enough to fill batches of like length, characters few enough
that progress shows, and that their ColBERT vectors take half a gigabyte at 1,024 dimensions."""

_DIGITS = re.compile(r"0|-?[1-9][0-9]{0,18}")
"""An id that is an integer, or is spelt like one."""

_REMEMBERED = 1_000_000
"""Of how many documents it is remembered what tells them apart; an input may have no end."""


@dataclass(frozen=True)
class Sourced:
    """A document that was read from a file.

    Attributes:
        item: what was read.
        place: the file, and the line: "a.jsonl:12".
    """

    item: Mapping[str, Any] | str
    place: str


Item: TypeAlias = Document | Mapping[str, Any] | str
"""What users give."""

Found: TypeAlias = Sourced | SourceError | PassedOver
"""What is read from files: documents, and what could not be read."""


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
    """Collects an input's items into chunks; what can't be stored goes to the report.

    Attributes:
        unknown: how many items could not be read so far that their ids would be known.
    """

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
        self._texts: dict[str, bytes] = {}
        self.unknown = 0

    def push(self, item: object) -> Chunk | None:
        """Take an item; the chunk, where this one fills it."""
        report, position = self._report, self._report.received
        if isinstance(item, PassedOver):
            report.pass_over(item)
            return None
        report.received += 1
        place = item.place if isinstance(item, Sourced) else None
        item = item.item if isinstance(item, Sourced) else item
        try:
            if isinstance(item, SourceError):
                raise item
            document = self._apart(item, Document.of(item, position))
        except DocumentError as error:
            if place is not None:
                error = DocumentError(error.id, error.field, error.reason, place)
            report.failed.append(error)
            self._see_failed(item)
            return None
        if self._seen is not None:
            self._seen.add(document.point_id)
        if _DIGITS.fullmatch(document.id):
            number, kind = int(document.id), numbered(item)
            if number in self._numbers[not kind]:
                report.failed.append(_two_kinds(document.id, not kind))
                return None
            if len(self._numbers[kind]) < _REMEMBERED:
                self._numbers[kind].add(number)
        # the later one wins, as it would in two chunks
        if self._found.pop(document.id, None) is not None:
            report.count_duplicate(document.id)
        self._found[document.id] = (document, position)
        self._characters += len(document.text)
        full = len(self._found) == self._max_documents or self._characters >= self._max_characters
        return self.rest() if full else None

    def _see_failed(self, item: object) -> None:
        """What can't be stored is not gone from the input, where it is known what it was."""
        id = item.get("id") if isinstance(item, Mapping) else getattr(item, "id", None)
        try:
            known = document_id_of(id)
        except InputError:
            known = None
        if known is None or isinstance(item, SourceError):
            self.unknown += 1
        elif self._seen is not None:
            self._seen.add(Document(known, "").point_id)

    def _apart(self, item: object, document: Document) -> Document:
        """Of documents without an id, the second of a text has another payload: another id."""
        if isinstance(item, Document) or (
            isinstance(item, Mapping) and item.get("id") is not None
        ):
            return document
        written = json.dumps(dict(document.payload), sort_keys=True).encode()
        payload = hashlib.blake2b(written, digest_size=16).digest()
        if self._texts.get(document.id, payload) == payload:
            if len(self._texts) < _REMEMBERED:
                self._texts[document.id] = payload
            return document
        return replace(document, id=f"{document.id}-{payload.hex()}")

    def rest(self) -> Chunk | None:
        """What has come since the last chunk, if anything."""
        if not self._found:
            return None
        documents, positions = zip(*self._found.values(), strict=True)
        self._found, self._characters = {}, 0
        return Chunk(list(documents), list(positions))


def _two_kinds(id: str, numbered: bool) -> DocumentError:
    kinds = ("a number", "a string") if numbered else ("a string", "a number")
    return DocumentError(
        id,
        "id",
        f"was {kinds[0]} before, and is {kinds[1]} now: ids are stored as strings, so that one "
        "document would replace the other; give ids of one kind",
    )


def read(items: Iterable[Item | Found], chunker: Chunker) -> Iterator[Chunk]:
    """Checked documents, a chunk at a time."""
    for item in items:
        if (chunk := chunker.push(item)) is not None:
            yield chunk
    if (chunk := chunker.rest()) is not None:
        yield chunk
