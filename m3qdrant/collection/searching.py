"""A search as an operation: lists of ids, the candidates' scores, and then the page's documents.

A page is a slice of one ranking, whatever the page: `candidates` alone says how far the lists go.
Equal scores are ordered by the document's id, at the lists' ends too, so that every engine gives
the same. Documents' ids are asked for only where that matters.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from qdrant_client import models

from m3qdrant.collection import calls, reranking
from m3qdrant.collection.calls import Steps
from m3qdrant.collection.diversity import diversify
from m3qdrant.collection.documents import document_id
from m3qdrant.collection.fusion import PointId, Ranking, Scores, fused, ordered, settled, tied
from m3qdrant.collection.hits import Hit
from m3qdrant.collection.layout import Layout
from m3qdrant.collection.requests import (
    EmbeddedQuery,
    component_requests,
    component_scores,
    list_request,
)
from m3qdrant.collection.search import Search
from m3qdrant.collection.standing import Fused, Standing, standing
from m3qdrant.collection.unit import MOST_COSINE
from m3qdrant.encode import M3Embeddings
from m3qdrant.errors import RankingEndsWarning, StoreDamagedError
from m3qdrant.jsonpath import first_key, groups_at
from m3qdrant.names import COLBERT, DENSE, OURS, SPARSE, VECTORS

__all__ = ["ranked", "stand"]

_GROWTH = 4
_MOST_TIED = 10_000
"""Where a list ends among more points of one score than this, the engine's order stands."""

T = TypeVar("T")
Group: TypeAlias = "str | int | None"


@dataclass
class _Asked:
    """One query on its way.

    Attributes:
        query: its vectors.
        lists: by vector the best points by it.
        ranking: what the mode makes of them.
        scores: the candidates' component scores; None where the mode needs none.
        cut: whether more documents could have been ranked, had `candidates` been larger.
        fused: in `rrf` and `dbsf` the lists that were fused, by vector.
        page: the hits asked for: point, score, group.
    """

    query: EmbeddedQuery
    lists: dict[str, Ranking] = field(default_factory=dict)
    ranking: Ranking = field(default_factory=list)
    scores: Scores | None = None
    cut: bool = False
    fused: dict[str, Fused] = field(default_factory=dict)
    page: list[tuple[PointId, float, Group]] = field(default_factory=list)


def ranked(
    name: str,
    layout: Layout,
    embeddings: M3Embeddings,
    search: Search,
    place: Hashable | None,
) -> Steps[list[list[tuple[Hit, Standing | None]]]]:
    """The hits of each of the n queries; each step asks for all of them at once.

    Args:
        name: the collection's.
        layout: the collection's.
        embeddings: of n queries.
        search: what else is asked.
        place: what tells where the collection is from other places, for a reranker's sake; None
            where points have no versions.

    Returns:
        Each hit, and where it stands, if that is to be explained.
    """
    asked = [_Asked(EmbeddedQuery.of(embeddings[i], layout)) for i in range(len(embeddings))]
    operation = _Searching(name, layout, search, asked, place)
    if search.group_by is not None and search.mode in (DENSE, SPARSE):
        yield from operation.groups_of_all(search.group_by)
    else:
        yield from operation.rank()
        yield from operation.cut_pages()
    operation.warn()
    return (yield from operation.hits())


def stand(
    name: str, layout: Layout, embeddings: M3Embeddings, search: Search, point: PointId
) -> Steps[Standing]:
    """Where one point stands in a query's ranking, wherever that is.

    Args:
        name: the collection's.
        layout: the collection's.
        embeddings: of one query.
        search: what else is asked.
        point: the point's id.
    """
    one = _Asked(EmbeddedQuery.of(embeddings, layout))
    operation = _Searching(name, layout, search, [one], None)
    yield from operation.rank()
    return (yield from operation.stand(point))


