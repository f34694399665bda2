"""Payload indexes come when something needs them, and change no answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from m3qdrant.edge import QdrantEdge, indexes
from m3qdrant.edge.indexes import filter_index, kind_of
from m3qdrant.errors import InputError
from m3qdrant.jsonpath import values_at

NAME = "docs"
PARAMS = models.VectorParams(size=2, distance=models.Distance.DOT)
UUID = "550e8400-e29b-41d4-a716-446655440000"

VALUES: dict[str, list[Any]] = {
    "string": ["a", "b", "A", "hello world", "5", "", UUID, UUID.upper(), UUID.replace("-", "")],
    "datetime": ["2024-01-02", "2024-01-02T03:04:05Z", "2024-01-01T23:00:00+02:00", "2024-02-30"],
    "integer": [5, -3, 0, 1, 10**6, 2**53, -(2**53)],
    "number": [5, 5.0, 1.5, -0.0, 0, 1e300, 2**53 + 1, 2**63 - 1],
    "bool": [True, False],
    "geo": [{"lon": 1.0, "lat": 2.0}, {"lon": 1, "lat": 2}, {"lon": 50, "lat": 2}],
}
VALUES["mixed"] = [v for values in VALUES.values() for v in values] + [{"b": 5}, ["a"], 2**64 - 1]
FIELDS = ["x", "a.b", "l[].b", '"odd key".b']


def payloads(kind: str, n: int, seed: int) -> list[dict[str, Any]]:
    """`n` payloads whose fields hold values of one kind, lists of them, null, or nothing."""
    rng = random.Random(seed)

    def value() -> Any:
        chance = rng.random()
        if chance < 0.6:
            return rng.choice(VALUES[kind])
        if chance < 0.7:
            return None
        return [rng.choice(VALUES[kind]) for _ in range(rng.randint(0, 3))]

    out = []
    for _ in range(n):
        payload: dict[str, Any] = {}
        if rng.random() < 0.9:
            payload["x"] = value()
        if rng.random() < 0.8:
            payload["a"] = {"b": value()} if rng.random() < 0.9 else {}
        payload["l"] = [{"b": value()} for _ in range(rng.randint(0, 3))]
        payload["odd key"] = {"b": value()}
        out.append(payload)
    return out


def collection(client: Any, each: list[dict[str, Any]], optimized: bool = False) -> None:
    client.create_collection(
        NAME, PARAMS, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1)
    )
    points = [
        models.PointStruct(id=i, vector=[1.0, float(i % 17)], payload=payload)
        for i, payload in enumerate(each)
    ]
    half = len(points) // 2
    client.upsert(NAME, points[:half])
    if optimized:
        client.optimize(NAME)
    client.upsert(NAME, points[half:])


def field(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


def conditions(key: str) -> dict[str, Any]:
    """Every condition on a field that could go through an index."""
    out: dict[str, Any] = {}
    for value in (*VALUES["string"], "2024-01-02", 5, 0, 1, -3, 2**53, 2**63 - 1, True, False):
        out[f"value {value!r}"] = field(key, match=models.MatchValue(value=value))
    for several in (["a", "b"], [UUID, "a"], [5, 1, 0], [""], [2**63 - 1]):
        out[f"any {several}"] = field(key, match=models.MatchAny(any=several))
        out[f"except {several}"] = field(key, match=models.MatchExcept(**{"except": several}))
    for words in ("a", "HELLO", "world hello"):
        out[f"text {words}"] = field(key, match=models.MatchText(text=words))
    for bounds in (
        {"gte": 0},
        {"gt": 0.5, "lte": 5.5},
        {"lt": 1.5},
        {"gt": -3.5},
        {"gte": 5, "lte": 5},
        {"gt": 2**53},
        {"lt": -1e18},
        {},
    ):
        out[f"range {bounds}"] = field(key, range=models.Range(**bounds))
    for limits in ({"gte": datetime(2024, 1, 2)}, {"lt": datetime(2024, 1, 2, 3)}):
        out[f"dates {limits}"] = field(key, range=models.DatetimeRange(**limits))
    center = models.GeoPoint(lon=1, lat=2)
    out["radius"] = field(key, geo_radius=models.GeoRadius(center=center, radius=10.0))
    out["box"] = field(
        key,
        geo_bounding_box=models.GeoBoundingBox(
            top_left=models.GeoPoint(lon=0, lat=3), bottom_right=models.GeoPoint(lon=3, lat=0)
        ),
    )
    out["count"] = field(key, values_count=models.ValuesCount(gte=2))
    out["empty"] = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    out["null"] = models.IsNullCondition(is_null=models.PayloadField(key=key))
    out["field-empty"] = field(key, is_empty=True)
    out["field-null"] = field(key, is_null=True)
    return out


def found(client: QdrantEdge, filter: models.Filter) -> frozenset[Any]:
    scrolled, _ = client.scroll(NAME, filter, limit=1000, with_payload=False)
    hits = client.query_points(
        NAME, [1.0, 2.0], query_filter=filter, limit=1000, with_payload=False
    ).points
    ids = frozenset(r.id for r in scrolled)
    assert ids == {h.id for h in hits}
    return ids


def means_nothing(kind: str, condition: Any) -> bool:
    """A range of dates over numbers, or the reverse: the engine's indexes take these for one."""
    range = getattr(condition, "range", None)
    if kind in ("integer", "number"):
        return isinstance(range, models.DatetimeRange)
    return kind == "datetime" and isinstance(range, models.Range)


