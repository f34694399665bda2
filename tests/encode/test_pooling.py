"""Merging ColBERT vectors: the invariants on random texts, and texts whose answer is known."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from m3kernels.packing import from_lengths
from torch import Tensor
from torch.nn.functional import normalize

from m3qdrant import TokenVectors
from m3qdrant.encode import pooling
from m3qdrant.encode.pooling import pool, pool_query, pool_tokens
from m3qdrant.errors import InputError

SEEDS = st.integers(0, 2**32)


def unit(n: int, dim: int, seed: int, *, spread: float = 1.0) -> Tensor:
    """Unit vectors that wander, so that some neighbours are alike."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(n, dim, generator=generator)
    return normalize(spread * steps.cumsum(0) + torch.randn(n, dim, generator=generator), dim=1)


def max_sim(query: Tensor, document: Tensor) -> float:
    return float((query.double() @ document.double().T).amax(1).sum())


def ward_cost(vectors: Tensor, clusters: list[list[int]]) -> float:
    """The squared distances of the vectors from their cluster's mean, summed."""
    parts = [vectors[members].double() for members in clusters]
    return sum(float((part - part.mean(0)).square().sum()) for part in parts)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 45), SEEDS)
def test_unit_vectors_no_more_than_the_limit(n: int, dim: int, limit: int, seed: int) -> None:
    vectors = unit(n, dim, seed)
    pooled = pool(vectors, limit)
    assert pooled.shape == (min(n, limit), dim)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(len(pooled)))
    assert torch.equal(pooled, pool(vectors.clone(), limit))
    if n <= limit:
        assert pooled is vectors


@given(st.integers(2, 30), st.integers(2, 8), SEEDS, st.data())
def test_each_vector_is_the_mean_of_its_members(
    n: int, dim: int, seed: int, data: st.DataObject
) -> None:
    vectors = unit(n, dim, seed)
    limit = data.draw(st.integers(1, n - 1))
    clusters = pooling._clusters(vectors, limit)
    members = [(clusters == c).nonzero().flatten() for c in range(limit)]
    firsts = [int(m[0]) for m in members]
    assert firsts == sorted(firsts)  # in the order of the text
    sums = torch.stack([vectors[m].sum(0) for m in members])
    torch.testing.assert_close(pool_query(vectors, limit), sums)
    torch.testing.assert_close(pool(vectors, limit), normalize(sums, dim=1), atol=2e-5, rtol=0)


@given(st.integers(2, 12), st.integers(2, 5), SEEDS, st.data())
def test_the_merges_are_those_of_looking_for_the_cheapest_each_time(
    n: int, dim: int, seed: int, data: st.DataObject
) -> None:
    vectors = unit(n, dim, seed)
    limit = data.draw(st.integers(1, n))
    groups = [[i] for i in range(n)]
    while len(groups) > limit:  # the definition
        _, a, b = min(
            (ward_cost(vectors, [p + q]) - ward_cost(vectors, [p]) - ward_cost(vectors, [q]), i, j)
            for (i, p), (j, q) in itertools.combinations(enumerate(groups), 2)
        )
        groups[a] = sorted(groups[a] + groups.pop(b))
    clusters = pooling._clusters(vectors, limit)
    ours = [(clusters == c).nonzero().flatten().tolist() for c in range(limit)]
    if ours != sorted(groups):  # only where two merges cost the same but for rounding
        found, expected = ward_cost(vectors, ours), ward_cost(vectors, groups)
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stretch", [512, 16], ids=["one-tree", "stretches"])
def test_runs_of_the_same_become_one_each_in_order(
    stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "_STRETCH", stretch)
    generator = torch.Generator().manual_seed(3)
    directions = torch.eye(9)[torch.randperm(9, generator=generator)]
    lengths = torch.tensor([3, 1, 7, 2, 5, 1, 1, 4, 6])
    runs = directions.repeat_interleave(lengths, 0)
    noisy = normalize(runs + 1e-3 * torch.randn(runs.shape, generator=generator), dim=1)
    torch.testing.assert_close(pool(noisy, 9), directions, atol=5e-3, rtol=0)
    torch.testing.assert_close(
        pool_query(noisy, 9), directions * lengths[:, None], atol=2e-2, rtol=0
    )


def test_the_same_word_far_apart_becomes_one() -> None:
    there, between = torch.eye(4)[:1], torch.eye(4)[1:]
    assert torch.equal(pool(torch.cat([there, between, there]), 4), torch.cat([there, between]))


