from __future__ import annotations

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.maxsim.torch import maxsim_torch
from m3kernels.packing import from_lengths
from torch.nn.functional import normalize

LENGTHS = st.lists(st.integers(0, 9), max_size=6)


def ragged(lengths_q, lengths_d, dim, *, seed=0, dtype=torch.float32, device="cpu"):
    """Packed unit vectors: queries, cu_seqlens_q, documents, cu_seqlens_d."""
    rng = torch.Generator().manual_seed(seed)
    packed = []
    for lengths in (lengths_q, lengths_d):
        rows = normalize(torch.randn(sum(lengths), dim, generator=rng), dim=1)
        packed += [rows.to(device, dtype), from_lengths(lengths).to(device)]
    return packed


def all_pairs(n_q, n_d, device="cpu"):
    return torch.cartesian_prod(
        torch.arange(n_q, device=device), torch.arange(n_d, device=device)
    ).view(-1, 2)


def assert_paths_agree(batch, **options):
    """Both paths of the fast one, all and pairs, against the reference."""
    want = m3kernels.maxsim(*batch, **options, backend="reference")
    got = m3kernels.maxsim(*batch, **options, backend="torch")
    assert got.dtype == torch.float32
    assert not got.requires_grad
    tolerance = {"rtol": 1e-4, "atol": 2e-5, "equal_nan": True}
    torch.testing.assert_close(got, want, **tolerance)
    n_q, n_d = want.shape
    pairs = all_pairs(n_q, n_d, want.device).flip(0)
    got = m3kernels.maxsim(*batch, pairs=pairs, **options)
    torch.testing.assert_close(got, want.flatten().flip(0), **tolerance)
    reference = m3kernels.maxsim(*batch, pairs=pairs, **options, backend="reference")
    torch.testing.assert_close(reference, want.flatten().flip(0), **tolerance)
    return want


def test_by_hand():
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    documents = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    cu_q, cu_d = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 3])
    for backend in ("torch", "reference"):
        scores = m3kernels.maxsim(queries, cu_q, documents, cu_d, backend=backend)
        assert scores.tolist() == [[2.5, -1.5], [3.0, -2.0]]
        scores = m3kernels.maxsim(queries, cu_q, documents, cu_d, reduction="sum", backend=backend)
        assert scores.tolist() == [[5.0, -3.0], [3.0, -2.0]]


@settings(max_examples=60, deadline=None)
@given(
    lengths_q=LENGTHS,
    lengths_d=LENGTHS,
    dim=st.sampled_from([1, 7, 16]),
    reduction=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 2**31),
)
def test_any_ragged_shape(module_device, lengths_q, lengths_d, dim, reduction, seed):
    batch = ragged(lengths_q, lengths_d, dim, seed=seed, device=module_device)
    scores = assert_paths_agree(batch, reduction=reduction)
    assert scores.shape == (len(lengths_q), len(lengths_d))
    empty_q = torch.tensor(lengths_q, dtype=torch.int64) == 0
    empty_d = torch.tensor(lengths_d, dtype=torch.int64) == 0
    assert (scores[empty_q] == 0).all()
    assert (scores[:, empty_d] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("lengths_q", "lengths_d", "dim"),
    [
        ([32], [513, 1, 100, 0, 37, 511], 1024),
        ([5, 123, 1, 0, 17], [123, 5, 64, 200], 192),
        ([1] * 40, [3, 2, 1] * 30, 65),
        ([700], [9, 600], 48),
    ],
    ids=["Q32-D1024", "ragged-D192", "short-queries-D65", "long-query-D48"],
)
def test_shapes_and_dtypes(device, lengths_q, lengths_d, dim, dtype):
    assert_paths_agree(ragged(lengths_q, lengths_d, dim, dtype=dtype, device=device))


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("float16", "float32")], ids=str)
def test_queries_and_documents_of_two_dtypes(device, dtypes):
    queries, cu_q, documents, cu_d = ragged([4, 9], [30, 2, 8], 40, device=device)
    queries, documents = (
        rows.to(getattr(torch, dtype))
        for rows, dtype in zip((queries, documents), dtypes, strict=True)
    )
    assert_paths_agree((queries, cu_q, documents, cu_d))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_int8_documents(device, dtype):
    queries, cu_q, documents, cu_d = ragged([8, 3], [40, 0, 17, 1], 96, device=device)
    scales = documents.abs().amax(1) / 127
    quantised = (documents / scales[:, None]).round().to(torch.int8)
    batch = (queries.to(dtype), cu_q, quantised, cu_d)
    scores = assert_paths_agree(batch, document_scales=scales)
    widened = m3kernels.maxsim(queries.to(dtype), cu_q, quantised * scales[:, None], cu_d)
    torch.testing.assert_close(scores, widened, rtol=1e-4, atol=1e-5)


