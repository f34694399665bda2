"""Who scores given candidates of a query by MaxSim, from where their vectors are by then.

The engine reads them in its collection; all others have them in memory, in the form that they like
best, which is made beforehand. FlagEmbedding's and the plain baseline are written as their own
code has them, so that no model has to be loaded for what a few products are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, TypeAlias

import m3kernels
import torch
from qdrant_client import models
from torch import Tensor

from benchmarks.rerank.draws import COLLECTION
from m3qdrant import Document, M3Embeddings, M3Store, TokenVectors
from m3qdrant.names import COLBERT

__all__ = ["Scorer", "scorers"]

Scorer: TypeAlias = Callable[[], Tensor]
"""Scores (n_q, n_d) of the queries with all candidates."""

FLOAT32, FLOAT16 = 1e-5, 1e-3


def scorers(
    store: M3Store, queries: M3Embeddings, documents: M3Embeddings, candidates: Sequence[str]
) -> dict[str, tuple[Scorer | None, float, str]]:
    """By name who scores, how far from exact it may be, and what to know of it.

    None where something is not installed.

    Args:
        store: holds the candidates, in float16.
        queries: n_q of them.
        documents: the candidates', rounded as the store rounds them.
        candidates: the documents' ids.
    """
    q, d = _tokens(queries), _tokens(documents)
    found: dict[str, tuple[Scorer | None, float, str]] = {
        "m3kernels.maxsim, float32": (_ours(q, d, torch.float32), FLOAT32, ""),
        "m3kernels.maxsim, bfloat16": (_ours(q, d, torch.bfloat16), FLOAT16, ""),
        "m3kernels.maxsim, int8": (_int8(q, d), FLOAT16, ""),
        "one matmul + max": (_matmul(q, d), FLOAT32, "documents of one length"),
        "FlagEmbedding's compute_score": (_flag(q, d), FLOAT32, "its colbert_score, a pair each"),
        "the engine's MaxSim": (_engine(store, q, candidates), FLOAT16, "all queries in a batch"),
    }
    return found | _sentence_transformers(q, d)


def _tokens(embeddings: M3Embeddings) -> TokenVectors:
    assert embeddings.colbert is not None
    return embeddings.colbert


def _ours(q: TokenVectors, d: TokenVectors, dtype: torch.dtype) -> Scorer:
    rows = d.vectors.to(dtype)
    return lambda: m3kernels.maxsim(q.vectors, q.cu_seqlens, rows, d.cu_seqlens, validate=False)


def _int8(q: TokenVectors, d: TokenVectors) -> Scorer:
    rows, scales = m3kernels.quantize_tokens(d.vectors)
    return lambda: m3kernels.maxsim(
        q.vectors, q.cu_seqlens, rows, d.cu_seqlens, document_scales=scales, validate=False
    )


def _matmul(q: TokenVectors, d: TokenVectors) -> Scorer:
    n_q, n_d = len(q), len(d)

    def run() -> Tensor:
        products = q.vectors @ d.vectors.T
        return products.view(n_q, len(q.vectors) // n_q, n_d, -1).amax(3).mean(1)

    return run


def _flag(q: TokenVectors, d: TokenVectors) -> Scorer:
    """BGE-M3's colbert_score: an einsum, a maximum and a mean a pair."""

    def run() -> Tensor:
        scores = torch.empty(len(q), len(d))
        for i, query in enumerate(q):
            for j, document in enumerate(d):
                similarities = torch.einsum("in,jn->ij", query, document)
                scores[i, j] = similarities.max(-1).values.sum() / len(query)
        return scores

    return run


def _engine(store: M3Store, q: TokenVectors, candidates: Sequence[str]) -> Scorer:
    ids = [Document(id, "").point_id for id in candidates]
    place = {id: i for i, id in enumerate(ids)}
    hits = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
    requests = [
        models.QueryRequest(
            query=query.half().float().tolist(),
            using=COLBERT,
            filter=hits,
            limit=len(ids),
            params=models.SearchParams(exact=True),
        )
        for query in q
    ]
    lengths = [len(query) for query in q]

    def run() -> Tensor:
        scores = torch.zeros(len(requests), len(ids))
        answers = store.client.query_batch_points(COLLECTION, requests)
        for i, answer in enumerate(answers):
            for point in answer.points:
                scores[i, place[str(point.id)]] = point.score / lengths[i]
        return scores

    return run


def _sentence_transformers(
    q: TokenVectors, d: TokenVectors
) -> dict[str, tuple[Scorer | None, float, str]]:
    name = "sentence-transformers' maxsim"
    if importlib.util.find_spec("sentence_transformers") is None:
        return {name: (None, FLOAT32, "not installed")}
    try:
        from sentence_transformers.util import maxsim  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        which = version("sentence-transformers")
        return {name: (None, FLOAT32, f"sentence-transformers {which} has none")}
    function: Any = maxsim
    queries, documents = list(q), list(d)

    def run() -> Tensor:
        return torch.as_tensor(function(queries, documents)) / len(queries[0])

    return {name: (run, FLOAT32, "sums, divided by the tokens")}
