"""M3Schema and Layout: what is refused, and that an engine's collection reads as it was made."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import qdrant_edge as edge
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from m3qdrant import M3Schema, QdrantEdge
from m3qdrant.collection import IndexKind, Layout, ModelId
from m3qdrant.errors import InputError
from m3qdrant.names import COLBERT, DENSE, SPARSE

MODEL = ModelId("some/model", "0123abcd")
KINDS = get_args(IndexKind)

EVERYTHING = M3Schema(
    dense_datatype="float16",
    dense_quantization="turbo4",
    dense_on_disk=True,
    hnsw_m=24,
    hnsw_ef_construct=64,
    colbert_datatype="turbo8",
    colbert_quantization="int8",
    colbert_on_disk=True,
    colbert_hnsw=True,
    sparse_datatype="uint8",
    sparse_on_disk=True,
    token_pooling=3,
    payload_indexes={f'"a {kind}"': kind for kind in KINDS},
    tenant="who",
    shards=4,
    replicas=2,
    write_consistency=2,
)

schemas = st.builds(
    M3Schema,
    dense_datatype=st.sampled_from(["float32", "float16"]),
    dense_quantization=st.sampled_from([None, "int8", "turbo8", "turbo4"]),
    dense_on_disk=st.booleans(),
    hnsw_m=st.integers(1, 64),
    hnsw_ef_construct=st.integers(4, 500),
    colbert_datatype=st.sampled_from(["float16", "float32", "turbo8", "turbo4"]),
    colbert_quantization=st.sampled_from([None, "int8"]),
    colbert_on_disk=st.booleans(),
    colbert_hnsw=st.booleans(),
    sparse_datatype=st.sampled_from(["float32", "float16", "uint8"]),
    sparse_on_disk=st.booleans(),
    token_pooling=st.integers(1, 9),
    payload_indexes=st.dictionaries(st.sampled_from("abc"), st.sampled_from(KINDS)),
    tenant=st.sampled_from([None, "who"]),
    shards=st.none() | st.integers(1, 9),
    replicas=st.none() | st.integers(1, 9),
    write_consistency=st.none() | st.integers(1, 9),
)


def layout(schema: M3Schema) -> Layout:
    return Layout(schema, 24, 16, MODEL)


def info_of(made: Layout) -> models.CollectionInfo:
    """What a server says of a collection that was just made so."""
    arguments = made.settings()
    vectors, sparse = arguments["vectors_config"], arguments["sparse_vectors_config"]
    metadata = arguments["metadata"]
    assert isinstance(vectors, dict)
    assert isinstance(sparse, dict)
    assert isinstance(metadata, dict)
    return models.CollectionInfo(
        status=models.CollectionStatus.GREEN,
        optimizer_status=models.OptimizersStatusOneOf.OK,
        segments_count=1,
        payload_schema={},
        config=models.CollectionConfig(
            params=models.CollectionParams(
                vectors=vectors,
                sparse_vectors=sparse,
                shard_number=arguments.get("shard_number", 1),
                replication_factor=arguments.get("replication_factor", 1),
                write_consistency_factor=arguments.get("write_consistency_factor", 1),
            ),
            metadata=metadata,
            hnsw_config=models.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
            optimizer_config=models.OptimizersConfig(
                deleted_threshold=0.2,
                vacuum_min_vector_number=1000,
                default_segment_number=0,
                flush_interval_sec=5,
            ),
        ),
    )


def vectors_of(info: models.CollectionInfo) -> dict[str, models.VectorParams]:
    vectors = info.config.params.vectors
    assert isinstance(vectors, dict)
    return vectors


def made_with(schema: M3Schema) -> dict[str, models.VectorParams]:
    """The vectors that a collection is made with."""
    vectors = layout(schema).settings()["vectors_config"]
    assert isinstance(vectors, dict)
    return vectors


@pytest.fixture(params=["embedded", "memory"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    opened: Any = (
        QdrantClient(":memory:") if request.param == "memory" else QdrantEdge(tmp_path / "data")
    )
    yield opened
    opened.close()


# -- the schema itself


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dense_datatype": "uint8"}, "dense_datatype is 'uint8': give one of 'float32', 'flo"),
        ({"dense_quantization": "binary"}, "dense_quantization is 'binary': give one of None, 'i"),
        ({"colbert_datatype": None}, "colbert_datatype is None: give one of 'float16'"),
        ({"colbert_quantization": "turbo8"}, "colbert_quantization is 'turbo8'"),
        ({"sparse_datatype": "turbo4"}, "sparse_datatype is 'turbo4'"),
        ({"colbert_on_disk": 1}, "colbert_on_disk is 1: give True or False"),
        ({"hnsw_m": -1}, "hnsw_m is -1: give a whole number from 0"),
        ({"hnsw_ef_construct": 3}, "hnsw_ef_construct is 3: give a whole number from 4"),
        ({"token_pooling": 0}, "token_pooling is 0: give a whole number from 1"),
        ({"token_pooling": 1.5}, "token_pooling is 1.5: give a whole number"),
        ({"token_pooling": None}, "token_pooling is None: give a whole number"),
        ({"token_pooling": True}, "token_pooling is True: give a whole number"),
        ({"shards": 0}, "shards is 0: give a whole number from 1"),
        ({"replicas": "2"}, "replicas is '2': give a whole number from 1"),
        ({"payload_indexes": ["year"]}, "payload_indexes is .'year'.: give a mapping of fields"),
        ({"payload_indexes": {"": "keyword"}}, "payload_indexes: '' is no payload key"),
        (
            {"payload_indexes": {'a"b': "text"}},
            "payload_indexes: 'a.b' .* no way to write .* quotes",
        ),
        ({"payload_indexes": {"year": "int"}}, "'year' is 'int': give one of 'keyword', 'int"),
        ({"payload_indexes": {"year": ["integer"]}}, "'year' is .'integer'.: give one of"),
        ({"tenant": 7}, "tenant: 7 is no payload key"),
        ({"colbert_hnsw": True, "hnsw_m": 0}, "colbert_hnsw makes a graph, and hnsw_m is 0"),
        ({"tenant": "who", "payload_indexes": {"who": "uuid"}}, "'who' is the tenant"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        M3Schema(**options)


def test_numpys_numbers_are_pythons() -> None:
    numbers: dict[str, Any] = {
        "hnsw_m": np.int64(8),
        "token_pooling": np.uint8(2),
        "colbert_hnsw": np.bool_(True),
    }
    typed = M3Schema(**numbers)
    assert typed == M3Schema(hnsw_m=8, token_pooling=2, colbert_hnsw=True)
    assert [type(typed.hnsw_m), type(typed.colbert_hnsw)] == [int, bool]


def test_keys_are_spelt_as_in_payloads() -> None:
    schema = M3Schema(tenant="user id", payload_indexes={"a.b": "float", "rdfs:sub": "keyword"})
    assert schema.tenant == '"user id"'
    assert schema.payload_indexes == {"a.b": "float", '"rdfs:sub"': "keyword"}


# marks, and characters newer than this Python's tables, are left to the engine: see jsonpath.py
@given(
    st.text('ab_-."[]01 é٣²', max_size=8)
    | st.text(st.characters(exclude_categories=["Cs", "Mn", "Mc", "Cn"]), max_size=5)
)
def test_payload_paths_are_the_engines(path: str) -> None:
    try:
        edge.UpdateOperation.create_field_index(path, edge.PayloadSchemaType.Keyword)
    except ValueError:
        if not path or '"' in path or "\\" in path:
            with pytest.raises(InputError, match=r"is no payload key|have no way to write"):
                M3Schema(tenant=path)
        else:
            quoted = f'"{path}"'
            assert M3Schema(tenant=path, payload_indexes={path: "keyword"}).tenant == quoted
            edge.UpdateOperation.create_field_index(quoted, edge.PayloadSchemaType.Keyword)
    else:
        assert M3Schema(tenant=path, payload_indexes={path: "keyword"}).tenant == path


@given(schemas)
def test_a_schema_is_a_value(schema: M3Schema) -> None:
    same = replace(schema, payload_indexes=dict(schema.payload_indexes))
    assert same == schema
    assert hash(same) == hash(schema)
    for other in (pickle.loads(pickle.dumps(schema)), copy.deepcopy(schema)):
        assert other == schema
    assert asdict(schema)["payload_indexes"] == dict(schema.payload_indexes)


def test_a_schema_does_not_change_with_what_it_was_made_of() -> None:
    kinds: dict[str, IndexKind] = {"year": "integer"}
    schema = M3Schema(payload_indexes=kinds)
    kinds["year"] = "keyword"
    assert schema.payload_indexes["year"] == "integer"
    with pytest.raises(TypeError):
        schema.payload_indexes["year"] = "keyword"  # type: ignore[index]


def test_which_vectors_have_a_quantized_copy() -> None:
    names = (DENSE, SPARSE, COLBERT)
    assert [EVERYTHING.is_quantized(name) for name in names] == [True, False, True]
    assert not any(M3Schema().is_quantized(name) for name in names)


# -- there and back


def test_an_engine_keeps_every_option(client: Any) -> None:
    wanted = layout(EVERYTHING)
    client.create_collection("c", **wanted.settings())
    found = Layout.read(client.get_collection("c"))
    assert isinstance(found, Layout)
    assert found.differences(wanted) == []
    assert found.model == MODEL
    expected = replace(EVERYTHING, payload_indexes={})
    if isinstance(client, QdrantClient):  # in-memory mode drops what concerns a cluster
        expected = replace(expected, shards=None, replicas=None, write_consistency=None)
    assert found.schema == expected


@given(schemas)
def test_a_server_keeps_every_option(schema: M3Schema) -> None:
    found = Layout.read(info_of(layout(schema)))
    assert isinstance(found, Layout)
    assert found.differences(layout(schema)) == []
    expected = replace(
        schema,
        payload_indexes={},
        shards=schema.shards or 1,
        replicas=schema.replicas or 1,
        write_consistency=schema.write_consistency or 1,
    )
    assert found == layout(expected)


@pytest.mark.parametrize("field", [field.name for field in fields(M3Schema)])
def test_each_option_that_differs_is_one_line(field: str) -> None:
    change: dict[str, Any] = {field: getattr(M3Schema(), field)}
    other = replace(EVERYTHING, **change)
    found = Layout.read(info_of(layout(EVERYTHING)))
    assert isinstance(found, Layout)
    lines = found.differences(layout(other))
    if field in ("payload_indexes", "shards", "replicas", "write_consistency"):
        assert lines == []  # the first can be made, the others are left to the server
    else:
        (line,) = lines
        assert line.startswith(f"{field} is {getattr(EVERYTHING, field)} here, ")


def test_shards_are_compared_where_both_sides_know() -> None:
    three = layout(M3Schema(shards=3))
    found = Layout.read(info_of(three))
    assert isinstance(found, Layout)
    assert found.differences(layout(M3Schema(shards=2))) == ["shards is 3 here, 2 wanted"]
    assert layout(M3Schema()).differences(three) == []


def test_an_older_collection_reads_as_defaults() -> None:
    old = info_of(layout(M3Schema()))
    vectors_of(old)[DENSE] = models.VectorParams(size=24, distance=models.Distance.DOT)
    old.config.params.sparse_vectors = {SPARSE: models.SparseVectorParams()}
    old.config.metadata = {
        "m3qdrant": {"format": 1, "model": MODEL.name, "fingerprint": MODEL.fingerprint}
    }
    found = Layout.read(old)
    assert isinstance(found, Layout)
    assert found.differences(layout(M3Schema())) == []
    assert found.model == MODEL


def test_settings_of_the_whole_collection_count_where_a_vector_has_none() -> None:
    info = info_of(layout(M3Schema()))
    for vector in vectors_of(info).values():
        vector.hnsw_config = None
    info.config.hnsw_config.m = 8
    info.config.quantization_config = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
    )
    found = Layout.read(info)
    assert isinstance(found, Layout)
    schema = M3Schema(
        hnsw_m=8, colbert_hnsw=True, dense_quantization="int8", colbert_quantization="int8"
    )
    assert found.differences(layout(schema)) == []


@pytest.mark.parametrize(
    ("memory", "on_disk"), [("cold", True), ("cached", False), ("pinned", False)]
)
def test_newer_servers_say_memory_for_on_disk(memory: str, on_disk: bool) -> None:
    info = info_of(layout(M3Schema(dense_on_disk=not on_disk)))
    vectors_of(info)[DENSE].memory = models.Memory(memory)
    found = Layout.read(info)
    assert isinstance(found, Layout)
    assert found.schema.dense_on_disk is on_disk


@pytest.mark.parametrize(
    "config",
    [
        models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
        models.ProductQuantization(
            product=models.ProductQuantizationConfig(compression=models.CompressionRatio.X4)
        ),
        models.TurboQuantization(
            turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS2)
        ),
    ],
    ids=["binary", "product", "two-bits"],
)
def test_a_quantization_without_a_name_here_is_none_of_ours(config: Any) -> None:
    info = info_of(layout(M3Schema()))
    vectors_of(info)[DENSE].quantization_config = config
    (reason,) = Layout.read(info)  # type: ignore[misc]
    assert reason.startswith("vector 'dense' has a quantization that this package does not use")


@pytest.mark.parametrize("pooling", [0, "2", None])
def test_damaged_metadata_is_a_reason(pooling: Any) -> None:
    info = info_of(layout(M3Schema()))
    assert info.config.metadata is not None
    info.config.metadata["m3qdrant"]["token_pooling"] = pooling
    assert Layout.read(info) == [f"token_pooling is {pooling!r}: give a whole number from 1"]


def test_quantized_vectors_stay_in_memory_where_the_originals_do_not() -> None:
    schema = M3Schema(dense_quantization="int8", dense_on_disk=True, colbert_quantization="int8")
    copies = {name: vector.quantization_config for name, vector in made_with(schema).items()}
    always_ram = {
        name: copy.scalar.always_ram
        for name, copy in copies.items()
        if isinstance(copy, models.ScalarQuantization)
    }
    assert always_ram == {DENSE: True, COLBERT: None}


def test_tenants_have_graphs_of_their_own() -> None:
    vectors = made_with(M3Schema(tenant="who"))
    dense, colbert = vectors[DENSE].hnsw_config, vectors[COLBERT].hnsw_config
    assert dense is not None
    assert colbert is not None
    assert (dense.m, dense.payload_m) == (0, 16)
    assert colbert.m == 0


# -- payload indexes


def test_missing_indexes_are_made_once(tmp_path: Path) -> None:
    wanted = layout(EVERYTHING)
    with QdrantEdge(tmp_path) as client:
        client.create_collection("c", **wanted.settings())
        assert wanted.missing_indexes(client.get_collection("c")) == wanted.indexes()
        for index in wanted.indexes():
            client.create_payload_index("c", *index)
        info = client.get_collection("c")
        assert wanted.missing_indexes(info) == []
        found = Layout.read(info)
        assert isinstance(found, Layout)
        assert found.schema.payload_indexes == EVERYTHING.payload_indexes

        # of another kind, or no tenant's: as good as missing
        client.create_payload_index("c", '"a geo"', models.PayloadSchemaType.KEYWORD)
        client.create_payload_index("c", "who", models.PayloadSchemaType.KEYWORD)
        missing = wanted.missing_indexes(client.get_collection("c"))
        assert [index.field for index in missing] == ['"a geo"', "who"]
        for index in missing:
            client.create_payload_index("c", *index)
        assert wanted.missing_indexes(client.get_collection("c")) == []


# -- what the options do to scores


STORED = {DENSE: 1e-5, COLBERT: 1e-3, SPARSE: 1e-5}
"""How far the scores of a default collection may be off."""


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, {}),
        ({"dense_datatype": "float16"}, {DENSE: 1e-3}),
        ({"dense_quantization": "int8", "dense_on_disk": True}, {}),
        ({"dense_quantization": "turbo8"}, {}),
        ({"dense_quantization": "turbo4"}, {}),
        ({"colbert_datatype": "float32"}, {COLBERT: 1e-5}),
        ({"colbert_datatype": "turbo8"}, {COLBERT: 2e-2}),
        ({"colbert_quantization": "int8", "colbert_on_disk": True}, {}),
        ({"colbert_hnsw": True}, {}),
        ({"sparse_datatype": "float16"}, {SPARSE: 1e-3}),
        ({"sparse_datatype": "uint8", "sparse_on_disk": True}, {SPARSE: 1e-2}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if value else "default",
)
def test_scores_stay_within_what_the_schema_says(
    options: dict[str, Any], tolerance: dict[str, float], tmp_path: Path
) -> None:
    """On an optimised segment, where the copies and indexes are built, asked for the originals."""
    schema = M3Schema(**options)
    rng = np.random.default_rng(5)
    n = 60

    def unit(*shape: int) -> npt.NDArray[np.float32]:
        x = rng.standard_normal(shape).astype(np.float32)
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
        return x

    dense, colbert = unit(n, 24), [unit(int(rng.integers(1, 9)), 16) for _ in range(n)]
    query, queries = unit(24), unit(3, 16)
    weights = rng.random((n, 5)).astype(np.float32) + 0.05
    exact = {
        DENSE: dense @ query,
        COLBERT: np.array([(tokens @ queries.T).max(0).sum() for tokens in colbert]),
        SPARSE: weights.sum(1),
    }
    with QdrantEdge(tmp_path) as client:
        arguments = layout(schema).settings()
        arguments["optimizers_config"] = models.OptimizersConfigDiff(indexing_threshold=1)
        client.create_collection("c", **arguments)
        client.upsert(
            "c",
            [
                models.PointStruct.model_construct(
                    id=i,
                    vector={
                        DENSE: dense[i],
                        COLBERT: colbert[i],
                        SPARSE: models.SparseVector(
                            indices=list(range(5)), values=weights[i].tolist()
                        ),
                    },
                    payload={},
                )
                for i in range(n)
            ],
        )
        assert client.optimize("c")
        asked: dict[str, Any] = {
            DENSE: query.tolist(),
            COLBERT: queries.tolist(),
            SPARSE: models.SparseVector(indices=list(range(5)), values=[1.0] * 5),
        }
        for name, vector in asked.items():
            originals = models.QuantizationSearchParams(rescore=True, oversampling=2.0)
            answer = client.query_points(
                "c",
                vector,
                using=name,
                limit=10,
                search_params=models.SearchParams(quantization=originals)
                if schema.is_quantized(name)
                else None,
            )
            scores = [point.score for point in answer.points]
            assert len(scores) == 10
            assert scores == pytest.approx(
                [float(exact[name][int(point.id)]) for point in answer.points],
                abs={**STORED, **tolerance}[name],
            )
