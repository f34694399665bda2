"""Every storage option: collections with it are made, read back, and answer as they should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from m3qdrant import M3Schema
from m3qdrant.errors import SchemaMismatchError
from m3qdrant.names import MODES
from tests.views import documents, random_views

Agree = Callable[[Callable[[Any], Any]], Any]

EXACT = {  # the scores that hits show are exact whatever these are
    "float32": M3Schema(colbert_datatype="float32"),
    "dense float16": M3Schema(dense_datatype="float16"),
    "dense int8": M3Schema(dense_quantization="int8", dense_on_disk=True),
    "colbert int8": M3Schema(colbert_quantization="int8", colbert_on_disk=True),
    "on disk": M3Schema(dense_on_disk=True, colbert_on_disk=True, sparse_on_disk=True),
    "no graph": M3Schema(hnsw_m=0),
    "payload indexes": M3Schema(payload_indexes={"lang": "keyword", "year": "integer"}),
    "tenant": M3Schema(tenant="lang"),
}


@pytest.mark.parametrize("schema", EXACT.values(), ids=EXACT)
def test_options_that_keep_the_scores(agree: Agree, schema: M3Schema) -> None:
    views, query = random_views(50, seed=61), random_views(1, seed=62)

    def use(open_store: Any) -> Any:
        store = open_store(None, schema)
        store.add(documents(50), embeddings=views)
        hits = [
            store.search(query, mode, limit=50, candidates=50, filter={"lang": "de"})
            for mode in MODES
        ]
        scores = [{hit.id: dict(hit.scores) for hit in found} for found in hits]
        return [scores, store.info().documents]

    scores, _ = agree_within(agree, use, 2e-3)
    assert all(len(found) == 17 for found in scores[:1])


def agree_within(agree: Agree, use: Callable[[Any], Any], tolerance: float) -> Any:
    """As `agree`, where in-memory mode keeps float32 and an engine rounds."""

    def rounded(open_store: Any) -> Any:
        return _rounded(use(open_store), tolerance)

    return agree(rounded)


def _rounded(value: Any, tolerance: float) -> Any:
    if isinstance(value, float):
        return _Near(value, tolerance)
    if isinstance(value, dict):
        return {key: _rounded(item, tolerance) for key, item in value.items()}
    return [_rounded(item, tolerance) for item in value] if isinstance(value, list) else value


class _Near:
    """A number that equals those near it."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: float, tolerance: float) -> None:
        self.value, self.tolerance = value, tolerance

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Near) and abs(self.value - other.value) <= self.tolerance

    def __repr__(self) -> str:
        return f"{self.value:.5f}"


def test_a_schema_is_read_back_and_another_one_refused(open_store: Any, backend: str) -> None:
    schema = M3Schema(colbert_datatype="float32", token_pooling=2, tenant="who")
    store = open_store(None, schema)
    store.add(documents(3), embeddings=random_views(3, seed=63))
    found = open_store().info().schema
    assert (found.colbert_datatype, found.token_pooling, found.tenant) == ("float32", 2, "who")
    open_store(None, schema)
    with pytest.raises(SchemaMismatchError, match="token_pooling is 2 here, 1 wanted") as caught:
        open_store(None, M3Schema(colbert_datatype="float32", tenant="who"))
    assert len(caught.value.differences) == 1


def test_missing_payload_indexes_are_made_when_a_store_is_opened(
    open_store: Any, backend: str
) -> None:
    if "memory" in backend:
        pytest.skip("in-memory mode has no payload indexes")
    open_store().add(documents(5), embeddings=random_views(5, seed=64))
    assert dict(open_store().info().schema.payload_indexes) == {}
    open_store(None, M3Schema(payload_indexes={"lang": "keyword", "year": "integer"}))
    found = open_store().info().schema.payload_indexes
    assert dict(found) == {"lang": "keyword", "year": "integer"}
