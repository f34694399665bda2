"""Candidates scored by a reranker in the engine's place: what it lacks of them is fetched.

What is held of a point is known by the collection, the point's id and its version, which the lists
of candidates have said: a write by whomever makes another version, so what is held of the one
before is never asked for again. Versions begin anew where a collection is made again, so its
metadata have a uuid, which is read each time, after the lists. Where that says nothing (in-memory
mode, whose versions are all 0; several replicas, each of which counts for itself; a collection
without that uuid) nothing is held from one search to the next. And since a collection may be set
back to a snapshot of itself, a held document counts only where it scores by its dense and its
sparse vector what the engine's lists say.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from m3kernels.packing import from_lengths
from numpy.typing import NDArray
from qdrant_client import models

from m3qdrant.collection import calls
from m3qdrant.collection.calls import Compute, Steps
from m3qdrant.collection.fusion import PointId, Ranking, Scores
from m3qdrant.collection.layout import Layout, uuid_of
from m3qdrant.collection.requests import EmbeddedQuery
from m3qdrant.encode import M3Embeddings, SparseVectors, TokenVectors
from m3qdrant.names import COLBERT, DENSE, SPARSE, VECTORS
from m3qdrant.rank import Work

if TYPE_CHECKING:
    from m3qdrant.rank import M3Reranker

__all__ = ["Brought", "Candidates", "bring", "component_scores", "token_rows"]

Brought: TypeAlias = "tuple[M3Embeddings, list[bool] | None]"
"""Embeddings, and whose dense vector is one; None for all."""

_PAGE_BYTES = 64 << 20
"""Of vectors that are fetched at a time."""
_TOKENS = 128
"""Of a document, before one has been seen."""
_SAME = 1e-5
"""Two float32 sums of the same products differ by less, relative to 1 or to themselves."""


@dataclass(frozen=True)
class Candidates:
    """What one query ranks.

    Attributes:
        query: its vectors.
        ids: the points.
        lists: by vector the best points by it, as the engine scored them.
    """

    query: EmbeddedQuery
    ids: Sequence[PointId]
    lists: Mapping[str, Ranking]


def component_scores(
    name: str,
    layout: Layout,
    reranker: M3Reranker,
    place: Hashable | None,
    asked: Sequence[Candidates],
    versions: Mapping[PointId, int],
) -> Steps[list[Scores]]:
    """The exact scores of each query's candidates by each vector; see `requests.component_scores`.

    Args:
        name: the collection's.
        layout: the collection's.
        reranker: what scores them.
        place: what tells the collection's place from others; None where points have no versions.
        asked: the queries and what they rank.
        versions: of the candidates.
    """
    ids = list({id: None for one in asked for id in one.ids})
    if not ids:
        return [{vector: {} for vector in VECTORS} for _ in asked]
    home = None if place is None else (yield from _home(name, place))
    number = {id: i for i, id in enumerate(ids)}
    pairs = np.array(
        [(q, number[id]) for q, one in enumerate(asked) for id in one.ids], dtype=np.int64
    )
    work = Work(
        reranker.held,
        M3Embeddings.concat([one.query.views for one in asked]),
        [None if home is None else ((home, id), versions[id]) for id in ids],
        pairs,
        tokens=[one.query.tokens for one in asked],
    )
    fetching = partial(
        bring, name, work, ids, list(VECTORS), partial(_views, layout), 4 * layout.colbert_dim
    )
    fetched = yield from fetching()
    held = set(range(len(ids))) - fetched
    doubtful = sorted(held & _otherwise(asked, layout, pairs, work, number))
    if doubtful:
        work.drop(doubtful)
        yield from fetching()
    return _scores(asked, work)


def _home(name: str, place: Hashable) -> Steps[Hashable | None]:
    """What tells the collection from all others, and from those of its name before and after."""
    info = yield from calls.get_collection(name)
    uuid = uuid_of(info)
    replicas = info.config.params.replication_factor or 1
    return None if uuid is None or replicas > 1 else (place, name, uuid)


def bring(
    name: str,
    work: Work,
    points: Sequence[PointId | models.ScoredPoint | models.Record],
    vectors: Sequence[str] | bool,
    views: Callable[[Sequence[models.Record | models.ScoredPoint]], Brought],
    row_bytes: int,
) -> Steps[set[int]]:
    """Fetch what a piece of scoring misses, in pages of so many bytes, and score all.

    Args:
        name: the collection's.
        work: what is scored.
        points: its documents; a point that has its vectors with it is not fetched.
        vectors: what is fetched.
        views: the embeddings of points.
        row_bytes: of a token vector.

    Returns:
        The documents that were not held.
    """
    came: set[int] = set()
    each = row_bytes * _TOKENS
    while True:
        missing = work.missing()
        came.update(missing)
        while missing:
            n = max(1, _PAGE_BYTES // each)
            page, missing = missing[:n], missing[n:]
            here = {i: p for i in page if (p := _with_vectors(points[i])) is not None}
            if ids := [_id(points[i]) for i in page if i not in here]:
                records = yield from calls.retrieve(name, ids, with_vectors=vectors, arrays=True)
                found = {record.id: record for record in records}
                here |= {i: found[id] for i in page if (id := _id(points[i])) in found}
            work.give_up([i for i in page if i not in here])  # deleted meanwhile
            if here:
                yield from Compute(partial(_take, work, here, views))
                each = max(1, work.taken_bytes // len(here))
        if (yield from Compute(work.finish)):
            return came


def _id(point: PointId | models.ScoredPoint | models.Record) -> PointId:
    return point.id if isinstance(point, models.ScoredPoint | models.Record) else point


def _with_vectors(
    point: PointId | models.ScoredPoint | models.Record,
) -> models.ScoredPoint | models.Record | None:
    if isinstance(point, models.ScoredPoint | models.Record) and point.vector is not None:
        return point
    return None


def _take(
    work: Work,
    here: Mapping[int, models.Record | models.ScoredPoint],
    views: Callable[[Sequence[models.Record | models.ScoredPoint]], Brought],
) -> None:
    embeddings, has_dense = views(list(here.values()))
    work.take(list(here), embeddings, has_dense)


def _views(layout: Layout, points: Sequence[models.Record | models.ScoredPoint]) -> Brought:
    """The embeddings of points of ours, and which have a dense vector."""
    vectors: list[Mapping[str, Any]] = [
        point.vector if isinstance(point.vector, Mapping) else {} for point in points
    ]
    dense = np.zeros((len(points), layout.dim), dtype=np.float32)
    has_dense = [v.get(DENSE) is not None for v in vectors]
    for row, vector in zip(dense, vectors, strict=True):
        if vector.get(DENSE) is not None:
            row[:] = vector[DENSE]
    colbert = [token_rows(v.get(COLBERT), layout.colbert_dim) for v in vectors]
    tokens = torch.from_numpy(np.concatenate(colbert))
    if layout.schema.colbert_datatype == "turbo4":
        # such rows come back longer or shorter than they are compared as
        tokens = torch.nn.functional.normalize(tokens, dim=-1)
    return (
        M3Embeddings(
            torch.from_numpy(dense),
            _sparse([v.get(SPARSE) for v in vectors]),
            TokenVectors(tokens, from_lengths([len(rows) for rows in colbert])),
        ),
        has_dense,
    )


def token_rows(vector: Any, dim: int) -> NDArray[np.float32]:
    """A multivector as (n, dim), n = 0 where there is none; another vector as one row."""
    if vector is None:
        return np.zeros((0, dim), dtype=np.float32)
    rows = np.asarray(vector, dtype=np.float32)
    return rows[None] if rows.ndim == 1 else rows


def _sparse(vectors: Sequence[models.SparseVector | None]) -> SparseVectors:
    """Lexical weights, ids ascending, without ids that no query of ours can have."""
    indices, values = [], []
    for vector in vectors:
        ids = np.asarray(vector.indices if vector else [], dtype=np.int64)
        weights = np.asarray(vector.values if vector else [], dtype=np.float32)
        order = np.argsort(ids, kind="stable")
        order = order[ids[order] < 1 << 31]
        indices.append(ids[order].astype(np.int32))
        values.append(weights[order])
    return SparseVectors(
        from_lengths([len(each) for each in indices]),
        torch.from_numpy(np.concatenate(indices)),
        torch.from_numpy(np.concatenate(values)),
    )


def _otherwise(
    asked: Sequence[Candidates],
    layout: Layout,
    pairs: NDArray[np.int64],
    work: Work,
    number: Mapping[PointId, int],
) -> set[int]:
    """The points, by their numbers, that score otherwise than the engine said."""
    found: set[int] = set()
    for q, one in enumerate(asked):
        ours = np.flatnonzero(pairs[:, 0] == q)
        place = dict(zip(pairs[ours, 1].tolist(), ours.tolist(), strict=True))
        for vector, ranking in one.lists.items():
            if vector == SPARSE and layout.schema.sparse_datatype != "float32":
                continue  # an index may have other weights than are given out
            theirs = np.array([score for _, score in ranking])
            points = [number[id] for id, _ in ranking]
            mine = work.scores[vector][[place[point] for point in points]]
            off = np.abs(mine - theirs) > _SAME * np.maximum(1, np.abs(theirs))
            found.update(points[i] for i in np.flatnonzero(off).tolist())
    return found


def _scores(asked: Sequence[Candidates], work: Work) -> list[Scores]:
    """By query and vector the score of each point that has one."""
    start, found = 0, []
    for one in asked:
        those = slice(start, start + len(one.ids))
        start = those.stop
        parts = {vector: work.scores[vector][those].tolist() for vector in VECTORS}
        there = work.there(those)
        found.append(
            {
                vector: {
                    id: score
                    for id, score, has in zip(one.ids, parts[vector], there[vector], strict=True)
                    if has
                }
                for vector in VECTORS
            }
        )
    return found
