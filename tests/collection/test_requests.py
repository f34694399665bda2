"""Requests, checked as data: what the engines are asked for, and what is refused before that."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from qdrant_client import models

from m3qdrant import M3Embeddings, SparseVectors, TokenVectors
from m3qdrant.collection import EmbeddedQuery, Layout, M3Schema, Search, check_queries
from m3qdrant.collection.requests import component_requests, component_scores, list_request
from m3qdrant.errors import InputError

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


def test_numbers_of_any_library() -> None:
    numbers: Any = {
        "limit": np.int64(3), "score_threshold": Decimal("0.5"), "diversity": np.float32(1),
    }  # fmt: skip
    search = Search(**numbers)
    assert (search.limit, search.score_threshold, search.diversity) == (3, 0.5, 1.0)


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


def test_lists_are_ids_and_scores_of_the_whole_collection() -> None:
    condition = models.Filter(must=[models.HasIdCondition(has_id=[1])])
    search = Search("weighted", limit=4, offset=6, candidates=5, filter=condition)
    for name in ("dense", "sparse"):
        request = list_request(embedded(), search, name, 5)
        assert (request.using, request.limit, request.offset) == (name, 5, None)
        assert (request.with_payload, request.with_vector) == (False, None)
        assert request.filter == condition
        assert request.params is None


def test_behind_what_an_index_found_nothing_is_missed() -> None:
    condition = models.Filter(should=[models.HasIdCondition(has_id=[1, 2])])
    query = embedded(schema=M3Schema(dense_quantization="int8"))
    request = list_request(query, Search("dense", filter=condition), "dense", 5, beyond=[1, 3])
    assert request.params is not None
    assert request.params.exact is True
    assert request.params.quantization == models.QuantizationSearchParams(ignore=True)
    assert request.filter is not None
    assert request.filter.must == [
        condition,
        models.Filter(must_not=[models.HasIdCondition(has_id=[1, 3])]),
    ]


def test_quantized_vectors_find_and_the_originals_score() -> None:
    query = embedded(schema=M3Schema(dense_quantization="int8", colbert_quantization="int8"))
    originals = models.SearchParams(
        exact=True, quantization=models.QuantizationSearchParams(ignore=True)
    )
    requests = component_requests(query, [7, 9])
    assert {name: request.params for name, request in requests} == {
        "dense": originals,
        "sparse": None,
        "colbert": originals,
    }
    for _, request in requests:
        assert request.limit == 2
        assert request.filter == models.Filter(must=[models.HasIdCondition(has_id=[7, 9])])
    first = list_request(query, Search("weighted", oversampling=3.0, ef=77), "dense", 9)
    assert first.params is not None
    assert first.params.hnsw_ef == 77
    assert first.params.quantization == models.QuantizationSearchParams(
        rescore=True, oversampling=3.0
    )
    exact = list_request(query, Search("dense", exact=True), "dense", 9)
    assert exact.params is not None
    assert exact.params.exact is True
    assert exact.params.quantization == models.QuantizationSearchParams(ignore=True)


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
    scores = component_scores(query, [("colbert", [point])])
    assert scores == {"dense": {}, "sparse": {}, "colbert": {1: 1.0}}
