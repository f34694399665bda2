"""How a collection is laid out, and whether an existing one fits. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qdrant_client import models

from m3qdrant.errors import InputError

__all__ = ["COLBERT", "DENSE", "MULTIVECTOR_LIMIT", "SPARSE", "Layout", "M3Schema", "ModelId"]

DENSE, SPARSE, COLBERT = "dense", "sparse", "colbert"
"""The names of the three vectors in every collection."""

MULTIVECTOR_LIMIT = 1_048_576
"""A Qdrant server takes multivectors of fewer numbers than this: 1,023 vectors at 1024-d. The
embedded and the in-memory engine don't ask, but we hold them to it, so that every collection can
move."""

_METADATA = "m3qdrant"


@dataclass(frozen=True)
class ModelId:
    """The checkpoint that a collection's vectors come from.

    Attributes:
        name: what it was loaded as, e.g. "BAAI/bge-m3".
        fingerprint: `M3Encoder.fingerprint`; decides whether two are the same.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True)
class M3Schema:
    """How vectors are stored. The defaults suit hybrid search with exact late-interaction scoring.

    The ColBERT vectors get no HNSW graph (m = 0): they only score candidates, and a graph over
    multivectors costs minutes where the rest costs seconds.

    Attributes:
        colbert_datatype: "float16" halves disk and memory; scores move in the fourth decimal.
            "float32" keeps what the encoder gave.
    """

    colbert_datatype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        if self.colbert_datatype not in ("float16", "float32"):
            raise InputError(
                f"colbert_datatype must be 'float16' or 'float32', not {self.colbert_datatype!r}"
            )


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
        return (MULTIVECTOR_LIMIT - 1) // self.colbert_dim

    def create_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `create_collection`, but for the name."""
        return {
            # the vectors are normalised, so the dot product is the cosine, without a division
            "vectors_config": {
                DENSE: models.VectorParams(size=self.dim, distance=models.Distance.DOT),
                COLBERT: models.VectorParams(
                    size=self.colbert_dim,
                    distance=models.Distance.DOT,
                    datatype=models.Datatype(self.schema.colbert_datatype),
                    multivector_config=models.MultiVectorConfig(
                        comparator=models.MultiVectorComparator.MAX_SIM
                    ),
                    hnsw_config=models.HnswConfigDiff(m=0),
                ),
            },
            "sparse_vectors_config": {SPARSE: models.SparseVectorParams()},
            "metadata": {
                _METADATA: {
                    "format": 1,
                    "model": self.model.name if self.model else None,
                    "fingerprint": self.model.fingerprint if self.model else None,
                }
            },
        }

    @classmethod
    def read(cls, info: models.CollectionInfo) -> Layout | list[str]:
        """The layout of an existing collection, or why it is none of ours, a line a reason."""
        params = info.config.params
        dense = params.vectors if isinstance(params.vectors, dict) else {}
        wrong = []
        for name in (DENSE, COLBERT):
            vector = dense.get(name)
            if vector is None:
                wrong.append(f"there is no vector named {name!r}")
            elif vector.distance is not models.Distance.DOT:
                wrong.append(f"vector {name!r} has distance {vector.distance.value}, not Dot")
            elif (vector.multivector_config is not None) != (name == COLBERT):
                kind = "no multivector" if name == COLBERT else "a multivector"
                wrong.append(f"vector {name!r} is {kind}")
        if SPARSE not in (params.sparse_vectors or {}):
            wrong.append(f"there is no sparse vector named {SPARSE!r}")
        elif (params.sparse_vectors or {})[SPARSE].modifier not in (None, models.Modifier.NONE):
            wrong.append(
                f"sparse vector {SPARSE!r} has a modifier (IDF), which changes the scores"
            )
        datatype = dense[COLBERT].datatype or models.Datatype.FLOAT32 if COLBERT in dense else None
        if datatype not in (None, models.Datatype.FLOAT32, models.Datatype.FLOAT16):
            wrong.append(f"vector {COLBERT!r} has datatype {datatype.value}")
        if wrong or datatype is None:
            return wrong
        ours = (info.config.metadata or {}).get(_METADATA) or {}
        model, fingerprint = ours.get("model"), ours.get("fingerprint")
        return cls(
            schema=M3Schema(colbert_datatype=datatype.value),  # type: ignore[arg-type]
            dim=dense[DENSE].size,
            colbert_dim=dense[COLBERT].size,
            model=ModelId(str(model), str(fingerprint)) if model and fingerprint else None,
        )

    def differences(self, wanted: Layout) -> list[str]:
        """How this, an existing layout, differs from the `wanted` one, a line each."""
        lines = [
            f"{what} is {found} here, {expected} wanted"
            for what, found, expected in (
                ("the dense width", self.dim, wanted.dim),
                ("the ColBERT width", self.colbert_dim, wanted.colbert_dim),
                (
                    "colbert_datatype",
                    self.schema.colbert_datatype,
                    wanted.schema.colbert_datatype,
                ),
            )
            if found != expected
        ]
        if self.model and wanted.model and self.model.fingerprint != wanted.model.fingerprint:
            lines.append(
                f"the vectors come from {self.model.name} (fingerprint {self.model.fingerprint}), "
                f"the encoder is {wanted.model.name} ({wanted.model.fingerprint})"
            )
        return lines
