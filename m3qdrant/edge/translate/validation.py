"""The ranges of a collection's settings, which a server checks and the engine doesn't. Pure.

The engine takes whatever it is told, and then makes an index that finds nothing, or none at all.
The ranges are those of Qdrant's source (`validate` in its configuration types).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qdrant_client import models
from qdrant_client.conversions import common_types as types

from m3qdrant.edge.refusals import invalid
from m3qdrant.edge.translate.configuration import NO_VECTORS
from m3qdrant.edge.translate.vector_specs import named_vectors
from m3qdrant.errors import InputError, UnsupportedError

__all__ = ["check_settings", "check_vector_name"]

Range = tuple[float, float | None]

_ROOT: dict[str, Range] = {
    "shard_number": (1, None),
    "replication_factor": (1, None),
    "write_consistency_factor": (1, None),
}
_VECTOR: dict[str, Range] = {"size": (1, 65536)}
_HNSW: dict[str, Range] = {
    "m": (0, None),
    "ef_construct": (4, None),
    "full_scan_threshold": (0, None),
    "max_indexing_threads": (0, None),
    "payload_m": (0, None),
}
_OPTIMIZERS: dict[str, Range] = {
    "deleted_threshold": (0, 1),
    "vacuum_min_vector_number": (100, None),
    "default_segment_number": (0, None),
    "max_segment_size": (1, None),
    "memmap_threshold": (0, None),
    "indexing_threshold": (0, None),
    "flush_interval_sec": (0, None),
    "max_optimization_threads": (0, None),
}
_WAL: dict[str, Range] = {
    "wal_capacity_mb": (1, None),
    "wal_segments_ahead": (0, None),
    "wal_retain_closed": (1, None),
}
_SCALAR: dict[str, Range] = {"quantile": (0.5, 1)}

_LONGEST_NAME = 200
_FORBIDDEN = frozenset('<>:"/\\|?*\0\x1f')
"""A vector's name is a directory's: its bytes, and what isn't in it."""


def check_settings(settings: models.CreateCollection | models.UpdateCollection) -> None:
    """Check all that a collection is made with, or changed by.

    Raises:
        InputError: the first value that is out of its range, by its place, such as
            "hnsw_config.ef_construct"; or a vector's name that no server takes.
        UnsupportedError: shards by key.
    """
    if getattr(settings, "sharding_method", None) == models.ShardingMethod.CUSTOM:
        raise UnsupportedError(
            "the embedded engine has no shard keys: leave sharding_method out, and filter instead"
        )
    for place, part, ranges in _parts(settings):
        for field, (least, most) in ranges.items():
            value = getattr(part, field, None)
            if isinstance(value, (int, float)):
                _check(f"{place}{field}", value, least, most)
    dense, sparse = named_vectors(settings.vectors), settings.sparse_vectors or {}
    for name in [*dense, *sparse]:
        if name or name in sparse:  # "" is the unnamed vector, which is dense
            check_vector_name(name)
    both = sorted(set(dense) & set(sparse))
    if both:
        raise InputError(f"the vector {both[0]!r} is dense and sparse: give one another name")


def check_vector_name(name: Any) -> str:
    """A named vector's name.

    Raises:
        InputError: one that no server takes.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"{name!r} is no vector name: use a string of at least one character")
    bad = sorted(_FORBIDDEN.intersection(name))
    if bad or name in (".", ".."):
        raise InputError(
            f"the vector name {name!r} holds {bad[0] if bad else name!r}: leave it out"
        )
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise InputError(
            f"the vector name {name[:20]!r}... is longer than {_LONGEST_NAME} bytes: shorten it"
        )
    if name == NO_VECTORS:
        raise InputError(f"the vector name {name!r} is taken: choose another")
    return name


def _check(place: str, value: float, least: float, most: float | None) -> None:
    if least <= value and (most is None or value <= most):
        return
    wanted = f"{least} or larger" if most is None else f"from {least} to {most}"
    raise invalid(f"{place}: value {value} invalid, must be {wanted}")


def _parts(
    settings: models.CreateCollection | models.UpdateCollection,
) -> Iterator[tuple[str, Any, dict[str, Range]]]:
    yield "", settings, _ROOT
    yield "params.", getattr(settings, "params", None), _ROOT
    yield "hnsw_config.", settings.hnsw_config, _HNSW
    yield "optimizers_config.", settings.optimizers_config, _OPTIMIZERS
    yield "wal_config.", getattr(settings, "wal_config", None), _WAL
    yield "quantization_config.", _scalar(settings.quantization_config), _SCALAR
    for name, vector in named_vectors(settings.vectors).items():
        place = f"vectors.{name}." if name else "vectors."
        yield place, vector, _VECTOR
        yield f"{place}hnsw_config.", vector.hnsw_config, _HNSW
        yield f"{place}quantization_config.", _scalar(vector.quantization_config), _SCALAR
    for name, sparse in (settings.sparse_vectors or {}).items():
        yield f"sparse_vectors.{name}.index.", sparse.index, {"full_scan_threshold": (0, None)}


def _scalar(quantization: types.QuantizationConfigDiff | None) -> Any:
    return getattr(quantization, "scalar", None)
