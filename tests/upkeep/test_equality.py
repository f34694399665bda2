"""StoredPoint: what counts as the same point, and what the checksum covers."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from m3qdrant.upkeep.equality import Rounding, StoredPoint, rounding

numbers = st.floats(-1e3, 1e3, width=32)
vector = st.lists(numbers, min_size=3, max_size=3)
sparse = st.dictionaries(st.integers(0, 2**32 - 1), numbers, max_size=4).map(
    lambda terms: models.SparseVector(indices=list(terms), values=list(terms.values()))
)
vectors = st.fixed_dictionaries(
    {}, optional={"a": vector, "m": st.lists(vector, min_size=1, max_size=3), "s": sparse}
)
payloads = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text())


def record(
    id: Any = 1, vector: Any = None, payload: dict[str, Any] | None = None
) -> models.Record:
    return models.Record.model_construct(id=id, vector=vector, payload=payload)


@given(vectors, payloads)
def test_a_point_is_itself_in_any_form(vector: dict[str, Any], payload: dict[str, Any]) -> None:
    other: dict[str, Any] = {
        name: np.asarray(vector[name], np.float32) for name in reversed(vector) if name != "s"
    }
    if "s" in vector:  # its terms the other way round
        terms = vector["s"]
        other["s"] = models.SparseVector(indices=terms.indices[::-1], values=terms.values[::-1])
    one = StoredPoint.of(record(1, vector, payload))
    two = StoredPoint.of(record(1, other, dict(reversed(payload.items()))))
    assert one.checksum == two.checksum
    assert one.compare(two, {}) == "same"


def test_nothing_in_several_forms() -> None:
    empty = models.SparseVector(indices=[], values=[])
    assert StoredPoint.of(record(1, None, None)) == StoredPoint.of(record(1, {"s": empty}, {}))
    id = uuid.uuid4()
    assert StoredPoint.of(record(id)).checksum == StoredPoint.of(record(str(id))).checksum


@pytest.mark.parametrize(
    "changed",
    [
        record(1, {"a": [1.0, 2.0]}, {"k": 1.0}),
        record(1, {"a": [1.0, 2.0]}, {"k": True}),
        record(1, {"a": [1.0, 2.0]}, {}),
        record(1, {"a": [1.0, 2.0000002]}, {"k": 1}),
        record(1, {"a": [[1.0, 2.0]]}, {"k": 1}),
        record(1, {"b": [1.0, 2.0]}, {"k": 1}),
        record(1, {"a": models.SparseVector(indices=[0, 1], values=[1.0, 2.0])}, {"k": 1}),
        record(1, {}, {"k": 1}),
    ],
)
def test_every_change_shows(changed: models.Record) -> None:
    one, two = StoredPoint.of(record(1, {"a": [1.0, 2.0]}, {"k": 1})), StoredPoint.of(changed)
    assert one.checksum != two.checksum
    assert one.compare(two, {}) == "different"


def test_ids_are_in_the_checksum() -> None:
    assert StoredPoint.of(record(1)).checksum != StoredPoint.of(record(2)).checksum


def params(datatype: str, distance: str = "Dot") -> models.CollectionParams:
    return models.CollectionParams(
        vectors={
            "a": models.VectorParams(
                size=3, distance=models.Distance(distance), datatype=models.Datatype(datatype)
            )
        }
    )


@given(st.lists(numbers, min_size=64, max_size=64), st.integers(0, 63))
def test_float16_is_rounding_and_more_is_not(values: list[float], position: int) -> None:
    allowed = rounding(params("float16"))
    exact = np.asarray(values, np.float32)
    rounded = exact.astype(np.float16).astype(np.float32)
    one, two = StoredPoint.of(record(1, {"a": exact})), StoredPoint.of(record(1, {"a": rounded}))
    assert one.compare(two, allowed) in ("same", "rounded")
    spoilt = exact.copy()
    spoilt[position] += 0.01 * float(np.linalg.norm(exact)) + 1e-4
    three = StoredPoint.of(record(1, {"a": spoilt}))
    assert one.compare(three, allowed) == "different"


def test_each_token_of_a_multivector_has_to_be_near() -> None:
    tokens = np.ones((400, 8), np.float32)
    spoilt = tokens.copy()
    spoilt[7] *= 1.01
    one, two = StoredPoint.of(record(1, {"a": tokens})), StoredPoint.of(record(1, {"a": spoilt}))
    assert one.compare(two, {"a": Rounding(2.0**-10)}) == "different"


@pytest.mark.parametrize("datatype", [member.value for member in models.Datatype])
def test_every_datatype_of_qdrant_has_its_rounding(datatype: str) -> None:
    plain, cosine = rounding(params(datatype)), rounding(params(datatype, "Cosine"))
    assert plain["a"].relative < cosine["a"].relative


def test_the_unnamed_vector() -> None:
    vectors = models.VectorParams(size=3, distance=models.Distance.DOT)
    assert rounding(models.CollectionParams(vectors=vectors)) == {"": Rounding()}
