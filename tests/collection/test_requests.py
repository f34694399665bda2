"""Requests, checked as data: what the engines are asked for, and what is refused before that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from qdrant_client import models

from m3qdrant import M3Embeddings, SparseVectors, TokenVectors
from m3qdrant.collection import EmbeddedQuery, Layout, M3Schema, Search, calls, check_queries
from m3qdrant.collection.requests import component_scores, search_request
from m3qdrant.errors import InputError
from m3qdrant.names import MODES, Mode

DIM, COLBERT_DIM = 6, 4


def embedded(tokens: int = 3, schema: M3Schema | None = None, terms: int = 2) -> EmbeddedQuery:
    unit = torch.nn.functional.normalize
    views = M3Embeddings(
        unit(torch.randn(1, DIM), dim=-1),
        SparseVectors(
            torch.tensor([0, terms]), torch.arange(terms, dtype=torch.int32), torch.ones(terms)
        ),
        TokenVectors(unit(torch.randn(tokens, COLBERT_DIM), dim=-1), torch.tensor([0, tokens])),
    )
    return EmbeddedQuery.of(views, Layout(schema or M3Schema(), DIM, COLBERT_DIM, None))


def legs_of(stage: models.QueryRequest | models.Prefetch | None) -> list[models.Prefetch]:
    """The prefetches of a request, or of one of its prefetches."""
    assert stage is not None
    assert isinstance(stage.prefetch, list)
    assert stage.prefetch
    return stage.prefetch


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"mode": "hybrid"}, "unknown mode 'hybrid'"),
        ({"limit": True}, "limit must be a whole number from 1, not True"),
        ({"offset": -1}, "offset must be a whole number from 0"),
        ({"ef": 0}, "ef must be a whole number from 1"),
        ({"group_by": "lang", "group_size": 0}, "group_size"),
        ({"group_by": ""}, "group_by is ''"),
        ({"group_size": 2}, "group_size needs group_by"),
        ({"group_by": "lang", "diversity": 0.5}, "can't be combined"),
        ({"diversity": 1.5}, "diversity must be a number from 0 to 1, not 1.5"),
        ({"diversity": float("nan")}, "diversity"),
        ({"score_threshold": "high"}, "score_threshold must be a number that is finite"),
        ({"oversampling": 0.5}, "oversampling must be a number from 1"),
        ({"with_vectors": "dense"}, "with_vectors is 'dense'"),
        ({"with_vectors": ["dense", "late"]}, r"with_vectors names \['late'\]"),
        ({"filter": 3}, "filter must be a mapping"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Search(**arguments)


@pytest.mark.parametrize(
    ("queries", "complaint"),
    [
        ("text", "texts or their embeddings, not str"),
        (["one", " \n"], "query #1 is empty"),
        (["one", 2], "query #1 is a text or its embeddings, not int"),
        ([""], "the query is empty"),
        (None, "not NoneType"),
    ],
)
def test_wrong_queries_are_named(queries: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check_queries(queries)


@pytest.mark.parametrize("mode", MODES)
def test_pages_are_cut_by_the_engine_unless_hits_are_grouped_or_diversified(
    mode: Mode,
) -> None:
    plain = search_request(embedded(), Search(mode, limit=4, offset=6, candidates=5))
    assert plain is not None
    assert (plain.limit, plain.offset) == (4, 6)
    diverse = search_request(embedded(), Search(mode, 4, 50, offset=6, diversity=0.3))
    assert diverse is not None
    assert (diverse.limit, diverse.offset, diverse.with_vector) == (50, None, ["dense"])
    grouped = Search(mode, 4, 50, offset=6, group_by="lang", group_size=20)
    request = search_request(embedded(), grouped)
    assert request is not None
    arguments = calls.query_points_groups(
        "c", request, group_by="lang", limit=grouped.depth, group_size=grouped.group_size
    ).arguments
    assert (arguments["limit"], arguments["group_size"], arguments["group_by"]) == (10, 20, "lang")


def test_the_first_stage_holds_at_least_what_the_page_needs() -> None:
    for options, wanted in (
        ({"limit": 7, "candidates": 3}, 7),
        ({"limit": 7, "offset": 30, "candidates": 3}, 37),
        ({"limit": 2, "candidates": 3, "group_by": "lang", "group_size": 9}, 18),
        ({"limit": 2, "candidates": 40}, 40),
    ):
        request = search_request(embedded(), Search("weighted", **options))
        assert {leg.limit for outer in legs_of(request) for leg in legs_of(outer)} == {wanted}


def test_a_threshold_on_the_mean_becomes_one_on_the_sum() -> None:
    query = embedded(tokens=5)
    request = search_request(query, Search("colbert", score_threshold=0.5))
    assert request is not None
    assert request.score_threshold == pytest.approx(2.5)
    others: tuple[Mode, ...] = ("dense", "weighted", "rrf")
    for mode in others:
        request = search_request(query, Search(mode, score_threshold=0.5))
        assert request is not None
        assert request.score_threshold == 0.5


def test_quantized_vectors_find_and_the_originals_score() -> None:
    query = embedded(schema=M3Schema(dense_quantization="int8", colbert_quantization="int8"))
    request = search_request(query, Search("weighted", oversampling=3.0, ef=77))
    legs = legs_of(request)
    originals = models.SearchParams(quantization=models.QuantizationSearchParams(ignore=True))
    assert {leg.using: leg.params for leg in legs} == {
        "dense": originals,
        "sparse": None,
        "colbert": originals,
    }
    for leg in legs:
        (first,) = [inner for inner in legs_of(leg) if inner.using == "dense"]
        assert first.params is not None
        assert first.params.hnsw_ef == 77
        assert first.params.quantization == models.QuantizationSearchParams(
            rescore=True, oversampling=3.0
        )
    request = search_request(query, Search("dense", exact=True))
    assert request is not None
    assert request.params is not None
    assert request.params.exact is True
    assert request.params.quantization == models.QuantizationSearchParams(ignore=True)
    plain = search_request(embedded(), Search("dense"))
    assert plain is not None
    assert plain.params is None


def test_a_query_too_long_for_qdrant_is_merged_and_its_mean_is_over_all_tokens() -> None:
    layout = Layout(M3Schema(colbert_datatype="float32"), DIM, 262_144, None)
    assert layout.max_tokens == 3
    tokens = torch.zeros(5, 262_144)
    tokens[torch.arange(5), torch.tensor([0, 0, 0, 1, 2])] = 1.0
    views = M3Embeddings(
        torch.ones(1, DIM),
        SparseVectors(torch.tensor([0, 0]), torch.empty(0, dtype=torch.int32), torch.empty(0)),
        TokenVectors(tokens, torch.tensor([0, 5])),
    )
    query = EmbeddedQuery.of(views, layout)
    assert (len(query.colbert), query.tokens) == (3, 5)
    # three equal tokens are one of three times the length, so MAX_SIM's sum is as before
    assert [max(vector) for vector in query.colbert] == [3.0, 1.0, 1.0]
    point = models.ScoredPoint(id=1, version=0, score=5.0)
    (scores,) = component_scores(query, [1], [("colbert", [point])])
    assert scores["colbert"] == 1.0
