"""How a collection is laid out, and whether an existing one fits. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from qdrant_client import models

from m3qdrant import jsonpath
from m3qdrant.errors import InputError
from m3qdrant.limits import most_tokens
from m3qdrant.names import COLBERT, DENSE, METADATA, SPARSE

__all__ = [
    "IndexKind",
    "Layout",
    "M3Schema",
    "ModelId",
]

DenseDatatype = Literal["float32", "float16"]
DenseQuantization = Literal["int8", "turbo8", "turbo4"]
ColbertDatatype = Literal["float16", "float32", "turbo8", "turbo4"]
ColbertQuantization = Literal["int8"]
SparseDatatype = Literal["float32", "float16", "uint8"]
IndexKind = Literal["keyword", "integer", "float", "bool", "datetime", "uuid", "text", "geo"]

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "dense_datatype": get_args(DenseDatatype),
    "dense_quantization": (None, *get_args(DenseQuantization)),
    "colbert_datatype": get_args(ColbertDatatype),
    "colbert_quantization": (None, *get_args(ColbertQuantization)),
    "sparse_datatype": get_args(SparseDatatype),
}
_FLAGS = ("dense_on_disk", "colbert_on_disk", "colbert_hnsw", "sparse_on_disk")
_LEAST = {
    "hnsw_m": 0,
    "hnsw_ef_construct": 4,  # the server's own least
    "token_pooling": 1,
    "shards": 1,
    "replicas": 1,
    "write_consistency": 1,
}
_CLUSTER = {
    "shards": "shard_number",
    "replicas": "replication_factor",
    "write_consistency": "write_consistency_factor",
}
"""Our names of a cluster's settings, and Qdrant's."""


@dataclass(frozen=True)
class ModelId:
    """The checkpoint that a collection's vectors come from.

    Attributes:
        name: what it was loaded as, e.g. "BAAI/bge-m3".
        fingerprint: `M3Encoder.fingerprint`; decides whether two are the same.
    """

    name: str
    fingerprint: str


class _Indexes(Mapping[str, str]):
    """Field names to index kinds: a mapping that can't change, so that it hashes and pickles."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds = dict(kinds)

    def __getitem__(self, field: str) -> str:
        return self._kinds[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __hash__(self) -> int:
        return hash(frozenset(self._kinds.items()))

    def __repr__(self) -> str:
        return repr(self._kinds)


@dataclass(frozen=True)
class M3Schema:
    """How vectors are stored. The defaults suit hybrid search with exact late-interaction scoring.

    In-memory mode computes in float32 and keeps no index: there, the options change nothing but
    the float16 roundings of the dense and the ColBERT vectors, which are done on our side, and
    `token_pooling`.

    `python -m benchmarks store` measures what each option costs and gains.

    Attributes:
        dense_datatype: "float16" halves the dense vectors on disk and in memory; scores move in
            the fifth decimal.
        dense_quantization: keeps a smaller copy of the dense vectors, which is searched first; the
            originals then rank `oversampling` times the limit again, so that scores are exact and
            only recall is at stake. The copy takes disk and indexing time, and saves memory only
            together with `dense_on_disk`. "int8" takes a byte a number; "turbo8" as much, and
            "turbo4" half of that, at less recall before the second ranking. On a server the turbos
            need Qdrant 1.18 ("turbo4") and 1.20 ("turbo8").
        dense_on_disk: the dense vectors are read from disk when needed and not loaded at the
            start: less memory, slower searches. With a quantization its small copy stays in memory
            and the disk is read for the second ranking alone.
        hnsw_m: edges a node of the dense graph. More find better and take more memory and more
            time to build; 0 makes no graph, so every search compares everything.
        hnsw_ef_construct: neighbours that are weighed up when a node is added. More make a better
            graph and take longer; searches cost the same.
        colbert_datatype: "float16" halves disk and memory; scores move in the fifth decimal.
            "float32" keeps what the encoder gave. "turbo8" and "turbo4" are a quarter and an
            eighth of float32 and have no original to fall back on: scores move in the fourth
            decimal with "turbo8", in the third with "turbo4". On a server they need Qdrant 1.20
            ("turbo8") and 1.19 ("turbo4").
        colbert_quantization: "int8" keeps a copy of one byte a number, on top of the originals,
            for a first ranking where only the best few candidates are asked for; the originals
            rank those again, and every score that is given out comes from them. It pays together
            with `colbert_on_disk`, where it saves reads; a score that needs all candidates, as
            `weighted` does, reads the originals anyway.
        colbert_on_disk: the ColBERT vectors, by far the most bytes of a collection, are read from
            disk when a candidate is scored. Memory no longer grows with the tokens; the first
            score of a document waits for the disk.
        colbert_hnsw: builds a graph over the ColBERT vectors as well. Each search here scores
            candidates of the other two vectors, which needs none, and building it costs minutes
            where the rest costs seconds: only for a program that asks Qdrant for MaxSim over the
            whole collection by itself.
        sparse_datatype: of the weights in the index. "float16" halves them and moves scores in the
            fifth decimal; "uint8" halves them again, and moves them in the fourth.
        sparse_on_disk: the sparse index is read from disk when needed: less memory, slower
            searches. For collections whose lexical search is rare.
        token_pooling: keeps one of so many ColBERT vectors of a document, by merging those that
            are most alike (see pooling.py). Disk, memory and scoring time shrink by that factor;
            what is lost grows with it, and is little at 2. Storing takes longer.
        payload_indexes: fields that filters use, and the kind of their values: "keyword",
            "integer", "float", "bool", "datetime", "uuid", "text" or "geo". A filter on a field
            without an index looks at every candidate's payload; an index takes memory. Missing
            ones are made when a store is opened.
        tenant: the payload key whose value says whose document it is, where many users share a
            collection and every search filters by it. Each tenant's documents lie together and
            have a graph of their own; there is no graph over all of them, so a search without the
            filter compares everything.
        shards: parts that a collection is split into on a cluster; fixed at its creation. None
            leaves this and the next two to the server; the other engines have no cluster and
            ignore them.
        replicas: copies of each shard, on different nodes: a node may fail, at so many times the
            disk and the writes.
        write_consistency: replicas that must have taken a write before it counts. More are safer,
            but writes fail while too few answer.
    """

    dense_datatype: DenseDatatype = "float32"
    dense_quantization: DenseQuantization | None = None
    dense_on_disk: bool = False
    hnsw_m: int = 16
    hnsw_ef_construct: int = 100
    colbert_datatype: ColbertDatatype = "float16"
    colbert_quantization: ColbertQuantization | None = None
    colbert_on_disk: bool = False
    colbert_hnsw: bool = False
    sparse_datatype: SparseDatatype = "float32"
    sparse_on_disk: bool = False
    token_pooling: int = 1
    payload_indexes: Mapping[str, str] = _Indexes({})
    tenant: str | None = None
    shards: int | None = None
    replicas: int | None = None
    write_consistency: int | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                allowed = ", ".join(map(repr, choices))
                raise InputError(f"{name} is {value!r}: give one of {allowed}")
        for name in _FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"{name} is {value!r}: give True or False")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name in _CLUSTER:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value!r}: give a whole number from {least}")
        if self.colbert_hnsw and self.hnsw_m == 0:
            raise InputError(
                "colbert_hnsw makes a graph, and hnsw_m is 0: give it edges, such as 16"
            )
        self._check_client()
        self._check_payload_keys()
        object.__setattr__(self, "payload_indexes", _Indexes(self.payload_indexes))

    def _check_client(self) -> None:
        """Qdrant-client 1.19, the oldest that this package runs with, lacks the 8-bit turbos."""
        for name in ("dense_quantization", "colbert_datatype"):
            if getattr(self, name) == "turbo8" and not hasattr(models.Datatype, "TURBO8"):
                raise InputError(f"{name} 'turbo8' needs qdrant-client 1.20: update it")

    def _check_payload_keys(self) -> None:
        if not isinstance(self.payload_indexes, Mapping):
            raise InputError(
                f"payload_indexes is {self.payload_indexes!r}: give a mapping of fields to kinds, "
                "such as {'year': 'integer'}"
            )
        for field, kind in self.payload_indexes.items():
            _check_path("payload_indexes", field)
            if kind not in get_args(IndexKind):
                allowed = ", ".join(map(repr, get_args(IndexKind)))
                raise InputError(f"payload_indexes: {field!r} is {kind!r}: give one of {allowed}")
        if self.tenant is None:
            return
        _check_path("tenant", self.tenant)
        if self.payload_indexes.get(self.tenant, "keyword") != "keyword":
            raise InputError(
                f"payload_indexes: {self.tenant!r} is the tenant, whose index is a 'keyword' one: "
                "leave it out"
            )

    def features(self) -> list[str]:
        """What a server has to have for it, in versions.py's words."""
        chosen = [("quantization", self.dense_quantization), ("datatype", self.colbert_datatype)]
        turbo = [f"{kind} {value}" for kind, value in chosen if value in ("turbo8", "turbo4")]
        # an older server drops the metadata in silence, and with it what is kept nowhere else
        kept = self.token_pooling > 1 or self.tenant is not None
        return [*turbo, *(["metadata"] if kept else [])]

    def is_quantized(self, name: str) -> bool:
        """Whether a named vector has a quantized copy.

        Qdrant then scores by the copy wherever a request doesn't ask for the originals (`rescore`
        or `ignore`), also candidates that were given to it.
        """
        return {DENSE: self.dense_quantization, COLBERT: self.colbert_quantization}.get(
            name
        ) is not None


