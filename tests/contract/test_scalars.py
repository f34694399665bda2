"""The same values, however they were typed: in payloads, filters, ids and arguments alike."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import pathlib
import random
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from m3qdrant import Document, M3Encoder
from m3qdrant.errors import InputError
from tests.views import documents, random_views

Agree = Callable[[Callable[[Any], Any]], Any]

UTC = dt.timezone.utc


class Kind(enum.Enum):
    NEWS = "news"


TYPED: dict[str, tuple[Any, Any]] = {
    "integer": (np.int64(2020), 2020),
    "float": (np.float32(0.5), 0.5),
    "boolean": (np.bool_(True), True),
    "decimal": (decimal.Decimal("1.50"), "1.50"),
    "enum": (Kind.NEWS, "news"),
    "path": (pathlib.Path("a"), "a"),
    "uuid": (uuid.UUID(int=7), str(uuid.UUID(int=7))),
    "bytes": (b"raw", "raw"),
    "time": (dt.time(1, 2), "01:02:00"),
    "span": (dt.timedelta(seconds=61), "PT1M1S"),
    "datetime": (dt.datetime(2020, 1, 2, 3, tzinfo=UTC), "2020-01-02T03:00:00Z"),
    "date": (dt.date(2020, 1, 2), "2020-01-02"),
    "numpy date": (np.datetime64("2020-01-02"), "2020-01-02"),
}
"""By name: a value as it may be given, and as it is stored."""


def test_what_a_payload_takes_a_filter_takes(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add(
            [Document("typed", "a text", {name: given for name, (given, _) in TYPED.items()})]
        )
        store.add(
            [Document("plain", "another", {name: kept for name, (_, kept) in TYPED.items()})]
        )
        return [
            dict(store.get("typed").payload),
            {name: store.count({name: given}) for name, (given, _) in TYPED.items()},
            {name: store.count({name: [given]}) for name, (given, _) in TYPED.items()},
            {name: store.count({name: kept}) for name, (_, kept) in TYPED.items()},
            {name: store.count({name: {"not": given}}) for name, (given, _) in TYPED.items()},
        ]

    payload, *counts, negated = agree(use)
    assert payload == {name: kept for name, (_, kept) in TYPED.items()}
    assert counts == [dict.fromkeys(TYPED, 2)] * 3
    assert negated == dict.fromkeys(TYPED, 0)


def test_numbers_truths_and_texts_are_apart(agree: Agree, encoder: M3Encoder) -> None:
    values = {"int": 1, "float": 1.0, "true": True, "text": "1", "list": [1, "x"], "none": None}

    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add([{"id": name, "text": name, "x": value} for name, value in values.items()])
        asked = (
            1,
            1.0,
            np.uint8(1),
            True,
            "1",
            [1],
            [1.0, "1"],
            [True, None],
            {"gte": 1, "lte": 1},
        )
        return [sorted(d.id for d in store.documents({"x": value})) for value in asked]

    assert agree(use) == [
        *[["float", "int", "list"]] * 3,
        ["true"],
        ["text"],
        ["float", "int", "list"],
        ["float", "int", "list", "text"],
        ["none", "true"],
        ["float", "int", "list"],
    ]


def test_floats_find_themselves(agree: Agree) -> None:
    rng = random.Random(8)
    numbers = [rng.random() for _ in range(300)]
    views = random_views(300, seed=8, tokens=1)

    def use(open_store: Any) -> Any:
        store = open_store()
        items = [Document(str(i), "t", {"f": number}) for i, number in enumerate(numbers)]
        store.add(items, embeddings=views)
        return [[d.id for d in store.documents({"f": number})] for number in numbers]

    assert agree(use) == [[str(i)] for i in range(300)]


def test_keys_as_they_are_spelt(agree: Agree, encoder: M3Encoder) -> None:
    keys = ["my key", "a.b", "rdfs:sub", "@id", "k[0]", "a/b", "ü ß"]

    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add([{"id": "flat", "text": "one", **dict.fromkeys(keys, 1)}])
        store.add([{"id": "deep", "text": "two", "a": {"b": 1}, "k": [1, 2]}])
        return [
            {key: sorted(d.id for d in store.documents({key: 1})) for key in keys},
            {key: store.count({key: None}) for key in keys},
            [d.id for d in store.documents({"id": "deep"})],
            sorted(d.id for d in store.documents({"id": ["deep", "flat", "none"]})),
            [d.id for d in store.documents({"text": "two"})],
            [hit.group for hit in store.search("one", limit=5, group_by="my key")],
        ]

    found, missing, *rest = agree(use)
    assert found == {key: ["deep", "flat"] if key in ("a.b", "k[0]") else ["flat"] for key in keys}
    assert missing == {key: 0 if key in ("a.b", "k[0]") else 1 for key in keys}
    assert rest == [["deep"], ["deep", "flat"], ["deep"], [1]]


def test_ids_are_text(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        same = uuid.UUID(int=5)
        report = store.add(
            [{"id": np.int64(1), "text": "x"}, {"id": 2, "text": "y"}, {"id": same, "text": "z"}]
        )
        refused = store.add([{"id": 3, "text": "a"}, {"id": "3", "text": "b"}])
        return [
            report,
            [
                getattr(store.get(id), "text", None)
                for id in (1, "1", np.uint8(2), same, str(same))
            ],
            [getattr(d, "text", None) for d in store.get(np.array([1, 2]))],
            [[error.id, error.field] for error in refused.failed],
            store.get("3").text,
            store.delete(np.array([1, 2, 9])),
            store.delete(same),
        ]

    report, *rest = agree(use)
    assert report["added"] == 3
    assert rest == [["x", "x", "y", "z", "z"], ["x", "y"], [["3", "id"]], "a", 2, 1]


IDS = {name: TYPED[name] for name in ("decimal", "enum", "path", "uuid", "datetime", "date")}


def test_what_a_payload_takes_as_text_is_an_id(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        report = store.add([{"id": given, "text": name} for name, (given, _) in IDS.items()])
        refused = store.add(
            [
                {"id": decimal.Decimal(7), "text": "a"},
                {"id": "7", "text": "b"},
                {"id": b"8", "text": "c"},
                {"id": 9.0, "text": "d"},
                {"id": True, "text": "e"},
            ]
        )
        return [
            report,
            [store.get(given).id for given, _ in IDS.values()],
            [store.get(kept).text for _, kept in IDS.values()],
            [error.id for error in refused.failed],
            store.delete([given for given, _ in IDS.values()]),
            store.count(),
        ]

    report, *rest = agree(use)
    assert report["added"] == len(IDS)
    kept = [kept for _, kept in IDS.values()]
    assert rest == [kept, list(IDS), ["7", "b'8'", "9.0", "True"], len(IDS), 1]


def test_nothing_is_deleted_by_a_filter_that_says_nothing(agree: Agree) -> None:
    one = models.FieldCondition(key="lang", match=models.MatchValue(value="de"))
    least = models.Filter(min_should=models.MinShould(conditions=[one], min_count=0))
    filters: list[Any] = [
        {},
        models.Filter(),
        models.Filter(must=[]),
        models.Filter(should=[models.Filter(must=[])]),
        least,
        models.Filter(must=[least]),
        models.Filter(must_not=[models.Filter(should=[least])]),
    ]

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(6), embeddings=random_views(6, seed=2))
        for filter in filters:
            with pytest.raises(InputError, match=r"empty|min_count is 0"):
                store.delete(filter=filter)
        for filter in ({}, models.Filter(must=[])):
            with pytest.raises(InputError, match="prune: the filter is empty"):
                store.add(documents(3), embeddings=random_views(3, seed=2), prune=filter)
        for filter in filters[4:]:
            with pytest.raises(InputError, match="min_count is 0"):
                store.count(filter)
            with pytest.raises(InputError, match="min_count is 0"):
                store.search(random_views(1, 3), filter=filter)
        return store.count()

    assert agree(use) == 6


def test_arguments_may_be_numpys(agree: Agree) -> None:
    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(documents(9), embeddings=random_views(9, seed=4))
        query = random_views(1, 5)
        typed = store.search(
            query,
            "dense",
            limit=np.int64(3),
            candidates=np.int32(9),
            offset=np.uint8(1),
            diversity=np.float32(0.5),
        )
        plain = store.search(query, "dense", limit=3, candidates=9, offset=1, diversity=0.5)
        return [[hit.id for hit in typed], [hit.id for hit in plain]]

    typed, plain = agree(use)
    assert typed == plain
    assert len(typed) == 3


def test_a_mapping_of_columns_is_no_document(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        columns: dict[str, Any] = {"id": ["a", "b"], "text": ["one", "two"]}
        for wrong in (columns, {"a": {"text": "one"}}, {"text": np.array(["one"])}):
            with pytest.raises(InputError, match="documents: a dict of columns"):
                store.add(wrong)
        for weights in ({"dense": 1.0, "sparse": 1.0, "colbert": 1.0}, {0.1, 0.2, 0.7}):
            with pytest.raises(InputError, match="three numbers in order"):
                store.search("one", weights=weights)
        return store.count()

    assert agree(use) == 0
