from __future__ import annotations

import math
from typing import Any

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.packing import from_lengths
from m3kernels.sparse_max.cpu import sparse_max_torch

from tests.kernels.conftest import Kernel, another_stream

CSR = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

IGNORED = (0, 1, 2, 3)


def ragged(
    lengths: list[int],
    dim: int,
    *,
    vocab: int = 20,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Batch:
    """hidden, weight, bias, token_ids, cu_seqlens."""
    rng = torch.Generator().manual_seed(seed)
    rows = sum(lengths)
    return (
        torch.randn(rows, dim, generator=rng).to(device, dtype),
        torch.randn(dim, generator=rng).to(device, dtype),
        torch.randn(1, generator=rng).to(device, dtype),
        torch.randint(0, vocab, (rows,), generator=rng).to(device),
        from_lengths(lengths).to(device),
    )


def examples(seed: int, device: torch.device) -> list[tuple[Any, ...]]:
    """Calls for test_ops, of small integers, whose weights are exact."""
    rng = torch.Generator().manual_seed(seed)

    def call(lengths: list[int]) -> Batch:
        rows = sum(lengths)
        hidden, weight, bias = (
            torch.randint(-3, 4, shape, generator=rng).float().to(device)
            for shape in ((rows, 24), (24,), (1,))
        )
        ids = torch.randint(0, 15, (rows,), generator=rng).to(device)
        return hidden, weight, bias, ids, from_lengths(lengths).to(device)

    drawn = torch.randint(1, 40, (4,), generator=rng).tolist()
    return [call([*drawn, 0]), call([0, 0]), call([])]


def as_dicts(csr: CSR) -> list[dict[int, float]]:
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


def assert_same(got: CSR, want: CSR) -> None:
    rows_got, rows_want = as_dicts(got), as_dicts(want)
    assert len(rows_got) == len(rows_want)
    for row_got, row_want in zip(rows_got, rows_want, strict=True):
        # A weight within rounding of 0 may be kept by one and dropped by the other.
        for i in row_got.keys() | row_want.keys():
            assert row_got.get(i, 0.0) == pytest.approx(
                row_want.get(i, 0.0), rel=1e-4, abs=1e-4, nan_ok=True
            )


def assert_agrees(batch: Batch, kernel: Kernel, **options: Any) -> list[dict[int, float]]:
    want = m3kernels.sparse_max(*batch, **options, backend="reference")
    got = m3kernels.sparse_max(*batch, **options, backend=kernel.backend)
    assert_same(got, want)
    assert not any(part.requires_grad for part in got)
    return as_dicts(want)


def in_runs(
    batch: Batch, run: int, ignore_ids: tuple[int, ...] = IGNORED, block_runs: int = 2
) -> CSR:
    """The Triton kernels with short runs, so that sequences cross many of them; trimmed."""
    from m3kernels.sparse_max.launch import sparse_max_triton

    hidden, weight, bias, ids, cu = batch
    indptr, indices, values = sparse_max_triton(
        hidden, weight, bias[0], ids, cu, ignore_ids, run=run, block_runs=block_runs
    )
    nnz = int(indptr[-1])
    assert not indices[nnz:].any()
    assert not values[nnz:].any()
    return indptr, indices[:nnz], values[:nnz]


@pytest.fixture
def triton_device(kernel: Kernel) -> torch.device:
    if kernel.backend != "triton":
        pytest.skip("about the Triton kernels")
    return kernel.device


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_by_hand(backend: str) -> None:
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


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), max_size=6),
    dim=st.sampled_from([1, 5, 16]),
    vocab=st.sampled_from([1, 4, 6, 50]),
    ignore_ids=st.sampled_from([(0, 1, 2, 3), (), (5,)]),
    seed=st.integers(0, 2**31),
)
def test_any_ragged_shape(
    module_kernel: Kernel,
    lengths: list[int],
    dim: int,
    vocab: int,
    ignore_ids: tuple[int, ...],
    seed: int,
) -> None:
    batch = ragged(lengths, dim, vocab=vocab, seed=seed, device=module_kernel.device)
    rows = assert_agrees(batch, module_kernel, ignore_ids=ignore_ids)
    assert len(rows) == len(lengths)
    assert not {i for row in rows for i in row} & set(ignore_ids)


