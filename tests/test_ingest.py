"""The parts of the pipeline: chunks that are read, and batches that a server accepts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from m3qdrant import IngestReport
from m3qdrant.ingest import batches_by_size, read


def points(sizes: list[int]) -> list[models.PointStruct]:
    return [
        models.PointStruct(id=i, vector={"colbert": [[0.0] * 4] * size})
        for i, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 60))
def test_batches_keep_the_order_and_the_limit(sizes: list[int], limit: int) -> None:
    batches = list(batches_by_size(points(sizes), limit))
    assert [point.id for batch in batches for point in batch] == list(range(len(sizes)))
    for batch in batches:
        numbers = [4 * sizes[int(point.id)] for point in batch]
        assert sum(numbers) <= limit or len(batch) == 1
    for batch, after in itertools.pairwise(batches):
        full = sum(4 * sizes[int(point.id)] for point in [*batch, after[0]])
        assert full > limit  # no batch is cut short


@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.integers(1, 10), st.integers(1, 100))
def test_chunks_have_unique_ids_and_keep_positions_and_limits(
    ids: list[str], documents: int, characters: int
) -> None:
    items = [{"id": id, "text": f"text {i}"} for i, id in enumerate(ids)]
    report = IngestReport()
    kept = []
    for chunk in read(items, report, documents, characters):
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


def test_a_failing_iterator_is_not_swallowed() -> None:
    def broken() -> object:
        yield "one"
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(read(broken(), IngestReport()))