class _Searching:
    """The steps of one search."""

    def __init__(
        self,
        name: str,
        layout: Layout,
        search: Search,
        asked: list[_Asked],
        place: Hashable | None,
    ) -> None:
        self._name = name
        self._layout = layout
        self._search = search
        self._asked = asked
        self._place = place
        self._documents: dict[PointId, str] = {}  # ids, as far as they were needed
        self._versions: dict[PointId, int] = {}  # of what the lists have

    # -- ranking

    def rank(self) -> Steps[None]:
        """Every query's ranking, as far as the page needs it."""
        mode, candidates = self._search.mode, self._search.candidates
        depth = self._search.offset + self._search.limit
        if mode == DENSE:
            yield from self._list((DENSE,), candidates)
            if depth > candidates and self._search.diversity is None:
                yield from self._go_on(depth - candidates)
        elif mode == SPARSE:
            yield from self._list((SPARSE,), max(candidates, depth))
        else:
            yield from self._list((DENSE, SPARSE), candidates)
            yield from self._score()
            yield from self._fuse()
        for one in self._asked:
            if mode in (DENSE, SPARSE):
                one.ranking = one.lists.get(mode, [])
            least = self._search.score_threshold
            if least is not None:
                kept = [entry for entry in one.ranking if entry[1] >= least]
                one.cut = one.cut and len(kept) == len(one.ranking)
                one.ranking = kept

    def _list(self, vectors: Sequence[str], wanted: int) -> Steps[None]:
        """The best `wanted` points by each of some vectors, of every query that has it."""

        def request(asked: tuple[_Asked, str], limit: int) -> models.QueryRequest:
            one, vector = asked
            return list_request(one.query, self._search, vector, limit)

        waiting = [
            (one, vector)
            for one in self._asked
            for vector in vectors
            if one.query.vector(vector) is not None
        ]
        found = yield from self._best(waiting, request, wanted)
        for (one, vector), (ranking, more) in zip(waiting, found, strict=True):
            yield from self._check({vector: dict(ranking)})
            one.lists[vector] = ranking
            one.cut = one.cut or more

    def _go_on(self, wanted: int) -> Steps[None]:
        """So many more by the dense vector, behind those that an index found."""

        def request(one: _Asked, limit: int) -> models.QueryRequest:
            found = [id for id, _ in one.lists[DENSE]]
            return list_request(one.query, self._search, DENSE, limit, beyond=found)

        waiting = [one for one in self._asked if one.cut]
        found = yield from self._best(waiting, request, wanted)
        for one, (ranking, more) in zip(waiting, found, strict=True):
            one.lists[DENSE] += ranking
            one.cut = more
            yield from self._check({DENSE: dict(ranking)})

    def _best(
        self,
        asked: Sequence[T],
        request: Callable[[T, int], models.QueryRequest],
        wanted: int,
    ) -> Steps[list[tuple[Ranking, bool]]]:
        """For each thing asked its best `wanted`, and whether there are more."""
        found: list[Ranking] = [[] for _ in asked]
        waiting, limit = list(range(len(asked))), wanted + 1
        while waiting:
            answers = yield from calls.query_batch_points(
                self._name, [request(asked[i], limit) for i in waiting]
            )
            for i, answer in zip(waiting, answers, strict=True):
                found[i] = [(point.id, float(point.score)) for point in answer.points]
                if self._search.reranker is not None:
                    self._versions.update((point.id, point.version) for point in answer.points)
            # an end among equals: which of them are in isn't for the engine to say
            waiting = [
                i
                for i in waiting
                if len(found[i]) == limit and found[i][wanted - 1][1] == found[i][-1][1]
            ]
            if limit >= _MOST_TIED:
                break
            limit *= _GROWTH
        yield from self._name_tied(found, [wanted])
        return [(settled(each, self._documents)[:wanted], len(each) > wanted) for each in found]

    def _score(self) -> Steps[None]:
        """The exact scores of all candidates by each vector."""
        ids = [
            list({id: None for each in one.lists.values() for id, _ in each})
            for one in self._asked
        ]
        if self._search.reranker is None:
            scores = yield from self._components(ids)
        else:
            scores = yield from reranking.component_scores(
                self._name,
                self._layout,
                self._search.reranker,
                self._place,
                [
                    reranking.Candidates(one.query, each, one.lists)
                    for one, each in zip(self._asked, ids, strict=True)
                ],
                self._versions,
            )
        for one, each in zip(self._asked, scores, strict=True):
            if self._search.reranker is not None:
                yield from self._check(each)
            one.scores = each

    def _components(self, ids: Sequence[Sequence[PointId]]) -> Steps[list[Scores]]:
        wanted = [
            component_requests(one.query, each) if each else []
            for one, each in zip(self._asked, ids, strict=True)
        ]
        requests = [request for each in wanted for _, request in each]
        answers = (yield from calls.query_batch_points(self._name, requests)) if requests else []
        rest = iter(answers)
        found = []
        for one, each in zip(self._asked, wanted, strict=True):
            scores = component_scores(one.query, [(v, next(rest).points) for v, _ in each])
            yield from self._check(scores)
            found.append(scores)
        return found

    def _fuse(self) -> Steps[None]:
        mode, candidates = self._search.mode, self._search.candidates
        lists: list[dict[str, Ranking]] = [{} for _ in self._asked]
        if mode in ("rrf", "dbsf"):
            late = []
            for one in self._asked:
                assert one.scores is not None
                exact = {
                    name: {id: one.scores[name].get(id, score) for id, score in ranking}
                    for name, ranking in one.lists.items()
                }
                late.append({**exact, COLBERT: one.scores[COLBERT]})
            rankings = [ordered(s, self._documents) for each in late for s in each.values()]
            # ranks count: what is equal must be in order everywhere
            yield from self._name_tied(rankings, None if mode == "rrf" else [candidates])
            lists = [
                {name: ordered(s, self._documents)[:candidates] for name, s in each.items()}
                for each in late
            ]
        for one, each in zip(self._asked, lists, strict=True):
            assert one.scores is not None
            if self._search.explain:
                one.fused = {name: Fused.of(mode, ranking) for name, ranking in each.items()}
            final = fused(mode, self._search.weights, each, one.scores)
            one.ranking = ordered(final, self._documents)

    def _name_tied(self, rankings: Sequence[Ranking], cuts: Sequence[int] | None) -> Steps[None]:
        """Learn the ids of the documents among which something else than the score decides."""
        ids = {
            id: None
            for ranking in rankings
            for id in tied(ranking, cuts)
            if id not in self._documents
        }
        if ids:
            records = yield from calls.retrieve(self._name, list(ids), with_payload=[OURS])
            self._documents.update({record.id: document_id(record) for record in records})

    # -- pages

    def cut_pages(self) -> Steps[None]:
        """From the rankings what was asked for of them."""
        search = self._search
        start, end = search.offset, search.offset + search.limit
        if search.group_by is not None:
            yield from self._group(search.group_by)
            return
        if search.diversity is not None:
            yield from self._diversify(search.diversity)
        else:
            yield from self._settle([start, end])
        for one in self._asked:
            one.page = [(id, score, None) for id, score in one.ranking[start:end]]

    def _settle(self, cuts: Sequence[int] | None) -> Steps[None]:
        yield from self._name_tied([one.ranking for one in self._asked], cuts)
        for one in self._asked:
            one.ranking = settled(one.ranking, self._documents)

    def _diversify(self, diversity: float) -> Steps[None]:
        """The best `candidates`, in the order in which diversity takes them."""
        yield from self._settle(None)
        for one in self._asked:
            one.cut = one.cut or len(one.ranking) > self._search.candidates
            one.ranking = one.ranking[: self._search.candidates]
        ids = {id: None for one in self._asked for id, _ in one.ranking}
        records = []
        if ids:
            records = yield from calls.retrieve(
                self._name, list(ids), with_vectors=[DENSE], arrays=True
            )
        vectors: dict[PointId, Any] = {r.id: r.vector for r in records}
        for one in self._asked:
            pool = [entry for entry in one.ranking if entry[0] in vectors]
            taken = diversify(
                [score for _, score in pool],
                [vectors[id][DENSE] for id, _ in pool],
                diversity,
                self._search.offset + self._search.limit,
            )
            one.ranking = [pool[i] for i in taken]

    def _group(self, group_by: str) -> Steps[None]:
        """Groups of the candidates, in the order of their best."""
        search = self._search
        ids = list({id: None for one in self._asked for id, _ in one.ranking})
        records = []
        if ids:
            fields = [first_key(group_by), OURS]
            records = yield from calls.retrieve(self._name, ids, with_payload=fields)
        self._documents.update({record.id: document_id(record) for record in records})
        payloads = {record.id: record.payload for record in records}
        for one in self._asked:
            groups: dict[str | int, list[tuple[PointId, float, Group]]] = {}
            for id, score in ordered(dict(one.ranking), self._documents):
                for value in groups_at(payloads.get(id), group_by):
                    members = groups.setdefault(value, [])
                    if len(members) < search.group_size:
                        members.append((id, score, value))
            order = _in_order({value: members[0][1] for value, members in groups.items()})
            page = order[search.offset : search.offset + search.limit]
            one.cut = one.cut and len(page) < search.limit
            one.page = [member for value in page for member in groups[value]]

    def groups_of_all(self, group_by: str) -> Steps[None]:
        """Groups of the whole collection by one vector; Qdrant has no batch of them."""
        search = self._search
        for one in self._asked:
            if one.query.vector(search.mode) is None:
                continue
            request = list_request(one.query, search, search.mode, search.candidates)
            request.score_threshold = search.score_threshold
            answer = yield from calls.query_points_groups(
                self._name, request, group_by=group_by, limit=search.candidates, group_size=1
            )
            best = {group.id: float(group.hits[0].score) for group in answer.groups if group.hits}
            groups = _in_order(best)
            page = groups[search.offset : search.offset + search.limit]
            one.cut = len(groups) == search.candidates and len(page) < search.limit
            yield from self._members(one, group_by, page)

    def _members(self, one: _Asked, group_by: str, page: Sequence[str | int]) -> Steps[None]:
        """The best of each group, in the order of ids where they are equal."""
        search = self._search

        def request(group: str | int, limit: int) -> models.QueryRequest:
            inside = models.FieldCondition(key=group_by, match=models.MatchValue(value=group))
            asked = list_request(one.query, search, search.mode, limit, within=inside)
            asked.score_threshold = search.score_threshold
            return asked

        found = yield from self._best(page, request, search.group_size)
        yield from self._name_tied([ranking for ranking, _ in found], None)
        one.page = [
            (id, score, group)
            for group, (ranking, _) in zip(page, found, strict=True)
            for id, score in settled(ranking, self._documents)
        ]

    def warn(self) -> None:
        """Say where a page reaches behind the end of its ranking, and there are more documents."""
        search = self._search
        groups = search.group_by is not None
        endless = search.mode in (DENSE, SPARSE) and not groups and search.diversity is None
        short = [
            one for one in self._asked if one.cut and (groups or len(one.page) < search.limit)
        ]
        if endless or not short:
            return
        what = "of groups ends" if groups else f"ends after {len(short[0].ranking)} documents"
        warnings.warn(
            f"the ranking by mode {search.mode!r} {what}: it is made of the {search.candidates} "
            "best by each vector, and the page reaches behind it; give candidates= a larger "
            "number, the same for all pages",
            RankingEndsWarning,
            stacklevel=2,
        )

    # -- what is found

    def stand(self, point: PointId) -> Steps[Standing]:
        """Where a point stands in the first query's ranking."""
        yield from self._settle(None)
        one, search = self._asked[0], self._search
        (scores,) = yield from self._components([[point]])
        place = next((i for i, (id, _) in enumerate(one.ranking, 1) if id == point), None)
        return standing(search.mode, search.weights, scores, one.fused, point, place)

    def hits(self) -> Steps[list[list[tuple[Hit, Standing | None]]]]:
        """The pages' documents, with their component scores, and where they stand."""
        search = self._search
        ids = list({id: None for one in self._asked for id, _, _ in one.page})
        if search.components and any(one.scores is None for one in self._asked):
            scores = yield from self._components(
                [[id for id, _, _ in one.page] for one in self._asked]
            )
            for one, each in zip(self._asked, scores, strict=True):
                one.scores = each
        records: list[models.Record] = []
        if ids:
            records = yield from calls.retrieve(
                self._name, ids, with_payload=True, with_vectors=search.with_vectors
            )
        points = {record.id: record for record in records}
        return [self._page(one, points) for one in self._asked]

    def _page(
        self, one: _Asked, points: dict[PointId, models.Record]
    ) -> list[tuple[Hit, Standing | None]]:
        search = self._search
        hits = []
        for id, score, group in one.page:
            point = points.get(id)
            if point is None:  # deleted meanwhile
                continue
            components = {}
            if search.components and one.scores is not None:
                components = {vector: one.scores[vector].get(id, 0.0) for vector in VECTORS}
            hit = Hit.of(point, score, components, group, search.vectors_of(point))
            hits.append((id, hit))
        if search.group_by is None and search.diversity is None:
            # what is equal within the page is in the engine's order so far
            runs = itertools.groupby(hits, key=lambda each: each[1].score)
            hits = [each for _, run in runs for each in sorted(run, key=lambda each: each[1].id)]
        if not search.explain:
            return [(hit, None) for _, hit in hits]
        ranks = {id: rank for rank, (id, _) in enumerate(one.ranking, 1)}
        if search.group_by is None:
            ranks |= {id: rank for rank, (id, _) in enumerate(hits, search.offset + 1)}
        assert one.scores is not None
        return [
            (
                hit,
                standing(
                    search.mode,
                    search.weights,
                    one.scores,
                    one.fused,
                    id,
                    ranks.get(id),
                    hit.score,
                ),
            )
            for id, hit in hits
        ]

    def _check(self, scores: Scores) -> Steps[None]:
        """Refuse to give out what no vectors of this model can score."""
        if self._layout.model is None:  # vectors of the caller's own, of whatever length
            return
        for vector, each in scores.items():
            for id, score in each.items():
                if math.isfinite(score) and (vector == SPARSE or abs(score) <= MOST_COSINE):
                    continue
                records = yield from calls.retrieve(self._name, [id], with_payload=[OURS])
                whose = document_id(records[0]) if records else id
                raise StoreDamagedError(
                    f"the collection {self._name!r}: document {whose!r} has a {vector} score of "
                    f"{score}, which no vectors of the model can have: what is stored of it is "
                    "damaged; `m3qdrant doctor` says what else is, and ingesting the document "
                    "again replaces it"
                )


def _in_order(best: Mapping[str | int, float]) -> list[str | int]:
    """Groups by the scores of their best, equal ones by their values."""
    return sorted(best, key=lambda value: (-best[value], isinstance(value, str), value))