def test_a_scale_weighs_before_the_max(device):
    queries = torch.tensor([[1.0]], device=device)
    documents = torch.tensor([[10], [4]], dtype=torch.int8, device=device)
    scales = torch.tensor([0.1, 1.0], device=device)
    cu_d = torch.tensor([0, 2], device=device)
    cu_q = torch.tensor([0, 1], device=device)
    assert_paths_agree((queries, cu_q, documents, cu_d), document_scales=scales)
    scores = m3kernels.maxsim(queries, cu_q, documents, cu_d, document_scales=scales)
    assert scores.tolist() == [[4.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_number_stays_in_its_document(device, bad):
    batch = ragged([3, 4], [5, 6, 0, 7], 16, device=device)
    clean = m3kernels.maxsim(*batch)
    batch[2][7, 3] = bad  # document 1
    scores = assert_paths_agree(batch)
    others = [0, 2, 3]
    torch.testing.assert_close(scores[:, others], clean[:, others])
    if bad != bad:
        assert scores[:, 1].isnan().all()


def test_a_nan_stays_in_its_query(device):
    batch = ragged([3, 4], [5, 6], 16, device=device)
    clean = m3kernels.maxsim(*batch)
    batch[0][1, 0] = float("nan")
    scores = assert_paths_agree(batch)
    assert scores[0].isnan().all()
    torch.testing.assert_close(scores[1], clean[1])


def test_a_nan_scale_stays_in_its_document(device):
    queries, cu_q, _, cu_d = ragged([3], [2, 2], 8, device=device)
    documents = torch.ones(4, 8, dtype=torch.int8, device=device)
    scales = torch.tensor([1.0, 1.0, float("nan"), 1.0], device=device)
    scores = assert_paths_agree((queries, cu_q, documents, cu_d), document_scales=scales)
    assert scores.isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("scratch_bytes", [0, 600, 2_000, 10_000, 1 << 26])
def test_blocks_of_every_size(device, scratch_bytes):
    lengths_q, lengths_d = [4, 0, 9, 1], [3, 0, 0, 12, 1, 7, 0, 2, 2]
    batch = ragged(lengths_q, lengths_d, 24, device=device)
    want = m3kernels.maxsim(*batch, backend="reference")
    got = maxsim_torch(*batch, None, None, "mean", scratch_bytes)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    pairs = all_pairs(4, 9, device)
    got = maxsim_torch(*batch, pairs, None, "mean", scratch_bytes)
    torch.testing.assert_close(got, want.flatten(), rtol=1e-5, atol=1e-6)


def test_more_query_tokens_than_one_product_takes(device):
    batch = ragged([513, 2, 600], [5, 3], 8, device=device)
    assert_paths_agree(batch)


def test_pairs_may_repeat_and_come_in_any_order(device):
    batch = ragged([4, 1, 0, 60], [5, 0, 9, 200, 3], 32, device=device)
    want = m3kernels.maxsim(*batch, backend="reference")
    pairs = torch.tensor([[3, 4], [0, 0], [2, 2], [3, 4], [1, 3], [1, 1]], device=device)
    for dtype in (torch.int64, torch.int32):
        got = m3kernels.maxsim(*batch, pairs=pairs.to(dtype))
        torch.testing.assert_close(got, want[pairs[:, 0], pairs[:, 1]], rtol=1e-5, atol=1e-6)
    assert m3kernels.maxsim(*batch, pairs=pairs[:0]).shape == (0,)


def test_views_and_int32_offsets(device):
    queries, cu_q, documents, cu_d = ragged([4, 3], [5, 6, 2], 40, device=device)
    want = m3kernels.maxsim(queries, cu_q, documents, cu_d)
    strided = documents.repeat_interleave(2, 1)[:, ::2]
    transposed = queries.T.contiguous().T
    assert not strided.is_contiguous()
    assert not transposed.is_contiguous()
    got = m3kernels.maxsim(transposed, cu_q.int(), strided, cu_d.int())
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert_paths_agree((transposed, cu_q.int(), strided, cu_d.int()))


def test_same_bytes_each_time(device):
    batch = ragged([7, 30], [50, 3, 90], 64, device=device)
    pairs = all_pairs(2, 3, device)
    assert torch.equal(m3kernels.maxsim(*batch), m3kernels.maxsim(*batch))
    assert torch.equal(
        m3kernels.maxsim(*batch, pairs=pairs), m3kernels.maxsim(*batch, pairs=pairs)
    )


def test_no_gradient():
    batch = ragged([2], [3], 4)
    batch[0].requires_grad_()
    assert_paths_agree(batch)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": [[1.0]]}, TypeError, "queries is a list"),
        ({"queries": torch.ones(4, 8).double()}, TypeError, "queries has dtype float64"),
        ({"queries": torch.ones(32)}, ValueError, r"queries has shape \(32,\)"),
        ({"documents": torch.ones(6, 9)}, ValueError, "documents has vectors of 9; expected 8"),
        ({"documents": torch.ones(6, 8).long()}, TypeError, "documents has dtype int64"),
        ({"documents": torch.ones(6, 8).char()}, ValueError, "document_scales is None"),
        ({"documents": torch.ones(6, 8, device="meta")}, ValueError, "documents is on meta"),
        ({"cu_seqlens_q": torch.tensor([0, 3])}, ValueError, "cu_seqlens_q ends with 3"),
        ({"cu_seqlens_d": torch.tensor([0, 7])}, ValueError, "cu_seqlens_d ends with 7"),
        ({"cu_seqlens_d": torch.tensor([0, 5, 4, 6])}, ValueError, "cu_seqlens_d decreases"),
        ({"pairs": torch.tensor([[0, 1]])}, ValueError, "pairs has the document index 1"),
        ({"document_scales": torch.ones(6)}, ValueError, "document_scales is given with"),
        (
            {"documents": torch.ones(6, 8).char(), "document_scales": torch.ones(5)},
            ValueError,
            "document_scales has 5 entries; expected 6",
        ),
        (
            {"documents": torch.ones(6, 8).char(), "document_scales": torch.ones(6).long()},
            TypeError,
            "document_scales has dtype int64",
        ),
        ({"reduction": "max"}, ValueError, "reduction is 'max'"),
        ({"backend": "cuda"}, ValueError, "backend is 'cuda'"),
        ({"backend": "triton"}, NotImplementedError, "no Triton kernel.*backend='torch'"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {
        "queries": torch.ones(4, 8),
        "cu_seqlens_q": torch.tensor([0, 4]),
        "documents": torch.ones(6, 8),
        "cu_seqlens_d": torch.tensor([0, 6]),
    }
    m3kernels.maxsim(**arguments)
    with pytest.raises(error, match=message):
        m3kernels.maxsim(**(arguments | change))