@settings(max_examples=16, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 12), st.integers(0, 90)), max_size=5),
    vocab=st.sampled_from([6, 12, 60]),
    distinct=st.sampled_from([2, 3, 1000]),
    seed=st.integers(0, 2**31),
)
def test_sequences_across_runs(
    module_kernel: Kernel, lengths: list[int], vocab: int, distinct: int, seed: int
) -> None:
    if module_kernel.backend != "triton":
        pytest.skip("about the Triton kernels")
    hidden, weight, bias, ids, cu = ragged(
        lengths, 1, vocab=vocab, seed=seed, device=module_kernel.device
    )
    # Few distinct weights, so that most are ties, and some are NaN.
    hidden = (hidden * distinct / 4).round() / distinct
    hidden[hidden > 0.5] = math.nan
    batch = hidden, weight.abs(), bias * 0, ids, cu
    assert_same(in_runs(batch, 16), m3kernels.sparse_max(*batch, backend="reference"))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("lengths", "dim", "vocab"),
    [
        ([512, 1, 0, 77], 1024, 250_002),
        ([5, 123, 123], 192, 30),
        ([1500], 7, 2**31),
        ([40, 3], 48, 20),
        ([3, 30], 1000, 20),
        ([17, 0, 2], 1040, 20),
    ],
    ids=[
        "T512-D1024", "T123-D192-duplicates", "T1500-D7-large-ids", "D48", "D1000", "D1040",
    ],
)  # fmt: skip
def test_shapes_and_dtypes(
    kernel: Kernel, lengths: list[int], dim: int, vocab: int, dtype: torch.dtype
) -> None:
    assert_agrees(ragged(lengths, dim, vocab=vocab, dtype=dtype, device=kernel.device), kernel)


@pytest.mark.slow
def test_a_long_sequence(kernel: Kernel) -> None:
    lengths = [3, 8192, 5]
    rows = assert_agrees(ragged(lengths, 1, vocab=3000, device=kernel.device), kernel)
    assert len(rows[1]) > 1000


def test_many_short_sequences(kernel: Kernel) -> None:
    lengths = [0, 1, 3, 0, 0, 2] * 60 + [0] * 300
    rows = assert_agrees(ragged(lengths, 4, vocab=9, device=kernel.device), kernel)
    assert len(rows) == 660


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]], ids=str)
def test_no_tokens(kernel: Kernel, lengths: list[int]) -> None:
    assert assert_agrees(ragged(lengths, 8, device=kernel.device), kernel) == [{} for _ in lengths]


def test_no_dimensions(kernel: Kernel) -> None:
    hidden, weight, bias, _, cu = ragged([2, 1], 0, device=kernel.device)
    ids = torch.tensor([7, 5, 7], device=kernel.device)
    rows = assert_agrees((hidden, weight, bias.fill_(0.5), ids, cu), kernel)
    assert rows == [{5: 0.5, 7: 0.5}, {7: 0.5}]


def test_the_largest_ids(kernel: Kernel) -> None:
    hidden, weight, bias, ids, cu = ragged([40, 30], 3, vocab=5, device=kernel.device)
    rows = assert_agrees((hidden, weight, bias, 2**31 - 1 - ids, cu), kernel)
    assert max(max(row) for row in rows) == 2**31 - 1
    assert_agrees((hidden, weight, bias, (2**31 - 1 - ids).int(), cu), kernel)