@pytest.mark.parametrize("stretch", [2, 5, 8, 64])
def test_a_long_text_is_as_good_in_stretches(
    stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit(64, 16, 5, spread=0.5)
    whole = pool(vectors, 20)
    monkeypatch.setattr(pooling, "_STRETCH", stretch)
    for limit in (20, 3, 1):
        pooled = pool(vectors, limit)
        assert pooled.shape == (limit, 16)
        torch.testing.assert_close(pooled.norm(dim=1), torch.ones(limit))
    # each token still finds a vector about as near
    nearest = (vectors @ pool(vectors, 20).T).amax(1).mean()
    assert nearest > (vectors @ whole.T).amax(1).mean() - 0.1


def test_pooling_beats_windows_and_a_cut() -> None:
    """What the choice of the criterion is about, on a text that repeats its words."""
    generator = torch.Generator().manual_seed(11)
    words = normalize(torch.randn(40, 32, generator=generator), dim=1)
    said = words[torch.randint(40, (200,), generator=generator)]
    text = normalize(said + 0.05 * torch.randn(said.shape, generator=generator), dim=1)
    query = normalize(words[:8] + 0.05 * torch.randn(8, 32, generator=generator), dim=1)
    exact = max_sim(query, text)
    windows = normalize(text.view(50, 4, 32).mean(1), dim=1)
    errors = [abs(exact - max_sim(query, few)) for few in (pool(text, 50), windows, text[:50])]
    assert errors[0] < min(errors[1:]) / 2


@pytest.mark.parametrize(
    "vectors",
    [
        torch.tensor([[1.0, 0.0], [-1.0, 0.0]]),
        torch.tensor([[0.6, 0.8], [-0.6, -0.8], [0.6, 0.8], [-0.6, -0.8]]),
    ],
    ids=["pair", "pairs"],
)
def test_opposite_vectors_leave_the_first(vectors: Tensor) -> None:
    assert torch.equal(pool(vectors, 1), vectors[:1])
    assert torch.equal(pool_query(vectors, 1), torch.zeros(1, 2))  # the sum, which says nothing


@pytest.mark.parametrize("limit", [1, 3, 49])
def test_duplicates(limit: int) -> None:
    vector = unit(1, 6, 8)
    torch.testing.assert_close(pool(vector.repeat(50, 1), limit), vector.repeat(limit, 1))


def test_one_token() -> None:
    vectors = unit(1, 4, 9)
    assert pool(vectors, 1) is vectors
    assert pool_query(vectors, 1) is vectors


@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 12), SEEDS)
def test_a_pooled_query_scores_on_the_same_scale(n: int, m: int, limit: int, seed: int) -> None:
    query, document = unit(n, 6, seed), unit(m, 6, seed + 1)
    pooled = max_sim(pool_query(query, limit), document)
    assert pooled <= max_sim(query, document) + 1e-4
    if m == 1:  # every token finds the same best one
        assert pooled == pytest.approx(max_sim(query, document), abs=1e-4)


@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=6),
    st.integers(1, 5),
    st.none() | st.integers(1, 8),
    SEEDS,
)
def test_a_batch_is_its_texts(
    lengths: list[int], factor: int, limit: int | None, seed: int
) -> None:
    colbert = TokenVectors(unit(sum(lengths), 5, seed), from_lengths(lengths))
    pooled = pool_tokens(colbert, factor=factor, limit=limit)
    most = limit or 100
    assert pooled.lengths.tolist() == [min(-(-n // factor), most) for n in lengths]
    for i, (tokens, few) in enumerate(zip(colbert, pooled, strict=True)):
        alone = pool_tokens(colbert[i : i + 1], factor=factor, limit=limit)
        assert torch.equal(few, alone.vectors)  # to the last bit
        if len(few) == len(tokens):
            assert torch.equal(few, tokens)


def test_a_batch_that_fits_is_left_alone() -> None:
    colbert = TokenVectors(unit(7, 5, 1), from_lengths([3, 4]))
    assert pool_tokens(colbert) is colbert
    assert pool_tokens(colbert, limit=4) is colbert


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_so(dtype: torch.dtype) -> None:
    vectors = unit(20, 8, 2).to(dtype)
    pooled = pool(vectors, 6)
    assert pooled.dtype is dtype
    torch.testing.assert_close(pooled, pool(vectors.float(), 6).to(dtype))
    assert pool_query(vectors, 6).dtype is dtype


def test_an_empty_limit_is_refused() -> None:
    vectors = unit(3, 4, 0)
    with pytest.raises(InputError, match="limit is 0: a text keeps at least one vector"):
        pool(vectors, 0)
    with pytest.raises(InputError, match="factor is 0"):
        pool_tokens(TokenVectors(vectors, from_lengths([3])), factor=0)
