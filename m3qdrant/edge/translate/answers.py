"""The engine's types to qdrant-client's models. Pure.

The engine's answers are well-formed, so the models are built without pydantic's validation, which
would look at every number of every vector again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.translate.configuration import hnsw_settings

__all__ = [
    "array_record",
    "collection_info",
    "completed",
    "index_type",
    "point_id",
    "record",
    "scored_point",
]


def point_id(id: Any) -> int | str:
    """An id as the server gives it: an integer, or a hyphenated UUID."""
    return str(id) if isinstance(id, UUID) else id


def record(r: edge.Record) -> models.Record:
    """A retrieved point."""
    return models.Record.model_construct(
        id=point_id(r.id),
        payload=r.payload,
        vector=_vectors(r.vector),
        order_value=r.order_value,
    )


def array_record(r: edge.Record) -> models.Record:
    """A retrieved point whose dense vectors and multivectors are float32 arrays.

    One after another: the engine gives lists, and those of one point are gone before the next
    one's come.
    """
    found = record(r)
    vector: Any = found.vector
    if isinstance(vector, Mapping):
        found.vector = {name: _array(each) for name, each in vector.items()}
    else:
        found.vector = _array(vector)
    return found


def _array(vector: Any) -> Any:
    if not isinstance(vector, list):
        return vector
    if not vector or not isinstance(vector[0], list):
        return np.frombuffer(struct.pack(f"{len(vector)}f", *vector), np.float32)
    # row by row, which takes a third of the time of numpy's own look at a list of lists
    pack = struct.Struct(f"{len(vector[0])}f").pack
    flat = np.frombuffer(b"".join([pack(*row) for row in vector]), np.float32)
    return flat.reshape(len(vector), len(vector[0]))


def scored_point(p: edge.ScoredPoint) -> models.ScoredPoint:
    """A found point."""
    return models.ScoredPoint.model_construct(
        id=point_id(p.id),
        version=p.version,
        score=p.score,
        payload=p.payload,
        vector=_vectors(p.vector),
        order_value=p.order_value,
    )


def completed(number: int) -> models.UpdateResult:
    """What a write answers: here each is done when it returns."""
    return models.UpdateResult(operation_id=number, status=models.UpdateStatus.COMPLETED)


def _vectors(vectors: Any) -> Any:
    if not isinstance(vectors, Mapping):
        return vectors
    if set(vectors) == {""}:
        return _vector(vectors[""])
    return {name: _vector(v) for name, v in vectors.items()}


def _vector(vector: Any) -> Any:
    if isinstance(vector, edge.SparseVector):
        return models.SparseVector.model_construct(indices=vector.indices, values=vector.values)
    return vector


def collection_info(
    config: models.CreateCollection, info: edge.ShardInfo
) -> models.CollectionInfo:
    """What `get_collection` gives: the stored configuration and the engine's counts.

    The status is always green: the engine optimises only when `optimize` is called, and then
    waits.
    """
    params: dict[str, Any] = {
        "vectors": {},
        "shard_number": 1,
        "replication_factor": 1,
        "write_consistency_factor": 1,
        "on_disk_payload": True,
    }
    given = _given(config)
    params.update({k: given[k] for k in models.CollectionParams.model_fields if k in given})
    return models.CollectionInfo(
        status=models.CollectionStatus.GREEN,
        optimizer_status=models.OptimizersStatusOneOf.OK,
        indexed_vectors_count=info.indexed_vectors_count,
        points_count=info.points_count,
        segments_count=info.segments_count,
        payload_schema={name: _index_info(i) for name, i in info.payload_schema.items()},
        config=models.CollectionConfig(
            params=models.CollectionParams(**params),
            hnsw_config=models.HnswConfig(**{**_HNSW, **hnsw_settings(config.hnsw_config)}),
            optimizer_config=models.OptimizersConfig(**_optimizers(config.optimizers_config)),
            wal_config=models.WalConfig(**{**_WAL, **_given(config.wal_config)}),
            quantization_config=config.quantization_config,
            strict_mode_config=None
            if config.strict_mode_config is None
            else models.StrictModeConfigOutput(
                **config.strict_mode_config.model_dump(exclude_none=True)
            ),
            metadata=config.metadata,
        ),
    )


# a server's own, for what a configuration leaves open

_HNSW = {"max_indexing_threads": 0, "on_disk": False}
_WAL = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}
_OPTIMIZERS = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "indexing_threshold": 10_000,
    "flush_interval_sec": 5,
}


def _optimizers(config: models.OptimizersConfigDiff | None) -> dict[str, Any]:
    settings = {**_OPTIMIZERS, **_given(config)}
    if not isinstance(settings.get("max_optimization_threads"), int):
        settings.pop("max_optimization_threads", None)  # "auto", which a server gives as none
    return settings


def _given(model: Any) -> dict[str, Any]:
    """A model's fields, but for those that are None."""
    if model is None:
        return {}
    fields = ((name, getattr(model, name)) for name in type(model).model_fields)
    return {name: value for name, value in fields if value is not None}


def _index_info(info: edge.PayloadIndexInfo) -> models.PayloadIndexInfo:
    return models.PayloadIndexInfo(
        data_type=models.PayloadSchemaType(index_type(info)),
        params=_index_params(info.params),
        points=info.points,
    )


def index_type(info: edge.PayloadIndexInfo) -> str:
    """An index's type, such as "keyword"."""
    return _enum_value(info.data_type)


def _index_params(params: Any) -> models.PayloadSchemaParams | None:
    if params is None:
        return None
    model = getattr(models, type(params).__name__)
    settings: dict[str, Any] = {"type": type(params).__name__.removesuffix("IndexParams").lower()}
    for field in model.model_fields:
        value = getattr(params, field, None)
        if value is None:
            continue
        if isinstance(value, edge.StopwordsSet):
            languages = sorted(map(_enum_value, value.languages or ()))
            value = {"languages": languages, "custom": sorted(value.custom or ())}
        elif isinstance(value, edge.SnowballParams):
            value = {"type": "snowball", "language": _enum_value(value.language)}
        elif isinstance(value, edge.DisabledStemmer):
            value = {"type": "none"}
        elif isinstance(value, edge.TextScoringParams):
            value = {"type": _enum_value(value.type)}
        elif type(value).__module__ == "builtins" and not isinstance(value, (bool, int, str)):
            value = _enum_value(value)
        settings[field] = value
    return model(**settings)  # type: ignore[no-any-return]


def _enum_value(member: Any) -> str:
    """The engine's enums tell their member's name only in their repr: "PayloadSchemaType.Uuid"."""
    return repr(member).rpartition(".")[2].lower()
