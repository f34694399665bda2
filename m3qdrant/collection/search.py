"""What is asked beside the query, checked: the arguments of a search; and the queries' forms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from qdrant_client import models

from m3qdrant.collection.filters import as_filter
from m3qdrant.errors import InputError
from m3qdrant.jsonpath import as_path
from m3qdrant.names import COLBERT, DENSE, MODES, SPARSE, VECTORS, Mode
from m3qdrant.rows import values
from m3qdrant.scalars import plain_number
from m3qdrant.weights import DEFAULT_WEIGHTS, check_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from m3qdrant.encode import M3Embeddings
    from m3qdrant.rank import M3Reranker

__all__ = ["DEFAULT_OVERSAMPLING", "Search", "SearchOptions", "check_queries", "one_query"]

DEFAULT_OVERSAMPLING = 2.0
"""How many times the limit is taken by quantized vectors, before the originals rank again."""


class SearchOptions(TypedDict, total=False):
    """The less common arguments of a search, by keyword."""

    offset: int
    """Hits (with `group_by`: groups) to skip. Pages are slices of one ranking."""
    score_threshold: float | None
    """The least score of a hit, on the mode's own scale."""
    group_by: str | None
    """A payload field: only the best `group_size` hits for each of its values; `limit` counts the
    values. Hits come group by group, and say theirs in `Hit.group`."""
    group_size: int
    """Hits a group, 1 by default."""
    diversity: float | None
    """From 0 to 1: maximal marginal relevance over the first `candidates` of the ranking, which
    ends there."""
    with_vectors: bool | Sequence[str]
    """Stored vectors to give out in `Hit.vectors`: all, or those named."""
    exact: bool
    """Compare the dense query with every document, without the index and without quantization."""
    ef: int | None
    """How many neighbours the HNSW search keeps in sight: more finds better and takes longer."""
    oversampling: float | None
    """On quantized dense vectors: how many times `candidates` are taken before the originals rank
    again."""
    reranker: M3Reranker | None
    """What scores the candidates in the engine's place, in the modes that have candidates: only
    vectors that it does not hold yet are fetched. Its own weights, where it has some, are those of
    mode "weighted". With its dtype "float32" scores are the engine's to 1e-5 (of vectors that are
    stored as turbo4, which come back rounded once more)."""
    components: bool
    """Ask for each hit's three exact scores, `Hit.scores`: one more request. True by default."""
    explain: bool
    """Say why each hit ranks where it does, in `Hit.explanation`. Their vectors are fetched, and
    their texts encoded again, so it takes its time."""