@pytest.mark.parametrize(
    ("kind", "optimized"),
    [(kind, i % 2 == 0) for i, kind in enumerate(VALUES)],
    ids=[f"{kind}-{('optimized', 'as-written')[i % 2]}" for i, kind in enumerate(VALUES)],
)
def test_an_index_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, optimized: bool
) -> None:
    """Each condition on each field: without an index, and when all that can be made are there."""
    each = payloads(kind, 150, seed=sorted(VALUES).index(kind))
    asked = {
        (key, name, clause): models.Filter.model_validate({clause: [condition]})
        for key in FIELDS
        for name, condition in conditions(key).items()
        for clause in ("must", "must_not")
        if not means_nothing(kind, condition)
    }
    with QdrantEdge(tmp_path / "without", auto_index=False) as client:
        collection(client, each, optimized)
        plain = {case: found(client, filter) for case, filter in asked.items()}
        assert client.get_collection(NAME).payload_schema == {}
    monkeypatch.setattr(indexes, "MANY_POINTS", 100)
    with QdrantEdge(tmp_path / "with") as client:
        collection(client, each, optimized)
        for filter in asked.values():
            client.count(NAME, filter)
        schema = client.get_collection(NAME).payload_schema
        expected = {"string": "keyword", "number": "float", "mixed": None}.get(kind, kind)
        made = {key.replace('"', ""): index.data_type.value for key, index in schema.items()}
        assert made == (
            {} if expected is None else dict.fromkeys(("x", "a.b", "odd key.b"), expected)
        )
        assert {case: found(client, filter) for case, filter in asked.items()} == plain


