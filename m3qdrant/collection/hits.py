"""`Hit`: one found document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from m3qdrant.collection.documents import Document

__all__ = ["Hit"]


@dataclass(frozen=True)
class Hit:
    """One found document.

    Attributes:
        id: the document's id.
        text: its text.
        payload: its payload.
        score: what the hits are ranked by; its meaning is the mode's.
        scores: the exact "dense", "sparse" (lexical) and "colbert" (mean MaxSim) scores, whatever
            the mode; empty where `components=False` was asked for.
        group: the value of the `group_by` field that the hit stands for; None without one.
        vectors: the stored vectors asked for with `with_vectors`, by name; None without.
    """

    id: str
    text: str
    payload: Mapping[str, Any]
    score: float
    scores: Mapping[str, float]
    group: str | int | None = None
    vectors: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        point: models.ScoredPoint | models.Record,
        score: float,
        scores: Mapping[str, float],
        group: str | int | None = None,
        vectors: Mapping[str, Any] | None = None,
    ) -> Hit:
        """From a point of any engine."""
        document = Document.of_point(point)
        return cls(document.id, document.text, document.payload, score, scores, group, vectors)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON; without `group` and `vectors` where unused."""
        out = {**vars(self), "payload": dict(self.payload), "scores": dict(self.scores)}
        if self.vectors is not None:
            out["vectors"] = {name: _plain(vector) for name, vector in self.vectors.items()}
        return {
            name: value
            for name, value in out.items()
            if value is not None or name not in ("group", "vectors")
        }


def _plain(vector: Any) -> Any:
    return vector.model_dump() if isinstance(vector, models.SparseVector) else vector
