"""What an explanation is made of: plain data, numbers and characters of a text."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

from m3qdrant.names import COLBERT, DENSE, SPARSE
from m3qdrant.rank.places import is_place, next_place

__all__ = [
    "Alignment",
    "Component",
    "DocumentVector",
    "Highlight",
    "Match",
    "Parts",
    "Term",
    "Token",
    "plain",
]


@dataclass(frozen=True)
class Component:
    """One of the three scores, and what it adds to the hit's.

    Attributes:
        name: "dense", "sparse" (lexical) or "colbert" (mean MaxSim).
        score: what the search ranked by.
        weight: what it counts, of 1 in all; None in the modes that rank by places, rrf and dbsf.
        share: what it adds to the hit's score; the three shares add up to it.
        rank: in rrf and dbsf the document's place in this list, from 1; None where it isn't in it,
            and in other modes.
        unexplained: `score` less what the stored vectors give in float64: the engine's rounding,
            some 1e-7, or more where it compares by a coarser form of them.
    """

    name: str
    score: float
    weight: float | None
    share: float
    rank: int | None = None
    unexplained: float = 0.0


@dataclass(frozen=True)
class Token:
    """A token of the query or of the document.

    Attributes:
        index: its place among its text's ColBERT tokens, from 0.
        text: the token as people read it.
        start: its first character in the text; None where it stands for none (EOS).
        end: the character behind its last one; None likewise.
    """

    index: int
    text: str
    start: int | None
    end: int | None


@dataclass(frozen=True)
class Term:
    """A lexical term that the query and the document share.

    Attributes:
        id: the token's id.
        text: the token as people read it; None where nobody can say.
        query_weight: its weight in the query.
        document_weight: its weight in the document.
        product: of the two; the products add up to the lexical score.
        spans: where it stands in the document's text: (start, end) each; empty where that isn't
            known.
    """

    id: int
    text: str | None
    query_weight: float
    document_weight: float
    product: float
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Match:
    """A ColBERT vector of the query, and the document's that is most like it.

    Attributes:
        query_vector: its place among the query's vectors.
        query_tokens: what it stands for: one token, several where a long query was merged, none
            where the query came as embeddings.
        document_vector: the place of the document's; None where it has none.
        document_tokens: what that stands for, several where the document's were merged; none where
            that isn't known.
        similarity: the product of the two.
        contribution: `similarity` over the query's tokens; the contributions add up to the score.
    """

    query_vector: int
    query_tokens: tuple[Token, ...]
    document_vector: int | None
    document_tokens: tuple[Token, ...]
    similarity: float
    contribution: float


@dataclass(frozen=True)
class DocumentVector:
    """A stored ColBERT vector.

    Attributes:
        index: its place among the document's.
        tokens: what it stands for: one token, or those that were merged into it; none where that
            isn't known.
        contribution: of all query tokens that it is the best for; these add up to the score.
    """

    index: int
    tokens: tuple[Token, ...]
    contribution: float


@dataclass(frozen=True)
class Alignment:
    """Similarities of query vectors and document vectors, the heat map's cells.

    Of long texts only those that matter: the document vectors that add most to the score, and then
    those most like some query vector; and the query vectors with the largest similarities.

    Attributes:
        query_vectors: places of n_q vectors, ascending.
        document_vectors: places of n_d vectors, ascending.
        similarities: n_q rows of n_d numbers.
    """

    query_vectors: tuple[int, ...]
    document_vectors: tuple[int, ...]
    similarities: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Highlight:
    """Characters of the document's text, and what they add to the hit's score.

    Attributes:
        start: the first one.
        end: the one behind the last.
        contribution: of the ColBERT and the lexical matches there, each by its component's part in
            the score. Tokens that were merged into one vector, and a term's occurrences, share
            what they have in common. In mode "dense", whose score no word has a part of: to the
            ColBERT score.
    """

    start: int
    end: int
    contribution: float


@dataclass(frozen=True)
class Parts:
    """All that is known of why a document ranks where it does.

    Attributes:
        id: the document's id.
        text: its text, as stored.
        query: the query's text; None where it came as embeddings.
        mode: how was ranked.
        rank: the document's place in the ranking, from 1; None where it isn't in it.
        score: what the mode makes of the components; the sum of their shares.
        components: of the dense, the lexical and the ColBERT score.
        terms: shared lexical terms, the largest product first.
        matches: for each ColBERT vector of the query the best of the document.
        vectors: each ColBERT vector of the document.
        alignment: similarities of the vectors that matter; None where a side has none.
        notes: what isn't known and why, and what else a reader should know.
    """

    id: str
    text: str
    query: str | None
    mode: str
    rank: int | None
    score: float
    components: tuple[Component, ...]
    terms: tuple[Term, ...] = ()
    matches: tuple[Match, ...] = ()
    vectors: tuple[DocumentVector, ...] = ()
    alignment: Alignment | None = None
    notes: tuple[str, ...] = ()

    @property
    def merged(self) -> tuple[DocumentVector, ...]:
        """The stored vectors that stand for more than one token."""
        return tuple(vector for vector in self.vectors if len(vector.tokens) > 1)

    @cached_property
    def highlights(self) -> tuple[Highlight, ...]:
        """The characters of the text that matched, in order, without overlaps.

        A highlight begins and ends where a reader sees a character begin, so that it parts no
        accent from its letter and no emoji into its pieces.
        """
        shares = list(self._shares())
        last = max((end for _, end, _ in shares), default=0)
        text = self.text[: next_place(self.text, min(last + 1, len(self.text)))]
        places = [i for i in range(len(text) + 1) if is_place(text, i)] if shares else []
        bounds: set[int] = set()
        density: dict[int, float] = {}
        for start, end, share in shares:
            # whole characters, as they are seen, and one where a span is empty
            start = places[bisect.bisect_right(places, start) - 1]
            end = places[bisect.bisect_left(places, max(end, min(start + 1, len(text))))]
            bounds |= {start, end}
            for i in range(start, end):
                density[i] = density.get(i, 0.0) + share / (end - start)
        found: list[Highlight] = []
        edges = sorted(bounds)
        for start, end in itertools.pairwise(edges):
            if start in density:
                total = math.fsum(density[i] for i in range(start, end))
                if total:
                    found.append(Highlight(start, end, total))
        return tuple(found)

    def _shares(self) -> Iterator[tuple[int, int, float]]:
        """(start, end, contribution) of each token and each occurrence of a term."""
        factors = {c.name: c.share / c.score if c.score else 0.0 for c in self.components}
        if self.mode == DENSE:
            factors[COLBERT] = 1.0
        # the space before a word counts with what begins there
        ends: dict[int, int] = {}
        for vector in self.vectors:
            for start, end in _places(vector.tokens):
                if end > start:
                    ends[start] = min(end, ends.get(start, end))
        for vector in self.vectors:
            places = _places(vector.tokens)
            for start, end in places:
                if share := vector.contribution * factors[COLBERT] / len(places):
                    yield start, end if end > start else ends.get(start, end), share
        for term in self.terms:
            for start, end in term.spans:
                if share := term.product * factors[SPARSE] / len(term.spans):
                    yield start, end if end > start else ends.get(start, end), share

    def component(self, name: str) -> Component:
        """The one of that name."""
        return next(c for c in self.components if c.name == name)


def _places(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """Start and end of those that stand for characters."""
    return [(t.start, t.end) for t in tokens if t.start is not None and t.end is not None]


def plain(value: Any) -> Any:
    """Dataclasses and tuples as dicts and lists, for JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value