def _check_path(name: str, key: Any) -> None:
    try:
        jsonpath.parse(key)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Layout:
    """A schema with all that a collection fixes at its creation.

    Attributes:
        schema: the user's choices.
        dim: width of the dense vector.
        colbert_dim: width of each ColBERT vector.
        model: where the vectors come from; None where the user brings embeddings of their own.
    """

    schema: M3Schema
    dim: int
    colbert_dim: int
    model: ModelId | None

    @property
    def max_tokens(self) -> int:
        """The most ColBERT vectors that one document or query can have."""
        return most_tokens(self.colbert_dim)

    def create_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `create_collection`, but for the name."""
        schema = self.schema
        cluster = {theirs: getattr(schema, ours) for ours, theirs in _CLUSTER.items()}
        return {
            # the vectors are normalised, so the dot product is the cosine, without a division
            "vectors_config": {
                DENSE: models.VectorParams(
                    size=self.dim,
                    distance=models.Distance.DOT,
                    datatype=models.Datatype(schema.dense_datatype),
                    hnsw_config=self._graph(),
                    quantization_config=_quantization(
                        schema.dense_quantization, schema.dense_on_disk
                    ),
                    on_disk=schema.dense_on_disk or None,
                ),
                COLBERT: models.VectorParams(
                    size=self.colbert_dim,
                    distance=models.Distance.DOT,
                    datatype=models.Datatype(schema.colbert_datatype),
                    multivector_config=models.MultiVectorConfig(
                        comparator=models.MultiVectorComparator.MAX_SIM
                    ),
                    hnsw_config=self._graph() if schema.colbert_hnsw else _NO_GRAPH,
                    quantization_config=_quantization(
                        schema.colbert_quantization, schema.colbert_on_disk
                    ),
                    on_disk=schema.colbert_on_disk or None,
                ),
            },
            "sparse_vectors_config": {
                SPARSE: models.SparseVectorParams(
                    index=models.SparseIndexParams(
                        datatype=models.Datatype(schema.sparse_datatype),
                        on_disk=schema.sparse_on_disk or None,
                    )
                )
            },
            "metadata": {
                METADATA: {
                    "format": 1,
                    "model": self.model.name if self.model else None,
                    "fingerprint": self.model.fingerprint if self.model else None,
                    "token_pooling": schema.token_pooling,
                    "tenant": schema.tenant,
                }
            },
            **{name: value for name, value in cluster.items() if value is not None},
        }

    def _graph(self) -> models.HnswConfigDiff:
        """The HNSW graph: one over all documents, or one a tenant."""
        m, ef_construct = self.schema.hnsw_m, self.schema.hnsw_ef_construct
        if self.schema.tenant is None:
            return models.HnswConfigDiff(m=m, ef_construct=ef_construct)
        return models.HnswConfigDiff(m=0, payload_m=m, ef_construct=ef_construct)

    def index_arguments(self) -> list[dict[str, Any]]:
        """Keyword arguments of `create_payload_index` for each index, but for the collection."""
        kinds: dict[str, Any] = {
            field: models.PayloadSchemaType(kind)
            for field, kind in self.schema.payload_indexes.items()
        }
        if self.schema.tenant is not None:
            kinds[self.schema.tenant] = models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=True
            )
        return [{"field_name": field, "field_schema": kind} for field, kind in kinds.items()]

    def missing_indexes(self, info: models.CollectionInfo) -> list[dict[str, Any]]:
        """Those of `index_arguments` that a collection lacks, or has of another kind."""
        return [
            arguments
            for arguments in self.index_arguments()
            if not _is_index(
                (info.payload_schema or {}).get(arguments["field_name"]),
                arguments["field_schema"],
            )
        ]

    @classmethod
    def read(cls, info: models.CollectionInfo) -> Layout | list[str]:
        """The layout of an existing collection, or why it is none of ours, a line a reason."""
        params = info.config.params
        vectors = params.vectors if isinstance(params.vectors, dict) else {}
        wrong = [*_wrong_vectors(vectors), *_wrong_sparse(params.sparse_vectors or {})]
        if wrong:
            return wrong
        ours = (info.config.metadata or {}).get(METADATA) or {}
        model, fingerprint = ours.get("model"), ours.get("fingerprint")
        try:
            schema = _read_schema(info, vectors, ours)
        except InputError as error:
            return [str(error)]
        return cls(
            schema=schema,
            dim=vectors[DENSE].size,
            colbert_dim=vectors[COLBERT].size,
            model=ModelId(str(model), str(fingerprint)) if model and fingerprint else None,
        )

    def differences(self, wanted: Layout) -> list[str]:
        """How this, an existing layout, differs from the `wanted` one, a line each.

        Payload indexes are none: missing ones can be made at any time. Settings of a cluster are
        compared where both sides know them.
        """
        pairs = [
            ("the dense width", self.dim, wanted.dim),
            ("the ColBERT width", self.colbert_dim, wanted.colbert_dim),
        ]
        for name in (field.name for field in fields(M3Schema)):
            pair = getattr(self.schema, name), getattr(wanted.schema, name)
            if name != "payload_indexes" and not (name in _CLUSTER and None in pair):
                pairs.append((name, *pair))
        lines = [
            f"{what} is {found} here, {expected} wanted"
            for what, found, expected in pairs
            if found != expected
        ]
        if self.model and wanted.model and self.model.fingerprint != wanted.model.fingerprint:
            lines.append(
                f"the vectors come from {self.model.name} (fingerprint {self.model.fingerprint}), "
                f"the encoder is {wanted.model.name} ({wanted.model.fingerprint})"
            )
        return lines


# schema to Qdrant

_NO_GRAPH = models.HnswConfigDiff(m=0)


def _quantization(kind: str | None, on_disk: bool) -> models.QuantizationConfig | None:
    # where the originals stay on disk, the copy is there to be searched in memory
    always_ram = on_disk or None
    if kind is None:
        return None
    if kind == "int8":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(
                type=models.ScalarType.INT8, always_ram=always_ram
            )
        )
    return models.TurboQuantization(
        turbo=models.TurboQuantQuantizationConfig(
            bits=models.TurboQuantBitSize(kind.replace("turbo", "bits")), always_ram=always_ram
        )
    )


# Qdrant to schema


def _wrong_vectors(vectors: Mapping[str, models.VectorParams]) -> Iterator[str]:
    for name in (DENSE, COLBERT):
        vector = vectors.get(name)
        if vector is None:
            yield f"there is no vector named {name!r}"
        elif vector.distance is not models.Distance.DOT:
            yield f"vector {name!r} has distance {vector.distance.value}, not Dot"
        elif (vector.multivector_config is not None) != (name == COLBERT):
            kind = "no multivector" if name == COLBERT else "a multivector"
            yield f"vector {name!r} is {kind}"
        elif _datatype(vector.datatype) not in _CHOICES[f"{name}_datatype"]:
            yield f"vector {name!r} has datatype {_datatype(vector.datatype)}"


def _wrong_sparse(vectors: Mapping[str, models.SparseVectorParams]) -> Iterator[str]:
    if SPARSE not in vectors:
        yield f"there is no sparse vector named {SPARSE!r}"
    elif vectors[SPARSE].modifier not in (None, models.Modifier.NONE):
        yield f"sparse vector {SPARSE!r} has a modifier (IDF), which changes the scores"


def _read_schema(
    info: models.CollectionInfo,
    vectors: Mapping[str, models.VectorParams],
    ours: Mapping[str, Any],
) -> M3Schema:
    """The schema of a collection whose vectors are ours.

    Raises:
        InputError: it has a setting that no schema of ours has.
    """
    config, params = info.config, info.config.params
    dense, colbert = vectors[DENSE], vectors[COLBERT]
    sparse = (params.sparse_vectors or {})[SPARSE].index or models.SparseIndexParams()
    tenant = ours.get("tenant")

    def graph(vector: models.VectorParams, setting: str) -> int | None:
        own = getattr(vector.hnsw_config, setting, None)
        return own if own is not None else getattr(config.hnsw_config, setting, None)

    def quantization(name: str) -> Any:
        found = vectors[name].quantization_config or config.quantization_config
        return _quantization_kind(name, found)

    m, per_tenant = graph(dense, "m") or 0, graph(dense, "payload_m")
    return M3Schema(
        dense_datatype=_datatype(dense.datatype),
        dense_quantization=quantization(DENSE),
        dense_on_disk=_on_disk(dense),
        hnsw_m=per_tenant if tenant is not None and per_tenant is not None else m,
        hnsw_ef_construct=graph(dense, "ef_construct") or 100,
        colbert_datatype=_datatype(colbert.datatype),
        colbert_quantization=quantization(COLBERT),
        colbert_on_disk=_on_disk(colbert),
        colbert_hnsw=bool(graph(colbert, "m") or graph(colbert, "payload_m")),
        sparse_datatype=_datatype(sparse.datatype),
        sparse_on_disk=_on_disk(sparse),
        token_pooling=ours.get("token_pooling", 1),
        payload_indexes={
            field: index.data_type.value
            for field, index in (info.payload_schema or {}).items()
            if field != tenant
        },
        tenant=tenant,
        # an engine without a cluster sets none of these, whatever the model's defaults are
        **{
            ours: getattr(params, theirs)
            for ours, theirs in _CLUSTER.items()
            if theirs in params.model_fields_set
        },
    )


def _datatype(datatype: models.Datatype | None) -> Any:
    return (datatype or models.Datatype.FLOAT32).value


def _on_disk(part: models.VectorParams | models.SparseIndexParams) -> bool:
    """Newer servers say `memory` for what older ones call `on_disk`."""
    if part.memory is not None:
        return part.memory is models.Memory.COLD
    return bool(part.on_disk)


def _quantization_kind(name: str, found: models.QuantizationConfig | None) -> str | None:
    """Our word for a quantization.

    Raises:
        InputError: we have none, so its scores could not be made exact.
    """
    for kind in _CHOICES[f"{name}_quantization"]:
        if _is_quantization(found, _quantization(kind, False)):
            return kind
    raise InputError(
        f"vector {name!r} has a quantization that this package does not use: {found!r}"
    )


def _is_quantization(found: Any, ours: Any) -> bool:
    if isinstance(found, models.ScalarQuantization):
        return isinstance(ours, models.ScalarQuantization)  # which has int8 only
    if isinstance(found, models.TurboQuantization):
        bits = found.turbo.bits or models.TurboQuantBitSize.BITS4
        return isinstance(ours, models.TurboQuantization) and ours.turbo.bits is bits
    return found is ours


def _is_index(found: models.PayloadIndexInfo | None, wanted: Any) -> bool:
    if found is None:
        return False
    if isinstance(wanted, models.KeywordIndexParams):
        return bool(getattr(found.params, "is_tenant", False))
    return found.data_type is wanted
