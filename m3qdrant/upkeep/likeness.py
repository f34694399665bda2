"""Collections that are made alike, and why the points of one don't belong into another. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel
from qdrant_client import models

from m3qdrant.collection import CollectionSettings, ModelId
from m3qdrant.names import METADATA, MIGRATION

__all__ = ["differences", "kinds_of", "metadata_of", "settings_of"]

D = TypeVar("D", bound=BaseModel)


def settings_of(info: models.CollectionInfo, *, cluster: bool = False) -> CollectionSettings:
    """What a collection like this one is made with.

    Args:
        info: of the collection.
        cluster: with shards, replicas and the optimizers' settings, which mean nothing beyond
            servers (the embedded engine reports some of its own).
    """
    params, config = info.config.params, info.config
    settings: CollectionSettings = {
        "vectors_config": params.vectors,
        "sparse_vectors_config": params.sparse_vectors,
        "on_disk_payload": params.on_disk_payload,
        "hnsw_config": _diff(models.HnswConfigDiff, config.hnsw_config),
        "quantization_config": config.quantization_config,
        "metadata": metadata_of(info),
        "payload": getattr(params, "payload", None),
        "id_tracker": getattr(params, "id_tracker", None),
    }
    if cluster:
        settings["shard_number"] = params.shard_number
        settings["replication_factor"] = params.replication_factor
        settings["write_consistency_factor"] = params.write_consistency_factor
        settings["optimizers_config"] = _diff(models.OptimizersConfigDiff, config.optimizer_config)
    there = {name: value for name, value in settings.items() if value is not None}
    return cast("CollectionSettings", there)


def _diff(kind: type[D], config: BaseModel | None) -> D | None:
    """The settings of a configuration as the model that changes them."""
    if config is None:
        return None
    settings = config.model_dump(exclude_none=True)
    return kind(**{name: settings[name] for name in kind.model_fields if name in settings})


def metadata_of(info: models.CollectionInfo) -> dict[str, Any]:
    """The metadata of a copy: without a cursor of ours, and with an identity of its own."""
    metadata = dict(info.config.metadata or {})
    metadata.pop(MIGRATION, None)
    if isinstance(ours := metadata.get(METADATA), Mapping) and "uuid" in ours:
        metadata[METADATA] = {**ours, "uuid": uuid.uuid4().hex}
    return metadata


def differences(source: models.CollectionInfo, target: models.CollectionInfo) -> list[str]:
    """Why points of one collection don't belong into the other, a line a reason.

    How vectors are indexed, quantized and placed may differ: it doesn't change the points.
    """
    one, two = kinds_of(source), kinds_of(target)
    lines = []
    for name in sorted({*one, *two}):
        shown = f"vector {name!r}" if name else "the unnamed vector"
        if name not in two:
            lines.append(f"{shown} is not in the target")
        elif name not in one:
            lines.append(f"{shown} is in the target only")
        else:
            lines += [
                f"{shown} has {what} {one[name].get(what)} at the source, "
                f"{two[name].get(what)} at the target"
                for what in sorted({*one[name], *two[name]})
                if one[name].get(what) != two[name].get(what)
            ]
    one_model, two_model = ModelId.of(source), ModelId.of(target)
    if one_model and two_model and one_model.fingerprint != two_model.fingerprint:
        lines.append(
            f"the vectors come from {one_model.name} ({one_model.fingerprint}) at the source, "
            f"{two_model.name} ({two_model.fingerprint}) at the target (a collection of an "
            "earlier version is brought up to date by opening it once with its encoder)"
        )
    return lines


def kinds_of(info: models.CollectionInfo) -> dict[str, dict[str, object]]:
    """What must be the same for each vector."""
    params = info.config.params
    vectors = params.vectors
    named = {"": vectors} if isinstance(vectors, models.VectorParams) else vectors or {}
    kinds: dict[str, dict[str, object]] = {
        name: {
            "size": vector.size,
            "distance": vector.distance.value,
            "datatype": (vector.datatype or models.Datatype.FLOAT32).value,
            "comparator": vector.multivector_config and vector.multivector_config.comparator.value,
        }
        for name, vector in named.items()
    }
    for name, sparse in (params.sparse_vectors or {}).items():
        kinds[name] = {
            "size": "sparse",
            "modifier": (sparse.modifier or models.Modifier.NONE).value,
        }
    return kinds
