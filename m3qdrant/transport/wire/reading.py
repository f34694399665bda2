"""The bytes of answers that carry vectors: the same points as the generated classes find.

What is read here is what a server writes: each vector's numbers packed, in one piece. Where
anything else turns up (fields that nobody knew, numbers that are not packed, another order, a
message in pieces, bytes that end too early), the generated classes read that message, or refuse
it. Vectors are float32 arrays in either case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qdrant_client import grpc as protocol
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest
from qdrant_client.http.models import QueryResponse

from m3qdrant.transport.wire.format import BYTES, UnexpectedError, fields

__all__ = ["answers", "page", "records", "update_result", "vectors"]

Floats: TypeAlias = NDArray[np.float32]

_GET_RESULT, _SCROLL_RESULT = 1, 2
_POINT_VECTORS = 4
_VECTORS_ONE, _VECTORS_NAMED = 1, 2
_ENTRY, _KEY, _VALUE = 1, 1, 2
_DENSE, _SPARSE, _MULTI = 101, 102, 103
_DATA = 1  # of DenseVector
_ROWS = 1  # of MultiDenseVector


def update_result(data: bytes) -> models.UpdateResult:
    """Of a `PointsOperationResponse`."""
    answer = protocol.PointsOperationResponse.FromString(data)
    return GrpcToRest.convert_update_result(answer.result)


def records(data: bytes) -> list[models.Record]:
    """Of a `GetResponse`.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    try:
        points, rest = _split(memoryview(data), _GET_RESULT)
        protocol.GetResponse.FromString(rest)
    except UnexpectedError:
        answer = protocol.GetResponse.FromString(data)
        points = [memoryview(point.SerializeToString()) for point in answer.result]
    return [_record(point) for point in points]


def page(data: bytes) -> tuple[list[models.Record], models.ExtendedPointId | None]:
    """Of a `ScrollResponse`: points, and the id that the next page begins with.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    try:
        points, rest = _split(memoryview(data), _SCROLL_RESULT)
        answer = protocol.ScrollResponse.FromString(rest)
    except UnexpectedError:
        answer = protocol.ScrollResponse.FromString(data)
        points = [memoryview(point.SerializeToString()) for point in answer.result]
    following = None
    if answer.HasField("next_page_offset"):
        following = GrpcToRest.convert_point_id(answer.next_page_offset)
    return [_record(point) for point in points], following


def answers(data: bytes) -> list[QueryResponse]:
    """Of a `QueryBatchResponse`; its vectors, if any, are lists."""
    answer = protocol.QueryBatchResponse.FromString(data)
    return [
        QueryResponse(points=[GrpcToRest.convert_scored_point(hit) for hit in each.result])
        for each in answer.result
    ]


def vectors(data: memoryview) -> Any:
    """Of a `VectorsOutput`: an array, (dim,) or (rows, dim), or `SparseVector`, or a dict of them.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    try:
        number, start, end = _only(data, 0, len(data))
        if number == _VECTORS_ONE:
            return _vector(data, start, end)
        if number != _VECTORS_NAMED:
            raise UnexpectedError
        named = {}
        for number, first, last in _messages(data, start, end):
            if number != _ENTRY:
                raise UnexpectedError
            name, value = _entry(data, first, last)
            named[name] = value
        return named
    except UnexpectedError:
        found = protocol.VectorsOutput.FromString(bytes(data))
        return _arrays(GrpcToRest.convert_vectors_output(found))


def _entry(data: memoryview, start: int, end: int) -> tuple[str, Any]:
    """A name and its vector."""
    found = list(_messages(data, start, end))
    if [number for number, _, _ in found] != [_KEY, _VALUE]:
        raise UnexpectedError
    (_, *key), (_, *value) = found
    try:
        name = bytes(data[slice(*key)]).decode()
    except UnicodeDecodeError:
        raise UnexpectedError from None
    return name, _vector(data, *value)


