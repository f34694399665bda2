"""What would damage a collection is refused before the engine sees it, with all of its batch.

Each trap here panicked the engine, or was stored as something else, when it got through.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import (
    CollectionNotFoundError,
    InputError,
    PointError,
    UnsupportedError,
)
from m3qdrant.limits import MAX_NESTING, MULTIVECTOR_LIMIT
from tests.edge.small import named

NAME = "docs"
DIM, TOKEN_DIM = 6, 4

GOOD: dict[str, Any] = {
    "dense": [0.1 * i for i in range(1, DIM + 1)],
    "half": [1.0, 2.0],
    "colbert": [[0.5] * TOKEN_DIM, [0.25] * TOKEN_DIM],
    "sparse": models.SparseVector(indices=[3, 7], values=[0.5, 1.0]),
}


def make_collection(path: Path) -> None:
    maxsim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    cosine, dot = models.Distance.COSINE, models.Distance.DOT
    half = models.Datatype.FLOAT16
    with QdrantEdge(path) as client:
        client.create_collection(
            NAME,
            {
                "dense": models.VectorParams(size=DIM, distance=cosine),
                "half": models.VectorParams(size=2, distance=dot, datatype=half),
                "colbert": models.VectorParams(
                    size=TOKEN_DIM,
                    distance=cosine,
                    multivector_config=maxsim,
                    hnsw_config=models.HnswConfigDiff(m=0),
                ),
                "wide": models.VectorParams(size=1024, distance=dot, multivector_config=maxsim),
            },
            {"sparse": models.SparseVectorParams()},
        )
        client.upsert(NAME, [point(1), point(2)])


@pytest.fixture
def client(tmp_path: Path) -> Iterator[QdrantEdge]:
    """A collection of two points."""
    make_collection(tmp_path / "data")
    with QdrantEdge(tmp_path / "data") as client:
        yield client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for tests that change nothing: that they don't is what they test."""
    path = tmp_path_factory.mktemp("checks") / "data"
    make_collection(path)
    return path


def point(id: Any, payload: Any = None, **vectors: Any) -> models.PointStruct:
    """A point as the hot path builds it, without pydantic's checks."""
    payload = {"n": 1} if payload is None else payload
    return models.PointStruct.model_construct(id=id, vector={**GOOD, **vectors}, payload=payload)


def sparse(indices: Any, values: Any) -> models.SparseVector:
    return models.SparseVector.model_construct(indices=indices, values=values)


