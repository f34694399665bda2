"""`Hit`: one found document; `Hits`: those of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from m3qdrant.collection.documents import Document
from m3qdrant.names import VECTORS
from m3qdrant.rank import Explanation, Snippet, escaped, shaded, styled

__all__ = ["Hit", "Hits"]

_SNIPPET = 200  # characters


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
        explanation: why it ranks where it does, asked for with `explain`; None without.
    """

    id: str
    text: str
    payload: Mapping[str, Any]
    score: float
    scores: Mapping[str, float]
    group: str | int | None = None
    vectors: Mapping[str, Any] | None = None
    explanation: Explanation | None = None

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

    def snippet(self, width: int = _SNIPPET) -> str:
        """The passage that matched, on one line of about `width` characters.

        Where the hit isn't explained, nobody knows it, and it is the text's beginning.
        """
        return str(_snippet(self, width))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON; without what wasn't asked for."""
        out = {**vars(self), "payload": dict(self.payload), "scores": dict(self.scores)}
        if self.vectors is not None:
            out["vectors"] = {name: _plain(vector) for name, vector in self.vectors.items()}
        if self.explanation is not None:
            out["explanation"] = self.explanation.to_dict()
        return {
            name: value
            for name, value in out.items()
            if value is not None or name not in ("group", "vectors", "explanation")
        }


class Hits(list[Hit]):
    """The hits of a search: a list, which shows itself as a table in a notebook."""

    def __getitem__(self, index: Any) -> Any:
        """One hit, or a slice's, as `Hits`."""
        found = super().__getitem__(index)
        return Hits(found) if isinstance(index, slice) else found

    def _repr_html_(self) -> str:
        if not self:
            return styled("<p>no hits</p>")
        grouped = any(hit.group is not None for hit in self)
        names = ["score", *(name for name in VECTORS if any(name in h.scores for h in self))]
        head = "".join(f'<th scope="col" class="n">{name}</th>' for name in names)
        if grouped:
            head += '<th scope="col">group</th>'
        rows = "".join(_row(rank, hit, names[1:], grouped) for rank, hit in enumerate(self, 1))
        return styled(
            f'<table><thead><tr><td></td>{head}<th scope="col">document</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>"
        )


def _row(rank: int, hit: Hit, names: list[str], grouped: bool) -> str:
    numbers = "".join(
        f'<td class="n">{number:.3f}</td>'
        for number in (hit.score, *(hit.scores.get(name, 0.0) for name in names))
    )
    group = f'<td dir="auto">{escaped(str(hit.group))}</td>' if grouped else ""
    snippet = _snippet(hit, _SNIPPET)
    before, behind = ("… " if cut else "" for cut in snippet.cut)
    text = f"{before}{shaded(snippet.text, snippet.highlights)}{behind and ' …'}"
    return (
        f'<tr><td class="n">{rank}</td>{numbers}{group}<td><b><bdi>{escaped(hit.id)}</bdi></b>'
        f'<br><span dir="auto" lang="">{text}</span></td></tr>'
    )


def _snippet(hit: Hit, width: int) -> Snippet:
    explained = hit.explanation or Explanation(hit.id, hit.text, None, "", None, 0.0, ())
    return explained.snippet(width)


def _plain(vector: Any) -> Any:
    return vector.model_dump() if isinstance(vector, models.SparseVector) else vector
