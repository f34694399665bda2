"""as_filter: what it builds, on an in-memory collection, and what it refuses."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3qdrant.collection.filters import as_filter, says_nothing
from m3qdrant.errors import InputError

POINTS: dict[int, dict[str, Any]] = {
    1: {"lang": "de", "year": 2019, "draft": False, "tags": ["a", "b"], "price": 1.5},
    2: {"lang": "de", "year": 2021, "draft": True, "day": "2021-05-01T00:00:00Z"},
    3: {"lang": "en", "year": 2024, "draft": False, "meta": {"by": "x"}, "tags": []},
    4: {"lang": "fr", "gone": None},
}
ODD: dict[int, dict[str, Any]] = {
    5: {"my key": 1, "rdfs:sub": "x", "@id": 1, "a/b": 2, "a.b": 1, "k[0]": 1},
    6: {"a": {"b": 1}, "k": [1, 2]},
}
"""Keys that are no paths as they are spelt, or read as paths to elsewhere."""


class Lang(Enum):
    DE = "de"


def least(count: int) -> models.Filter:
    one = models.FieldCondition(key="lang", match=models.MatchValue(value="de"))
    return models.Filter(min_should=models.MinShould(conditions=[one], min_count=count))


@pytest.fixture(scope="module")
def client() -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config={})
    client.upsert(
        "c",
        [models.PointStruct(id=i, vector={}, payload=load) for i, load in (POINTS | ODD).items()],
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
        ({"year": 2019.0}, {1}),
        ({"year": [2019.0, 2024]}, {1, 3}),
        ({"year": np.int64(2019)}, {1}),
        ({"year": {"gte": np.float32(2021), "lt": Decimal("2024")}}, {2}),
        ({"year": np.array([2019, 2021])}, {1, 2}),
        ({"year": "2019"}, set()),
        ({"draft": np.bool_(True)}, {2}),
        ({"lang": Lang.DE}, {1, 2}),
        ({"lang": [Lang.DE, None]}, {1, 2}),
        ({"lang": {"de", "fr"}}, {1, 2, 4}),
        ({"price": [1.5, 2]}, {1}),
        ({"day": {"gte": "2021-05-01", "lt": "2021-05-01T00:00:01+00:00"}}, {2}),
        ({"day": {"gte": np.datetime64("2021-05-01T00:00:01")}}, set()),
        ({"day": {"gte": dt.date(2021, 5, 1)}}, {2}),
        ({"day": dt.datetime(2021, 5, 1, tzinfo=dt.timezone.utc)}, {2}),
        ({"my key": 1, "rdfs:sub": "x", "@id": 1, "a/b": 2}, {5}),
        ({"a.b": 1}, {5, 6}),
        ({"k[0]": 1}, {5, 6}),
        ({'"a.b"': 1}, {5}),
        ({"a.b": None}, {1, 2, 3, 4}),
    ],
)
def test_what_passes(client: QdrantClient, filter: Any, expected: set[int]) -> None:
    found, _ = client.scroll("c", scroll_filter=as_filter(filter), limit=10)
    odd = set(ODD) & expected
    assert {point.id for point in found if odd or point.id in POINTS} == expected


@pytest.mark.parametrize(
    ("filter", "complaint"),
    [
        ("lang=de", "must be a mapping"),
        (["lang"], "must be a mapping"),
        ({1: "x"}, "1 is no payload key"),
        ({"": "x"}, "no payload key"),
        ({"lang": []}, "lang: the list is empty"),
        ({"lang": ["a", ["b"]]}, "lang: a list"),
        ({"lang": [object()]}, "lang: a list"),
        ({"year": 2**63}, "year: 9223372036854775808 is beyond 64 bits"),
        ({"year": math.nan}, "year: nan is no number"),
        ({"year": {"gte": math.inf}}, "year: inf is no number"),
        ({"day": {"gte": "2025"}}, "day: '2025' is no ISO 8601 date"),
        ({"day": {"gte": "20250101"}}, "day: '20250101' is no ISO 8601 date"),
        ({"day": {"lt": "2025-01"}}, "day: '2025-01' is no ISO 8601 date"),
        ({"day": {"lt": "2025-02-30"}}, "day: '2025-02-30' is no ISO 8601 date"),
        ({'a"b': 1}, "can't be filtered by"),
        (least(0), "min_count is 0"),
        (models.Filter(must_not=least(-1)), "min_count is -1"),
        (models.Filter(should=[models.Filter(must=[least(0)])]), "min_count is 0"),
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


def test_a_datetime_is_every_spelling_of_its_time() -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    spellings = [
        "2021-05-01T12:00:00Z",
        "2021-05-01T12:00:00+00:00",
        "2021-05-01T14:00:00+02:00",
        "2021-05-01T12:00:00",
        "2021-05-01 12:00:00",
    ]
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config={})
    load = [*spellings, "2021-05-01T12:00:01Z", "2021-05-01", "noon", 1619870400]
    client.upsert(
        "c", [models.PointStruct(id=i, vector={}, payload={"at": x}) for i, x in enumerate(load)]
    )
    for time in (
        dt.datetime(2021, 5, 1, 12, tzinfo=dt.timezone.utc),
        dt.datetime(2021, 5, 1, 14, tzinfo=zone),
        dt.datetime(2021, 5, 1, 12),
        np.datetime64("2021-05-01T12"),
    ):
        for filter in ({"at": time}, {"at": [time]}, {"at": {"gte": time, "lte": time}}):
            found, _ = client.scroll("c", as_filter(filter), limit=20)
            assert sorted(point.id for point in found) == [0, 1, 2, 3, 4]


YEAR = models.FieldCondition(key="year", range=models.Range(gte=1))


@pytest.mark.parametrize(
    ("filter", "nothing"),
    [
        (None, True),
        (models.Filter(), True),
        (models.Filter(must=[]), True),
        (models.Filter(must=[], should=[], must_not=[]), True),
        (models.Filter(must=models.Filter()), True),
        (models.Filter(should=[models.Filter(must=[models.Filter(should=[])])]), True),
        (models.Filter(must=[YEAR]), False),
        (models.Filter(should=YEAR), False),
        (models.Filter(must=[models.Filter(must_not=[YEAR])]), False),
        (models.Filter(must_not=[models.Filter()]), False),
        (models.Filter(min_should=models.MinShould(conditions=[YEAR], min_count=1)), False),
    ],
)
def test_filters_that_say_nothing(filter: models.Filter | None, nothing: bool) -> None:
    assert says_nothing(filter) is nothing
