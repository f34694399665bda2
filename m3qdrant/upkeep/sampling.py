"""Whether two places hold the same collection, by its points' number and a sample of searches.

`migrate` compares each point, which takes as long as reading them all does. Where the data was
taken over as a whole, by files with checksums, what may be wrong is how the other engine reads
them: that shows in any few points and in any search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from qdrant_client import models

from m3qdrant.collection import Collection, Layout, Search, calls
from m3qdrant.encode import M3Embeddings, SparseVectors, TokenVectors
from m3qdrant.errors import RequestRejectedError
from m3qdrant.names import COLBERT, DENSE, MODES, SPARSE, Mode
from m3qdrant.upkeep.equality import StoredPoint, rounding
from m3qdrant.upkeep.sides import Directed, Side

__all__ = ["Sample", "compare", "embedded"]

_POINTS = 12
_SEARCHES = 3
"""Of the sampled points, whose vectors are searched for in each mode."""
_LIMIT = 10
_NEAR = 2e-4
"""How far scores may differ: engines of two versions may add numbers up in another order."""


class Sample:
    """What was compared.

    Attributes:
        points: how many points were read at both sides.
        searches: how many searches were made at both sides.
        fault: what is different; empty where nothing is.
    """

    def __init__(self) -> None:
        self.points = 0
        self.searches = 0
        self.fault = ""


def compare(one: Side, two: Side, info: models.CollectionInfo) -> Directed[Sample]:
    """Compare counts, some points, and searches by their vectors, in every mode.

    Args:
        one: a side; what it finds is right.
        two: the other; the points are drawn here, at random.
        info: the collection's.
    """
    sample = Sample()
    there, here = (yield from _count(one)), (yield from _count(two))
    if there != here:
        sample.fault = f"{there} points at {one.location}, {here} here"
        return sample
    drawn = yield from _draw(two)
    if drawn:
        sample.fault = yield from _points(one, drawn, info, sample)
    for record in drawn[:_SEARCHES]:
        if not sample.fault:
            sample.fault = yield from _searches(one, two, record, info, sample)
    return sample


def _count(side: Side) -> Directed[int]:
    return (yield from side.ask(calls.count(side.name))).count


def _draw(side: Side) -> Directed[list[models.Record]]:
    request = models.QueryRequest(
        query=models.SampleQuery(sample=models.Sample.RANDOM), limit=_POINTS
    )
    (answer,) = yield from side.ask(calls.query_batch_points(side.name, [request]))
    ids = [point.id for point in answer.points]
    return (
        yield from side.ask(calls.retrieve(side.name, ids, with_payload=True, with_vectors=True))
    )


def _points(
    one: Side, drawn: Sequence[models.Record], info: models.CollectionInfo, sample: Sample
) -> Directed[str]:
    allowed = rounding(info.config.params)
    ids = [record.id for record in drawn]
    found = yield from one.ask(calls.retrieve(one.name, ids, with_payload=True, with_vectors=True))
    theirs = {str(record.id): StoredPoint.of(record) for record in found}
    for point in map(StoredPoint.of, drawn):
        original = theirs.get(str(point.id))
        if original is None:
            return f"point {point.id} is not at {one.location}"
        if original.compare(point, allowed) == "different":
            return f"point {point.id} is another than at {one.location}"
        sample.points += 1
    return ""


def _searches(
    one: Side, two: Side, record: models.Record, info: models.CollectionInfo, sample: Sample
) -> Directed[str]:
    vectors: Any = record.vector
    named: Mapping[str, Any] = vectors if isinstance(vectors, Mapping) else {"": vectors}
    for name, vector in named.items():
        if _sees_all(info, name):
            continue
        sample.searches += 1
        theirs, ours = (yield from _ask(one, name, vector)), (yield from _ask(two, name, vector))
        if wrong := _difference(theirs, ours):
            return f"a search by {name or 'the vector'!r} finds something else: {wrong}"
    layout = Layout.read(info)
    if not isinstance(layout, Layout):
        return ""
    for mode in MODES:
        sample.searches += 1
        theirs = yield from _search(one, layout, named, mode)
        ours = yield from _search(two, layout, named, mode)
        if wrong := _difference(theirs, ours):
            return f"a {mode} search finds something else: {wrong}"
    return ""


def _search(
    side: Side, layout: Layout, vectors: Mapping[str, Any], mode: Mode
) -> Directed[list[tuple[str, float]]]:
    collection = Collection(
        side.name, side.location, schema=None, model=None, widths=None, create=False
    )
    yield from side.ask(collection.open(side.capabilities))
    query = embedded(vectors)

    def asked(exact: bool) -> Search:
        return Search(mode=mode, limit=_LIMIT, exact=exact, components=False)

    try:
        (hits,) = yield from side.ask(collection.search(query, asked(exact=True)))
    except RequestRejectedError:  # strict mode may forbid it
        (hits,) = yield from side.ask(collection.search(query, asked(exact=False)))
    return [(hit.id, hit.score) for hit in hits]


def embedded(vectors: Mapping[str, Any]) -> M3Embeddings:
    """A point's vectors as a query; where it has no weights, the query has none either."""
    dense = torch.tensor(np.asarray([vectors[DENSE]]), dtype=torch.float32)
    tokens = torch.tensor(np.asarray(vectors[COLBERT]), dtype=torch.float32)
    sparse = vectors.get(SPARSE) or models.SparseVector(indices=[], values=[])
    pairs = sorted(zip(sparse.indices, sparse.values, strict=True))
    return M3Embeddings(
        dense=dense,
        sparse=SparseVectors(
            torch.tensor([0, len(pairs)]),
            torch.tensor([index for index, _ in pairs], dtype=torch.int32),
            torch.tensor([value for _, value in pairs], dtype=torch.float32),
        ),
        colbert=TokenVectors(tokens, torch.tensor([0, len(tokens)])),
    )


def _sees_all(info: models.CollectionInfo, name: str) -> bool:
    """Whether scores come from all points of a shard together, of which a server has several."""
    sparse = (info.config.params.sparse_vectors or {}).get(name)
    return sparse is not None and sparse.modifier == models.Modifier.IDF


def _ask(side: Side, name: str, vector: Any) -> Directed[list[tuple[str, float]]]:
    def request(exact: bool) -> models.QueryRequest:
        params = models.SearchParams(exact=exact)
        return models.QueryRequest(
            query=vector, using=name or None, limit=_LIMIT, params=params, with_payload=False
        )

    try:
        (answer,) = yield from side.ask(calls.query_batch_points(side.name, [request(True)]))
    except RequestRejectedError:  # strict mode may forbid it
        (answer,) = yield from side.ask(calls.query_batch_points(side.name, [request(False)]))
    return [(str(point.id), point.score) for point in answer.points]


def _difference(theirs: Sequence[tuple[str, float]], ours: Sequence[tuple[str, float]]) -> str:
    if len(theirs) != len(ours):
        return f"{len(ours)} hits, not {len(theirs)}"
    near = [_NEAR * max(1.0, abs(score)) for _, score in theirs]
    for i, ((_, wanted), (_, found)) in enumerate(zip(theirs, ours, strict=True)):
        if abs(wanted - found) > near[i]:
            return f"hit {i + 1} has the score {found:.6g}, not {wanted:.6g}"
    last = theirs[-1][1] if theirs else 0.0
    missing = {id for id, score in theirs if score > last + near[-1]} - {id for id, _ in ours}
    return f"{sorted(missing)[0]} is not among them" if missing else ""