@dataclass(frozen=True)
class Search:
    """What is asked beside the query, checked when it is made: the arguments of `M3Store.search`.

    Raises:
        InputError: names the argument and what is allowed.
    """

    mode: Mode = "weighted"
    limit: int = 10
    candidates: int = 100
    weights: Sequence[float] = DEFAULT_WEIGHTS
    filter: models.Filter | Mapping[str, Any] | None = None
    offset: int = 0
    score_threshold: float | None = None
    group_by: str | None = None
    group_size: int = 1
    diversity: float | None = None
    with_vectors: bool | Sequence[str] = False
    exact: bool = False
    ef: int | None = None
    oversampling: float | None = None
    components: bool = True
    reranker: M3Reranker | None = None
    explain: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"unknown mode {self.mode!r}; the modes are {', '.join(MODES)}")
        for name in _NUMBERS:  # numpy's numbers are Python's
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        for name, least in (("limit", 1), ("candidates", 1), ("offset", 0), ("group_size", 1)):
            _check_whole(name, getattr(self, name), least)
        if self.ef is not None:
            _check_whole("ef", self.ef, 1)
        for name, least_number, most in (
            ("score_threshold", -math.inf, math.inf),
            ("diversity", 0, 1),
            ("oversampling", 1, math.inf),
        ):
            _check_number(name, getattr(self, name), least_number, most)
        if not isinstance(self.explain, bool):
            raise InputError(f"explain is {self.explain!r}: give True or False")
        if self.explain and not self.components:
            raise InputError("explain needs the component scores: leave components=False out")
        object.__setattr__(self, "weights", check_weights(self.weights))
        object.__setattr__(self, "filter", as_filter(self.filter))  # refuses what is none
        if isinstance(self.with_vectors, str) or not isinstance(
            self.with_vectors, bool | Sequence
        ):
            raise InputError(
                f"with_vectors is {self.with_vectors!r}: give True or a list of names"
            )
        if not isinstance(self.with_vectors, bool):
            unknown = set(self.with_vectors) - set(VECTORS)
            if unknown:
                raise InputError(
                    f"with_vectors names {sorted(map(str, unknown))}: "
                    f"there are {DENSE}, {SPARSE} and {COLBERT}"
                )
        if self.group_by is not None and (not isinstance(self.group_by, str) or not self.group_by):
            raise InputError(f"group_by is {self.group_by!r}: give the key of a payload field")
        if self.group_by is not None:
            object.__setattr__(self, "group_by", _path(self.group_by))
        if self.group_by is not None and self.diversity is not None:
            raise InputError("group_by and diversity can't be combined: choose one")
        if self.group_by is None and self.group_size != 1:
            raise InputError("group_size needs group_by, the payload field to group by")
        if self.reranker is not None:
            self._check_reranker(self.reranker)

    def _check_reranker(self, reranker: M3Reranker) -> None:
        from m3qdrant.rank import M3Reranker

        if not isinstance(reranker, M3Reranker):
            raise InputError(f"reranker is {type(reranker).__name__}: give an M3Reranker")
        if self.mode in (DENSE, SPARSE):
            raise InputError(
                f"mode {self.mode!r} ranks by that vector alone, which the engine has done: a "
                "reranker goes with modes " + ", ".join(MODES[2:])
            )
        own = reranker.weights
        if own is None or self.mode != "weighted" or own == tuple(self.weights):
            return
        if tuple(self.weights) != DEFAULT_WEIGHTS:
            raise InputError(
                f"the search's weights are {tuple(self.weights)}, the reranker's {own}: give one "
                "of them"
            )
        object.__setattr__(self, "weights", own)

    @classmethod
    def asked(
        cls,
        method: str,
        mode: Mode,
        limit: int,
        candidates: int,
        weights: Sequence[float],
        filter: models.Filter | Mapping[str, Any] | None,
        **options: Unpack[SearchOptions],
    ) -> Search:
        """What a method of that name was called with.

        Raises:
            TypeError: an unknown argument, in the words that Python has for it.
            InputError: see the class.
        """
        unknown = options.keys() - SearchOptions.__annotations__
        if unknown:
            raise TypeError(f"{method}() got an unexpected keyword argument {min(unknown)!r}")
        return cls(mode, limit, candidates, weights, filter, **options)

    @property
    def condition(self) -> models.Filter | None:
        """The filter, as Qdrant takes it."""
        condition = self.filter
        assert condition is None or isinstance(condition, models.Filter)  # since it was checked
        return condition

    def vectors_of(self, point: models.ScoredPoint | models.Record) -> dict[str, Any] | None:
        """The vectors that were asked for, of a point that may hold more."""
        if not self.with_vectors or not isinstance(point.vector, dict):
            return None
        names = point.vector if self.with_vectors is True else self.with_vectors
        return {name: point.vector[name] for name in names if name in point.vector}


_NUMBERS = (
    "limit",
    "candidates",
    "offset",
    "group_size",
    "ef",
    "score_threshold",
    "diversity",
    "oversampling",
)


def _path(group_by: str) -> str:
    try:
        return as_path(group_by)
    except InputError as error:
        raise InputError(f"group_by: {error}") from error


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number from {least}, not {value!r}")


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if value is None:
        return
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or not least <= number <= most:
        bounds = f"from {least:g}" if math.isfinite(least) else "that is finite"
        bounds += f" to {most:g}" if math.isfinite(most) else ""
        raise InputError(f"{name} must be a number {bounds}, not {value!r}")


def one_query(query: str | M3Embeddings) -> Sequence[str] | M3Embeddings:
    """A single query in the form of several.

    Raises:
        InputError: embeddings of more or fewer than one text.
    """
    from m3qdrant.encode import M3Embeddings  # torch, which a search that is refused needs not

    if not isinstance(query, M3Embeddings):
        return [query]
    if len(query) != 1:
        raise InputError(
            f"a query is one text, but these are embeddings of {len(query)}: use search_batch"
        )
    return query


def check_queries(queries: object) -> list[str] | M3Embeddings:
    """Queries as they can be encoded, or as they are encoded already.

    Raises:
        InputError: names the query that is none.
    """
    from m3qdrant.encode import M3Embeddings

    if isinstance(queries, M3Embeddings):
        return queries
    if isinstance(queries, str) or not isinstance(queries, Iterable):
        raise InputError(f"queries are texts or their embeddings, not {type(queries).__name__}")
    texts = values(queries, "queries")
    for i, text in enumerate(texts):
        which = "the query" if len(texts) == 1 else f"query #{i}"
        if not isinstance(text, str):
            raise InputError(f"{which} is a text or its embeddings, not {type(text).__name__}")
        if not text.strip():
            raise InputError(f"{which} is empty")
    return texts
