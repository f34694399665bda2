"""Queries that a server answers by more than its engine: text, matrices, samples, formulas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as engine
from qdrant_client import QdrantClient, models

from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import InputError, UnsupportedError
from tests.edge.corpus import CONFIG, DENSE, NAME, POINTS, N


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[QdrantClient, QdrantEdge]]:
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path_factory.mktemp("queries")) as embedded:
        for client in (memory, embedded):
            client.create_collection(NAME, **CONFIG)
            client.upsert(NAME, POINTS)
        yield memory, embedded


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[QdrantEdge]:
    """Forty points in two groups, of which the first has the better thirty."""
    with QdrantEdge(tmp_path / "data") as client:
        client.create_collection("t", models.VectorParams(size=2, distance=models.Distance.DOT))
        client.upsert(
            "t",
            [
                models.PointStruct(
                    id=i,
                    vector=[1.0, i / 100] if i < 30 else [0.5, i / 1000],
                    payload={"doc": "a" if i < 30 else 7, "text": "hello " * (i + 1)},
                )
                for i in range(40)
            ],
        )
        yield client


@pytest.mark.parametrize(
    "query",
    [
        [1.0, 1.0],
        models.FusionQuery(fusion=models.Fusion.RRF),
        models.FusionQuery(fusion=models.Fusion.DBSF),
    ],
    ids=["vector", "rrf", "dbsf"],
)
def test_a_full_group_makes_room_in_the_prefetches(plane: QdrantEdge, query: Any) -> None:
    prefetch = models.Prefetch(query=[1.0, 1.0], limit=5)
    found = plane.query_points_groups(
        "t", "doc", query, prefetch=[prefetch], limit=2, group_size=2
    )
    assert [(group.id, len(group.hits)) for group in found.groups] == [("a", 2), (7, 2)]
    assert [hit.id for hit in found.groups[0].hits] == [29, 28]
    assert [hit.id for hit in found.groups[1].hits] == [39, 38]


def test_text_is_ranked_by_bm25(plane: QdrantEdge) -> None:
    plane.create_payload_index(
        "t", "text", models.TextIndexParams(type=models.TextIndexType.TEXT, scoring=True)
    )
    query = models.TextQuery(text="hello")
    best = plane.query_points("t", query, using="text", limit=3).points
    assert [point.id for point in best] == [39, 38, 37]
    weak = models.TextQuery(
        text=models.TextQueryInput(
            query="hello", scoring=models.Bm25Scoring(bm25=models.Bm25Params(k=0.0, b=0.0))
        )
    )
    flat = plane.query_points("t", weak, using="text", limit=40).points
    assert [point.score for point in flat] == pytest.approx([flat[0].score] * 40, rel=1e-5)
    fused = plane.query_points(
        "t",
        models.FusionQuery(fusion=models.Fusion.RRF),
        prefetch=[
            models.Prefetch(query=query, using="text", limit=1),
            models.Prefetch(query=[0.0, 1.0], limit=1),
        ],
    ).points
    assert {point.id for point in fused} == {39, 29}
    with pytest.raises(InputError, match="needs using="):
        plane.query_points("t", query)


def test_a_samples_offset_counts_for_nothing(plane: QdrantEdge) -> None:
    sample = models.SampleQuery(sample=models.Sample.RANDOM)
    for limit, offset in ((10, 0), (30, 20), (40, 35), (5, 40)):
        points = plane.query_points("t", sample, limit=limit, offset=offset).points
        assert len({point.id for point in points}) == len(points) == limit


def test_facets_of_one_count_are_in_the_order_of_their_values(plane: QdrantEdge) -> None:
    names = [f"v{i:02}" for i in range(40)]
    for i, name in enumerate(reversed(names)):
        plane.set_payload("t", {"tag": ["all", name]}, points=[i])
    for limit in (1, 2, 7, 60):
        hits = plane.facet("t", "tag", limit=limit).hits
        assert [hit.value for hit in hits] == ["all", *names][:limit]


def test_mmr_of_sparse_vectors_says_what_there_is(tmp_path: Path) -> None:
    with QdrantEdge(tmp_path / "data") as client:
        client.create_collection("s", sparse_vectors_config={"a": models.SparseVectorParams()})
        query = models.NearestQuery(
            nearest=models.SparseVector(indices=[1], values=[1.0]), mmr=models.Mmr()
        )
        with pytest.raises(UnsupportedError, match="no MMR over sparse vectors"):
            client.query_points("s", query, using="a")


@pytest.mark.parametrize("with_vectors", [False, True, ["dense"]], ids=str)
def test_mmr_gives_no_vectors_that_werent_asked_for(
    clients: tuple[QdrantClient, QdrantEdge], with_vectors: Any
) -> None:
    query = models.NearestQuery(nearest=DENSE, mmr=models.Mmr(diversity=0.4, candidates_limit=20))
    pages = [
        [
            client.query_points(
                NAME, query, using="dense", limit=4, offset=offset, with_vectors=with_vectors
            ).points
            for offset in (0, 4)
        ]
        for client in clients
    ]
    memory, embedded = pages
    assert [p.id for p in memory[0]] == [p.id for p in embedded[0]]
    assert not {p.id for p in embedded[0]} & {p.id for p in embedded[1]}
    for page in embedded:
        for point in page:
            names = set(point.vector) if isinstance(point.vector, dict) else None
            assert (names is None) == (with_vectors is False)
            if with_vectors == ["dense"]:
                assert names == {"dense"}


def test_matrices_are_those_of_the_sample(clients: tuple[QdrantClient, QdrantEdge]) -> None:
    memory, embedded = clients
    some = models.Filter(must=[models.HasIdCondition(has_id=[p.id for p in POINTS[:12]])])
    # all that the filter lets through are in the sample, so that nothing is random
    options: dict[str, Any] = {"sample": N, "limit": 3, "using": "dense", "query_filter": some}
    expected = memory.search_matrix_offsets(NAME, **options)
    got = embedded.search_matrix_offsets(NAME, **options)
    assert (got.ids, got.offsets_row) == (expected.ids, expected.offsets_row)
    assert got.offsets_col == expected.offsets_col
    assert got.scores == pytest.approx(expected.scores, abs=1e-5)
    pairs = embedded.search_matrix_pairs(NAME, **options).pairs
    assert [(pair.a, pair.b) for pair in pairs] == [
        (p.a, p.b) for p in memory.search_matrix_pairs(NAME, **options).pairs
    ]
    assert all(pair.a != pair.b for pair in pairs)
    sampled = embedded.search_matrix_offsets(NAME, sample=5, limit=2, using="dense")
    assert len(sampled.ids) == 5
    assert sampled.offsets_row == [i for i in range(5) for _ in range(2)]
    with pytest.raises(InputError, match="sample is 1"):
        embedded.search_matrix_pairs(NAME, sample=1, using="dense")
    with pytest.raises(InputError, match="limit is 0"):
        embedded.search_matrix_pairs(NAME, limit=0, using="dense")
    with pytest.raises(InputError, match="nope"):
        embedded.search_matrix_pairs(NAME, using="nope")


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        (models.SumExpression(sum=["$score", "p"]), "p "),
        (models.MultExpression(mult=[2.0, models.NegExpression(neg="a.b")]), "a.b "),
        (models.SumExpression(sum=["q", "p"]), "p or q "),
        (models.SumExpression(sum=[1.0, "doc"]), "doc "),
    ],
)
def test_a_formula_that_lacks_a_value_names_it(
    plane: QdrantEdge, formula: Any, names: str
) -> None:
    prefetch = models.Prefetch(query=[1.0, 0.0])
    with pytest.raises(InputError, match=f"^Expected number value for {names}in the payload"):
        plane.query_points("t", models.FormulaQuery(formula=formula), prefetch=prefetch)
    whole = models.FormulaQuery(
        formula=models.SumExpression(sum=["$score", "p"]), defaults={"p": 2.0}
    )
    assert plane.query_points("t", whole, prefetch=prefetch).points[0].score == 3.0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"prefetch": models.Prefetch(query=[1.0, 0.0])}, "prefetches without a query"),
        (
            {
                "query": [1.0, 0.0],
                "prefetch": models.Prefetch(prefetch=models.Prefetch(query=[1.0, 0.0])),
            },
            "a prefetch with prefetches needs a query",
        ),
        ({"query": [1.0, 0.0], "score_threshold": float("nan")}, "score_threshold is nan"),
        ({"query": [1.0, 0.0], "limit": 0}, "limit is 0"),
        ({"query": [1.0, 0.0], "offset": -1}, "offset is -1"),
        (
            {
                "query": models.NearestQuery.model_construct(
                    nearest=[1.0, 0.0],
                    mmr=models.Mmr.model_construct(diversity=1.5, candidates_limit=None),
                )
            },
            "diversity is 1.5",
        ),
        (
            {
                "query": [1.0, 0.0],
                "search_params": models.SearchParams(
                    quantization=models.QuantizationSearchParams.model_construct(
                        ignore=None, rescore=True, oversampling=0.5
                    )
                ),
            },
            "oversampling is 0.5",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_server_refuses(
    plane: QdrantEdge, arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        plane.query_points("t", **arguments)


def test_no_query_is_refused_that_the_engine_has() -> None:
    """A new engine's queries are translated, or this test says that they aren't."""
    kinds = {"ContextQuery", "DiscoverQuery", "FeedbackNaiveQuery", "RecommendQuery", "TextQuery"}
    there = {n for n in dir(engine) if n.endswith("Query") and n != "Query"}
    assert there == kinds
    steps = {name for name in dir(engine.Query) if name[0].isupper()}
    assert steps == {
        "Context", "Discover", "FeedbackNaive", "Nearest", "RecommendBestScore",
        "RecommendSumScores",
    }  # fmt: skip
