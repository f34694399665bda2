"""Every storage option: collections with it are made, read back, and answer as they should."""

from __future__ import annotations

import time
from typing import Any

import pytest
from qdrant_client import models

from m3qdrant import M3Schema, QdrantEdge
from m3qdrant.collection import IndexKind, Layout, supports
from m3qdrant.errors import SchemaMismatchError, UnsupportedError
from m3qdrant.names import MODES, VECTORS
from tests.contract.answers import plain
from tests.contract.modes import assert_by_definition
from tests.servers.blocking import waited
from tests.servers.rest import RestServer
from tests.views import COLBERT_DIM, DIM, documents, random_views, scores_by_hand

# Component scores come from the vectors as they are stored, and from the originals where there is
# a quantized copy. Float16 roundings are in the exact scores too: float32's own error is left.
EXACT = {
    "default": M3Schema(),
    "colbert float32": M3Schema(colbert_datatype="float32"),
    "dense float16": M3Schema(dense_datatype="float16"),
    "dense int8": M3Schema(dense_quantization="int8", dense_on_disk=True),
    "dense turbo8": M3Schema(dense_quantization="turbo8"),
    "dense turbo4": M3Schema(dense_quantization="turbo4"),
    "colbert int8": M3Schema(colbert_quantization="int8", colbert_on_disk=True),
    "colbert graph": M3Schema(colbert_hnsw=True),
    "on disk": M3Schema(dense_on_disk=True, colbert_on_disk=True, sparse_on_disk=True),
    "no graph": M3Schema(hnsw_m=0),
    "payload indexes": M3Schema(payload_indexes={"lang": "keyword", "year": "integer"}),
    "tenant": M3Schema(tenant="lang"),
}
EXACTLY = 1e-5

# What is rounded has no original. In-memory mode keeps float32 whatever these say.
ROUNDED = {
    # 2^-11 of each weight, all below 0.4, and few products of two are summed
    "sparse float16": (M3Schema(sparse_datatype="float16"), {"sparse": 1e-4}),
    # 256 steps over the weights that there are: 0.4 / 512 of each, times the query's own
    "sparse uint8": (M3Schema(sparse_datatype="uint8"), {"sparse": 1e-3}),
    # 8 and 4 bits a number: a mean over tokens of products of unit vectors of 16 dimensions, where
    # real ones have 1024 and their errors cancel
    "colbert turbo8": (M3Schema(colbert_datatype="turbo8"), {"colbert": 5e-3}),
    "colbert turbo4": (M3Schema(colbert_datatype="turbo4"), {"colbert": 6e-2}),
}

CASES: dict[str, tuple[M3Schema, dict[str, float]]] = {
    **{name: (schema, {}) for name, schema in EXACT.items()},
    **ROUNDED,
}
N, GERMAN = 120, 40
"""So many documents there are, and so many the filter leaves: all of them are candidates."""


def wait_for_the_optimizer(store: Any) -> None:
    """Until a server has built its indexes: scores of another datatype are there from then on."""
    green = 0
    for _ in range(600):
        info = waited(store, store.client.get_collection(store.collection))
        green = green + 1 if info.status is models.CollectionStatus.GREEN else 0
        if green == 5:  # it may not have begun the first time
            return
        time.sleep(0.1)
    raise AssertionError("the server is still at work")


@pytest.mark.thinned(6)
@pytest.mark.parametrize(("schema", "tolerances"), CASES.values(), ids=CASES)
def test_every_mode_under_every_option(
    open_store: Any,
    backend: str,
    schema: M3Schema,
    tolerances: dict[str, float],
    request: pytest.FixtureRequest,
) -> None:
    """The scores that hits show are near the exact ones, and each mode's score follows from them.

    A ranking by rounded scores may differ from the exact one, so that fused scores, which count
    ranks, can't be compared with the oracle's; but they are what the mode defines them to be over
    the scores that the collection has. With the segment optimised: the graphs, the quantized
    copies and the sparse index of another datatype are there from then on.
    """
    brought, query = random_views(N, seed=61), random_views(1, seed=62)
    half = [] if schema.colbert_datatype == "float32" else ["colbert"]
    half += ["dense"] if schema.dense_datatype == "float16" else []
    exact = {f"d{i}": scores_by_hand(query, brought[i], half) for i in range(0, N, 3)}
    store = open_store()
    if backend.startswith("server"):
        version = waited(store, store.client.info()).version
        if not all(supports(feature, version) for feature in schema.features()):
            with pytest.raises(UnsupportedError, match=f"server {version} .* is too old for"):
                open_store(None, schema).add(documents(1), embeddings=random_views(1, seed=61))
            return
    settings = Layout(schema, DIM, COLBERT_DIM, None).settings()
    settings["optimizers_config"] = models.OptimizersConfigDiff(indexing_threshold=1)
    waited(store, store.client.create_collection(store.collection, **settings))
    store = open_store(None, schema)
    store.add(documents(N), embeddings=brought)
    if backend.startswith("REST"):  # a server does it by itself
        stand_in: RestServer = request.getfixturevalue("stand_in")
        assert isinstance(stand_in.backing, QdrantEdge)
        assert stand_in.backing.optimize(store.collection)
    elif backend.startswith("embedded"):
        assert store.optimize()
    elif backend.startswith("server"):
        wait_for_the_optimizer(store)
    found = {
        mode: plain(store.search(query, mode, limit=N, candidates=N, filter={"lang": "de"}))
        for mode in MODES
    }
    components = {hit["id"]: hit["scores"] for hit in found["dense"]}
    assert components.keys() == exact.keys()
    assert len(exact) == GERMAN
    assert 5 < sum(parts["sparse"] > 0 for parts in components.values()) < GERMAN
    for mode, hits in found.items():
        for hit in hits:
            assert hit["scores"] == pytest.approx(components[hit["id"]], abs=1e-6)
        assert_by_definition(mode, hits, components)
    for name in VECTORS:
        assert {id: parts[name] for id, parts in components.items()} == pytest.approx(
            {id: exact[id][name] for id in components}, abs=tolerances.get(name, EXACTLY)
        )
    assert store.info().documents == N


@pytest.mark.usefixtures("own_directory")
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


@pytest.mark.usefixtures("own_directory")
def test_missing_payload_indexes_are_made_when_a_store_is_opened(
    open_store: Any, backend: str
) -> None:
    wanted: dict[str, IndexKind] = {"lang": "keyword", "year": "integer"}
    open_store().add(documents(5), embeddings=random_views(5, seed=64))
    assert dict(open_store().info().schema.payload_indexes) == {}
    open_store(None, M3Schema(payload_indexes=wanted))
    found = open_store().info().schema.payload_indexes
    # in-memory mode, which has none, opens all the same, and says so of itself
    assert dict(found) == ({} if "memory" in backend else wanted)
