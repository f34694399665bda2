"""Documents, and queries, of more ColBERT vectors than Qdrant takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from m3qdrant import Document, M3Embeddings, M3Schema, SparseVectors, TokenVectors, limits
from m3qdrant.errors import InputError
from tests.views import views

Agree = Callable[[Callable[[Any], Any]], Any]

WIDTH = 4096  # so that 255 tokens fit, and the tests stay small
MOST = 255
NARROW = 512


def texts(*lengths: int, seed: int = 0, width: int = WIDTH) -> M3Embeddings:
    """Texts of so many tokens; neighbours are alike, as those of real texts are."""
    generator = torch.Generator().manual_seed(seed)
    n = len(lengths)
    steps = torch.randn(sum(lengths), width, generator=generator)
    walk = steps + 2 * steps.roll(1, 0) + steps.roll(2, 0)
    return M3Embeddings(
        torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=-1),
        SparseVectors(
            torch.arange(n + 1), torch.zeros(n, dtype=torch.int32), torch.full((n,), 0.5)
        ),
        TokenVectors(
            torch.nn.functional.normalize(walk, dim=-1), torch.tensor([0, *lengths]).cumsum(0)
        ),
    )


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> M3Embeddings:
    """VIEWS with an eighth of the numbers, and a limit as much lower: the same tokens fit."""
    monkeypatch.setattr(limits, "MULTIVECTOR_LIMIT", MOST * NARROW + 1)
    assert limits.most_tokens(NARROW) == MOST
    return texts(3, MOST, 2 * MOST + 7, width=NARROW)


DOCUMENTS = [Document(name, name) for name in ("short", "full", "long")]
VIEWS = texts(3, MOST, 2 * MOST + 7)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("policy", ["pool", "truncate", "error"])
def test_policies(agree: Agree, policy: str) -> None:
    def use(open_store: Any) -> Any:
        store = open_store()
        report = store.add(DOCUMENTS, embeddings=VIEWS, long_documents=policy)
        hits = store.search(VIEWS[2][:1], "dense", with_vectors=["colbert"])
        return [report, {hit.id: len(hit.vectors["colbert"]) for hit in hits}]

    report, lengths = agree(use)
    kept = {"short": 3, "full": MOST}
    assert lengths == (kept if policy == "error" else {**kept, "long": MOST})
    assert report["pooled"] == (policy == "pool")
    assert report["colbert_truncated"] == (policy == "truncate")
    assert [f["id"] for f in report["failed"]] == (["long"] if policy == "error" else [])
    if policy == "error":
        assert "at most 255 of 4096 dimensions" in report["failed"][0]["reason"]


def test_merged_vectors_still_find_their_text(agree: Agree, narrow: M3Embeddings) -> None:
    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(DOCUMENTS, embeddings=narrow)
        dense, sparse, colbert = views(narrow)
        part = colbert[2][40:60]
        query = M3Embeddings(
            dense[:1], sparse[:1], TokenVectors(part, torch.tensor([0, len(part)]))
        )
        return store.search(query, "colbert")

    best, *others = agree(use)
    assert best["id"] == "long"
    assert best["score"] > 0.7 > 2 * others[0]["score"]


@pytest.mark.usefixtures("own_directory")
def test_a_pooling_factor_of_the_schema(agree: Agree, narrow: M3Embeddings) -> None:
    schema = M3Schema(token_pooling=2)

    def use(open_store: Any) -> Any:
        store = open_store(None, schema)
        report = store.add(DOCUMENTS, embeddings=narrow)
        store = open_store()
        hits = store.search(narrow[2][:1], "dense", with_vectors=["colbert"])
        return [
            report,
            {hit.id: len(hit.vectors["colbert"]) for hit in hits},
            store.info().schema.token_pooling,
        ]

    report, lengths, factor = agree(use)
    assert lengths == {"short": 2, "full": 128, "long": MOST}
    assert (report["pooled"], factor) == (1, 2)


def test_a_query_of_any_length(agree: Agree, narrow: M3Embeddings) -> None:
    query = texts(MOST + 40, seed=1, width=NARROW)

    def use(open_store: Any) -> Any:
        store = open_store()
        store.add(DOCUMENTS, embeddings=narrow)
        return store.search(query)

    assert len(agree(use)) == 3


def test_a_wrong_policy(agree: Agree, narrow: M3Embeddings) -> None:
    def use(open_store: Any) -> None:
        with pytest.raises(InputError, match=r"long_documents is 'cut': give 'pool'"):
            open_store().add(DOCUMENTS, embeddings=narrow, long_documents="cut")

    agree(use)
