"""The bytes of answers, well-formed, odd and broken, read as the generated classes read them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import grpc as protocol
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from m3qdrant.transport.wire import reading
from m3qdrant.transport.wire.format import head, varint
from tests.transport.wire import drawn


def output(vector: Any) -> Any:
    """The message that a server makes of a vector."""
    return protocol.VectorsOutput.FromString(
        RestToGrpc.convert_vector_struct(drawn.as_lists(vector)).SerializeToString()
    )


def by_classes(data: bytes) -> Any:
    """What qdrant-client finds in a `VectorsOutput`."""
    return GrpcToRest.convert_vectors_output(protocol.VectorsOutput.FromString(data))


def check(data: bytes) -> Any:
    """What is found is what the generated classes find; it comes back."""
    found = reading.vectors(memoryview(data))
    assert drawn.as_lists(found) == by_classes(data)
    return found


@given(drawn.struct)
def test_vectors_are_what_the_classes_find(vector: Any) -> None:
    found = check(output(vector).SerializeToString())
    assert _arrays_in(found) == _arrays_in(vector)


def _arrays_in(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _arrays_in(each) for name, each in vector.items()}
    return vector.dtype.str if isinstance(vector, np.ndarray) else type(vector)


points = st.lists(
    st.tuples(st.integers(0, 2**64 - 1) | st.uuids().map(str), drawn.struct | st.none()),
    max_size=4,
)


@given(points, st.integers(0, 2**64 - 1) | st.uuids().map(str) | st.none())
def test_pages_are_what_the_classes_find(points: list[Any], following: Any) -> None:
    made = [
        protocol.RetrievedPoint(
            id=RestToGrpc.convert_extended_point_id(id),
            payload=RestToGrpc.convert_payload({"a": [1, "b", None], "place": str(id)}),
            vectors=None if vector is None else output(vector),
            shard_key=protocol.ShardKey(keyword="k"),
            order_value=protocol.OrderValue(int=3),
        )
        for id, vector in points
    ]
    offset = None if following is None else RestToGrpc.convert_extended_point_id(following)
    usage = protocol.Usage(hardware=protocol.HardwareUsage(cpu=3))
    page = protocol.ScrollResponse(result=made, next_page_offset=offset, time=0.5, usage=usage)
    answer = protocol.GetResponse(result=made, time=0.5, usage=usage)
    wanted = [GrpcToRest.convert_retrieved_point(point) for point in made]
    found, place = reading.page(page.SerializeToString())
    assert place == following
    for each in (found, reading.records(answer.SerializeToString())):
        assert [_plain(record) for record in each] == wanted


def _plain(record: models.Record) -> models.Record:
    return record.model_copy(update={"vector": drawn.as_lists(record.vector)})


# -- what no server writes today, and protobuf reads all the same


def field(number: int, *pieces: bytes) -> bytes:
    data = b"".join(pieces)
    return head(number, len(data)) + data


def packed(*numbers: float) -> bytes:
    return field(1, struct.pack(f"<{len(numbers)}f", *numbers))


def unpacked(*numbers: float) -> bytes:
    return b"".join(varint(1 << 3 | 5) + struct.pack("<f", number) for number in numbers)


UNKNOWN = field(90, b"later") + varint(91 << 3) + varint(2**64 - 1)
ROW = field(1, packed(1, 2, 3))

ODD = {
    "unpacked dense": field(1, field(101, unpacked(1, 2))),
    "packed in two pieces": field(1, field(101, packed(1, 2), packed(3))),
    "packed and not": field(1, field(101, packed(1, 2), unpacked(3))),
    "an unpacked row": field(1, field(103, ROW, field(1, unpacked(1, 2, 3)))),
    "unpacked rows": field(1, field(103, field(1, unpacked(1, 2)) * 2)),
    "unknown in a vector": field(1, field(103, ROW), UNKNOWN),
    "unknown in rows": field(1, field(103, ROW, UNKNOWN, ROW)),
    "unknown in a row": field(1, field(103, field(1, packed(1), UNKNOWN) * 2)),
    "unknown beside names": field(2, UNKNOWN) + UNKNOWN,
    "unknown in an entry": field(2, field(1, field(1, b"a"), field(2, field(103, ROW)), UNKNOWN)),
    "the value before its name": field(2, field(1, field(2, field(103, ROW)), field(1, b"a"))),
    "no name": field(2, field(1, field(2, field(103, ROW)))),
    "a name twice": field(
        2, *[field(1, field(1, b"a"), field(2, field(103, ROW * n))) for n in (1, 2)]
    ),
    "a vector twice": field(1, field(101, packed(1))) + field(1, field(101, packed(2))),
    "of two kinds": field(1, field(101, packed(1)), field(103, ROW)),
    "in two pieces": field(1, field(103, ROW), field(103, ROW, ROW)),
    "names in two pieces": field(2, field(1, field(1, b"a"), field(2, field(101, packed(1)))))
    + field(2, field(1, field(1, b"b"), field(2, field(103, ROW)))),
    "one, then names": field(1, field(101, packed(1))) + field(2),
    "rows of several widths": field(1, field(103, ROW, field(1, packed(1)))),
    "widths that come to the same": field(
        1, field(103, ROW, field(1, packed(1)), field(1, packed(1, 2, 3, 4, 5)))
    ),
    "an empty row": field(1, field(103, ROW, field(1))),
    "empty rows": field(1, field(103, field(1) * 3)),
    "empty numbers": field(1, field(103, field(1, field(1)) * 3)),
    "no rows": field(1, field(103)),
    "no numbers": field(1, field(101)),
    "nothing of all": field(1),
    "no names": field(2),
    "as old servers wrote": field(1, packed(1, 2, 3, 4), varint(3 << 3) + b"\x02"),
    "sparse of old": field(
        2, field(1, field(1, b"a"), field(2, packed(1, 2), field(2, field(1, b"\x05\x07"))))
    ),
    "a longer length": b"\x0a\x8b\x00" + field(103, field(1, packed(1))),
    "an enveloped text": field(
        2, field(1, field(1, "ä".encode()), field(2, field(101, packed(1))))
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_bytes_are_what_the_classes_find(name: str) -> None:
    check(ODD[name])


@pytest.mark.parametrize("name", ODD)
def test_odd_bytes_in_a_point(name: str) -> None:
    id = field(1, varint(1 << 3) + b"\x07")
    half = len(ODD[name]) // 2
    for data in (
        field(1, id, field(4, ODD[name]), UNKNOWN),
        field(1, field(4, ODD[name]), id),
        field(1, id, field(4, ODD[name][:half]), field(4, ODD[name][half:])),
        UNKNOWN + field(1, id, field(4, ODD[name])) + UNKNOWN,
        field(1, id, varint(4 << 3) + b"\x05", field(4, ODD[name])),
    ):
        _same(data)


def _same(data: bytes) -> None:
    """An answer is read as the classes read it, or refused where they refuse it."""
    try:
        answer = protocol.GetResponse.FromString(data)
        wanted = [GrpcToRest.convert_retrieved_point(point) for point in answer.result]
    except (DecodeError, ValueError):  # an id of neither kind is a ValueError
        with pytest.raises((DecodeError, ValueError)):
            reading.records(data)
        return
    assert list(map(_words, reading.records(data))) == list(map(_words, wanted))


def _words(record: models.Record) -> str:
    """All of a record, but for the order of its names; NaN, too, is an equal of itself."""
    vector: Any = drawn.as_lists(record.vector)
    named = sorted(vector.items()) if isinstance(vector, dict) else vector
    return repr((record.model_copy(update={"vector": None}), named))


NAMED = field(
    1,
    field(1, varint(1 << 3) + b"\x07"),
    field(
        4,
        field(
            2,
            field(1, field(1, b"colbert"), field(2, field(103, ROW, ROW))),
            field(1, field(1, b"dense"), field(2, field(101, packed(5, 6)))),
            field(1, field(1, b"sparse"), field(2, field(102, packed(0.5), field(2, b"\x09")))),
        ),
    ),
)


def test_bytes_that_end_too_early() -> None:
    _same(NAMED)
    for end in range(len(NAMED)):
        _same(NAMED[:end])


@given(st.data())
def test_bytes_that_were_changed(data: st.DataObject) -> None:
    changed = bytearray(NAMED)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.sampled_from([0, 1, 0x0A, 0x0B, 0x7F, 0x80, 0xFF]))
    _same(bytes(changed))
