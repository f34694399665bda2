"""A collection's configuration after an update of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from qdrant_client import models

from m3qdrant.edge.translate.vector_specs import named_vectors
from m3qdrant.errors import InputError, UnsupportedError

__all__ = ["concerns_the_engine", "updated", "with_vector", "without_vector"]

_M = TypeVar("_M", bound=BaseModel)

_OURS = (
    "metadata",
    "strict_mode_config",
    "shard_number",
    "sharding_method",
    "replication_factor",
    "write_consistency_factor",
    "wal_config",
)
"""What the engine knows nothing of."""


def updated(
    config: models.CreateCollection, update: models.UpdateCollection
) -> models.CreateCollection:
    """The configuration with an update's settings in place of its own.

    Raises:
        InputError: the update names a vector that isn't there.
        UnsupportedError: it changes what the engine can't change.
    """
    changes: dict[str, Any] = {}
    for field in ("hnsw_config", "optimizers_config", "strict_mode_config"):
        diff = getattr(update, field)
        if diff is not None:
            changes[field] = _merged(getattr(config, field), diff)
    if update.quantization_config is not None:
        changes["quantization_config"] = _quantization(update.quantization_config)
    if update.params is not None:
        changes.update(_given(update.params))
        away = sorted(k for k in changes if k.startswith("read_fan_out"))
        if away:
            raise UnsupportedError(
                f"the embedded engine has no replicas to read from: leave {away[0]} out"
            )
    if update.metadata is not None:
        merged = {**(config.metadata or {}), **update.metadata}
        changes["metadata"] = {k: v for k, v in merged.items() if v is not None}
    if update.vectors:
        changes["vectors"] = _dense(config, update.vectors)
    if update.sparse_vectors:
        changes["sparse_vectors"] = _sparse(config, update.sparse_vectors)
    return config.model_copy(update=changes)


def concerns_the_engine(old: models.CreateCollection, new: models.CreateCollection) -> bool:
    """Whether two configurations differ in what the engine knows of."""
    without = dict.fromkeys(_OURS)
    return old.model_copy(update=without) != new.model_copy(update=without)


def with_vector(
    config: models.CreateCollection,
    name: str,
    vector: models.VectorParams | models.SparseVectorParams,
) -> models.CreateCollection:
    """The configuration with one more named vector; as it is, where it has such a one.

    Raises:
        InputError: there is another one of this name.
    """
    dense, sparse = named_vectors(config.vectors), config.sparse_vectors or {}
    present: Any = dense.get(name) or sparse.get(name)
    if present is not None and _schema(present) == _schema(vector):
        return config
    if present is not None:
        raise InputError(
            f"Wrong input: the vector {name!r} already exists with a different configuration: "
            "delete it first, or choose another name"
        )
    if isinstance(vector, models.SparseVectorParams):
        return config.model_copy(update={"sparse_vectors": {**sparse, name: vector}})
    return config.model_copy(update={"vectors": {**dense, name: vector}})


def without_vector(config: models.CreateCollection, name: str) -> models.CreateCollection:
    """The configuration without one of its named vectors; as it is, where it has no such one.

    Raises:
        InputError: it is the unnamed vector, alone.
    """
    dense, sparse = dict(named_vectors(config.vectors)), dict(config.sparse_vectors or {})
    if name in sparse:
        del sparse[name]
        return config.model_copy(update={"sparse_vectors": sparse or None})
    if name not in dense:
        return config
    if name == "" and isinstance(config.vectors, models.VectorParams):
        raise InputError(
            "Cannot delete the unnamed vector when it is the only dense vector in the collection"
        )
    del dense[name]
    return config.model_copy(update={"vectors": dense})


def _schema(vector: models.VectorParams | models.SparseVectorParams) -> Any:
    """What makes two vectors the same, whatever their indexes are."""
    if isinstance(vector, models.SparseVectorParams):
        return vector.modifier or models.Modifier.NONE
    return vector.size, vector.distance, vector.multivector_config


def _unknown(name: str) -> InputError:
    return InputError(f"Wrong input: Not existing vector name error: {name}")


def _dense(
    config: models.CreateCollection, diffs: Mapping[str, models.VectorParamsDiff]
) -> models.VectorParams | dict[str, models.VectorParams]:
    vectors = dict(named_vectors(config.vectors))
    for name, diff in diffs.items():
        if name not in vectors:
            raise _unknown(name)
        old = vectors[name]
        changes = _given(diff)
        if diff.hnsw_config is not None:
            changes["hnsw_config"] = _merged(old.hnsw_config, diff.hnsw_config)
        if diff.quantization_config is not None:
            changes["quantization_config"] = _quantization(diff.quantization_config)
        vectors[name] = old.model_copy(update=changes)
    return vectors[""] if isinstance(config.vectors, models.VectorParams) else vectors


def _sparse(
    config: models.CreateCollection, diffs: Mapping[str, models.SparseVectorParams]
) -> dict[str, models.SparseVectorParams]:
    vectors = dict(config.sparse_vectors or {})
    for name, diff in diffs.items():
        if name not in vectors:
            raise _unknown(name)
        old = vectors[name]
        none = models.Modifier.NONE
        if diff.modifier is not None and diff.modifier != (old.modifier or none):
            raise UnsupportedError(
                f"the embedded engine can't change the modifier of {name!r}: delete the vector "
                "name, create it with the modifier, and write the vectors again"
            )
        if diff.index is not None:
            index = _merged(old.index, diff.index)
            if old.index is not None and index.datatype != old.index.datatype:
                raise UnsupportedError(
                    f"the embedded engine can't change the datatype of {name!r}: delete the "
                    "vector name, create it with the datatype, and write the vectors again"
                )
            vectors[name] = old.model_copy(update={"index": index})
    return vectors


def _quantization(config: Any) -> Any:
    return None if config == models.Disabled.DISABLED else config


def _given(diff: BaseModel) -> dict[str, Any]:
    """The fields that were given, as they are."""
    values = ((field, getattr(diff, field)) for field in type(diff).model_fields)
    return {field: value for field, value in values if value is not None}


def _merged(old: _M | None, diff: _M) -> _M:
    return diff if old is None else old.model_copy(update=_given(diff))
