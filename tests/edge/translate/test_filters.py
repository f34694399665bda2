"""What a filter's values may be, also where qdrant-client's models did not check them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from enum import Enum
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant.edge import QdrantEdge
from m3qdrant.errors import InputError

PAYLOADS: list[dict[str, Any]] = [
    {"n": 3, "ok": True, "day": "2024-01-01", "word": "3"},
    {"n": 3.0, "ok": False, "day": "2024-06-01T00:00:00Z", "word": "x"},
    {"n": 4, "ok": 1, "day": 20240601, "word": "2024-01-01"},
]


class Word(Enum):
    X = "x"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantEdge]:
    with QdrantEdge(tmp_path_factory.mktemp("filters") / "data") as client:
        client.create_collection("c", models.VectorParams(size=1, distance=models.Distance.DOT))
        client.upsert(
            "c",
            [
                models.PointStruct(id=i, vector=[1.0], payload=payload)
                for i, payload in enumerate(PAYLOADS)
            ],
        )
        yield client


def unchecked(kind: Any, **fields: Any) -> Any:
    """A model as `model_construct` makes it, of whatever values."""
    return kind.model_construct(**{**dict.fromkeys(kind.model_fields), **fields})


def found(client: QdrantEdge, **condition: Any) -> list[int]:
    wanted = models.Filter(must=[unchecked(models.FieldCondition, **condition)])
    records, _ = client.scroll("c", wanted)
    return sorted(int(record.id) for record in records)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("n", np.int64(3), [0]),
        ("ok", np.bool_(True), [0]),
        ("ok", True, [0]),
        ("ok", 1, [2]),
        ("word", Word.X, [1]),
        ("word", np.str_("3"), [0]),
    ],
)
def test_matches(client: QdrantEdge, key: str, value: Any, expected: list[int]) -> None:
    assert found(client, key=key, match=unchecked(models.MatchValue, value=value)) == expected
    if not isinstance(value, bool | np.bool_):
        assert found(client, key=key, match=unchecked(models.MatchAny, any=[value])) == expected


@pytest.mark.parametrize(
    ("key", "range", "expected"),
    [
        ("n", unchecked(models.Range, gte=np.float32(3), lt=np.int8(4)), [0, 1]),
        ("ok", unchecked(models.Range, gte=0), [2]),
        ("day", unchecked(models.DatetimeRange, gt=np.datetime64("2024-01-01")), [1]),
        ("day", unchecked(models.DatetimeRange, lte=dt.date(2024, 1, 1)), [0]),
        ("day", unchecked(models.DatetimeRange, lte=dt.datetime(2024, 6, 1)), [0, 1]),
    ],
)
def test_ranges(client: QdrantEdge, key: str, range: Any, expected: list[int]) -> None:
    assert found(client, key=key, range=range) == expected


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ({"match": models.MatchValue(value=2**64 - 1)}, "18446744073709551615"),
        ({"match": models.MatchAny(any=[1, 2**63])}, "9223372036854775808"),
        ({"match": unchecked(models.MatchValue, value=1.5)}, "not 1.5: a number x is found by"),
        ({"match": unchecked(models.MatchValue, value=None)}, "not None"),
        ({"match": unchecked(models.MatchAny, any=["a", 1])}, "not both"),
        ({"range": unchecked(models.Range, gte="3")}, "its gte is '3'"),
        ({"range": unchecked(models.Range, lt=True)}, "its lt is True"),
        ({"range": models.Range(gt=math.nan)}, "can't end at nan"),
        ({"range": models.Range(lte=-math.inf)}, "can't end at -inf"),
        ({"range": unchecked(models.DatetimeRange, gte="2025")}, "date-time"),
    ],
)
def test_what_is_refused(client: QdrantEdge, condition: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        found(client, key="n", **condition)


def least(count: int) -> models.Filter:
    one = models.FieldCondition(key="n", match=models.MatchValue(value=3))
    return models.Filter(min_should=models.MinShould(conditions=[one], min_count=count))


@pytest.mark.parametrize("count", [0, -1])
def test_a_min_should_that_all_points_satisfy(client: QdrantEdge, count: int) -> None:
    nested = models.Nested(key="deep", filter=least(count))
    filters = [
        least(count),
        models.Filter(must=[least(count)]),
        models.Filter(should=[models.Filter(must_not=[least(count)])]),
        models.Filter(must=[models.NestedCondition(nested=nested)]),
    ]
    for filter in filters:
        for use in (
            lambda f: client.count("c", f),
            lambda f: client.scroll("c", f),
            lambda f: client.query_points("c", [1.0], query_filter=f),
            lambda f: client.query_points("c", [1.0], prefetch=models.Prefetch(filter=f)),
            lambda f: client.facet("c", "word", f),
            lambda f: client.delete("c", f),
            lambda f: client.set_payload("c", {"a": 1}, f),
            lambda f: client.clear_payload("c", models.FilterSelector(filter=f)),
            lambda f: client.query_points(
                "c",
                models.FormulaQuery(formula=f),
                prefetch=models.Prefetch(query=[1.0]),
            ),
        ):
            with pytest.raises(InputError, match=f"min_count value {count} is invalid"):
                use(filter)
    assert client.count("c").count == 3
    assert client.scroll("c")[0][0].payload == PAYLOADS[0]


@pytest.mark.parametrize("filter", [{"nope": 1}, {"must": [{"key": "n"}, 5]}, {"must": "n"}])
def test_a_mapping_that_is_no_filter(client: QdrantEdge, filter: Any) -> None:
    with pytest.raises(InputError, match="the mapping is no filter"):
        client.count("c", filter)


@pytest.mark.parametrize("start", [np.int64(4), 4])
def test_an_order_starts_from_any_number(client: QdrantEdge, start: Any) -> None:
    order = unchecked(models.OrderBy, key="n", start_from=start)
    assert [record.id for record in client.scroll("c", order_by=order)[0]] == [2]
