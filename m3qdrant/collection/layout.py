"""A collection's layout: what Qdrant is told when it is made, and what it says of one it has."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from qdrant_client import models

from m3qdrant.collection.calls import CollectionSettings
from m3qdrant.collection.schema import CHOICES, CLUSTER, M3Schema
from m3qdrant.errors import InputError
from m3qdrant.limits import most_tokens
from m3qdrant.names import COLBERT, DENSE, METADATA, OURS, SPARSE

__all__ = ["OUR_INDEX", "Index", "Layout", "ModelId", "uuid_of"]


@dataclass(frozen=True)
class ModelId:
    """The checkpoint that a collection's vectors come from.

    Attributes:
        name: what it was loaded as, e.g. "BAAI/bge-m3".
        fingerprint: `M3Encoder.fingerprint`; decides whether two are the same.
        former: what earlier versions called the model (see adoption.py). Of an encoder, what they
            would have called it; of a collection, what its documents call it, once the collection
            was adopted.
    """

    name: str
    fingerprint: str
    former: str | None = None

    @classmethod
    def of(cls, info: models.CollectionInfo) -> ModelId | None:
        """A collection's own; None where it doesn't say."""
        ours = _metadata(info)
        model, fingerprint = ours.get("model"), ours.get("fingerprint")
        former = ours.get("former")
        if not model or not fingerprint:
            return None
        return cls(str(model), str(fingerprint), str(former) if former else None)

    def is_former(self, encoder: ModelId) -> bool:
        """Whether this, a collection's, may be an encoder's by what it was called before."""
        return self.fingerprint == encoder.former != encoder.fingerprint


def uuid_of(info: models.CollectionInfo) -> str | None:
    """What tells a collection from one that is made under its name later; None where it doesn't
    say.
    """
    found = _metadata(info).get("uuid")
    return found if isinstance(found, str) and found else None


def _metadata(info: models.CollectionInfo) -> Mapping[str, Any]:
    """What a collection's metadata hold of ours."""
    return (info.config.metadata or {}).get(METADATA) or {}


class Index(NamedTuple):
    """A payload index: the field, and the kind of its values."""

    field: str
    kind: models.PayloadSchemaType | models.PayloadSchemaParams


OUR_INDEX = Index(f"{OURS}.id", models.PayloadSchemaType.KEYWORD)
"""Of what this package filters by itself; there where a collection's strict mode asks for it."""


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

    def settings(self) -> CollectionSettings:
        """What the collection is made with."""
        schema = self.schema
        settings: CollectionSettings = {
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
                    # versions begin anew where a collection is made again under its name
                    "uuid": uuid.uuid4().hex,
                }
            },
        }
        if schema.shards is not None:
            settings["shard_number"] = schema.shards
        if schema.replicas is not None:
            settings["replication_factor"] = schema.replicas
        if schema.write_consistency is not None:
            settings["write_consistency_factor"] = schema.write_consistency
        return settings

    def _graph(self) -> models.HnswConfigDiff:
        """The HNSW graph: one over all documents, or one a tenant."""
        m, ef_construct = self.schema.hnsw_m, self.schema.hnsw_ef_construct
        if self.schema.tenant is None:
            return models.HnswConfigDiff(m=m, ef_construct=ef_construct)
        return models.HnswConfigDiff(m=0, payload_m=m, ef_construct=ef_construct)

    def indexes(self) -> list[Index]:
        """The payload indexes that the schema wants, the tenant's among them."""
        kinds: dict[str, models.PayloadSchemaType | models.PayloadSchemaParams] = {
            field: models.PayloadSchemaType(kind)
            for field, kind in self.schema.payload_indexes.items()
        }
        if self.schema.tenant is not None:
            kinds[self.schema.tenant] = models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=True
            )
        return [Index(field, kind) for field, kind in kinds.items()]

    def missing_indexes(self, info: models.CollectionInfo) -> list[Index]:
        """Those of `indexes` that a collection lacks, or has of another kind."""
        there = info.payload_schema or {}
        return [index for index in self.indexes() if not _is_index(there.get(index.field), index)]

    @classmethod
    def read(cls, info: models.CollectionInfo) -> Layout | list[str]:
        """The layout of an existing collection, or why it is none of ours, a line a reason."""
        params = info.config.params
        vectors = params.vectors if isinstance(params.vectors, dict) else {}
        wrong = [*_wrong_vectors(vectors), *_wrong_sparse(params.sparse_vectors or {})]
        if wrong:
            return wrong
        try:
            schema = _read_schema(info, vectors, _metadata(info))
        except InputError as error:
            return [str(error)]
        return cls(
            schema=schema,
            dim=vectors[DENSE].size,
            colbert_dim=vectors[COLBERT].size,
            model=ModelId.of(info),
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
            if name != "payload_indexes" and not (name in CLUSTER and None in pair):
                pairs.append((name, *pair))
        lines = [
            f"{what} is {found} here, {expected} wanted"
            for what, found, expected in pairs
            if found != expected
        ]
        model, encoder = self.model, wanted.model
        if (
            model
            and encoder
            and model.fingerprint != encoder.fingerprint
            and not model.is_former(encoder)  # which is looked into, see adoption.py
        ):
            lines.append(
                f"the vectors come from {model.name} (fingerprint {model.fingerprint}), the "
                f"encoder is {encoder.name} ({encoder.fingerprint})"
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
        elif _datatype(vector.datatype) not in CHOICES[f"{name}_datatype"]:
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
            if field not in (tenant, OUR_INDEX.field)
        },
        tenant=tenant,
        # an engine without a cluster sets none of these, whatever the model's defaults are
        **{
            ours: getattr(params, theirs)
            for ours, theirs in CLUSTER.items()
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
    for kind in CHOICES[f"{name}_quantization"]:
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


def _is_index(found: models.PayloadIndexInfo | None, wanted: Index) -> bool:
    if found is None:
        return False
    if isinstance(wanted.kind, models.KeywordIndexParams):
        return bool(getattr(found.params, "is_tenant", False))
    return found.data_type is wanted.kind
