"""`weighted` in one request: a formula over three prefetches of the same nested candidates.

The store asks for the candidates' ids first and then for their scores, and fuses them itself. In
one request nothing crosses but the hits; the candidates' stage runs once for each of the three
scores, equal scores come in the engine's order, and the component scores take a second request.
"""

from __future__ import annotations

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from m3qdrant import Hit, M3Embeddings
from m3qdrant.collection import EmbeddedQuery, Layout, Search
from m3qdrant.collection.requests import component_requests, component_scores, list_request
from m3qdrant.names import COLBERT, DENSE, SPARSE, VECTORS
from m3qdrant.weights import DEFAULT_WEIGHTS


def one_request(
    client: QdrantBase,
    collection: str,
    layout: Layout,
    embeddings: M3Embeddings,
    *,
    limit: int,
    candidates: int,
) -> list[Hit]:
    """The best documents by the weighted score, with their component scores, best first."""
    query = EmbeddedQuery.of(embeddings, layout)
    present = query.present()
    top = []
    for name in (name for name in present if name != COLBERT):
        first = list_request(query, Search(), name, candidates)
        top.append(
            models.Prefetch(query=first.query, using=name, limit=candidates, params=first.params)
        )
    exact = dict(component_requests(query, []))
    found = client.query_points(
        collection,
        prefetch=[
            models.Prefetch(
                prefetch=top,
                query=query.vector(name),
                using=name,
                limit=len(top) * candidates,
                params=exact[name].params,
            )
            for name in present
        ],
        query=_formula(query),
        limit=limit,
        with_payload=True,
    ).points
    requests = component_requests(query, [point.id for point in found])
    answers = client.query_batch_points(
        collection, requests=[request for _, request in requests] if found else []
    )
    scores = component_scores(
        query,
        [(name, a.points) for (name, _), a in zip(requests, answers, strict=False)],
    )
    return [
        Hit.of(point, point.score, {name: scores[name].get(point.id, 0.0) for name in VECTORS})
        for point in found
    ]


def _formula(query: EmbeddedQuery) -> models.FormulaQuery:
    w1, w2, w3 = (weight / sum(DEFAULT_WEIGHTS) for weight in DEFAULT_WEIGHTS)
    # MAX_SIM sums over the query's tokens, the formula has the mean
    factors = {DENSE: w1, SPARSE: w2, COLBERT: w3 / query.tokens}
    present = query.present()
    return models.FormulaQuery(
        formula=models.SumExpression(
            sum=[
                models.MultExpression(mult=[factors[name], f"$score[{i}]"])
                for i, name in enumerate(present)
            ]
        ),
        # a document that shares no term with the query is not among the sparse scores
        defaults={f"$score[{i}]": 0.0 for i in range(len(present))},
    )
