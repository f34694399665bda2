"""The parts of the pipeline: chunks that are read, and batches that a server accepts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from m3qdrant import Document, IngestReport
from m3qdrant.collection.batches import batches_by_size, json_size
from m3qdrant.ingest.chunks import Chunker, read


def points(sizes: list[int], number: float = 0.0) -> list[models.PointStruct]:
    return [
        models.PointStruct(
            id=i,
            vector={
                "dense": [number] * 3,
                "sparse": models.SparseVector(indices=[2**32 - 1], values=[number]),
                "colbert": [[number] * 4] * size,
            },
            payload={"text": "ä" * size},
        )
        for i, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 8_000))
def test_batches_keep_the_order_and_the_limit(sizes: list[int], limit: int) -> None:
    given = points(sizes)
    batches = list(batches_by_size(given, limit))
    assert [point.id for batch in batches for point in batch] == list(range(len(sizes)))
    for batch in batches:
        assert sum(map(json_size, batch)) <= limit or len(batch) == 1
    for batch, after in itertools.pairwise(batches):
        assert sum(map(json_size, [*batch, after[0]])) > limit  # no batch is cut short


@given(
    st.integers(1, 40),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
def test_a_point_takes_no_more_than_its_size_says(tokens: int, number: float) -> None:
    (point,) = points([tokens], number)
    body = json.dumps({"points": [point.model_dump(mode="json")]})
    assert len(body.encode()) <= json_size(point)


@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.integers(1, 10), st.integers(1, 100))
def test_chunks_have_unique_ids_and_keep_positions_and_limits(
    ids: list[str], documents: int, characters: int
) -> None:
    items = [{"id": id, "text": f"text {i}"} for i, id in enumerate(ids)]
    report = IngestReport()
    kept = []
    seen: set[str] = set()
    for chunk in read(items, Chunker(report, documents, characters, seen)):
        assert 0 < len(chunk.documents) == len(chunk.positions) <= documents
        *others, _ = chunk.documents
        assert sum(len(document.text) for document in others) < characters
        assert len({document.id for document in chunk.documents}) == len(chunk.documents)
        for document, position in zip(chunk.documents, chunk.positions, strict=True):
            assert document.text == f"text {position}"
            assert document.id == ids[position]
        kept += chunk.documents
    assert report.received == len(ids) == len(kept) + report.duplicates
    # the last one of an id is always there
    last = {id: f"text {i}" for i, id in enumerate(ids)}
    assert {document.id: document.text for document in kept} == last
    assert seen == {document.point_id for document in kept}


def test_a_failing_iterator_is_not_swallowed() -> None:
    def broken() -> Iterator[str]:
        yield "one"
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(read(broken(), Chunker(IngestReport())))


def test_a_bad_document_with_an_id_is_not_gone_from_the_input() -> None:
    seen: set[str] = set()
    bad: list[dict[str, Any]] = [
        {"id": "a"},
        {"id": "b", "text": 3},
        {"text": "x", "n": float("nan")},
    ]
    assert list(read(bad, Chunker(IngestReport(), seen=seen))) == []
    assert {Document("a", "").point_id, Document("b", "").point_id} <= seen


@pytest.mark.parametrize("chunk", [1, 2, 10])
def test_an_integer_and_its_digits_are_one_id(chunk: int) -> None:
    """The second would replace the first, however far apart they come."""
    report = IngestReport()
    items: list[Any] = [{"id": i, "text": f"text {i}"} for i in (1, 2, 1)]
    items += [{"id": "2", "text": "another"}, Document("3", "x"), {"id": 3, "text": "y"}]
    items += [{"id": "03", "text": "z"}, {"id": "9" * 5000, "text": "w"}]
    chunks = list(read(items, Chunker(report, max_documents=chunk)))
    stored = {document.id: document.text for each in chunks for document in each.documents}
    assert stored == {"1": "text 1", "2": "text 2", "3": "x", "03": "z", "9" * 5000: "w"}
    assert [(error.id, error.field) for error in report.failed] == [("2", "id"), ("3", "id")]
    assert "was a number before, and is a string now" in report.failed[0].reason
    assert "was a string before, and is a number now" in report.failed[1].reason
