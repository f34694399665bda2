"""What was found beside what is exact: no speed for a choice whose scores are off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.store.oracle import FULL, LIMIT, Oracle, recall
from m3qdrant.weights import DEFAULT_WEIGHTS

Found: TypeAlias = Sequence[tuple[int, float, Mapping[str, float]]]
"""A query's hits: position of the document, score, component scores."""

# Between a hit's score and the same one put together from its component scores: float32's.
_OWN_ERROR = 2e-5
_VECTORS = ("dense", "sparse", "colbert")


@dataclass
class Verdict:
    """What a choice's answers are worth.

    Attributes:
        errors: the largest difference of each vector's scores from the exact ones.
        recall: of each mode, the mean recall@10 against its exact ranking.
        full_recall: of "colbert" and "weighted", against the ranking of all documents.
        found: of each mode, the share of queries whose own document is among the ten.
        wrong: why there is no speed; empty where all is well.
    """

    errors: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_VECTORS, 0.0))
    recall: dict[str, float] = field(default_factory=dict)
    full_recall: dict[str, float] = field(default_factory=dict)
    found: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def judge(
    answers: Mapping[str, Sequence[Found]],
    queries: Sequence[int],
    wanted: Sequence[int],
    exact: Oracle,
    stored: Oracle,
    tolerances: Mapping[str, float],
) -> Verdict:
    """Compare each mode's answers with the exact ones.

    Args:
        answers: of each mode, the hits of each query.
        queries: which queries they are.
        wanted: of all queries, the document that each was taken from.
        exact: scores of the embeddings as the encoder gave them; recall is measured by these.
        stored: scores of the embeddings that were stored (merged ones, with `token_pooling`);
            errors are measured by these.
        tolerances: the largest error of each vector's scores.
    """
    verdict = Verdict()
    for mode, lists in answers.items():
        for query, hits in zip(queries, lists, strict=True):
            _check_list(mode, query, hits, verdict.wrong)
            for position, score, parts in hits:
                for name in _VECTORS:
                    difference = abs(parts[name] - getattr(stored, name)[query, position])
                    verdict.errors[name] = max(verdict.errors[name], float(difference))
                own = _own_score(mode, parts)
                if own is not None and not abs(score - own) <= _OWN_ERROR:
                    verdict.wrong.append(
                        f"{mode}: query {query}: a score of {score}, its parts make {own}"
                    )
        found = [[position for position, _, _ in hits] for hits in lists]
        verdict.recall[mode] = _mean(
            recall(positions, exact.ranking(mode, query))
            for query, positions in zip(queries, found, strict=True)
        )
        if mode in FULL:
            verdict.full_recall[mode] = _mean(
                recall(positions, exact.full_ranking(mode, query))
                for query, positions in zip(queries, found, strict=True)
            )
        verdict.found[mode] = _mean(
            float(wanted[query] in positions)
            for query, positions in zip(queries, found, strict=True)
        )
    for name, tolerance in tolerances.items():
        if not verdict.errors[name] <= tolerance:
            verdict.wrong.append(
                f"{name} scores are off by {verdict.errors[name]:.1e}, allowed is {tolerance:.0e}"
            )
    return verdict


def same_lists(one: Sequence[Found], other: Sequence[Found]) -> str | None:
    """Why two forms of one search differ, or None. Documents of equal score may change places."""
    for query, (hits, others) in enumerate(zip(one, other, strict=True)):
        if len(hits) != len(others):
            return f"list {query}: {len(hits)} and {len(others)} hits"
        scores = {position: score for position, score, _ in others}
        last = min(scores.values(), default=0.0)
        for (position, score, _), (_, across, _) in zip(hits, others, strict=True):
            if not abs(score - across) <= _OWN_ERROR:
                return f"list {query}: scores {score} and {across} at the same place"
            if not abs(scores.get(position, last) - score) <= _OWN_ERROR:
                return f"list {query}: document {position} is not in both"
    return None


def _check_list(mode: str, query: int, hits: Found, wrong: list[str]) -> None:
    positions = [position for position, _, _ in hits]
    scores = [score for _, score, _ in hits]
    if len(set(positions)) != len(positions):
        wrong.append(f"{mode}: query {query}: a document stands twice in the list")
    if scores != sorted(scores, reverse=True):
        wrong.append(f"{mode}: query {query}: the scores don't fall")
    if len(hits) > LIMIT or (mode != "sparse" and len(hits) < LIMIT):
        wrong.append(f"{mode}: query {query}: {len(hits)} hits")


def _own_score(mode: str, parts: Mapping[str, float]) -> float | None:
    """What a mode's score is by its parts; None where it comes from ranks or distributions."""
    if mode in _VECTORS:
        return parts[mode]
    if mode != "weighted":
        return None
    weighted = [w * parts[name] for w, name in zip(DEFAULT_WEIGHTS, _VECTORS, strict=True)]
    return sum(weighted) / sum(DEFAULT_WEIGHTS)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
