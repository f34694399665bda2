"""A collection's configuration, as the engine takes it. Pure."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from m3qdrant.edge.translate.members import member, memory
from m3qdrant.errors import UnsupportedError

__all__ = ["NO_VECTORS", "hnsw_settings", "shard_config"]

HNSW_DEFAULTS = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
"""The server's own, for what a configuration leaves open."""


NO_VECTORS = "m3qdrant-no-vectors"
"""A sparse vector that no point has: the engine takes no collection without a vector."""


def shard_config(
    config: models.CreateCollection, *, no_vectors: bool | None = None
) -> edge.EdgeConfig:
    """The engine's configuration of a collection.

    Args:
        config: the collection's.
        no_vectors: whether the engine's data has the vector `NO_VECTORS`; by default where the
            collection has none.
    """
    vectors: dict[str, edge.EdgeVectorParams] | edge.EdgeVectorParams | None = None
    if isinstance(config.vectors, models.VectorParams):
        vectors = _dense_params(config.vectors, config.hnsw_config)
    elif config.vectors:
        vectors = {n: _dense_params(p, config.hnsw_config) for n, p in config.vectors.items()}
    sparse = {n: _sparse_params(p) for n, p in (config.sparse_vectors or {}).items()}
    if no_vectors or (no_vectors is None and not vectors and not sparse):
        sparse[NO_VECTORS] = _sparse_params(models.SparseVectorParams())
    payload = getattr(config, "payload", None)
    id_tracker = getattr(config, "id_tracker", None)
    return edge.EdgeConfig(
        vectors=vectors,
        sparse_vectors=sparse,
        on_disk_payload=config.on_disk_payload,
        hnsw_config=_hnsw(config.hnsw_config),
        quantization_config=_quantization(config.quantization_config),
        optimizers=_optimizers(config.optimizers_config),
        payload_memory=memory(payload),
        id_tracker_memory=memory(id_tracker),
    )


def _dense_params(
    params: models.VectorParams, shared: models.HnswConfigDiff | None
) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        size=params.size,
        distance=member(edge.Distance, params.distance),
        on_disk=params.on_disk,
        multivector_config=None
        if params.multivector_config is None
        else edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
        datatype=member(edge.VectorStorageDatatype, params.datatype),
        quantization_config=_quantization(params.quantization_config),
        hnsw_config=None if params.hnsw_config is None else _hnsw(params.hnsw_config, shared),
        memory=memory(params),
    )


def _sparse_params(params: models.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    index = params.index
    modifier = None if params.modifier == models.Modifier.NONE else params.modifier
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.full_scan_threshold if index else None,
        on_disk=index.on_disk if index else None,
        modifier=member(edge.Modifier, modifier),
        datatype=member(edge.VectorStorageDatatype, index.datatype if index else None),
        memory=memory(index),
    )


def hnsw_settings(*diffs: models.HnswConfigDiff | None) -> dict[str, Any]:
    """The HNSW settings that several partial configurations add up to, the first one winning."""
    settings: dict[str, Any] = dict(HNSW_DEFAULTS)
    for diff in reversed(diffs):
        if diff is not None:
            settings.update(diff.model_dump(mode="json", exclude_none=True))
    return settings


def _hnsw(*diffs: models.HnswConfigDiff | None) -> edge.HnswIndexConfig | None:
    if all(diff is None for diff in diffs):
        return None
    settings = hnsw_settings(*diffs)
    memory = settings.pop("memory", None)
    return edge.HnswIndexConfig(**settings, memory=member(edge.Memory, memory))


def _quantization(
    config: models.QuantizationConfig | None,
) -> (
    edge.ScalarQuantizationConfig
    | edge.ProductQuantizationConfig
    | edge.BinaryQuantizationConfig
    | edge.TurboQuantQuantizationConfig
    | None
):
    if config is None:
        return None
    inner: Any
    if isinstance(config, models.ScalarQuantization):
        inner = config.scalar
        return edge.ScalarQuantizationConfig(
            type=member(edge.ScalarType, inner.type),
            quantile=inner.quantile,
            always_ram=inner.always_ram,
            memory=memory(inner),
        )
    if isinstance(config, models.ProductQuantization):
        inner = config.product
        return edge.ProductQuantizationConfig(
            compression=member(edge.CompressionRatio, inner.compression),
            always_ram=inner.always_ram,
            memory=memory(inner),
        )
    if isinstance(config, models.BinaryQuantization):
        inner = config.binary
        return edge.BinaryQuantizationConfig(
            always_ram=inner.always_ram,
            encoding=member(edge.BinaryQuantizationEncoding, inner.encoding),
            query_encoding=member(edge.BinaryQuantizationQueryEncoding, inner.query_encoding),
            memory=memory(inner),
        )
    inner = getattr(config, "turbo", None)
    if inner is None:
        raise UnsupportedError(f"the embedded engine has no {type(config).__name__}")
    return edge.TurboQuantQuantizationConfig(
        always_ram=inner.always_ram,
        bits=member(edge.TurboQuantBitSize, inner.bits),
        memory=memory(inner),
    )


def _optimizers(config: models.OptimizersConfigDiff | None) -> edge.EdgeOptimizersConfig | None:
    if config is None:
        return None
    return edge.EdgeOptimizersConfig(
        deleted_threshold=config.deleted_threshold,
        vacuum_min_vector_number=config.vacuum_min_vector_number,
        default_segment_number=config.default_segment_number,
        max_segment_size=config.max_segment_size,
        indexing_threshold=config.indexing_threshold,
        prevent_unoptimized=getattr(config, "prevent_unoptimized", None),
    )