def nested(levels: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for _ in range(levels - 1):
        out = {"a": out}
    return out


ROW = [0.5] * TOKEN_DIM
NAN, INF = float("nan"), float("inf")

TRAPS: dict[str, tuple[models.PointStruct, str, str]] = {
    # name: (point, field, words of the reason)
    "ragged": (point(9, colbert=[ROW, ROW[:3]]), "colbert", "token 1: 3 numbers.*keeps 4"),
    "ragged-even": (
        point(9, colbert=[ROW[:3], [*ROW, 0.1], ROW]),
        "colbert",
        "token 0: 3 numbers",
    ),
    "ragged-arrays": (
        point(9, colbert=[np.ones(4), np.ones(5)]),
        "colbert",
        "token 1: 5 numbers",
    ),
    "double-width": (point(9, colbert=np.ones((2, 8), np.float32)), "colbert", "8 numbers"),
    "multi-flat": (point(9, colbert=[0.5] * 8), "colbert", "flat list.*list of token vectors"),
    "multi-1d": (point(9, colbert=np.ones(8)), "colbert", r"shape \(8,\)"),
    "multi-3d": (point(9, colbert=np.ones((1, 2, 4))), "colbert", r"shape \(1, 2, 4\)"),
    "multi-empty": (point(9, colbert=[]), "colbert", "no token.*leave the vector out"),
    "multi-empty-array": (point(9, colbert=np.ones((0, 4))), "colbert", "no token"),
    "multi-nan": (point(9, colbert=[ROW, [0.1, NAN, 0.1, 0.1]]), "colbert", "token 1, position 1"),
    "multi-inf-array": (
        point(9, colbert=np.array([ROW, [INF] * 4], np.float32)),
        "colbert",
        "token 1, position 0 is inf",
    ),
    "tokens-1024": (
        point(9, wide=np.ones((1024, 1024), np.float32)),
        "wide",
        "at most 1023 tokens.*split",
    ),
    "dense-short": (point(9, dense=[0.1] * 5), "dense", "5 numbers, where the collection keeps 6"),
    "dense-long-array": (point(9, dense=np.ones(7)), "dense", "7 numbers"),
    "dense-empty": (point(9, dense=[]), "dense", "0 numbers"),
    "dense-2d": (point(9, dense=np.ones((1, 6))), "dense", r"shape \(1, 6\)"),
    "dense-nested": (point(9, dense=[[0.1] * 6]), "dense", "1 numbers"),
    "dense-nan": (point(9, dense=[0.1, NAN, 0.1, 0.1, 0.1, 0.1]), "dense", "position 1 is nan"),
    "dense-inf-array": (point(9, dense=np.full(6, INF)), "dense", "position 0 is inf"),
    "dense-string": (point(9, dense=[0.1] * 5 + ["x"]), "dense", "position 5 is a str"),
    "dense-none": (point(9, dense=[0.1] * 5 + [None]), "dense", "position 5 is a NoneType"),
    "dense-text": (point(9, dense="abcdef"), "dense", "a str, where 6 numbers belong"),
    "dense-strings": (point(9, dense=np.array(list("abcdef"))), "dense", "pass float32"),
    "dense-beyond-float32": (point(9, dense=[1e39] * 6), "dense", "position 0 is inf"),
    "dense-float64-overflow": (point(9, dense=np.full(6, 1e39)), "dense", "position 0 is inf"),
    "cosine-norm-overflow": (point(9, dense=[1e25] * 6), "dense", "squared norm overflows"),
    "half-overflow": (point(9, half=[70000.0, 1.0]), "half", "float16, at most 65504"),
    "dense-sparse": (point(9, dense=GOOD["sparse"]), "dense", "a sparse vector, where"),
    "document": (
        point(9, dense=models.Document(text="x", model="y")),
        "dense",
        "Document needs an inference service",
    ),
    "sparse-list": (point(9, sparse=[0.1, 0.2]), "sparse", "models.SparseVector"),
    "sparse-twice": (
        point(9, sparse=sparse([4, 2, 4], [1.0, 2.0, 3.0])),
        "sparse",
        "index 4.*twice",
    ),
    "sparse-unequal": (point(9, sparse=sparse([1, 2], [1.0])), "sparse", "2 indices and 1 values"),
    "sparse-nan": (point(9, sparse=sparse([1, 2], [1.0, NAN])), "sparse", "position 1 is nan"),
    "sparse-negative": (
        point(9, sparse=sparse([-1, 2], [1.0, 1.0])),
        "sparse",
        "from 0 to 4294967295",
    ),
    "sparse-u32": (point(9, sparse=sparse([2**32], [1.0])), "sparse", "from 0 to 4294967295"),
    "sparse-huge": (point(9, sparse=sparse([2**70], [1.0])), "sparse", "from 0 to 4294967295"),
    "sparse-float-index": (point(9, sparse=sparse([1.5], [1.0])), "sparse", "must be integers"),
    "sparse-words": (point(9, sparse=sparse(["a"], [1.0])), "sparse", "must be integers"),
    "unknown-vector": (point(9, dence=[0.1]), "dence", "no vector of this name; it has 'dense'"),
    "payload-nan": (point(9, {"a": {"b": [1, NAN]}}), "payload", r"a\.b\[1\] is nan.*use None"),
    "payload-inf": (point(9, {"a": np.float32("inf")}), "payload", "a is inf"),
    "payload-key": (point(9, {"a": {1: 2, "1": 3}}), "payload", "the keys under a become one"),
    "payload-type": (point(9, {"a": object()}), "payload", "a is a object, which JSON lacks"),
    "payload-bytes": (point(9, {"a": b"\xff"}), "payload", "a is a bytes"),
    "payload-int": (point(9, {"a": 2**64}), "payload", "beyond 64 bits"),
    "payload-surrogate": (point(9, {"a": "\ud800"}), "payload", "surrogate"),
    "payload-deep": (point(9, nested(MAX_NESTING + 1)), "payload", "nests deeper than 64"),
    "payload-list": (point(9, ["a"]), "payload", "where a dict belongs"),
    "id-negative": (point(-1), "id", "integer from 0 to"),
    "id-large": (point(2**64), "id", "integer from 0 to"),
    "id-float": (point(1.0), "id", "1.0 is no point id"),
    "id-bool": (point(True), "id", "True is no point id"),
    "id-word": (point("doc-1"), "id", "uuid5"),
    "id-empty": (point(""), "id", "'' is no point id"),
    "id-none": (point(None), "id", "None is no point id"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_leaves_the_collection_untouched(shared: Path, name: str) -> None:
    bad, field, words = TRAPS[name]
    with QdrantEdge(shared) as client:
        before = client.retrieve(NAME, [1, 2], with_vectors=True)
        with pytest.raises(PointError, match=f"(?s)^point .*: {field}: .*{words}") as caught:
            client.upsert(NAME, [point(1, {"n": 2}), point(50), bad, point(51)])
    assert caught.value.field == field
    assert caught.value.id == ("9" if field != "id" else "#2")

    with QdrantEdge(shared) as again:
        assert again.count(NAME).count == 2
        assert again.retrieve(NAME, [1, 2], with_vectors=True) == before


def test_the_unnamed_vector_where_names_are_needed(client: QdrantEdge) -> None:
    unnamed = models.PointStruct.model_construct(id=9, vector=[0.1] * DIM, payload=None)
    with pytest.raises(PointError, match="pass a dict by name; the collection has 'dense'"):
        client.upsert(NAME, [unnamed])


def test_batches_that_are_wrong_as_a_whole(client: QdrantEdge) -> None:
    with pytest.raises(InputError, match="the batch is empty"):
        client.upsert(NAME, [])
    with pytest.raises(InputError, match="2 ids and 1 vectors"):
        client.upsert(NAME, models.Batch.model_construct(ids=[1, 2], vectors={"half": [[1, 2]]}))
    with pytest.raises(InputError, match="1 ids and 2 payloads"):
        client.upsert(
            NAME,
            models.Batch.model_construct(
                ids=[1], vectors={"half": [[1.0, 2.0]]}, payloads=[{}, {}]
            ),
        )
    with pytest.raises(InputError, match="point #0 is a dict"):
        client.upsert(NAME, [{"id": 1, "vector": {}}])  # type: ignore[list-item]
    assert client.count(NAME).count == 2


def test_what_is_fine_is_taken(client: QdrantEdge) -> None:
    """Every form that a vector, an id or a payload may take, and the values that come back."""
    id = uuid.uuid4()
    dense = np.arange(1, DIM + 1, dtype=np.float64)
    points = [
        point(10, dense=dense, colbert=np.ones((3, 4), np.float16)),
        point(11, dense=tuple(dense.tolist()), colbert=[np.ones(4, np.float32)] * 3),
        point(12, dense=np.arange(2, 14)[::2], colbert=np.asfortranarray(np.ones((3, 4)))),
        point(13, dense=[1, 2, 3, 4, 5, 6], colbert=[(1, 1, 1, 1)] * 3),
        point(np.int64(14), dense=dense, colbert=np.ones((3, 4))),
        point(id, dense=dense, colbert=np.ones((3, 4))),
        point(str(id).replace("-", "").upper(), dense=dense, colbert=np.ones((3, 4))),
        point(15, half=[65504.0, -1.0], sparse=sparse(np.array([9, 3, 2**32 - 1]), [1, 2, 3])),
        point(16, sparse=sparse([], [])),
        models.PointStruct.model_construct(id=17, vector={"dense": dense}, payload=None),
        models.PointStruct.model_construct(id=2**64 - 1, vector={}, payload={}),
        point(18, wide=np.ones((1023, 1024), np.float32)),
        point(19, dense=[0.0] * DIM),
        point(20, nested(MAX_NESTING)),
        point(
            21,
            {
                "when": datetime(2024, 1, 2, 3),
                "id": uuid.UUID(int=1),
                "pair": (1, 2),
                "np": np.float32(0.5),
                "big": 2**64 - 1,
                "min": -(2**63),
                "text": "日本語 😀 \0",
                "none": None,
            },
        ),
    ]
    client.upsert(NAME, points)
    client.close()
    with QdrantEdge(client.path) as again:
        assert again.count(NAME).count == 2 + len(points) - 1
        read = {r.id: r for r in again.scroll(NAME, limit=99, with_vectors=True)[0]}
        unit = dense / np.linalg.norm(dense)
        for key in (10, 11, 12, 13, 14, str(id), 17):
            np.testing.assert_allclose(named(read[key])["dense"], unit, atol=1e-6)
        for key in (10, 11, 12, 13, 14, str(id)):
            assert named(read[key])["colbert"] == [[0.5] * 4] * 3
        assert named(read[15])["sparse"].indices == [3, 9, 2**32 - 1]
        assert named(read[15])["sparse"].values == [2.0, 1.0, 3.0]
        assert named(read[15])["half"] == [65504.0, -1.0]
        assert len(named(read[18])["wide"]) == 1023
        assert read[20].payload == nested(MAX_NESTING)
        assert read[21].payload == {
            "when": "2024-01-02T03:00:00",
            "id": str(uuid.UUID(int=1)),
            "pair": [1, 2],
            "np": 0.5,
            "big": 2**64 - 1,
            "min": -(2**63),
            "text": "日本語 😀 \0",
            "none": None,
        }


def test_the_last_of_two_points_with_one_id_stays(client: QdrantEdge) -> None:
    client.upsert(NAME, [point(5, {"n": 1}), point(5, {"n": 2})])
    assert client.retrieve(NAME, [5])[0].payload == {"n": 2}
    assert client.count(NAME).count == 3


DEEP_FILTER = models.Filter()
for _ in range(40):
    DEEP_FILTER = models.Filter(must=[DEEP_FILTER])

DENSE = GOOD["dense"]

QUERIES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "short": ({"query": [0.1], "using": "dense"}, InputError, "'dense': 1 numbers"),
    "nan": ({"query": [NAN] * DIM, "using": "dense"}, InputError, "position 0 is nan"),
    "ragged": ({"query": [ROW, ROW[:2]], "using": "colbert"}, InputError, "token 1: 2 numbers"),
    "flat": ({"query": ROW, "using": "colbert"}, InputError, "list of token vectors"),
    "tokens": ({"query": np.ones((1024, 1024)), "using": "wide"}, InputError, "at most 1023"),
    "no-token": ({"query": np.ones((0, 4)), "using": "colbert"}, InputError, "no token"),
    "unknown": ({"query": DENSE, "using": "dence"}, InputError, "it has 'dense', 'half'"),
    "no-using": ({"query": DENSE}, InputError, "pass using=, one of 'dense'"),
    "sparse-twice": (
        {"query": sparse([1, 1], [1.0, 1.0]), "using": "sparse"},
        InputError,
        "index 1 stands there twice",
    ),
    "by-missing-id": ({"query": 9, "using": "dense"}, InputError, "no point 9 in 'docs'"),
    "by-missing-uuid": (
        {"query": str(uuid.uuid4()), "using": "dense"},
        InputError,
        "there is no point '",
    ),
    "by-no-id": ({"query": "some text", "using": "dense"}, InputError, "'some text' is no point"),
    "by-absent-vector": ({"query": 1, "using": "wide"}, InputError, "point 1 .* has no vector"),
    "by-unknown-vector": ({"query": 1, "using": "dence"}, InputError, "no vector of this name"),
    "recommend-nothing": (
        {"query": models.RecommendQuery(recommend=models.RecommendInput()), "using": "dense"},
        InputError,
        "needs positive examples",
    ),
    "recommend-nan": (
        {
            "query": models.RecommendQuery.model_construct(
                recommend=models.RecommendInput.model_construct(
                    positive=[[NAN] * DIM], negative=[], strategy="best_score"
                )
            ),
            "using": "dense",
        },
        InputError,
        "position 0 is nan",
    ),
    "recommend-size": (
        {
            "query": models.RecommendQuery(
                recommend=models.RecommendInput(positive=[1, [1.0] * 3])
            ),
            "using": "dense",
        },
        InputError,
        "3 numbers, where the collection keeps 6",
    ),
    "context-empty": (
        {"query": models.ContextQuery(context=[]), "using": "dense"},
        InputError,
        "pass at least one",
    ),
    "lookup": (
        {"query": 1, "using": "dense", "lookup_from": models.LookupLocation(collection="x")},
        CollectionNotFoundError,
        "Collection x not found",
    ),
    "fusion-alone": (
        {"query": models.FusionQuery(fusion=models.Fusion.RRF)},
        InputError,
        "pass prefetch=",
    ),
    "rrf-weights": (
        {
            "query": models.RrfQuery(rrf=models.Rrf(weights=[1.0])),
            "prefetch": [models.Prefetch(query=DENSE, using="dense")] * 2,
        },
        InputError,
        "1 weights for 2 prefetches",
    ),
    "prefetch-nan": (
        {
            "query": DENSE,
            "using": "dense",
            "prefetch": models.Prefetch.model_construct(query=[NAN] * DIM, using="dense"),
        },
        InputError,
        "position 0 is nan",
    ),
    "limit": ({"query": DENSE, "using": "dense", "limit": 0}, InputError, "limit is 0"),
    "offset": ({"query": DENSE, "using": "dense", "offset": -1}, InputError, "offset is -1"),
    "deep-filter": (
        {"query": DENSE, "using": "dense", "query_filter": DEEP_FILTER},
        InputError,
        "filter nests deeper",
    ),
    "no-filter": (
        {"query": DENSE, "using": "dense", "query_filter": 5},
        InputError,
        "a int is no filter",
    ),
    "empty-condition": (
        {"query_filter": models.Filter(must=[models.FieldCondition(key="a")])},
        InputError,
        "'a' says nothing",
    ),
    "vectors-unknown": (
        {"query": DENSE, "using": "dense", "with_vectors": ["dence"]},
        InputError,
        "'dence', and the collection has 'dense'",
    ),
    "shard-key": (
        {"query": DENSE, "using": "dense", "shard_key_selector": "x"},
        UnsupportedError,
        "no shard keys",
    ),
    "typo": ({"query": DENSE, "using": "dense", "limt": 3}, InputError, "unknown arguments: limt"),
    "geo": (
        {
            "query_filter": models.Filter(
                must=[
                    models.FieldCondition(
                        key="a",
                        geo_radius=models.GeoRadius(
                            center=models.GeoPoint(lon=500, lat=0), radius=1.0
                        ),
                    )
                ]
            )
        },
        InputError,
        "within",
    ),
    "constant": (
        {
            "query": models.FormulaQuery(formula=models.SumExpression(sum=["$score", NAN])),
            "prefetch": [models.Prefetch(query=DENSE, using="dense")],
        },
        InputError,
        "every constant must be finite",
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_wrong_query_says_what_is_wrong(shared: Path, name: str) -> None:
    kwargs, error, words = QUERIES[name]
    with QdrantEdge(shared) as client:
        with pytest.raises(error, match=words):
            client.query_points(NAME, **kwargs)
        assert len(client.query_points(NAME, DENSE, using="dense").points) == 2


def test_a_deep_filter_is_not_logged(client: QdrantEdge) -> None:
    """The engine logs a deletion by filter; one nested too deep could not be read back."""
    with pytest.raises(InputError, match="nests deeper"):
        client.delete(NAME, DEEP_FILTER)
    deepest = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(gt=5))])
    for _ in range(MAX_NESTING // 4 - 1):
        deepest = models.Filter(
            must=[models.NestedCondition(nested=models.Nested(key="a", filter=deepest))]
        )
    client.delete(NAME, deepest)
    client.close()
    with QdrantEdge(client.path) as again:
        assert again.count(NAME).count == 2


def test_payload_writes_are_checked(client: QdrantEdge) -> None:
    with pytest.raises(InputError, match="a is nan"):
        client.set_payload(NAME, {"a": NAN}, [1])
    with pytest.raises(InputError, match="no point id"):
        client.set_payload(NAME, {"a": 1}, ["x"])
    with pytest.raises(InputError, match="no point id"):
        client.delete(NAME, ["x", 1])
    with pytest.raises(InputError, match="there are no points 8, 9: nothing was written"):
        client.set_payload(NAME, {"a": 1}, [1, 8, 9])
    with pytest.raises(InputError, match="there are no points 8"):
        client.clear_payload(NAME, models.PointIdsList(points=[1, 8]))
    with pytest.raises(InputError, match="list of point ids is empty"):
        client.delete(NAME, [])
    with pytest.raises(InputError, match="invalid JSON path"):
        client.set_payload(NAME, {"a": 1}, [1], key="a..b")
    with pytest.raises(InputError, match="more than 32 steps"):
        client.set_payload(NAME, {"a": 1}, [1], key="a" + ".a" * 150)
    with pytest.raises(InputError, match="nests deeper"):
        client.set_payload(NAME, nested(MAX_NESTING + 1), [1])
    assert client.retrieve(NAME, [1])[0].payload == {"n": 1}
    client.set_payload(NAME, nested(MAX_NESTING), [2], key="a" + ".a" * (MAX_NESTING // 2))
    client.close()
    with QdrantEdge(client.path) as again:
        assert again.retrieve(NAME, [1])[0].payload == {"n": 1}
        assert (again.retrieve(NAME, [2])[0].payload or {})["n"] == 1


def test_the_limit_is_the_servers() -> None:
    assert (MULTIVECTOR_LIMIT - 1) // 1024 == 1023
