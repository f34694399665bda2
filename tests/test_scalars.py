"""What a JSON scalar is: the same as qdrant-client sends, and numpy's as Python's."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import math
import pathlib
import random
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client._pydantic_compat import to_jsonable_python

from m3qdrant.errors import InputError
from m3qdrant.scalars import check_json, plain_json, plain_scalar

UTC = dt.timezone.utc


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Place:
    name: str
    at: Any


Pair = collections.namedtuple("Pair", "a b")

CLIENTS: dict[str, Any] = {
    "utc": dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC),
    "offset": dt.datetime(2020, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    "naive": dt.datetime(2020, 1, 2, 3, 4, 5, 678),
    "date": dt.date(2020, 1, 2),
    "time": dt.time(1, 2),
    "duration": dt.timedelta(seconds=61),
    "decimal": decimal.Decimal("1.50"),
    "bytes": "grün".encode(),
    "path": pathlib.Path("x"),
    "enum": Colour.RED,
    "int-enum": Level.HIGH,
    "uuid": uuid.UUID(int=7),
    "dataclass": Place("a", dt.date(2020, 1, 2)),
    "model": models.GeoPoint(lon=1, lat=2.5),
    "tuple": (1, (2, 3)),
    "named-tuple": Pair(1, "x"),
    "set": {4},
    "true": {True: 4},
    "keys": {1: 2, 1.5: 3, None: 5, dt.date(2020, 1, 2): 6, Colour.RED: 7},
    "nested": [{"a": [decimal.Decimal(1), {"b": b"x"}]}],
    "plain": {"a": [None, True, 1, 1.5, "x", {}, []]},
}
"""What qdrant-client has a form for, in REST, gRPC and local mode alike."""


@pytest.mark.parametrize("name", CLIENTS)
def test_as_qdrant_client_sends_it(name: str) -> None:
    assert plain_json(CLIENTS[name]) == to_jsonable_python(CLIENTS[name])
    assert plain_json({"x": [CLIENTS[name]]}) == to_jsonable_python({"x": [CLIENTS[name]]})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.bool_(True), True),
        (np.int64(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float32(0.5), 0.5),
        (np.longdouble(1.5), 1.5),
        (np.str_("x"), "x"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([True]), [True]),
        (np.array(2.5), 2.5),
        (np.datetime64("2020-01-02"), "2020-01-02"),
        (np.datetime64("2020-01-02T03:04:05.5", "ns"), "2020-01-02T03:04:05.500000"),
        # how a duration is spelt depends on pydantic's version
        (np.timedelta64(61, "s"), to_jsonable_python(dt.timedelta(seconds=61))),
        ({np.int64(3): np.bool_(False)}, {"3": False}),
        (collections.deque([1, np.int8(2)]), [1, 2]),
        ((n for n in (1, np.int8(2))), [1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numpys_are_pythons(value: Any, expected: Any) -> None:
    plain = plain_json(value)
    assert plain == expected
    assert type(plain) is type(expected)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"a": [math.nan]}, r"a\[0\] is nan, which JSON lacks: use None"),
        (np.float16(np.inf), "inf"),
        (np.datetime64("NaT"), "nan"),
        (2**64, "beyond 64 bits"),
        ({1: "a", "1": "b"}, "the keys under the top become one, '1'"),
        ({"a": {object(): 1}}, "under a is a object"),
        (b"\xff", "is a bytes, which JSON lacks"),
        (object(), "is a object"),
        (range(3), "is a range"),
        ("\ud800", "half of a surrogate pair"),
        ({"\ud800": 1}, "half of a surrogate pair"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_lacks_is_named(value: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=f"^the place: .*{complaint}"):
        check_json(value, "the place")


def test_depth_is_counted_through_everything_that_holds_something() -> None:
    rng = random.Random(5)
    wrappers: list[Any] = [
        lambda v: [v],
        lambda v: {"a": v},
        lambda v: Place("a", v),
        lambda v: collections.deque([v]),
        lambda v: np.array([v], dtype=object),
    ]

    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = rng.choice(wrappers)(value)
        return value

    for _ in range(20):
        plain_json(nested(64))
        with pytest.raises(InputError, match="nests deeper than 64"):
            plain_json(nested(65))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Level.HIGH, 3),
        (Colour.RED, "red"),
        (np.bool_(True), True),
        (np.float64(1.5), 1.5),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        (decimal.Decimal("1.5"), "1.5"),
        (pathlib.Path("x"), "x"),
        (dt.date(2020, 1, 2), dt.date(2020, 1, 2)),
        (np.datetime64("2020-01-02"), dt.date(2020, 1, 2)),
        (np.datetime64("2020-01-02T03"), dt.datetime(2020, 1, 2, 3)),
        (None, None),
    ],
    ids=repr,
)
def test_scalars_of_filters(value: Any, expected: Any) -> None:
    plain = plain_scalar(value)
    assert plain == expected
    assert type(plain) is type(expected)
