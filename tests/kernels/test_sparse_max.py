from __future__ import annotations

import math

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.packing import from_lengths
from m3kernels.sparse_max.torch import sparse_max_torch


def ragged(lengths, dim, *, vocab=20, seed=0, dtype=torch.float32, device="cpu"):
    """hidden, weight, bias, token_ids, cu_seqlens."""
    rng = torch.Generator().manual_seed(seed)
    rows = sum(lengths)
    return [
        torch.randn(rows, dim, generator=rng).to(device, dtype),
        torch.randn(dim, generator=rng).to(device, dtype),
        torch.randn(1, generator=rng).to(device, dtype),
        torch.randint(0, vocab, (rows,), generator=rng).to(device),
        from_lengths(lengths).to(device),
    ]


def as_dicts(csr):
    indptr, indices, values = csr
    assert (indptr.dtype, indices.dtype, values.dtype) == (torch.int64, torch.int32, torch.float32)
    assert indptr[0] == 0
    assert indptr[-1] == len(indices) == len(values)
    rows = []
    for start, end in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True):
        ids = indices[start:end].tolist()
        assert ids == sorted(set(ids))
        rows.append(dict(zip(ids, values[start:end].tolist(), strict=True)))
    assert not (values <= 0).any()
    return rows


def assert_same(got, want):
    got, want = as_dicts(got), as_dicts(want)
    assert len(got) == len(want)
    for row_got, row_want in zip(got, want, strict=True):
        # A weight within rounding of 0 may be kept by one and dropped by the other.
        for i in row_got.keys() | row_want.keys():
            assert row_got.get(i, 0.0) == pytest.approx(
                row_want.get(i, 0.0), rel=1e-4, abs=1e-4, nan_ok=True
            )


def assert_paths_agree(batch, **options):
    want = m3kernels.sparse_max(*batch, **options, backend="reference")
    assert_same(m3kernels.sparse_max(*batch, **options), want)
    return as_dicts(want)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_by_hand(backend):
    hidden = torch.tensor([[1.0], [3.0], [2.0], [-1.0], [5.0], [0.5]])
    ids = torch.tensor([0, 7, 7, 9, 2, 7])
    csr = m3kernels.sparse_max(
        hidden,
        torch.tensor([2.0]),
        torch.tensor(-0.5),
        ids,
        torch.tensor([0, 4, 4, 6]),
        backend=backend,
    )
    assert as_dicts(csr) == [{7: 5.5}, {}, {7: 0.5}]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), max_size=6),
    dim=st.sampled_from([1, 5, 16]),
    vocab=st.sampled_from([1, 4, 6, 50]),
    ignore_ids=st.sampled_from([(0, 1, 2, 3), (), (5,)]),
    seed=st.integers(0, 2**31),
)
def test_any_ragged_shape(module_device, lengths, dim, vocab, ignore_ids, seed):
    batch = ragged(lengths, dim, vocab=vocab, seed=seed, device=module_device)
    rows = assert_paths_agree(batch, ignore_ids=ignore_ids)
    assert len(rows) == len(lengths)
    assert not {i for row in rows for i in row} & set(ignore_ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("lengths", "dim", "vocab"),
    [([512, 1, 0, 77], 1024, 250_002), ([5, 123, 123], 192, 30), ([3000], 7, 2**31)],
    ids=["T512-D1024", "T123-D192-duplicates", "T3000-D7-large-ids"],
)
def test_shapes_and_dtypes(device, lengths, dim, vocab, dtype):
    assert_paths_agree(ragged(lengths, dim, vocab=vocab, dtype=dtype, device=device))


def test_the_shapes_of_a_linear_layer(device):
    hidden, weight, bias, ids, cu = ragged([6, 4], 8, device=device)
    want = m3kernels.sparse_max(hidden, weight, bias, ids, cu)
    got = m3kernels.sparse_max(hidden, weight[None], bias[0], ids.int(), cu.int())
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_views(device):
    hidden, *rest = ragged([6, 4], 8, device=device)
    strided = hidden.repeat_interleave(2, 1)[:, ::2]
    assert not strided.is_contiguous()
    assert_same(m3kernels.sparse_max(strided, *rest), m3kernels.sparse_max(hidden, *rest))