def _vector(data: memoryview, start: int, end: int) -> Any:
    """Of a `VectorOutput`."""
    number, start, end = _only(data, start, end)
    if number == _DENSE:
        first, last = _packed(data, start, end)
        return _floats(data, first, last)
    if number == _MULTI:
        return _rows(data, start, end)
    if number == _SPARSE:
        found = protocol.SparseVector.FromString(bytes(data[start:end]))
        return GrpcToRest.convert_sparse_vector(found)
    raise UnexpectedError


def _rows(data: memoryview, start: int, end: int) -> Floats:
    """Of a `MultiDenseVector`, whose rows have all the same bytes before their numbers."""
    if start == end:
        return np.empty((0, 0), np.float32)
    number, kind, _, row, stop = next(fields(data, start, end))
    if (number, kind) != (_ROWS, BYTES):
        raise UnexpectedError
    first, last = _packed(data, row, stop)
    before, stride = first - start, stop - start
    count, more = divmod(end - start, stride)
    if more or last != stop:
        raise UnexpectedError
    rows = np.frombuffer(data[start:end], np.uint8).reshape(count, stride)
    if not (rows[:, :before] == rows[0, :before]).all():
        raise UnexpectedError
    if before == stride:
        return np.empty((count, 0), np.float32)
    # copied, so that the numbers lie as they should, and the answer's bytes can go
    return np.ascontiguousarray(rows[:, before:]).view("<f4").astype(np.float32, copy=False)


def _floats(data: memoryview, start: int, end: int) -> Floats:
    if start == end:
        return np.empty(0, np.float32)
    return np.frombuffer(data[start:end], "<f4").astype(np.float32)


def _packed(data: memoryview, start: int, end: int) -> tuple[int, int]:
    """Where the numbers of a `DenseVector` lie."""
    if start == end:
        return start, end
    number, first, last = _only(data, start, end)
    if number != _DATA or (last - first) % 4:
        raise UnexpectedError
    return first, last


def _arrays(found: Any) -> Any:
    """What qdrant-client makes of vectors, with arrays in the place of lists."""
    if isinstance(found, Mapping):
        return {name: _arrays(each) for name, each in found.items()}
    if not isinstance(found, list):
        return found
    if len({len(row) if isinstance(row, list) else -1 for row in found}) > 1:
        return found  # rows of several widths are no array
    return np.array(found, np.float32)


def _split(data: memoryview, number: int) -> tuple[list[memoryview], bytes]:
    """The messages of a field, and the bytes of everything else."""
    found: list[memoryview] = []
    rest = bytearray()
    for field, kind, begin, start, end in fields(data, 0, len(data)):
        if field == number:
            if kind != BYTES:
                raise UnexpectedError
            found.append(data[start:end])
        else:
            rest += data[begin:end]
    return found, bytes(rest)


def _messages(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message that holds nothing but messages: (number, start, end)."""
    for number, kind, _, first, last in fields(data, start, end):
        if kind != BYTES:
            raise UnexpectedError
        yield number, first, last


def _only(data: memoryview, start: int, end: int) -> tuple[int, int, int]:
    """The one field of a message that has one."""
    found = list(_messages(data, start, end))
    if len(found) != 1:
        raise UnexpectedError
    return found[0]


def _record(data: memoryview) -> models.Record:
    """Of a `RetrievedPoint`."""
    try:
        parts, rest = _split(data, _POINT_VECTORS)
        if len(parts) > 1:
            raise UnexpectedError
        point = protocol.RetrievedPoint.FromString(rest)
    except UnexpectedError:
        point = protocol.RetrievedPoint.FromString(bytes(data))
        parts = [memoryview(point.vectors.SerializeToString())] if _has_vectors(point) else []
        point.ClearField("vectors")
    record: models.Record = GrpcToRest.convert_retrieved_point(point)
    if parts:
        record.vector = vectors(parts[0])
    return record


def _has_vectors(point: Any) -> bool:
    found: bool = point.HasField("vectors")
    return found
