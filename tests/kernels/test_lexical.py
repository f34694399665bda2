from __future__ import annotations

import math

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.lexical.torch import lexical_scores_torch
from m3kernels.packing import from_lengths

ROWS = st.lists(
    st.dictionaries(
        st.sampled_from([0, 3, 4, 9, 9 + 2**18, 250_001, 2**31 - 1]), st.floats(0.1, 4)
    ),
    max_size=6,
)


def csr(rows, device="cpu"):
    """The CSR of dicts {id: weight}."""
    terms = [term for row in rows for term in sorted(row.items())]
    return (
        from_lengths([len(row) for row in rows]).to(device),
        torch.tensor([i for i, _ in terms], dtype=torch.int32, device=device),
        torch.tensor([w for _, w in terms], dtype=torch.float32, device=device),
    )


def random_rows(n, terms, vocab, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [
        {
            int(i): float(w)
            for i, w in zip(
                torch.randint(0, vocab, (terms,), generator=rng),
                torch.rand(terms, generator=rng) + 0.01,
                strict=True,
            )
        }
        for _ in range(n)
    ]


def assert_paths_agree(q, d, **options):
    want = m3kernels.lexical_scores(q, d, backend="reference")
    got = m3kernels.lexical_scores(q, d)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)
    return want


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_by_hand(backend):
    q = csr([{4: 2.0, 9: 1.0}, {}, {5: 3.0}])
    d = csr([{4: 0.5, 5: 1.0, 9: 4.0}, {8: 1.0}])
    scores = m3kernels.lexical_scores(q, d, backend=backend)
    assert scores.tolist() == [[5.0, 0.0], [0.0, 0.0], [3.0, 0.0]]


@settings(max_examples=80, deadline=None)
@given(q=ROWS, d=ROWS)
def test_any_rows(module_device, q, d):
    scores = assert_paths_agree(csr(q, module_device), csr(d, module_device))
    assert scores.shape == (len(q), len(d))


@pytest.mark.parametrize(
    ("n_q", "n_d", "terms", "vocab"),
    [(1, 100, 50, 400), (33, 17, 80, 300), (65, 3, 9, 2**30)],
    ids=["Q1-N100", "Q33-N17", "Q65-N3-large-ids"],
)
def test_shapes(device, n_q, n_d, terms, vocab):
    q, d = random_rows(n_q, terms, vocab, seed=1), random_rows(n_d, terms, vocab, seed=2)
    assert_paths_agree(csr(q, device), csr([*d, *q], device))


@pytest.mark.parametrize("block_queries", [1, 2, 3, 5, 64])
def test_blocks_of_every_size(device, block_queries):
    q = csr([*random_rows(4, 10, 30), {}], device)
    d = csr(random_rows(6, 12, 30, seed=3), device)
    q, d = ((indptr, indices.long(), values) for indptr, indices, values in (q, d))
    want = m3kernels.lexical_scores(q, d, backend="reference")
    torch.testing.assert_close(lexical_scores_torch(q, d, block_queries), want)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["query", "document"])
def test_a_bad_weight_reaches_only_the_pairs_that_share_it(device, bad, side):
    rows = [{4: 1.0, 9: 2.0}, {9: 1.0}, {4: 3.0, 11: 1.0}, {}]
    spoiled = [{4: bad, 9: 2.0}, *rows[1:]]
    q, d = (spoiled, rows) if side == "query" else (rows, spoiled)
    scores = assert_paths_agree(csr(q, device), csr(d, device))
    scores = scores if side == "query" else scores.T
    assert scores[0].isfinite().tolist() == [False, True, False, True]
    assert scores[1:].isfinite().all()


def test_a_stored_zero_is_no_term(device):
    scores = assert_paths_agree(
        csr([{4: 0.0, 5: 1.0}], device), csr([{4: math.inf, 5: 1.0}], device)
    )
    assert scores.tolist() == [[1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_dtypes_and_int64(device, dtype):
    q, d = csr(random_rows(5, 20, 60), device), csr(random_rows(7, 20, 60, seed=5), device)
    q = (q[0].int(), q[1].long(), q[2].to(dtype))
    d = (d[0], d[1], d[2].to(dtype))
    assert_paths_agree(q, d)


def test_takes_what_sparse_max_returns(device):
    rng = torch.Generator().manual_seed(0)
    cu = torch.tensor([0, 30, 50, 90], device=device)
    csrs = m3kernels.sparse_max(
        torch.randn(90, 8, generator=rng).to(device),
        torch.randn(8, generator=rng).to(device),
        torch.zeros(1, device=device),
        torch.randint(0, 40, (90,), generator=rng).to(device),
        cu,
    )
    scores = assert_paths_agree(csrs, csrs)
    torch.testing.assert_close(scores, scores.T)


def test_same_bytes_each_time(device):
    q, d = csr(random_rows(20, 50, 90), device), csr(random_rows(40, 50, 90, seed=4), device)
    assert torch.equal(m3kernels.lexical_scores(q, d), m3kernels.lexical_scores(q, d))


@pytest.mark.parametrize(
    ("q", "d", "error", "message"),
    [
        ("text", None, TypeError, "q_csr is no triple"),
        (None, (torch.tensor([0]),), TypeError, "d_csr is no triple"),
        (
            None,
            tuple(t.to("meta") for t in csr([{4: 1.0}])),
            ValueError,
            "d_csr's indices is on meta",
        ),
        ((torch.tensor([0, 2]), torch.tensor([4, 4]), torch.ones(2)), None, ValueError, "q_csr's"),
    ],
)
def test_errors_name_the_argument(q, d, error, message):
    good = csr([{4: 1.0}])
    with pytest.raises(error, match=message):
        m3kernels.lexical_scores(q or good, d or good)


def test_no_triton_yet():
    good = csr([{4: 1.0}])
    with pytest.raises(NotImplementedError, match="lexical_scores has no Triton kernel"):
        m3kernels.lexical_scores(good, good, backend="triton")
