"""The BGE-M3 tutorial's figures, computed with a model and set beside the published ones.

The figures are those of the BGE-M3 tutorial and of FlagEmbedding's examples, computed in fp16;
fp32 differs from them in the fourth decimal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from m3qdrant import scoring
from m3qdrant.encode import M3Encoder

__all__ = [
    "TOLERANCE",
    "TUTORIAL_PASSAGES",
    "TUTORIAL_QUERIES",
    "Figure",
    "Verification",
    "verify",
]

TUTORIAL_QUERIES = ("What is BGE M3?", "Defination of BM25")
TUTORIAL_PASSAGES = (
    "BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector "
    "interaction.",
    "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the query "
    "terms appearing in each document",
)
TOLERANCE = 2e-3
"""The largest difference that passes: fp16 and bf16 stay within it, another model does not."""

_PUBLISHED = {
    "dense q0-p0": 0.62590355,
    "dense q0-p1": 0.34749585,
    "dense q1-p0": 0.3498681,
    "dense q1-p1": 0.6782464,
    "lexical q0-p0": 0.19554444,
    "lexical q0-p1": 0.008803904,
    "colbert q0-p0": 0.7796662,
    "colbert q0-p1": 0.4621178,
    "weighted 1:1:1 q0-p0": 0.5337047,
    "weighted 1:1:1 q0-p1": 0.2728056,
    "term 'What'": 0.0836,
    "term 'is'": 0.0815,
    "term 'B'": 0.1296,
    "term 'GE'": 0.2519,
    "term 'M'": 0.1700,
    "term '3'": 0.2696,
    "term '?'": 0.0408,
}
_ARCHITECTURE = {"hidden_size": 1024, "num_hidden_layers": 24, "vocab_size": 250_002}


@dataclass(frozen=True)
class Figure:
    """One published number beside ours.

    Attributes:
        name: which score, query and passage.
        published: the tutorial's number, for BAAI/bge-m3.
        computed: this model's; None where it has no such term.
    """

    name: str
    published: float
    computed: float | None

    @property
    def agrees(self) -> bool:
        """Whether the two differ by at most `TOLERANCE`."""
        return self.computed is not None and abs(self.computed - self.published) <= TOLERANCE


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify`.

    Attributes:
        model: the encoder's name.
        applies: whether the published figures are this model's: it has the shape of BAAI/bge-m3.
        figures: all numbers.
    """

    model: str
    applies: bool
    figures: tuple[Figure, ...]

    @property
    def passed(self) -> bool | None:
        """Whether every figure agrees; None where they don't apply."""
        return all(figure.agrees for figure in self.figures) if self.applies else None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        figures = [{**asdict(figure), "agrees": figure.agrees} for figure in self.figures]
        return {**asdict(self), "figures": figures, "passed": self.passed, "tolerance": TOLERANCE}


def verify(encoder: M3Encoder) -> Verification:
    """Compute the tutorial's figures with `encoder`.

    An encoder of M3Encoder's own kind, because its terms and the shape of its body are looked at
    as well.
    """
    queries = encoder.encode_queries(TUTORIAL_QUERIES)
    passages = encoder.encode_documents(TUTORIAL_PASSAGES)
    computed: dict[str, float] = {}
    for name, scores in (
        ("dense", scoring.dense(queries, passages)),
        ("lexical", scoring.lexical(queries, passages)),
        ("colbert", scoring.colbert(queries, passages)),
        ("weighted 1:1:1", scoring.weighted(queries, passages, (1, 1, 1))),
    ):
        for q, row in enumerate(scores.tolist()):
            computed |= {f"{name} q{q}-p{p}": score for p, score in enumerate(row)}
    for term, weight in encoder.tokens(queries[0])[0].items():
        computed[f"term {term.strip()!r}"] = weight
    config = encoder.model.body.config
    return Verification(
        model=encoder.name,
        applies=all(getattr(config, key) == value for key, value in _ARCHITECTURE.items()),
        figures=tuple(
            Figure(name, published, computed.get(name)) for name, published in _PUBLISHED.items()
        ),
    )
