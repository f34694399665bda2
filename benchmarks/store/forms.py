"""`weighted` in two round trips: the candidates first, then their three scores, fused here.

`m3qdrant.query` asks for it in one, as a formula over prefetches, in which the candidate stage
runs once for each of the three scores. Here it runs once, but what is found crosses to the client
and its ids cross back. The component scores come for nothing, where the one request needs a second
one.
"""

from __future__ import annotations

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from m3qdrant import Hit, M3Embeddings
from m3qdrant.collection import EmbeddedQuery, Layout, Search
from m3qdrant.collection.requests import component_requests, component_scores, search_request
from m3qdrant.names import COLBERT, DENSE, SPARSE, Mode
from m3qdrant.weights import DEFAULT_WEIGHTS


def two_requests(
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
    stages: tuple[Mode, ...] = ("dense", "sparse")
    lists = [search_request(query, Search(mode=mode, limit=candidates)) for mode in stages]
    answers = client.query_batch_points(
        collection,
        requests=[
            request.model_copy(update={"with_payload": False})
            for request in lists
            if request is not None
        ],
    )
    ids = list({point.id: None for answer in answers for point in answer.points})
    requests = component_requests(query, ids)
    answers = client.query_batch_points(
        collection,
        requests=[
            # every candidate has a dense score, so its answer brings the payloads
            request.model_copy(update={"with_payload": name == DENSE})
            for name, request in requests
        ],
    )
    found = [(name, answer.points) for (name, _), answer in zip(requests, answers, strict=True)]
    scores = component_scores(query, ids, found)
    points: dict[models.ExtendedPointId, models.ScoredPoint] = {
        point.id: point for name, answer in found if name == DENSE for point in answer
    }
    w1, w2, w3 = DEFAULT_WEIGHTS
    hits = [
        Hit.of(
            points[id],
            (w1 * parts[DENSE] + w2 * parts[SPARSE] + w3 * parts[COLBERT]) / (w1 + w2 + w3),
            parts,
        )
        for id, parts in zip(ids, scores, strict=True)
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:limit]
