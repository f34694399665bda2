"""The engine's types to qdrant-client's models. Pure.

The engine's answers are well-formed, so the models are built without pydantic's validation, which
would look at every number of every vector again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.translate.configuration import hnsw_settings

__all__ = ["collection_info", "index_type", "point_id", "record", "scored_point"]


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
    optimizers = config.optimizers_config
    settings = {} if optimizers is None else optimizers.model_dump(exclude_none=True)
    params: dict[str, Any] = {
        "vectors": config.vectors,
        "sparse_vectors": config.sparse_vectors,
        "on_disk_payload": True if config.on_disk_payload is None else config.on_disk_payload,
    }
    for newer in ("payload", "id_tracker"):
        if getattr(config, newer, None) is not None:
            params[newer] = getattr(config, newer)
    return models.CollectionInfo(
        status=models.CollectionStatus.GREEN,
        optimizer_status=models.OptimizersStatusOneOf.OK,
        indexed_vectors_count=info.indexed_vectors_count,
        points_count=info.points_count,
        segments_count=info.segments_count,
        payload_schema={name: _index_info(i) for name, i in info.payload_schema.items()},
        config=models.CollectionConfig(
            params=models.CollectionParams(**params),
            hnsw_config=models.HnswConfig(**hnsw_settings(config.hnsw_config)),
            optimizer_config=models.OptimizersConfig(
                **{
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "indexing_threshold": 10_000,
                    "flush_interval_sec": 0,
                    **settings,
                }
            ),
            quantization_config=config.quantization_config,
            metadata=config.metadata,
        ),
    )


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
