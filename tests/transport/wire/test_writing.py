"""The bytes of requests, beside the messages that qdrant-client makes of the same."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import grpc as protocol
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc

from m3qdrant.transport.wire import reading, writing
from tests.transport.wire import drawn

ids = st.one_of(st.integers(0, 2**64 - 1), st.uuids().map(str))
payloads = st.none() | st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.text() | st.lists(st.floats()), max_size=3
)


def test_the_fields_have_the_numbers_that_the_messages_say() -> None:
    def number(message: Any, field: str) -> int:
        found: int = message.DESCRIPTOR.fields_by_name[field].number
        return found

    assert number(protocol.UpsertPoints, "points") == writing._UPSERT_POINTS
    assert number(protocol.PointStruct, "vectors") == writing._POINT_VECTORS
    for module, vectors, one in (
        (writing, protocol.Vectors, protocol.Vector),
        (reading, protocol.VectorsOutput, protocol.VectorOutput),
    ):
        assert number(vectors, "vector") == module._VECTORS_ONE
        assert number(vectors, "vectors") == module._VECTORS_NAMED
        assert (number(one, "dense"), number(one, "multi_dense")) == (module._DENSE, module._MULTI)
        entries = getattr(protocol, vectors.__name__.replace("Vectors", "NamedVectors"))
        assert number(entries, "vectors") == module._ENTRY
        assert number(protocol.DenseVector, "data") == module._DATA
        assert number(protocol.MultiDenseVector, "vectors") == module._ROWS
    assert number(protocol.VectorOutput, "sparse") == reading._SPARSE
    assert number(protocol.RetrievedPoint, "vectors") == reading._POINT_VECTORS
    assert number(protocol.GetResponse, "result") == reading._GET_RESULT
    assert number(protocol.ScrollResponse, "result") == reading._SCROLL_RESULT


@given(drawn.struct)
def test_vectors_are_the_same_message(vector: Any) -> None:
    written = b"".join(writing.vectors(vector))
    wanted = RestToGrpc.convert_vector_struct(drawn.as_lists(vector))
    assert protocol.Vectors.FromString(written) == wanted
    assert b"".join(writing.vectors(drawn.as_lists(vector))) == wanted.SerializeToString()


@given(drawn.rows)
def test_a_multivector_is_the_same_bytes(rows: Any) -> None:
    wanted = RestToGrpc.convert_vector_struct(rows.tolist())
    assert b"".join(writing.vectors(rows)) == wanted.SerializeToString()


@given(st.lists(st.tuples(ids, drawn.struct, payloads), max_size=4), st.booleans())
def test_an_upsert_is_the_same_message(points: list[tuple[Any, Any, Any]], wait: bool) -> None:
    written = writing.upsert_points(
        collection_name="für alle",
        points=[
            models.PointStruct.model_construct(id=id, vector=vector, payload=payload)
            for id, vector, payload in points
        ],
        wait=wait,
    )
    wanted = protocol.UpsertPoints(
        collection_name="für alle",
        points=[
            RestToGrpc.convert_point_struct(
                models.PointStruct.model_construct(
                    id=id, vector=drawn.as_lists(vector), payload=payload
                )
            )
            for id, vector, payload in points
        ],
        wait=wait,
    )
    # NaN in a payload is no equal of itself: the bytes are
    found = protocol.UpsertPoints.FromString(written)
    assert _bytes(found) == _bytes(wanted)


def _bytes(message: Any) -> bytes:
    written: bytes = message.SerializeToString(deterministic=True)
    return written


@pytest.mark.parametrize(
    "vector",
    [
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.arange(6, dtype=np.float16),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3],
        np.arange(6, dtype=">f4").reshape(3, 2),
        np.empty((0, 3), np.float32),
        np.empty((3, 0), np.float32),
    ],
    ids=["double", "half", "columns", "strided", "big-endian", "no rows", "no width"],
)
def test_arrays_of_other_kinds(vector: Any) -> None:
    found = protocol.Vectors.FromString(b"".join(writing.vectors(vector))).vector
    if vector.ndim == 1:
        assert list(found.dense.data) == vector.tolist()
    else:
        assert found.HasField("multi_dense")
        assert [list(row.data) for row in found.multi_dense.vectors] == vector.tolist()


def test_what_is_no_vector() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3\)"):
        writing.vectors({"x": np.zeros((1, 2, 3), np.float32)})


@given(drawn.dense.filter(len), drawn.rows, drawn.sparse())
def test_queries_are_the_same_message(dense: Any, rows: Any, sparse: Any) -> None:
    requests = [
        models.QueryRequest(
            prefetch=[
                models.Prefetch(query=dense.tolist(), using="dense", limit=5),
                models.Prefetch(query=sparse, using="sparse"),
                models.Prefetch(
                    prefetch=models.Prefetch(query=str(uuid.uuid4()), using="dense"),
                    query=models.NearestQuery(
                        nearest=rows.tolist(), mmr=models.Mmr(diversity=0.5)
                    ),
                ),
            ],
            query=rows.tolist(),
            using="colbert",
            filter=models.Filter(must=[models.HasIdCondition(has_id=[1, 2])]),
            with_payload=["a"],
        ),
        models.QueryRequest(query=models.FusionQuery(fusion=models.Fusion.RRF), limit=3),
    ]
    written = writing.query_batch(collection_name="x", requests=requests)
    wanted = protocol.QueryBatchPoints(
        collection_name="x",
        query_points=[RestToGrpc.convert_query_request(each, "x") for each in requests],
    )
    assert protocol.QueryBatchPoints.FromString(written) == wanted


@pytest.mark.parametrize("wanted", [True, False, ["dense", "colbert"], ("dense",)])
def test_reads_are_the_same_message(wanted: Any) -> None:
    names = wanted if isinstance(wanted, bool) else list(wanted)
    selected: dict[str, Any] = {
        "with_payload": RestToGrpc.convert_with_payload_interface(names),
        "with_vectors": RestToGrpc.convert_with_vectors(names),
    }
    chosen: dict[str, Any] = {"with_payload": wanted, "with_vectors": wanted}
    a, b = 7, str(uuid.uuid4())
    point_ids = [RestToGrpc.convert_extended_point_id(id) for id in (a, b)]
    written = writing.get_points(collection_name="x", ids=[a, b], **chosen)
    assert protocol.GetPoints.FromString(written) == protocol.GetPoints(
        collection_name="x", ids=point_ids, **selected
    )
    condition = models.Filter(must=[models.HasIdCondition(has_id=[a])])
    written = writing.scroll_points(
        collection_name="x", scroll_filter=condition, limit=9, offset=b, **chosen
    )
    assert protocol.ScrollPoints.FromString(written) == protocol.ScrollPoints(
        collection_name="x",
        filter=RestToGrpc.convert_filter(condition),
        limit=9,
        offset=point_ids[1],
        **selected,
    )