def test_the_shapes_of_a_linear_layer(kernel: Kernel) -> None:
    hidden, weight, bias, ids, cu = ragged([6, 4], 8, device=kernel.device)
    backend = kernel.backend
    want = m3kernels.sparse_max(hidden, weight, bias, ids, cu, backend=backend)
    got = m3kernels.sparse_max(hidden, weight[None], bias[0], ids.int(), cu.int(), backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_views(kernel: Kernel) -> None:
    batch = ragged([6, 4], 8, device=kernel.device)
    strided = [part.repeat_interleave(2, 0)[::2] for part in batch]
    assert not any(part.is_contiguous() for part in strided if part.numel() > 1)
    # One element on: no address is a multiple of 16 bytes.
    shifted = [
        torch.cat([part.flatten()[:1], part.flatten()])[1:].view(part.shape) for part in batch
    ]
    for views in (strided, shifted):
        assert_same(
            m3kernels.sparse_max(*views, backend=kernel.backend),
            m3kernels.sparse_max(*batch, backend="reference"),
        )


def test_weights_of_another_dtype(kernel: Kernel) -> None:
    hidden, weight, bias, ids, cu = ragged([6, 4], 24, device=kernel.device)
    assert_agrees((hidden.bfloat16(), weight, bias.half(), ids, cu), kernel)
    assert_agrees((hidden, weight.half(), bias, ids, cu), kernel)


def test_all_ignored(kernel: Kernel) -> None:
    assert assert_agrees(ragged([5, 3], 8, vocab=4, device=kernel.device), kernel) == [{}, {}]


def test_many_ignored(kernel: Kernel) -> None:
    batch = ragged([50, 3], 8, vocab=60, device=kernel.device)
    rows = assert_agrees(batch, kernel, ignore_ids=[*range(5, 50), 5, -1, 2**40])
    assert rows[0]
    assert not {i for row in rows for i in row} & set(range(5, 50))


def test_ignored_states_mean_nothing(kernel: Kernel) -> None:
    hidden, weight, bias, ids, cu = ragged([30, 9], 8, vocab=8, device=kernel.device)
    clean = m3kernels.sparse_max(hidden, weight, bias, ids, cu, backend=kernel.backend)
    hidden[ids < 4] = math.nan
    assert (ids < 4).any()
    dirty = m3kernels.sparse_max(hidden, weight, bias, ids, cu, backend=kernel.backend)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_is_kept_and_wins(kernel: Kernel, place: int) -> None:
    for backend in (kernel.backend, "reference"):
        hidden = torch.ones(6, 2, device=kernel.device)
        hidden[place, 1] = math.nan
        csr = m3kernels.sparse_max(
            hidden,
            torch.ones(2, device=kernel.device),
            torch.zeros(1, device=kernel.device),
            torch.tensor([8, 8, 8, 9, 8, 9], device=kernel.device),
            torch.tensor([0, 4, 6], device=kernel.device),
            backend=backend,
        )
        first, second = as_dicts(csr)
        assert math.isnan(first[8])
        assert first[9] == 2.0
        assert second == {8: 2.0, 9: 2.0}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("place", [0, 15, 16, 31, 32, 49])
@pytest.mark.parametrize("winner", [math.nan, math.inf, 2.0])
def test_a_winner_in_any_run(triton_device: torch.device, place: int, winner: float) -> None:
    hidden = torch.ones(50, 1, device=triton_device)
    hidden[place] = winner
    ids = torch.arange(50, device=triton_device) % 7 + 4
    weight, bias = torch.ones(1, device=triton_device), torch.zeros(1, device=triton_device)
    batch = hidden, weight, bias, ids, torch.tensor([0, 0, 50, 50], device=triton_device)
    empty, row, also_empty = as_dicts(in_runs(batch, 16))
    assert not empty
    assert not also_empty
    want = dict.fromkeys(range(4, 11), 1.0) | {int(ids[place]): winner}
    assert row.keys() == want.keys()
    assert list(row.values()) == pytest.approx(list(want.values()), nan_ok=True)


def test_nan_in_the_head_is_kept(kernel: Kernel) -> None:
    hidden, weight, bias, ids, cu = ragged([4], 3, vocab=9, device=kernel.device)
    rows = assert_agrees((hidden, weight, torch.full_like(bias, math.nan), ids + 4, cu), kernel)
    assert rows[0]
    assert all(math.isnan(value) for value in rows[0].values())


def test_negative_nan_is_a_nan(kernel: Kernel) -> None:
    hidden, weight, _, ids, cu = ragged([4], 3, vocab=9, device=kernel.device)
    nan = torch.tensor([-4_194_303], dtype=torch.int32, device=kernel.device).view(torch.float32)
    assert nan.isnan().all()
    rows = assert_agrees((hidden, weight, nan, ids + 4, cu), kernel)
    assert rows[0]
    assert all(math.isnan(value) for value in rows[0].values())


def test_infinity_is_kept(kernel: Kernel) -> None:
    hidden, weight, bias, ids, cu = ragged([4], 3, device=kernel.device)
    hidden[0], weight[:] = math.inf, 1.0
    rows = assert_agrees((hidden, weight, bias, torch.full_like(ids, 7), cu), kernel)
    assert rows == [{7: math.inf}]


@pytest.mark.parametrize("scratch_bytes", [0, 64, 200, 1 << 20])
def test_blocks_of_every_size(device: torch.device, scratch_bytes: int) -> None:
    hidden, weight, bias, ids, cu = ragged([7, 0, 5, 1], 8, dtype=torch.float16, device=device)
    want = m3kernels.sparse_max(hidden, weight, bias, ids, cu, backend="reference")
    got = sparse_max_torch(hidden, weight, bias[0], ids, cu, (0, 1, 2, 3), scratch_bytes)
    assert_same(got, want)


def test_same_bytes_each_time(kernel: Kernel) -> None:
    batch = ragged([300, 40], 64, device=kernel.device)
    first, second = (m3kernels.sparse_max(*batch, backend=kernel.backend) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_runs_change_nothing(triton_device: torch.device) -> None:
    batch = ragged([150, 40], 8, vocab=100, device=triton_device)
    want = m3kernels.sparse_max(*batch, backend="triton")
    for run in (16, 64):
        got = in_runs(batch, run)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_untrimmed(kernel: Kernel) -> None:
    batch = ragged([30, 0, 9], 8, vocab=9, device=kernel.device)
    for backend in (kernel.backend, "reference"):
        want = m3kernels.sparse_max(*batch, backend=backend)
        indptr, indices, values = m3kernels.sparse_max(*batch, backend=backend, trim=False)
        assert (indices.dtype, values.dtype) == (torch.int32, torch.float32)
        assert indices.shape == values.shape == (39,)
        nnz = int(indptr[-1])
        assert 0 < nnz < 39
        got = indptr, indices[:nnz], values[:nnz]
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_untrimmed_rows_score(kernel: Kernel) -> None:
    batch = ragged([30, 0, 9], 8, vocab=9, device=kernel.device)
    options: dict[str, Any] = {"backend": kernel.backend, "validate": False}
    csr = m3kernels.sparse_max(*batch, **options, trim=False)
    got = m3kernels.lexical_scores(csr, csr, **options)
    csr = m3kernels.sparse_max(*batch)
    torch.testing.assert_close(got, m3kernels.lexical_scores(csr, csr))


@pytest.mark.parametrize(
    "cu_seqlens",
    [
        [0, 7],
        [7, 20, 39],
        [39, 0],
        [0, 30, 9, 39],
        [0, 2**40, 39],
        [-(2**40), 39],
        [0, 99],
        [5, 5],
    ],
    ids=str,
)
def test_wrong_offsets_stay_in_bounds(kernel: Kernel, cu_seqlens: list[int]) -> None:
    hidden, weight, bias, ids, _ = ragged([39], 4, vocab=30, device=kernel.device)
    cu = torch.tensor(cu_seqlens, device=kernel.device)
    batch = hidden, weight, bias, ids, cu
    csr = [m3kernels.sparse_max(*batch, backend=kernel.backend, validate=False)]
    if kernel.backend == "triton":
        csr += [in_runs(batch, 16)]
    for indptr, indices, values in csr:
        assert indptr.shape == cu.shape
        assert 0 <= int(indptr.min()) <= int(indptr.max()) <= 39
        assert indices.shape == values.shape


def test_wrong_ids_stay_in_bounds(kernel: Kernel) -> None:
    hidden, weight, bias, ids, cu = ragged([39], 4, vocab=30, device=kernel.device)
    ids[::2] = -(2**40)
    ids[1::4] = 2**62 + 5
    indptr, indices, _ = m3kernels.sparse_max(
        hidden, weight, bias, ids, cu, backend=kernel.backend, validate=False
    )
    assert int(indptr[-1]) == len(indices) <= 39


@pytest.mark.parametrize("backend", [None, "torch"])
def test_torch_compile_traces_it(device: torch.device, backend: str | None) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def rows(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        ids: torch.Tensor,
        cu: torch.Tensor,
    ) -> CSR:
        indptr, indices, values = m3kernels.sparse_max(
            hidden * 2, weight, bias, ids, cu, backend=backend, trim=False
        )
        return indptr, indices, values / 2

    for lengths in ([5, 0, 9], [3, 4, 5, 40]):
        hidden, weight, bias, ids, cu = ragged(lengths, 8, device=device)
        want = m3kernels.sparse_max(hidden * 2, weight, bias, ids, cu, backend=backend, trim=False)
        indptr, indices, values = rows(hidden, weight, bias, ids, cu)
        assert torch.equal(indptr, want[0])
        assert torch.equal(indices, want[1])
        assert torch.equal(values * 2, want[2])


def test_the_custom_op_is_well_formed(kernel: Kernel) -> None:
    hidden, weight, bias, ids, cu = ragged([5, 0, 9], 16, device=kernel.device)
    for validate in (True, False):
        torch.library.opcheck(
            torch.ops.m3kernels.sparse_max.default,
            (hidden, weight, bias[0], ids, cu, [0, 1, 2, 3], kernel.backend, validate),
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_a_cuda_graph_records_it() -> None:
    device = torch.device("cuda")
    batch = ragged([300, 0, 40], 1024, vocab=200, dtype=torch.bfloat16, device=device)
    options: dict[str, Any] = {"backend": "triton", "validate": False, "trim": False}
    m3kernels.sparse_max(*batch, **options)  # compiled before the recording
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        indptr, indices, values = m3kernels.sparse_max(*batch, **options)
    fresh = ragged([7, 301, 32], 1024, vocab=200, seed=9, dtype=torch.bfloat16, device=device)
    for old, new in zip(batch, fresh, strict=True):
        old.copy_(new)
    graph.replay()
    nnz = int(indptr[-1])
    want = m3kernels.sparse_max(*fresh, backend="reference")
    assert_same((indptr, indices[:nnz], values[:nnz]), want)
    another = torch.cuda.CUDAGraph()  # one that has recorded a graph records no other
    with pytest.raises(ValueError, match="pass validate=False"), torch.cuda.graph(another):
        m3kernels.sparse_max(*batch, backend="triton")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_any_stream(kernel: Kernel) -> None:
    if kernel.device.type != "cuda":
        pytest.skip("a stream is a card's")
    batch = ragged([512] * 8, 1024, vocab=900, dtype=torch.float16, device=kernel.device)
    want = m3kernels.sparse_max(*batch, backend="reference")
    with another_stream():
        got = m3kernels.sparse_max(*batch, backend=kernel.backend)
    assert_same(got, want)


def test_triton_says_why_it_can_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    batch = ragged([3], 4)
    with pytest.raises(ValueError, match="sparse_max can't run backend='triton': "):
        m3kernels.sparse_max(*batch, backend="triton")


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
        ({"backend": "numpy"}, ValueError, "backend is 'numpy'"),
    ],
)
def test_errors_name_the_argument(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "hidden": torch.ones(4, 3),
        "weight": torch.ones(3),
        "bias": torch.ones(1),
        "token_ids": torch.tensor([5, 6, 7, 8]),
        "cu_seqlens": torch.tensor([0, 4]),
    }
    m3kernels.sparse_max(**arguments)
    with pytest.raises(error, match=message):
        m3kernels.sparse_max(**(arguments | change))
