"""A search as an operation: rankings in one round trip, the hits' component scores in one more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from qdrant_client import models

from m3qdrant.collection import calls
from m3qdrant.collection.calls import Steps
from m3qdrant.collection.diversity import diversify
from m3qdrant.collection.documents import document_id
from m3qdrant.collection.hits import Hit
from m3qdrant.collection.layout import Layout
from m3qdrant.collection.requests import (
    EmbeddedQuery,
    component_requests,
    component_scores,
    search_request,
)
from m3qdrant.collection.search import Search
from m3qdrant.encode import M3Embeddings
from m3qdrant.names import COLBERT, DENSE

__all__ = ["search"]

_Ranked: TypeAlias = tuple[models.ScoredPoint, str | int | None]
"""A point as the engine ranked it, and the group it stands for."""
_Placed: TypeAlias = tuple[models.ScoredPoint, float, str | int | None]
"""A point on the page that was asked for, its score, and its group."""


def search(
    name: str, layout: Layout, embeddings: M3Embeddings, search: Search
) -> Steps[list[list[Hit]]]:
    """The hits of each of the n queries: all rankings in one request, all components in one more.

    Args:
        name: the collection's.
        layout: the collection's.
        embeddings: of n queries.
        search: what else is asked.
    """
    asked = [EmbeddedQuery.of(embeddings[i], layout) for i in range(len(embeddings))]
    requests = [search_request(query, search) for query in asked]
    rankings = yield from (
        _ranked(name, requests)
        if search.group_by is None
        else _grouped(name, requests, search, search.group_by)
    )
    pages = [_page(points, search, query) for points, query in zip(rankings, asked, strict=True)]
    scores: list[list[dict[str, float]]] = [[{} for _ in page] for page in pages]
    if search.components:
        scores = yield from _components(name, asked, pages)
    return [
        [
            Hit.of(point, score, components, group, search.vectors_of(point))
            for (point, score, group), components in zip(page, parts, strict=True)
        ]
        for page, parts in zip(pages, scores, strict=True)
    ]


def _ranked(
    name: str, requests: Sequence[models.QueryRequest | None]
) -> Steps[list[list[_Ranked]]]:
    rankings: list[list[_Ranked]] = [[] for _ in requests]
    sent = [(i, request) for i, request in enumerate(requests) if request is not None]
    if sent:
        answers = yield from calls.query_batch_points(name, [request for _, request in sent])
        for (i, _), answer in zip(sent, answers, strict=True):
            rankings[i] = [(point, None) for point in answer.points]
    return rankings


def _grouped(
    name: str, requests: Sequence[models.QueryRequest | None], search: Search, group_by: str
) -> Steps[list[list[_Ranked]]]:
    """Groups in the order of their best hits; Qdrant has no batch of groups."""
    rankings: list[list[_Ranked]] = []
    for request in requests:
        points: list[_Ranked] = []
        if request is not None:
            answer = yield from calls.query_points_groups(
                name,
                request,
                group_by=group_by,
                limit=search.depth,
                group_size=search.group_size,
            )
            groups = answer.groups[search.offset : search.depth]
            points = [(point, group.id) for group in groups for point in group.hits]
        rankings.append(points)
    return rankings


def _components(
    name: str, asked: Sequence[EmbeddedQuery], pages: Sequence[list[_Placed]]
) -> Steps[list[list[dict[str, float]]]]:
    wanted = [
        component_requests(query, [point.id for point, _, _ in page]) if page else []
        for query, page in zip(asked, pages, strict=True)
    ]
    requests = [request for each in wanted for _, request in each]
    answers = (yield from calls.query_batch_points(name, requests)) if requests else []
    rest = iter(answers)
    return [
        component_scores(
            query,
            [point.id for point, _, _ in page],
            [(vector, next(rest).points) for vector, _ in each],
        )
        for query, page, each in zip(asked, pages, wanted, strict=True)
    ]


def _page(ranking: list[_Ranked], search: Search, query: EmbeddedQuery) -> list[_Placed]:
    """What of a ranking is given out, in order, with scores as the mode defines them."""
    # MAX_SIM sums over the query's tokens; the mean is the reference's score, on one scale for all
    divisor = query.tokens if search.mode == COLBERT else 1
    placed = [(point, float(point.score) / divisor, group) for point, group in ranking]
    if search.group_by is not None:
        return placed
    # the engine gives equal scores in any order, and cuts at the limit as it likes
    placed.sort(key=lambda entry: (-entry[1], document_id(entry[0])))
    if search.diversity is not None:
        taken = diversify(
            [score for _, score, _ in placed],
            [_dense(point) for point, _, _ in placed],
            search.diversity,
            search.offset + search.limit,
        )
        placed = [placed[i] for i in taken[search.offset :]]
    return placed


def _dense(point: models.ScoredPoint) -> Any:
    vectors: Any = point.vector
    return vectors[DENSE]