def test_all_ignored(device):
    assert assert_paths_agree(ragged([5, 3], 8, vocab=4, device=device)) == [{}, {}]


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_is_kept_and_wins(device, backend, place):
    hidden = torch.ones(6, 2, device=device)
    hidden[place, 1] = math.nan
    csr = m3kernels.sparse_max(
        hidden,
        torch.ones(2, device=device),
        torch.zeros(1, device=device),
        torch.tensor([8, 8, 8, 9, 8, 9], device=device),
        torch.tensor([0, 4, 6], device=device),
        backend=backend,
    )
    first, second = as_dicts(csr)
    assert math.isnan(first[8])
    assert first[9] == 2.0
    assert second == {8: 2.0, 9: 2.0}


def test_nan_in_the_head_is_kept(device):
    hidden, weight, bias, ids, cu = ragged([4], 3, vocab=9, device=device)
    rows = assert_paths_agree([hidden, weight, torch.full_like(bias, math.nan), ids + 4, cu])
    assert rows[0]
    assert all(math.isnan(value) for value in rows[0].values())


def test_infinity_is_kept(device):
    hidden, weight, bias, ids, cu = ragged([4], 3, device=device)
    hidden[0], weight[:] = math.inf, 1.0
    rows = assert_paths_agree([hidden, weight, bias, torch.full_like(ids, 7), cu])
    assert rows == [{7: math.inf}]


@pytest.mark.parametrize("scratch_bytes", [0, 64, 200, 1 << 20])
def test_blocks_of_every_size(device, scratch_bytes):
    hidden, weight, bias, ids, cu = ragged([7, 0, 5, 1], 8, dtype=torch.float16, device=device)
    want = m3kernels.sparse_max(hidden, weight, bias, ids, cu, backend="reference")
    got = sparse_max_torch(hidden, weight, bias[0], ids, cu, (0, 1, 2, 3), scratch_bytes)
    assert_same(got, want)


def test_same_bytes_each_time(device):
    batch = ragged([300, 40], 64, device=device)
    first, second = m3kernels.sparse_max(*batch), m3kernels.sparse_max(*batch)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden": torch.ones(4)}, ValueError, r"hidden has shape \(4,\)"),
        ({"hidden": torch.ones(4, 3).long()}, TypeError, "hidden has dtype int64"),
        ({"weight": torch.ones(2)}, ValueError, "weight has 2 entries; expected 3"),
        ({"weight": torch.ones(2, 3)}, ValueError, r"weight has shape \(2, 3\)"),
        ({"weight": torch.ones(3, device="meta")}, ValueError, "weight is on meta"),
        ({"bias": torch.ones(2)}, ValueError, r"bias has shape \(2,\)"),
        ({"bias": 0.5}, TypeError, "bias is a float"),
        ({"token_ids": torch.ones(4)}, TypeError, "token_ids has dtype float32"),
        ({"token_ids": torch.ones(5).long()}, ValueError, "token_ids has 5 entries; expected 4"),
        ({"token_ids": torch.tensor([1, -1, 1, 1])}, ValueError, "token_ids has -1"),
        ({"token_ids": torch.tensor([1, 2**31, 1, 1])}, ValueError, "token_ids has 2147483648"),
        ({"cu_seqlens": torch.tensor([0, 3])}, ValueError, "cu_seqlens ends with 3"),
        ({"backend": "triton"}, NotImplementedError, "sparse_max has no Triton kernel"),
        ({"backend": "numpy"}, ValueError, "backend is 'numpy'"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {
        "hidden": torch.ones(4, 3),
        "weight": torch.ones(3),
        "bias": torch.ones(1),
        "token_ids": torch.tensor([5, 6, 7, 8]),
        "cu_seqlens": torch.tensor([0, 4]),
    }
    m3kernels.sparse_max(**arguments)
    with pytest.raises(error, match=message):
        m3kernels.sparse_max(**(arguments | change))
