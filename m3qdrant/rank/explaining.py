"""From the vectors of a query and of a document to the parts of their scores.

Lexical: the terms that both have. ColBERT: what `m3kernels.maxsim_alignment` finds, which is what
MaxSim sums. Sums are float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import m3kernels
import torch
from m3kernels.packing import from_lengths
from torch import Tensor

from m3qdrant.encode import SparseRow, TokenSpan
from m3qdrant.names import COLBERT, DENSE, SPARSE
from m3qdrant.rank.explanation import Explanation
from m3qdrant.rank.parts import Alignment, Component, DocumentVector, Match, Term, Token

__all__ = ["Side", "explain"]

_ROWS, _COLUMNS = 32, 48
"""The most query and document vectors whose similarities are kept."""


@dataclass(frozen=True)
class Side:
    """A query, or a document, as it is compared.

    Attributes:
        dense: (dim,); None where it has none.
        sparse: lexical weights; None where it has none.
        colbert: (n, colbert_dim) float32; None where it has none.
        tokens: what was encoded; None where that isn't known.
        members: for each ColBERT vector the tokens that it stands for; None: each for its own.
    """

    dense: Tensor | None
    sparse: SparseRow | None
    colbert: Tensor | None
    tokens: Sequence[TokenSpan] | None = None
    members: Sequence[Sequence[int]] | None = None

    def of(self, vector: int) -> tuple[Token, ...]:
        """The tokens that a ColBERT vector stands for; none where that isn't known."""
        if self.tokens is None:
            return ()
        places = [vector] if self.members is None else self.members[vector]
        return tuple(
            Token(i, self.tokens[i].text, self.tokens[i].start, self.tokens[i].end) for i in places
        )


def explain(known: Explanation, query: Side, document: Side, query_tokens: int) -> Explanation:
    """An explanation with all that the vectors tell.

    Args:
        known: with its components.
        query: as it was compared.
        document: as it is stored.
        query_tokens: what mean MaxSim divides by.
    """
    terms = _terms(query, document)
    matches = _matches(query, document, query_tokens)
    n = 0 if document.colbert is None else len(document.colbert)
    sums: list[list[float]] = [[] for _ in range(n)]
    for match in matches:
        if match.document_vector is not None:
            sums[match.document_vector].append(match.contribution)
    vectors = tuple(
        DocumentVector(i, document.of(i), math.fsum(parts)) for i, parts in enumerate(sums)
    )
    given = {
        DENSE: _dense(query, document),
        SPARSE: math.fsum(term.product for term in terms),
        COLBERT: math.fsum(match.contribution for match in matches),
    }
    return replace(
        known,
        components=_compared(known.components, given),
        terms=terms,
        matches=matches,
        vectors=vectors,
        alignment=_alignment(query, document, matches, vectors),
    )


def _compared(
    components: Sequence[Component], given: Mapping[str, float]
) -> tuple[Component, ...]:
    return tuple(replace(c, unexplained=c.score - given[c.name]) for c in components)


def _dense(query: Side, document: Side) -> float:
    if query.dense is None or document.dense is None:
        return 0.0
    return float(query.dense.double() @ document.dense.double())


def _terms(query: Side, document: Side) -> tuple[Term, ...]:
    """Shared terms, the largest product first."""
    if query.sparse is None or document.sparse is None:
        return ()
    asked = dict(zip(query.sparse.indices.tolist(), query.sparse.values.tolist(), strict=True))
    held = zip(document.sparse.indices.tolist(), document.sparse.values.tolist(), strict=True)
    words = {token.id: token.text for side in (document, query) for token in side.tokens or ()}
    found = [
        Term(
            id,
            words.get(id),
            asked[id],
            weight,
            asked[id] * weight,
            tuple(
                (token.start, token.end)
                for token in document.tokens or ()
                if token.id == id and token.start is not None and token.end is not None
            ),
        )
        for id, weight in held
        if id in asked
    ]
    return tuple(sorted(found, key=lambda term: (-term.product, term.id)))


def _matches(query: Side, document: Side, query_tokens: int) -> tuple[Match, ...]:
    """For each vector of the query the first of the document's that is most like it."""
    if query.colbert is None or document.colbert is None or not len(document.colbert):
        return ()
    positions, similarities = m3kernels.maxsim_alignment(
        query.colbert,
        from_lengths([len(query.colbert)]),
        document.colbert,
        from_lengths([len(document.colbert)]),
        torch.zeros(1, 2, dtype=torch.int64),
    )
    return tuple(
        Match(i, query.of(i), best, document.of(best), similarity, similarity / query_tokens)
        for i, (best, similarity) in enumerate(
            zip(positions.tolist(), similarities.tolist(), strict=True)
        )
    )


def _alignment(
    query: Side,
    document: Side,
    matches: Sequence[Match],
    vectors: Sequence[DocumentVector],
) -> Alignment | None:
    if not matches or query.colbert is None or document.colbert is None:
        return None
    rows = _largest([match.similarity for match in matches], _ROWS)
    cells = query.colbert[rows].double() @ document.colbert.double().T
    likest = cells.amax(0).tolist()
    columns = _largest([(v.contribution, likest[v.index]) for v in vectors], _COLUMNS)
    return Alignment(tuple(rows), tuple(columns), tuple(map(tuple, cells[:, columns].tolist())))


def _largest(numbers: Sequence[Any], most: int) -> list[int]:
    """The places of the largest, ascending."""
    return sorted(sorted(range(len(numbers)), key=numbers.__getitem__, reverse=True)[:most])
