"""The parts of the scores add up to them, and each is what it says."""

from __future__ import annotations

import json
import math

import pytest
import torch

from m3qdrant import M3Embeddings, M3Encoder, scoring
from m3qdrant.encode import TokenSpan, clusters
from m3qdrant.rank import Component, Explanation, Side, explain
from tests.views import random_views, scores_by_hand, views

WEIGHTS = (0.4, 0.2, 0.4)


def side(embeddings: M3Embeddings, tokens: list[TokenSpan] | None = None) -> Side:
    dense, sparse, colbert = views(embeddings)
    return Side(dense[0], sparse[0], colbert[0], tokens)


def bare(scores: dict[str, float], text: str = "", mode: str = "weighted") -> Explanation:
    components = tuple(
        Component(name, scores[name], weight, weight * scores[name])
        for name, weight in zip(scores, WEIGHTS, strict=True)
    )
    total = math.fsum(c.share for c in components)
    return Explanation("d", text, "q", mode, 1, total, components)


@pytest.mark.parametrize("seed", range(5))
def test_contributions_add_up(seed: int) -> None:
    query, document = random_views(1, seed, tokens=40), random_views(1, seed + 100, tokens=90)
    scores = scores_by_hand(query, document)
    _, _, colbert = views(query)
    full = explain(bare(scores), side(query), side(document), len(colbert.vectors))
    assert math.fsum(c.share for c in full.components) == pytest.approx(full.score, abs=1e-12)
    assert math.fsum(t.product for t in full.terms) == pytest.approx(scores["sparse"], abs=1e-6)
    for parts in (full.matches, full.vectors):
        assert math.fsum(p.contribution for p in parts) == pytest.approx(
            scores["colbert"], abs=1e-6
        )
    assert all(abs(c.unexplained) < 1e-6 for c in full.components)
    assert scoring.weighted(query, document).item() == pytest.approx(full.score, abs=1e-5)


def test_each_match_is_the_best_there_is() -> None:
    query, document = random_views(1, 3, tokens=9), random_views(1, 4, tokens=30)
    q, d = views(query)[2][0].double(), views(document)[2][0].double()
    full = explain(bare(scores_by_hand(query, document)), side(query), side(document), len(q))
    for match, row in zip(full.matches, (q @ d.T).tolist(), strict=True):
        assert match.document_vector == row.index(max(row))
        assert match.similarity == pytest.approx(max(row), abs=1e-6)
    assert full.alignment is not None
    assert full.alignment.query_vectors == tuple(range(len(q)))
    assert full.alignment.document_vectors == tuple(range(len(d)))
    for cells, row in zip(full.alignment.similarities, (q @ d.T).tolist(), strict=True):
        assert cells == pytest.approx(row)


def test_a_long_documents_map_has_what_matters() -> None:
    query, document = random_views(1, 7, tokens=90), random_views(1, 9, tokens=400)
    q, d = views(query)[2][0], views(document)[2][0]
    assert len(q) > 32
    assert len(d) > 48
    full = explain(bare(scores_by_hand(query, document)), side(query), side(document), len(q))
    assert len(full.vectors) == len(d)
    assert full.alignment is not None
    rows, columns = full.alignment.query_vectors, full.alignment.document_vectors
    assert (len(rows), len(columns)) == (32, 48)
    assert list(rows) == sorted(rows)
    assert list(columns) == sorted(columns)
    most = max(full.vectors, key=lambda vector: vector.contribution)
    assert most.index in columns


def test_a_component_that_the_engine_scores_otherwise_says_so() -> None:
    query, document = random_views(1, 5), random_views(1, 6)
    scores = scores_by_hand(query, document)
    n = len(views(query)[2].vectors)
    full = explain(
        bare({**scores, "colbert": scores["colbert"] + 0.25}), side(query), side(document), n
    )
    assert full.component("colbert").unexplained == pytest.approx(0.25, abs=1e-6)
    assert full.component("dense").unexplained == pytest.approx(0, abs=1e-6)


def test_sides_without_vectors_have_no_parts() -> None:
    query = random_views(1, 5)
    scores = dict.fromkeys(("dense", "sparse", "colbert"), 0.0)
    full = explain(bare(scores), side(query), Side(None, None, None), 3)
    assert (full.terms, full.matches, full.vectors, full.alignment) == ((), (), (), None)
    assert full.highlights == ()


def test_tokens_and_merged_ones(encoder: M3Encoder) -> None:
    text = "red kites and blue kites over the red hills"
    query, document = encoder.encode("red kites"), encoder.encode(text)
    vectors = views(document)[2][0]
    members = clusters(vectors, 5)
    pooled = torch.stack([vectors[each].mean(0) for each in members])
    (tokens,) = encoder.token_spans(text)
    (asked,) = encoder.token_spans("red kites")
    dense, sparse, _ = views(document)
    held = Side(dense[0], sparse[0], pooled, tokens, members)
    full = explain(
        bare(scores_by_hand(query, document), text), side(query, asked), held, len(asked)
    )
    assert [[t.index for t in v.tokens] for v in full.vectors] == members
    assert len(full.merged) == sum(len(each) > 1 for each in members) > 0
    for match in full.matches:
        assert match.document_vector is not None
        assert match.document_tokens == full.vectors[match.document_vector].tokens
        assert [token.index for token in match.query_tokens] == [match.query_vector]
    for term in full.terms:
        assert term.text is not None
        assert term.text in text
        assert all(text[a:b].casefold() == term.text.casefold() for a, b in term.spans)
        assert term.spans
    parts = {h.start: text[h.start : h.end] for h in full.highlights}
    assert all(part.strip() for part in parts.values())
    # what has a place in the text is in the highlights, and nothing else
    placed = math.fsum(
        0.4 * v.contribution * len([t for t in v.tokens if t.start is not None]) / len(v.tokens)
        if all(t.start is not None for t in v.tokens)
        else 0.4 * v.contribution * any(t.start is not None for t in v.tokens)
        for v in full.vectors
    )
    total = placed + math.fsum(0.2 * t.product for t in full.terms)
    assert math.fsum(h.contribution for h in full.highlights) == pytest.approx(total, abs=1e-9)


def test_to_dict_is_json() -> None:
    query, document = random_views(1, 5), random_views(1, 6)
    n = len(views(query)[2].vectors)
    full = explain(bare(scores_by_hand(query, document)), side(query), side(document), n)
    read = json.loads(json.dumps(full.to_dict(), allow_nan=False))
    assert {c["name"]: c["score"] for c in read["components"]} == {
        c.name: c.score for c in full.components
    }
    assert len(read["matches"]) == n
    assert read["snippet"] == ""