def test_when_filters_get_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MANY_POINTS", 50)
    each = [{"lang": "en", "n": i, "f": i / 2, "s": str(i), "late": i} for i in range(60)]

    def made(client: QdrantEdge) -> set[str]:
        return set(client.get_collection(NAME).payload_schema)

    english = field("lang", match=models.MatchValue(value="en"))
    with QdrantEdge(tmp_path / "a") as client:
        collection(client, each[:40])
        client.count(NAME, models.Filter(must=[english]))
        assert made(client) == set()  # too few points
        client.upsert(
            NAME,
            [
                models.PointStruct(id=i, vector=[1.0, 1.0], payload=p)
                for i, p in enumerate(each[40:], 40)
            ],
        )
        client.count(NAME, models.Filter(must=[english]))
        assert made(client) == {"lang"}
        inner = models.Filter(must_not=[field("n", range=models.Range(lt=3))])
        prefetch = models.Prefetch(query=[1.0, 1.0], filter=models.Filter(should=[inner]))
        client.query_points(NAME, [1.0, 1.0], prefetch=prefetch)
        assert made(client) == {"lang", "n"}
        client.query_points_groups(
            NAME,
            "n",
            [1.0, 1.0],
            query_filter=models.Filter(must=[field("f", range=models.Range(gt=1))]),
        )
        assert made(client) == {"lang", "n", "f"}
        client.count(NAME, models.Filter(must=[field("s", match=models.MatchText(text="1"))]))
        client.count(NAME, models.Filter(must=[field("nope", range=models.Range(lt=3))]))
        assert made(client) == {"lang", "n", "f"}
    with QdrantEdge(tmp_path / "a") as client:
        assert made(client) == {"lang", "n", "f"}
    with QdrantEdge(tmp_path / "b", auto_index=False) as client:
        collection(client, each)
        client.count(NAME, models.Filter(must=[english]))
        assert made(client) == set()


def test_an_index_of_ones_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MANY_POINTS", 10)
    with QdrantEdge(tmp_path) as client:
        collection(client, [{"text": f"word{i} more"} for i in range(20)])
        client.create_payload_index(
            NAME, "text", models.TextIndexParams(type=models.TextIndexType.TEXT)
        )
        client.count(
            NAME, models.Filter(must=[field("text", match=models.MatchValue(value="word1 more"))])
        )
        schema = client.get_collection(NAME).payload_schema["text"]
        assert schema.data_type == models.PayloadSchemaType.TEXT
        with pytest.raises(InputError, match="facet can't use the text index on 'text': delete"):
            client.facet(NAME, "text")


# facet and order_by


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[tuple[QdrantClient, QdrantEdge]]:
    rng = np.random.default_rng(3)
    each = []
    for i in range(150):
        number = float(rng.integers(-50, 50)) / 4
        each.append(
            {
                "word": ["a", "b", "c"][i % 3],
                "words": [f"w{k}" for k in rng.integers(0, 5, 2)],
                "int": int(rng.integers(-9, 9)),
                "long": 2**60 + i,
                "float": number,
                "both": int(number) if number.is_integer() else number,
                "bool": bool(i % 4),
                "at": f"2024-{1 + i % 12:02}-{1 + i % 28:02}T0{i % 9}:00:00Z",
                "uuid": f"{i % 5:08}-e29b-41d4-a716-446655440000",
                "deep": {"er": i % 7},
                "list": [{"k": i % 3}],
                "place": {"lon": 1.0, "lat": 2.0},
                "mixed": i if i % 2 else str(i),
                "nullish": None if i % 2 else i,
            }
        )
    memory = QdrantClient(":memory:")
    with QdrantEdge(tmp_path, auto_index=False) as embedded:
        for client in (memory, embedded):
            collection(client, each)
        yield memory, embedded


FACETS = ["word", "words", "int", "long", "bool", "uuid", "deep.er", "list[].k", "nullish", "nope"]


@pytest.mark.parametrize("key", FACETS)
def test_facet(clients: tuple[QdrantClient, QdrantEdge], key: str) -> None:
    some = models.Filter(must=[field("int", range=models.Range(gt=-5))])
    for filter in (None, some):
        counts = [
            {(h.value, h.count) for h in client.facet(NAME, key, filter, limit=500).hits}
            for client in clients
        ]
        assert counts[0] == counts[1]
    assert key in clients[1].get_collection(NAME).payload_schema


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "key", ["int", "long", "float", "both", "at", "deep.er", "nullish", "nope"]
)
@pytest.mark.parametrize("direction", list(models.Direction), ids=str)
def test_order_by(
    clients: tuple[QdrantClient, QdrantEdge], key: str, direction: models.Direction
) -> None:
    order = models.OrderBy(key=key, direction=direction)

    def values(points: list[Any]) -> list[Any]:
        return [json.dumps(values_at(p.payload, key)) for p in points]

    scrolled = [values(c.scroll(NAME, limit=60, order_by=order)[0]) for c in clients]
    assert scrolled[0] == scrolled[1]
    query = models.OrderByQuery(order_by=order)
    nested = models.Prefetch(query=query, limit=500)
    for request in ({"query": query}, {"query": [1.0, 0.5], "prefetch": nested}):
        found = [c.query_points(NAME, limit=500, **request).points for c in clients]
        assert len(found[0]) == len(found[1])
        if "prefetch" not in request:
            assert values(found[0]) == values(found[1])


