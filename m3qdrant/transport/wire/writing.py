"""The bytes of requests that carry vectors: the same messages as the generated classes make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qdrant_client import grpc as protocol
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc

from m3qdrant.transport.wire.format import head

__all__ = ["get_points", "query_batch", "scroll_points", "upsert_points", "vectors"]

Buffer: TypeAlias = bytes | memoryview

# The numbers of fields, which never change; tests compare them with the generated classes' own.
_UPSERT_POINTS = 3
_POINT_VECTORS = 4
_VECTORS_ONE, _VECTORS_NAMED = 1, 2
_ENTRY, _KEY, _VALUE = 1, 1, 2
_DENSE, _MULTI = 101, 103
_DATA = 1  # of DenseVector
_ROWS = 1  # of MultiDenseVector


def upsert_points(
    *, collection_name: str, points: Sequence[models.PointStruct], wait: bool
) -> bytes:
    """An `UpsertPoints`, of arrays, (dim,) or (rows, dim), or of what qdrant-client takes."""
    request = protocol.UpsertPoints(collection_name=collection_name, wait=wait)
    pieces: list[Buffer] = [request.SerializeToString()]
    for point in points:
        written = vectors(point.vector)
        # what stands in two pieces of a message counts as one, so the rest is its own class's
        payload = None if point.payload is None else RestToGrpc.convert_payload(point.payload)
        rest: bytes = protocol.PointStruct(
            id=RestToGrpc.convert_extended_point_id(point.id), payload=payload
        ).SerializeToString()
        length = _length(written)
        before = head(_POINT_VECTORS, length)
        pieces.append(head(_UPSERT_POINTS, len(rest) + len(before) + length))
        pieces += [rest, before, *written]
    return b"".join(pieces)


def vectors(vector: Any) -> list[Buffer]:
    """A `Vectors`, in pieces."""
    if isinstance(vector, np.ndarray):
        return _field(_VECTORS_ONE, _vector(vector))
    if not isinstance(vector, Mapping):
        return [RestToGrpc.convert_vector_struct(vector).SerializeToString()]
    plain = {name: each for name, each in vector.items() if not isinstance(each, np.ndarray)}
    # a message of entries is nothing but these, one behind another
    entries: list[Buffer] = [RestToGrpc.convert_vector_struct(plain).vectors.SerializeToString()]
    for name, each in vector.items():
        if isinstance(each, np.ndarray):
            key = name.encode()
            entry = [head(_KEY, len(key)), key, *_field(_VALUE, _vector(each))]
            entries += _field(_ENTRY, entry)
    return _field(_VECTORS_NAMED, entries)


def get_points(
    *,
    collection_name: str,
    ids: Sequence[models.ExtendedPointId],
    with_payload: bool | Sequence[str],
    with_vectors: bool | Sequence[str],
) -> bytes:
    """A `GetPoints`."""
    request: bytes = protocol.GetPoints(
        collection_name=collection_name,
        ids=[RestToGrpc.convert_extended_point_id(id) for id in ids],
        with_payload=_payload(with_payload),
        with_vectors=_vectors(with_vectors),
    ).SerializeToString()
    return request


def scroll_points(
    *,
    collection_name: str,
    scroll_filter: models.Filter | None,
    limit: int,
    offset: models.ExtendedPointId | None,
    with_payload: bool | Sequence[str],
    with_vectors: bool | Sequence[str],
) -> bytes:
    """A `ScrollPoints`."""
    request: bytes = protocol.ScrollPoints(
        collection_name=collection_name,
        filter=None if scroll_filter is None else RestToGrpc.convert_filter(scroll_filter),
        limit=limit,
        offset=None if offset is None else RestToGrpc.convert_extended_point_id(offset),
        with_payload=_payload(with_payload),
        with_vectors=_vectors(with_vectors),
    ).SerializeToString()
    return request


def query_batch(*, collection_name: str, requests: Sequence[models.QueryRequest]) -> bytes:
    """A `QueryBatchPoints`."""
    request: bytes = protocol.QueryBatchPoints(
        collection_name=collection_name,
        query_points=[_Queries.convert_query_request(each, collection_name) for each in requests],
    ).SerializeToString()
    return request


class _Queries(RestToGrpc):
    """qdrant-client's conversion of queries, with vectors that are made of bytes."""

    @classmethod
    def convert_dense_vector(cls, model: Any) -> Any:
        return protocol.DenseVector.FromString(b"".join(_dense(_floats(model))))

    @classmethod
    def convert_multi_dense_vector(cls, model: Any) -> Any:
        return protocol.MultiDenseVector.FromString(b"".join(_multi(_floats(model))))


def _payload(wanted: bool | Sequence[str]) -> Any:
    names = wanted if isinstance(wanted, bool) else list(wanted)
    return RestToGrpc.convert_with_payload_interface(names)


def _vectors(wanted: bool | Sequence[str]) -> Any:
    return RestToGrpc.convert_with_vectors(wanted if isinstance(wanted, bool) else list(wanted))


def _vector(vector: NDArray[Any]) -> list[Buffer]:
    """A `Vector` of either kind."""
    floats = _floats(vector)
    if floats.ndim == 1:
        return _field(_DENSE, _dense(floats))
    return _field(_MULTI, _multi(floats))


def _floats(vector: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # infinite, as the generated classes have it
        floats = np.ascontiguousarray(vector, dtype="<f4")
    if floats.ndim not in (1, 2):
        raise ValueError(f"an array of shape {floats.shape} is no vector")
    return floats


def _dense(floats: NDArray[np.float32]) -> list[Buffer]:
    """A `DenseVector`."""
    if not floats.size:
        return []
    return [head(_DATA, floats.nbytes), floats.view(np.uint8).data]


def _multi(floats: NDArray[np.float32]) -> list[Buffer]:
    """A `MultiDenseVector`: a row is the same few bytes for each, then the row's own."""
    if not len(floats):
        return []
    width = floats.shape[1] * floats.itemsize
    inner = head(_DATA, width) if width else b""
    before = head(_ROWS, len(inner) + width) + inner
    rows = np.empty((len(floats), len(before) + width), np.uint8)
    rows[:, : len(before)] = np.frombuffer(before, np.uint8)
    if width:
        rows[:, len(before) :] = floats.view(np.uint8)
    return [rows.reshape(-1).data]


def _field(number: int, pieces: list[Buffer]) -> list[Buffer]:
    return [head(number, _length(pieces)), *pieces]


def _length(pieces: list[Buffer]) -> int:
    return sum(map(len, pieces))
