"""From where documents stand to why: their vectors beside the query's, with the tokens of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from qdrant_client import models

from m3qdrant.collection.documents import Document
from m3qdrant.collection.layout import Layout
from m3qdrant.collection.recovering import (
    Recovered,
    recover,
    stored_colbert,
    stored_dense,
    stored_sparse,
)
from m3qdrant.collection.requests import EmbeddedQuery
from m3qdrant.collection.standing import Standing
from m3qdrant.encode import Encoder, M3Embeddings, SparseRow, TokenSpan, clusters
from m3qdrant.names import COLBERT, DENSE, SPARSE, Mode
from m3qdrant.rank import Explanation, Side, explain

__all__ = ["Explaining"]


class Explaining:
    """Explains documents for some queries.

    Attributes:
        at_once: documents whose vectors are fetched together: a long one's are 4 MB.
    """

    at_once = 16

    def __init__(
        self,
        mode: Mode,
        layout: Layout,
        encoder: Encoder | None,
        texts: Sequence[str] | None,
        embeddings: M3Embeddings,
    ) -> None:
        """Prepare the queries.

        Args:
            mode: how was ranked.
            layout: the collection's.
            encoder: the store's.
            texts: the queries; None where they came as embeddings.
            embeddings: theirs.
        """
        self._mode = mode
        self._layout = layout
        self._encoder = encoder
        self._texts = texts
        self._notes: list[str] = []
        spans_of = getattr(encoder, "token_spans", None)
        tokens = None
        if texts is None:
            self._notes.append("The query came as embeddings, so its tokens aren't known.")
        elif callable(spans_of):
            tokens = spans_of(list(texts))
        self._queries = []
        for i in range(len(embeddings)):
            query = EmbeddedQuery.of(embeddings[i], layout)
            own = tokens[i] if tokens is not None and len(tokens[i]) == query.tokens else None
            self._queries.append((query, _query_side(query, embeddings[i], own)))

    def explained(
        self, wanted: Sequence[tuple[int, Standing]], records: Sequence[models.Record]
    ) -> list[Explanation | None]:
        """An explanation each, None where the document has been deleted meanwhile.

        Args:
            wanted: which query, and where which point stands in its ranking.
            records: these points, with payload and vectors.
        """
        recovered = recover(self._encoder, self._layout, records)
        there = {
            record.id: (record, known) for record, known in zip(records, recovered, strict=True)
        }
        return [
            self._explanation(i, standing, *there[standing.point])
            if standing.point in there
            else None
            for i, standing in wanted
        ]

    def _explanation(
        self, i: int, standing: Standing, record: models.Record, known: Recovered
    ) -> Explanation:
        query, side = self._queries[i]
        colbert = stored_colbert(record)
        if colbert is not None and self._layout.schema.colbert_datatype == "turbo4":
            # which comes back with other lengths than it is compared with (see unit.py)
            colbert = torch.nn.functional.normalize(colbert, dim=-1)
        document = Side(
            stored_dense(record),
            stored_sparse(record),
            colbert,
            known.tokens,
            known.members,
        )
        stored = Document.of_point(record)
        bare = Explanation(
            stored.id,
            stored.text,
            None if self._texts is None else self._texts[i],
            self._mode,
            standing.rank,
            standing.score,
            standing.components,
        )
        full = explain(bare, side, document, query.tokens)
        notes = [*self._notes, *([] if known.note is None else [known.note])]
        if query.tokens > len(query.colbert):
            notes.append(
                f"The query has {query.tokens:,} tokens, more than Qdrant takes: the most similar "
                f"were merged into {len(query.colbert):,} vectors."
            )
        if self._mode == DENSE and full.highlights:
            notes.append(
                "A dense vector says nothing of words: what is marked in the text is what the "
                "ColBERT vectors find alike, which this mode doesn't rank by."
            )
        return replace(full, notes=(*notes, *_differences(full, document)))


def _query_side(
    query: EmbeddedQuery, embeddings: M3Embeddings, tokens: list[TokenSpan] | None
) -> Side:
    """A query as it is compared: rounded as the documents are, and merged where it is too long."""
    members = None
    if query.tokens > len(query.colbert):
        assert embeddings.colbert is not None
        members = clusters(embeddings.colbert.vectors.float().cpu(), len(query.colbert))
    return Side(
        torch.tensor(query.dense),
        SparseRow(torch.tensor(query.sparse.indices), torch.tensor(query.sparse.values)),
        torch.tensor(query.colbert),
        tokens,
        members,
    )


_ROUNDING = 1e-3


def _differences(full: Explanation, document: Side) -> Iterator[str]:
    """What a reader should know of vectors that don't give the scores."""
    for name, view in (
        (DENSE, document.dense),
        (SPARSE, document.sparse),
        (COLBERT, document.colbert),
    ):
        if view is None:
            yield f"The document has no {name} vector, which counts as a score of 0."
    for component in full.components:
        if not math.isclose(component.unexplained, 0, abs_tol=_ROUNDING):
            yield (
                f"The {component.name} score differs by {component.unexplained:+.4f} from what "
                "the stored vectors give: they are compared in a coarser form, or the document "
                "was changed while it was explained."
            )
