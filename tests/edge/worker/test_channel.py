"""What crosses to the worker process arrives as it left, type by type and bit by bit."""

from __future__ import annotations

import pickle
import socket
import threading
import uuid
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from m3qdrant.edge.worker.channel import Channel, Message, dumps, loads


def crossed(value: Any) -> Any:
    """The value after its way through a socket pair."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=lambda: Channel(ours).send(7, True, dumps(value)))
        sender.start()
        message = Channel(theirs).receive()
        sender.join()
    assert isinstance(message, Message)
    assert message[:2] == (7, True)
    return loads(message)


FLOATS = st.floats(allow_nan=False)  # two NaN aren't equal; one has a test of its own
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | st.text() | st.binary()
ROWS = st.integers(0, 40).flatmap(lambda n: st.lists(FLOATS, min_size=n, max_size=n))
MATRICES = st.tuples(st.integers(0, 40), st.integers(0, 5)).flatmap(
    lambda s: st.lists(st.lists(FLOATS, min_size=s[0], max_size=s[0]), max_size=s[1])
)
MIXED_ROWS = st.lists(FLOATS | st.integers() | st.booleans() | st.none(), max_size=60)
VALUES = st.recursive(
    SCALARS | ROWS | MATRICES | MIXED_ROWS | st.lists(MIXED_ROWS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_plain_values(value: Any) -> None:
    arrived = crossed(value)
    assert arrived == value
    assert repr(arrived) == repr(value)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0


@given(VALUES, ROWS, MATRICES)
def test_models(payload: Any, row: list[float], matrix: list[list[float]]) -> None:
    point = models.PointStruct.model_construct(
        id=uuid.UUID(int=3),
        vector={"dense": row, "colbert": matrix},
        payload={"payload": payload},
    )
    request = models.QueryRequest(
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        prefetch=[models.Prefetch(query=row or [0.5], using="dense")],
    )
    arrived = crossed([point, request])
    assert arrived == [point, request]
    assert repr(arrived) == repr([point, request])
    assert arrived[1].model_fields_set == request.model_fields_set


@pytest.mark.parametrize(
    "shape", [(), (0,), (3,), (5, 0), (7, 11), (300, 257)], ids=lambda s: "x".join(map(str, s))
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_arrays(shape: tuple[int, ...], dtype: type) -> None:
    array: np.ndarray[Any, Any] = (100 * np.random.default_rng(0).normal(size=shape)).astype(dtype)
    for value in (array, np.asfortranarray(array), array[..., ::2] if shape else array):
        for arrived in (crossed(value), crossed({"a": [value]})["a"][0]):
            assert arrived.dtype == value.dtype
            assert arrived.shape == value.shape
            np.testing.assert_array_equal(arrived, value)


def test_large_arrays_are_not_copied_to_be_sent() -> None:
    array = np.ones((1000, 128), np.float32)
    parcel = dumps([models.PointStruct.model_construct(id=1, vector=array)])
    assert sum(map(len, parcel.pickled)) < 1000
    assert np.shares_memory(np.frombuffer(parcel.arrays[0], np.float32), array)


def test_nan_infinity_and_the_smallest_float() -> None:
    row = [float("nan"), float("inf"), -float("inf"), 5e-324, -0.0] * 10
    assert repr(crossed([row, [row, row]])) == repr([row, [row, row]])


def test_a_tensor_arrives_as_an_array() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    arrived = crossed(models.PointStruct.model_construct(id=1, vector={"colbert": tensor}))
    assert isinstance(arrived.vector["colbert"], np.ndarray)
    np.testing.assert_array_equal(arrived.vector["colbert"], tensor.numpy())
    assert crossed(np.float32(0.5)).dtype == np.float32


def test_long_lists_are_bytes_on_their_way() -> None:
    rows = np.random.default_rng(1).normal(size=(5, 1024)).tolist()
    for value, numbers in ((rows[0], 1024), (rows, 5 * 1024)):
        size = sum(map(len, dumps(value).pickled))
        assert 8 * numbers < size < 8 * numbers + 200 < len(pickle.dumps(value, 5))


def test_the_end_of_the_stream() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parcel = dumps("whole")
        Channel(ours).send(1, False, parcel)
        ours.sendall(b"half a head")
        ours.shutdown(socket.SHUT_WR)
        channel = Channel(theirs)
        whole = channel.receive()
        assert whole is not None
        assert loads(whole) == "whole"
        assert channel.receive() is None
        assert channel.receive() is None
