"""as_filter: what it builds, on an in-memory collection, and what it refuses."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from m3qdrant.collection.filters import as_filter
from m3qdrant.errors import InputError

POINTS: dict[int, dict[str, Any]] = {
    1: {"lang": "de", "year": 2019, "draft": False, "tags": ["a", "b"], "price": 1.5},
    2: {"lang": "de", "year": 2021, "draft": True, "day": "2021-05-01T00:00:00Z"},
    3: {"lang": "en", "year": 2024, "draft": False, "meta": {"by": "x"}, "tags": []},
    4: {"lang": "fr", "gone": None},
}


@pytest.fixture(scope="module")
def client() -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config={})
    client.upsert(
        "c", [models.PointStruct(id=i, vector={}, payload=load) for i, load in POINTS.items()]
    )
    return client


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (None, {1, 2, 3, 4}),
        ({}, {1, 2, 3, 4}),
        ({"lang": "de"}, {1, 2}),
        ({"lang": "de", "year": {"gte": 2020}}, {2}),
        ({"lang": ["de", "fr"]}, {1, 2, 4}),
        ({"lang": ("de",)}, {1, 2}),
        ({"year": [2019, 2024]}, {1, 3}),
        ({"year": 2019}, {1}),
        ({"year": {"gt": 2019, "lt": 2024}}, {2}),
        ({"year": {"gte": 2019, "lte": 2021}}, {1, 2}),
        ({"price": 1.5}, {1}),
        ({"price": {"lt": 1.5}}, set()),
        ({"draft": True}, {2}),
        ({"draft": {"not": True}}, {1, 3, 4}),
        ({"lang": {"not": ["de", "en"]}}, {4}),
        ({"lang": "de", "draft": {"not": True}}, {1}),
        ({"tags": "b"}, {1}),
        ({"tags": None}, {2, 3, 4}),
        ({"tags": {"not": None}}, {1}),
        ({"gone": None}, {1, 2, 3, 4}),
        ({"meta.by": "x"}, {3}),
        ({"day": {"gte": dt.datetime(2021, 1, 1, tzinfo=dt.timezone.utc)}}, {2}),
        ({"day": {"lt": "2021-01-01T00:00:00Z"}}, set()),
        (models.Filter(must=[models.HasIdCondition(has_id=[3])]), {3}),
    ],
)
def test_what_passes(client: QdrantClient, filter: Any, expected: set[int]) -> None:
    found, _ = client.scroll("c", scroll_filter=as_filter(filter), limit=10)
    assert {point.id for point in found} == expected


@pytest.mark.parametrize(
    ("filter", "complaint"),
    [
        ("lang=de", "must be a mapping"),
        (["lang"], "must be a mapping"),
        ({1: "x"}, "1 is no payload key"),
        ({"": "x"}, "no payload key"),
        ({"lang": []}, "lang: a list"),
        ({"lang": ["a", 1]}, "lang: a list"),
        ({"lang": [1.5]}, "lang: a list"),
        ({"year": {"gte": 1, "until": 2}}, "year: can't read"),
        ({"year": {}}, "year: can't read"),
        ({"year": {"gte": 1, "lt": "2020"}}, "year: .* all numbers or all datetimes"),
        ({"year": {"gte": True}}, "year: .* all numbers"),
        ({"day": {"gte": "yesterday"}}, "day: .* no ISO 8601 date"),
        ({"lang": object()}, "lang: can't read"),
        ({"lang": {"not": object()}}, "lang: can't read"),
    ],
)
def test_what_is_refused_names_the_key(filter: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        as_filter(filter)
