"""What a collection expects of each of its vectors, read off its configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qdrant_client import models

__all__ = ["VectorSpec", "VectorSpecs", "layout_of", "named_vectors", "unknown_vector"]


@dataclass(frozen=True)
class VectorSpec:
    """What a collection expects of one of its vectors.

    Attributes:
        name: the vector's name; "" is the unnamed vector of a collection that has just one.
        kind: dense, multi (one vector a token) or sparse.
        size: numbers in a dense vector, or in one token of a multivector; 0 for sparse.
        float16: stored as float16, so that numbers above 65504 would turn infinite.
        cosine: normalised when stored, so that the sum of squares must stay finite.
        distance: compared by a distance, of which less is better.
    """

    name: str
    kind: Literal["dense", "multi", "sparse"]
    size: int = 0
    float16: bool = False
    cosine: bool = False
    distance: bool = False


VectorSpecs = Mapping[str, VectorSpec]
"""A collection's vectors by name."""


def layout_of(config: models.CreateCollection) -> dict[str, VectorSpec]:
    """The vectors that a collection's configuration describes."""
    layout = {}
    for name, dense in named_vectors(config.vectors).items():
        layout[name] = VectorSpec(
            name,
            "dense" if dense.multivector_config is None else "multi",
            dense.size,
            float16=dense.datatype == models.Datatype.FLOAT16,
            cosine=dense.distance == models.Distance.COSINE,
            distance=dense.distance in (models.Distance.EUCLID, models.Distance.MANHATTAN),
        )
    for name, sparse in (config.sparse_vectors or {}).items():
        float16 = sparse.index is not None and sparse.index.datatype == models.Datatype.FLOAT16
        layout[name] = VectorSpec(name, "sparse", float16=float16)
    return layout


def named_vectors(vectors: Any) -> Mapping[str, Any]:
    """The dense vectors of a configuration, or of a change to one, by name; "" is the unnamed."""
    if vectors is None:
        return {}
    return {"": vectors} if isinstance(vectors, models.VectorParams) else vectors


def unknown_vector(name: Any, layout: VectorSpecs) -> str:
    """The refusal of a name that no vector has."""
    known = ", ".join(repr(n) for n in layout if n)
    if "" in layout:
        known = f"{known} and the unnamed vector" if known else "only the unnamed vector"
    said = f"Not existing vector name error: {name}"  # a server's words
    if name == "":
        return (
            f"the vector has no name: pass a dict by name; the collection has {known or 'none'} "
            f"({said})"
        )
    return f"the collection has no vector of this name; it has {known or 'none'} ({said})"
