"""Document.of: every form a user may pass, and each thing that may be wrong with it."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3qdrant import Document
from m3qdrant.collection.documents import point_id
from m3qdrant.errors import DocumentError


def test_forms() -> None:
    expected = Document("a", "hello", {"year": 2020, "tags": ["x"]})
    for item in (
        expected,
        {"id": "a", "text": "hello", "payload": {"year": 2020, "tags": ["x"]}},
        {"id": "a", "text": "hello", "year": 2020, "tags": ("x",)},
        {"id": "a", "text": "hello", "year": 1, "tags": ["x"], "payload": {"year": 2020}},
    ):
        assert Document.of(item) == expected


def test_a_string_is_named_by_its_text() -> None:
    first, again, other = map(Document.of, ("hello", "hello", "hello!"))
    assert first == again
    assert first.id != other.id
    assert uuid.UUID(first.id).version == 5


def test_ids_may_be_strings_integers_or_uuids() -> None:
    some = uuid.uuid4()
    assert Document.of({"id": 7, "text": ""}).id == "7"
    assert Document.of({"id": some, "text": ""}).id == str(some)
    assert Document.of({"id": "Ü/ü #1", "text": ""}).id == "Ü/ü #1"


def test_point_ids_are_the_same_for_ever() -> None:
    # a change here would make every existing collection's documents new ones
    assert point_id("a") == "05ea5205-75ad-5bee-b301-eb11127d2ce6"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_point_ids_are_valid_and_differ(id: str) -> None:
    assert uuid.UUID(point_id(id)).version == 5
    assert point_id(id) != point_id(id + "x")


@pytest.mark.parametrize(
    ("item", "name", "field", "reason"),
    [
        (3, "#5", "text", "not int"),
        (None, "#5", "text", "not NoneType"),
        ({"id": "a"}, "a", "text", "missing"),
        ({"id": "a", "text": 3}, "a", "text", "int, not a string"),
        ({"text": b"x"}, "#5", "text", "bytes, not a string"),
        ({"id": "a", "text": "x\ud800"}, "a", "text", "character 1"),
        ({"id": "\ud800", "text": "x"}, r"\ud800", "id", "UTF-8"),
        ({"id": "  ", "text": "x"}, "'  '", "id", "empty"),
        ({"id": "", "text": "x"}, "''", "id", "empty"),
        ({"id": 1.5, "text": "x"}, "1.5", "id", "float"),
        ({"id": True, "text": "x"}, "True", "id", "bool"),
        ({"id": "a", "text": "x", "payload": [1]}, "a", "payload", "mapping"),
        (
            {"id": "a", "text": "x", "payload": {1: 2, "1": 3}},
            "a",
            "payload",
            "the keys under the top become one, '1'",
        ),
        ({"id": "a", "text": "x", "payload": {"text": "y"}}, "a", "payload", "rename"),
        ({"id": "a", "text": "x", "_m3": "y"}, "a", "payload", "rename"),
        ({"id": "a", "text": "x", "score": math.nan}, "a", "payload", "score is nan"),
        ({"id": "a", "text": "x", "n": [1, {"m": 2**64}]}, "a", "payload", "n[1].m is"),
        (Document("a", "x", {"s": object()}), "a", "payload", "s is a object"),
        ({"id": "a", "text": "x", "s": "\udc80"}, "a", "payload", "s holds half"),
    ],
)
def test_faults_name_the_document_the_field_and_the_remedy(
    item: Any, name: str, field: str, reason: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        Document.of(item, 5)
    assert (caught.value.id, caught.value.field) == (name, field)
    assert reason in caught.value.reason
    assert str(caught.value) == f"document {name}: {field}: {caught.value.reason}"


def test_a_payload_that_contains_itself() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with pytest.raises(DocumentError, match="nests deeper than 64"):
        Document.of({"id": "a", "text": "x", "payload": loop})


def test_dates_and_numpy_numbers_become_json() -> None:
    payload = {"day": dt.date(2024, 2, 29), "n": np.float32(0.5), "t": (1, 2)}
    assert Document.of({"text": "x", "payload": payload}).payload == {
        "day": "2024-02-29",
        "n": 0.5,
        "t": [1, 2],
    }


def test_the_payload_is_a_copy() -> None:
    tags = ["x"]
    document = Document.of({"id": "a", "text": "x", "tags": tags})
    tags.append("y")
    assert document.payload == {"tags": ["x"]}
