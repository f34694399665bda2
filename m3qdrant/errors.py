"""Every error that m3qdrant raises on purpose.

All of them derive from `M3QdrantError`, keep their cause (`raise ... from`), and their message
names the item that is wrong and what to do next. Errors about a value that the caller passed are
also `ValueError`, those about something missing are also `LookupError`, and what an engine can't
do is also `NotImplementedError`, as it is in qdrant-client's local mode, so that code which knows
only Python's own classes still catches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AccessDeniedError",
    "CheckpointError",
    "CollectionExistsError",
    "CollectionNotFoundError",
    "DocumentError",
    "DocumentNotFoundError",
    "EncodeError",
    "EngineError",
    "IngestError",
    "IngestInterrupted",
    "InputError",
    "M3QdrantError",
    "NotFiniteError",
    "PointError",
    "RankingEndsWarning",
    "RequestRejectedError",
    "SchemaMismatchError",
    "ServerUnavailableError",
    "SourceError",
    "StoreClosedError",
    "StoreDamagedError",
    "StoreLockedError",
    "UnsupportedError",
]


class M3QdrantError(Exception):
    """Base of all errors of this package."""


class InputError(M3QdrantError, ValueError):
    """An argument is wrong: an unknown mode, an empty query, a filter that can't be read."""


class CheckpointError(M3QdrantError):
    """A checkpoint can't be used; names the file that is missing, misshapen or foreign."""


class EncodeError(M3QdrantError):
    """The model pass failed, for instance for want of memory."""


class NotFiniteError(EncodeError):
    """Texts have NaN or infinity in their embeddings, which nobody is handed.

    Attributes:
        texts: their positions, those of one batch; others may be of the kind too.
        remedy: why, and what to do, without the texts.
    """

    def __init__(self, message: str, texts: Sequence[int] = (), remedy: str = "") -> None:
        super().__init__(message)
        self.texts = list(texts)
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that the error can cross from a worker process."""
        return type(self), (str(self), self.texts, self.remedy)


class DocumentError(InputError):
    """One document can't be stored.

    Attributes:
        id: the document's id, or "#12" (its position in the input) where it has none.
        field: the part that is wrong: "id", "text", "payload", "dense", "sparse", "colbert".
        reason: what is wrong and the remedy, without the id and the field.
        source: the file, and the line, that it was read from; None where that isn't known.
    """

    def __init__(self, id: str, field: str, reason: str, source: str | None = None) -> None:
        place = "" if source is None else f"{source}: "
        super().__init__(f"{place}document {id}: {field}: {reason}")
        self.id = id
        self.field = field
        self.reason = reason
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that the error can cross from a worker process."""
        return type(self), (self.id, self.field, self.reason, self.source)


class SourceError(DocumentError):
    """A file, or a line of one, can't be read, so that its documents aren't even known.

    Attributes:
        id: the file, and the line: "a.jsonl:12"; `source` too.
        field: "source".
        reason: what is wrong and the remedy.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, "source", reason, source)
        self.args = (f"{source}: {reason}",)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that the error can cross from a worker process."""
        return type(self), (self.id, self.reason)


class PointError(InputError):
    """One point (a qdrant `PointStruct`) would damage the collection, so it was not written.

    Attributes:
        id: the point's id as a string.
        field: the vector's name, "payload" or "id".
        reason: what is wrong and the remedy.
    """

    def __init__(self, id: str, field: str, reason: str) -> None:
        super().__init__(f"point {id}: {field}: {reason}")
        self.id = id
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that the error can cross from a worker process."""
        return type(self), (self.id, self.field, self.reason)


class CollectionNotFoundError(M3QdrantError, LookupError, ValueError):
    """The collection does not exist at this location.

    From a client, a server or the embedded engine it is qdrant-client's `UnexpectedResponse` too,
    with the status code 404.
    """


class DocumentNotFoundError(M3QdrantError, LookupError):
    """There is no document of that id in the collection."""


class CollectionExistsError(M3QdrantError, ValueError):
    """A collection of this name exists already.

    From a client, a server or the embedded engine it is qdrant-client's `UnexpectedResponse` too,
    with the status code 409.
    """


class SchemaMismatchError(M3QdrantError):
    """An existing collection is laid out differently from what this store needs.

    Attributes:
        differences: one line a difference.
    """

    def __init__(self, message: str, differences: list[str]) -> None:
        super().__init__(message)
        self.differences = differences

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that the error can cross from a worker process."""
        return type(self), (str(self), self.differences)


class EngineError(M3QdrantError):
    """Qdrant, embedded or remote, failed at an operation; the cause is attached."""


class ServerUnavailableError(EngineError):
    """A server did not answer, or was too busy, for as long as we tried."""


class RequestRejectedError(EngineError):
    """A server understood a request and refused it: malformed (400, 422) or too large (413)."""


class AccessDeniedError(EngineError):
    """A server wants another API key, or the key lacks the right (401, 403)."""


class IngestError(EngineError):
    """Qdrant failed in the middle of `add`. What was acknowledged before is stored and stays.

    Attributes:
        report: the IngestReport so far; a batch that was under way may be stored beyond it.
    """

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that the error can cross from a worker process."""
        return type(self), (str(self), self.report)


class IngestInterrupted(KeyboardInterrupt):
    """Ctrl-C during `add`: a KeyboardInterrupt that knows what was stored.

    Attributes:
        report: the IngestReport so far.
    """

    def __init__(self, report: Any) -> None:
        super().__init__(report.summary)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that it can cross from a worker process."""
        return type(self), (self.report,)


class StoreLockedError(EngineError):
    """Another process has the embedded collection open. Names the directory."""


class StoreDamagedError(EngineError):
    """The directory is no embedded collection of ours, or its files can't be read."""


class StoreClosedError(M3QdrantError):
    """The store, or the embedded engine, was used after `close()`."""


class UnsupportedError(M3QdrantError, NotImplementedError):
    """The engine can't do this; says which one can."""


class RankingEndsWarning(UserWarning):
    """A page reaches behind the end of a ranking of candidates, while there are more documents."""
