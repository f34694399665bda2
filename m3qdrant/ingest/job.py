"""One call of `add`: its arguments, checked, and its operations, for whoever runs them.

The stores run them so that one chunk is encoded while the one before is written. One bad document
does not stop the others: it is left out and stands in the report.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from qdrant_client import models

from m3qdrant.collection import Collection, Document, Steps, as_filter, points, says_nothing
from m3qdrant.encode import Encoder, M3Embeddings, TruncationWarning
from m3qdrant.errors import (
    DocumentError,
    EngineError,
    IngestError,
    IngestInterrupted,
    InputError,
    NotFiniteError,
)
from m3qdrant.ingest.behind import chunks_behind
from m3qdrant.ingest.chunks import Chunk, Chunker
from m3qdrant.ingest.heap import give_back
from m3qdrant.ingest.plan import Plan, Recipe, compare
from m3qdrant.ingest.prune import remove_missing
from m3qdrant.ingest.report import IngestReport
from m3qdrant.ingest.write import prepare, send
from m3qdrant.names import TEXT, LongDocuments
from m3qdrant.rows import records

__all__ = ["Ingest"]


class Ingest:
    """One call of `add`: its arguments, checked, and its operations, for whoever runs them.

    Attributes:
        report: what was done so far.
        total: how many documents there are, where that is known.
        encoded: tokens that went through the model so far (its ColBERT vectors, before any were
            merged).
    """

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder | None,
        documents: Any,
        embeddings: M3Embeddings | None,
        max_length: int,
        long_documents: LongDocuments,
        prune: bool | models.Filter | Mapping[str, Any],
        optimize: bool | None,
        total: int | None,
        *,
        iterables: tuple[type, ...] = (Iterable,),
    ) -> None:
        """Check the arguments; they are those of `M3Store.add`.

        `iterables` are what `documents` may be: for asyncio, an asynchronous iterable too.

        Raises:
            InputError: names the argument and the remedy.
        """
        if embeddings is not None and not isinstance(embeddings, M3Embeddings):
            raise InputError(f"embeddings must be M3Embeddings, not {type(embeddings).__name__}")
        if isinstance(documents, str | Document) or _is_document(documents):
            documents = [documents]
        documents, length = records(documents, "documents")
        if not isinstance(documents, iterables):
            raise InputError(f"documents must be an iterable, not {type(documents).__name__}")
        if length is not None:
            total = length
        if embeddings is not None and total != len(embeddings):
            raise InputError(
                f"{'an unknown number of' if total is None else total} documents, but embeddings "
                f"of {len(embeddings)}: give a list of as many documents"
            )
        self.documents: Any = documents
        self.report = IngestReport()
        self.total = total
        self.encoded = 0
        self._collection = collection
        self._encoder = encoder
        self._embeddings = embeddings
        model = collection.layout.model if collection.layout is not None else None
        self._recipe = Recipe(
            max_length,
            long_documents,
            encoder.fingerprint if encoder is not None and embeddings is None else None,
            model.former if model is not None else None,
        )
        self._optimize = optimize
        self._under_way: deque[set[str]] = deque(maxlen=chunks_behind(collection.capabilities))
        self._prune = prune is not False
        self._bound = as_filter(prune) if not isinstance(prune, bool) else None
        if self._prune and prune is not True and says_nothing(self._bound):
            raise InputError("prune: the filter is empty; say True to remove whatever is missing")
        layout = collection.layout
        if prune is True and layout is not None and layout.schema.tenant is not None:
            raise InputError(
                f"prune=True would remove other tenants' documents: give a filter on "
                f"{layout.schema.tenant!r}, such as prune={{{layout.schema.tenant!r}: 'name'}}"
            )
        self._seen: set[str] | None = set() if self._prune else None
        self.chunker = Chunker(self.report, seen=self._seen)

    @contextmanager
    def accountable(self) -> Iterator[None]:
        """In this block failures of Qdrant, and Ctrl-C, say what was stored."""
        try:
            yield
        except KeyboardInterrupt:
            raise IngestInterrupted(self.report) from None
        except EngineError as error:
            raise IngestError(
                f"{error}; until then {self.report.summary}. Run it again: what is stored is left "
                "alone",
                self.report,
            ) from error

    def plan(self, chunk: Chunk) -> Steps[Plan]:
        """Compare a chunk with what is stored, while those before it may be being written."""
        stored = self._collection.layout is not None
        planned = yield from compare(
            self._collection.name,
            chunk,
            self._recipe,
            set().union(*self._under_way),
            stored,
            self.report,
        )
        self._under_way.append(planned.point_ids)
        return planned

    def embed(self, planned: Plan) -> M3Embeddings | None:
        """The embeddings of the documents to store, computed or brought along."""
        if not planned.documents:
            return None
        if self._embeddings is not None:
            return self._embeddings[_rows(planned.positions)]
        assert self._encoder is not None  # the store checked
        while planned.documents:
            texts = [document.text for document in planned.documents]
            try:
                with warnings.catch_warnings():
                    # cut texts are counted in the report, not warned of a chunk
                    warnings.simplefilter("ignore", TruncationWarning)
                    views = self._encoder.encode_documents(texts, self._recipe.max_length)
            except NotFiniteError as error:
                if not error.texts:
                    raise
                why = f"its embeddings hold NaN or infinity: {error.remedy or error}"
                for document in planned.leave_out(error.texts):
                    self.report.failed.append(DocumentError(document.id, "text", why))
                continue
            assert views.colbert is not None
            self.encoded += len(views.colbert.vectors)
            return views
        return None

    def write(self, planned: Plan, views: M3Embeddings | None) -> Steps[None]:
        """Prepare and write a chunk; chunks are written one after another."""
        collection = self._collection
        layout = collection.layout
        if layout is None:
            if views is None:
                return
            layout = yield from collection.make(*points.widths(views))
        prepared = prepare(
            planned,
            views,
            layout,
            self._recipe,
            self.report,
            arrays=collection.capabilities.arrays,
        )
        yield from send(
            collection.name, prepared, self.report, remote=collection.capabilities.remote
        )
        if views is not None:
            give_back()

    def finish(self) -> Steps[None]:
        """After the last chunk: remove what is gone, and build the indexes where it is time."""
        if self._seen is not None and self.chunker.unknown:
            self.report.not_pruned = (
                f"of {self.chunker.unknown} that could not be read it isn't known which documents "
                "they are, so that these would count as gone; mend them and run it again"
            )
        elif self._seen is not None and self._collection.layout is not None:
            yield from self._collection.index_ours()
            yield from remove_missing(self._collection.name, self._seen, self._bound, self.report)
        if self._optimize is None:
            yield from self._collection.optimize_if_due()
        elif self._optimize:
            yield from self._collection.optimize()


def _rows(positions: list[int]) -> slice | list[int]:
    """Rows that stand one behind another as a slice, which copies nothing."""
    first = positions[0]
    behind = slice(first, first + len(positions))
    return behind if positions == list(range(behind.start, behind.stop)) else positions


def _is_document(documents: Any) -> bool:
    """Whether a mapping is one document, and no table of columns or of other documents."""
    if not isinstance(documents, Mapping):
        return False
    values = [documents[TEXT]] if TEXT in documents else list(documents.values())[:1]
    return not any(isinstance(v, Iterable) and not isinstance(v, str | bytes) for v in values)