@pytest.mark.parametrize(
    ("key", "use", "words"),
    [
        ("float", "facet", "which are floats: facet takes strings, integers or booleans"),
        ("mixed", "facet", "which are of different kinds"),
        ("place", "facet", "which are places"),
        ("mixed", "order_by", "which are of different kinds: order_by takes numbers or ISO"),
        ("word", "order_by", "which are strings"),
        ("bool", "order_by", "which are booleans"),
    ],
)
def test_what_no_index_can_serve(
    clients: tuple[QdrantClient, QdrantEdge], key: str, use: str, words: str
) -> None:
    _, embedded = clients
    query = models.OrderByQuery(order_by=key)
    calls: dict[str, Callable[[], Any]] = {
        "facet": lambda: embedded.facet(NAME, key),
        "order_by": lambda: embedded.query_points(NAME, query),
    }
    with pytest.raises(InputError, match=f"{use} needs an index on '{key}'.*{words}"):
        calls[use]()
    assert embedded.get_collection(NAME).payload_schema == {}


def test_an_index_from_before_the_field_gives_way(tmp_path: Path) -> None:
    with QdrantEdge(tmp_path) as client:
        client.create_collection(NAME, PARAMS)
        assert client.facet(NAME, "k").hits == []
        assert client.scroll(NAME, order_by="at")[0] == []
        client.upsert(
            NAME,
            [
                models.PointStruct(id=i, vector=[1.0, 1.0], payload={"k": i % 2, "at": at})
                for i, at in enumerate(("2024-03-01", "2024-01-01", "2024-02-01"))
            ],
        )
        assert {(h.value, h.count) for h in client.facet(NAME, "k").hits} == {(0, 2), (1, 1)}
        assert [r.id for r in client.scroll(NAME, order_by="at")[0]] == [1, 2, 0]


# the pure parts


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], None),
        ([None, [], None], None),
        (["a", ["b"]], "string"),
        (["2024-01-01", "x"], "string"),
        (["2024-01-01T00:00:00Z", None], "datetime"),
        (["2024-01-012"], "string"),
        ([1, [2, 3]], "integer"),
        ([1, 2**53 + 1], "long"),
        ([2**63], "mixed"),
        ([1, 1.0], "number"),
        ([2**60, 1.0], "number"),
        ([True, 1], "mixed"),
        ([1, "a"], "mixed"),
        ([["a", None]], "mixed"),
        ([[["a"]]], "mixed"),
        ([{"lon": 1, "lat": 2}], "geo"),
        ([{"lon": 1}], "mixed"),
    ],
)
def test_kinds(values: list[Any], kind: str | None) -> None:
    assert kind_of(values) == kind


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "lon", "lat"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(values=st.lists(JSON, max_size=6), key=st.sampled_from(["a", "b.c"]))
def test_mixed_values_get_no_index(values: list[Any], key: str) -> None:
    kind = kind_of(values)
    items = [i for v in values if v is not None for i in (v if isinstance(v, list) else [v])]
    for condition in conditions(key).values():
        if not isinstance(condition, models.FieldCondition):
            continue
        index = filter_index(condition, kind)
        if index == "keyword":
            assert all(isinstance(i, str) for i in items)
        elif index == "integer":
            assert all(type(i) is int for i in items)
        elif index == "float":
            assert all(type(i) in (int, float) for i in items)
        elif index == "bool":
            assert all(isinstance(i, bool) for i in items)
