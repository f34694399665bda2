from __future__ import annotations

from typing import Any

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.maxsim_alignment.cpu import maxsim_alignment_torch
from m3kernels.packing import from_lengths
from torch.nn.functional import pad

from tests.kernels.conftest import HAS_TRITON, KERNELS, Kernel
from tests.kernels.test_maxsim import Batch, all_pairs, interpreted, ragged

LENGTHS = st.lists(st.integers(0, 9), max_size=5)
EXAMPLES = 60 if torch.cuda.is_available() else 15


def examples(seed: int, device: torch.device) -> list[tuple[Any, ...]]:
    """Calls for test_ops, of small integers, whose products are exact and often equal."""
    rng = torch.Generator().manual_seed(seed)

    def call(lengths_q: list[int], lengths_d: list[int], n_pairs: int) -> tuple[Any, ...]:
        queries, documents = (
            torch.randint(-1, 2, (sum(lengths), 24), generator=rng).float().to(device)
            for lengths in (lengths_q, lengths_d)
        )
        cu_q, cu_d = from_lengths(lengths_q).to(device), from_lengths(lengths_d).to(device)
        pairs = torch.stack(
            [
                torch.randint(0, max(len(lengths), 1), (n_pairs,), generator=rng)
                for lengths in (lengths_q, lengths_d)
            ],
            1,
        )
        return queries, cu_q, documents, cu_d, pairs.to(device)

    drawn = torch.randint(1, 20, (8,), generator=rng).tolist()
    return [
        call([*drawn[:3], 0], [0, *drawn[3:]], 9),
        call([3], [0, 0], 2),
        call([0, 2], [4], 0),
        call([0], [2], 1),
        call([], [], 0),
    ]


def assert_agrees(
    kernel: Kernel, batch: Batch, pairs: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The similarities are the reference's, and each position is one that has it."""
    want_at, want = m3kernels.maxsim_alignment(*batch, pairs, **options, backend="reference")
    at, got = m3kernels.maxsim_alignment(*batch, pairs, **options, backend=kernel.backend)
    assert (at.dtype, got.dtype) == (torch.int32, torch.float32)
    assert not got.requires_grad
    torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5, equal_nan=True)
    # Near ties are for float32 to decide; what it decides has the similarity that it says.
    queries, cu_q, documents, cu_d = batch
    for place in (at != want_at).nonzero()[:, 0].tolist():
        lengths = cu_q.diff()[pairs[:, 0]]
        cu = pad(lengths.cumsum(0), (1, 0))
        pair = int(torch.searchsorted(cu, place, right=True)) - 1
        q = queries[int(cu_q[pairs[pair, 0]]) + place - int(cu[pair])].double()
        row = int(cu_d[pairs[pair, 1]]) + int(at[place])
        d = documents[row].double()
        scales = options.get("document_scales")
        similarity = float(q @ d) * (1.0 if scales is None else float(scales[row]))
        assert similarity == pytest.approx(float(want[place]), rel=1e-4, abs=2e-5)
    return at, got


def test_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    documents = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [0.0, 1.0], [0.0, 1.0]])
    cu_q, cu_d = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 3, 3, 5])
    pairs = torch.tensor([[1, 0], [0, 0], [0, 1], [1, 2], [0, 3]])
    for backend in ("torch", "reference"):
        at, best = m3kernels.maxsim_alignment(
            queries, cu_q, documents, cu_d, pairs, backend=backend
        )
        assert at.tolist() == [0, 0, 1, 0, 0, -1, 0, 0]
        assert best.tolist() == [3.0, 3.0, 2.0, -1.0, -2.0, 0.0, 0.0, 2.0]


RAGGED = {
    "lengths_q": LENGTHS,
    "lengths_d": LENGTHS,
    "seed": st.integers(0, 2**31),
}


def check_ragged(
    kernel: Kernel, lengths_q: list[int], lengths_d: list[int], dim: int, seed: int
) -> None:
    batch = ragged(lengths_q, lengths_d, dim, seed=seed, device=kernel.device)
    pairs = all_pairs(len(lengths_q), len(lengths_d), kernel.device).flip(0)
    at, best = assert_agrees(kernel, batch, pairs)
    n = batch[1].diff()[pairs[:, 0]]
    scores = m3kernels.maxsim(*batch, pairs=pairs, reduction="sum", backend="reference")
    sums = torch.segment_reduce(best, "sum", lengths=n) if len(pairs) else scores
    torch.testing.assert_close(sums, scores, rtol=1e-4, atol=2e-5)
    rows = batch[3].diff()[pairs[:, 1]].repeat_interleave(n)
    assert ((at >= 0) == (rows > 0)).all()
    assert (at < rows.clamp(min=1)).all()


@settings(max_examples=60)
@given(**RAGGED, dim=st.sampled_from([1, 7, 16]))
def test_any_ragged_shape(module_device: torch.device, **drawn: Any) -> None:
    check_ragged(Kernel(module_device, "torch"), **drawn)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@settings(max_examples=EXAMPLES, deadline=None)
@given(**RAGGED, dim=st.sampled_from([1, 16, 23, 48]))
def test_any_ragged_shape_in_triton(**drawn: Any) -> None:
    check_ragged(KERNELS[-1], **drawn)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [1024, 200])
def test_shapes_and_dtypes(kernel: Kernel, dtype: torch.dtype, dim: int) -> None:
    lengths_d = [513, 1, 100, 0, 37] if not interpreted(kernel) else [50, 1, 20, 0, 5]
    batch = ragged([32, 5, 0], lengths_d, dim, dtype=dtype, device=kernel.device)
    assert_agrees(kernel, batch, all_pairs(3, 5, kernel.device))


@pytest.mark.parametrize("narrow", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
def test_quantized_documents(kernel: Kernel, narrow: torch.dtype) -> None:
    queries, cu_q, documents, cu_d = ragged([8, 3], [40, 0, 17, 1], 96, device=kernel.device)
    quantized, scales = m3kernels.quantize_tokens(documents, narrow)
    pairs = all_pairs(2, 4, kernel.device)
    assert_agrees(kernel, (queries, cu_q, quantized, cu_d), pairs, document_scales=scales)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("n_tokens", [1, 2, 3, 32])
@pytest.mark.parametrize("dim", [48, 224, 1024])
def test_of_equal_tokens_the_first(kernel: Kernel, n_tokens: int, dim: int) -> None:
    """Numbers whose products round, at places where a matrix product rounds them differently."""
    rng = torch.Generator().manual_seed(n_tokens * dim)
    queries = torch.randn(n_tokens, dim, generator=rng)
    rows = torch.randn(4, dim, generator=rng)
    sizes = [2, 3, 7, 18] if interpreted(kernel) else [2, 3, 6, 7, 15, 39, 333, 3000]
    which = torch.cat([torch.arange(4).repeat(-(-size // 4))[:size] for size in sizes])
    cu_d = from_lengths(sizes).to(kernel.device)
    cu_q = torch.tensor([0, n_tokens], device=kernel.device)
    batch = (queries.to(kernel.device), cu_q, rows[which].to(kernel.device), cu_d)
    at, _ = assert_agrees(kernel, batch, all_pairs(1, len(sizes), kernel.device))
    assert int(at.max()) < 4


def test_blocks_of_every_size(device: torch.device) -> None:
    batch = ragged([4, 0, 9, 1], [3, 0, 0, 12, 1, 7, 0, 2, 2], 24, device=device)
    batch[2][5:12] = batch[2][4]
    pairs = all_pairs(4, 9, device)
    want = maxsim_alignment_torch(*batch, pairs, None)
    for scratch_bytes in (0, 600, 2_000, 10_000):
        at, best = maxsim_alignment_torch(*batch, pairs, None, scratch_bytes)
        assert torch.equal(at, want[0])
        torch.testing.assert_close(best, want[1], rtol=0, atol=0)


@pytest.mark.slow
def test_parts_of_every_number(kernel: Kernel) -> None:
    if kernel.backend != "triton":
        pytest.skip("torch has test_blocks_of_every_size")
    from m3kernels.maxsim_alignment.launch import maxsim_alignment_triton

    batch = ragged([3, 20], [100, 0, 7, 64], 32, device=kernel.device)
    batch[2][:90] = batch[2][0]
    batch[2][120, 3] = float("nan")
    pairs = all_pairs(2, 4, kernel.device)
    want = maxsim_alignment_triton(*batch, pairs, None, 1)
    for splits in (2, 4, 16):
        at, best = maxsim_alignment_triton(*batch, pairs, None, splits)
        assert torch.equal(at, want[0])
        torch.testing.assert_close(best, want[1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_numbers(kernel: Kernel, bad: float) -> None:
    """The first NaN is the best; infinities are numbers like others; others are left alone."""
    queries = torch.zeros(3, 16, device=kernel.device)
    queries[0, 0], queries[1, 1], queries[2] = 1.0, 1.0, -1.0
    documents = torch.zeros(50, 16, device=kernel.device)
    documents[:, 1] = -torch.arange(50.0)
    documents[[20, 40], 0] = bad
    cu_q, cu_d = (torch.tensor(cu, device=kernel.device) for cu in ([0, 3], [0, 45, 50]))
    pairs = all_pairs(1, 2, kernel.device)
    batch = (queries, cu_q, documents, cu_d)
    want_at, want = m3kernels.maxsim_alignment(*batch, pairs, backend="reference")
    at, best = m3kernels.maxsim_alignment(*batch, pairs, backend=kernel.backend)
    assert at.tolist() == want_at.tolist()
    assert str(best.tolist()) == str(want.tolist())
    if bad != bad:
        assert at[:3].tolist() == [20, 20, 20]
    assert at[3:].tolist() == [0, 0, 4]


def test_only_infinities_against(kernel: Kernel) -> None:
    queries = torch.ones(1, 16, device=kernel.device)
    documents = torch.full((20, 16), -torch.inf, device=kernel.device)
    cu_q, cu_d = (torch.tensor(cu, device=kernel.device) for cu in ([0, 1], [0, 20]))
    pairs = all_pairs(1, 1, kernel.device)
    at, best = m3kernels.maxsim_alignment(
        queries, cu_q, documents, cu_d, pairs, backend=kernel.backend
    )
    assert (at.tolist(), best.tolist()) == ([0], [-torch.inf])


@pytest.mark.parametrize("size", [1e-30, 1e18])
def test_sizes_of_numbers(kernel: Kernel, size: float) -> None:
    batch = ragged([3], [20, 4], 16, device=kernel.device)
    pairs = all_pairs(1, 2, kernel.device)
    want, _ = m3kernels.maxsim_alignment(*batch, pairs, backend="reference")
    queries, cu_q, documents, cu_d = batch
    at, _ = m3kernels.maxsim_alignment(
        queries, cu_q, documents * size, cu_d, pairs, backend=kernel.backend
    )
    assert torch.equal(at, want)


def test_pairs_repeat_and_come_in_any_order(kernel: Kernel) -> None:
    batch = ragged([4, 1, 0, 60], [5, 0, 9, 200, 3], 32, device=kernel.device)
    pairs = torch.tensor([[3, 4], [0, 0], [2, 2], [3, 4], [1, 3], [1, 1]], device=kernel.device)
    assert_agrees(kernel, batch, pairs.int())
    at, best = m3kernels.maxsim_alignment(*batch, pairs, backend=kernel.backend)
    assert torch.equal(at[:60], at[64:124])
    assert torch.equal(best[:60], best[64:124])


def test_views_and_int32_offsets(kernel: Kernel) -> None:
    queries, cu_q, documents, cu_d = ragged([4, 3], [5, 6, 2], 48, device=kernel.device)
    strided = documents.repeat_interleave(2, 1)[:, ::2]
    transposed = queries.T.contiguous().T
    pairs = all_pairs(2, 3, kernel.device)
    assert_agrees(kernel, (transposed, cu_q.int(), strided, cu_d.int()), pairs)


def test_offsets_that_lie_stay_in_bounds(kernel: Kernel) -> None:
    """With validate=False wrong offsets give wrong results, and nothing worse."""
    if kernel.backend != "triton":
        pytest.skip("the torch path indexes by them")
    queries, cu_q, documents, cu_d = ragged([3, 4], [9, 30, 5], 16, device=kernel.device)
    pairs = torch.tensor([[0, 0], [9, 1], [-1, 2], [1, 7]], device=kernel.device)
    options: dict[str, Any] = {"backend": "triton", "validate": False}
    for cu_wrong in ([0, 5, 2, 44], [0, 50, 60, 70], [7, 9, 9, 9], [-9, 0, 3, 44], [0, 0, 0, 0]):
        wrong = torch.tensor(cu_wrong, device=kernel.device)
        m3kernels.maxsim_alignment(queries, cu_q, documents, wrong, pairs, **options)
        m3kernels.maxsim_alignment(queries, wrong[:3] // 5, documents, cu_d, pairs, **options)


def test_torch_compile_traces_it(device: torch.device) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def twice(*batch: torch.Tensor) -> torch.Tensor:
        return m3kernels.maxsim_alignment(*batch)[1] * 2

    for lengths_d in ([5, 0, 9], [3, 4, 5, 40]):
        batch = ragged([3, 4], lengths_d, 16, device=device)
        pairs = all_pairs(2, len(lengths_d), device)
        _, want = m3kernels.maxsim_alignment(*batch, pairs)
        torch.testing.assert_close(twice(*batch, pairs), want * 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": [[1.0]]}, TypeError, "queries is a list"),
        ({"documents": torch.ones(6, 9)}, ValueError, "documents has vectors of 9; expected 8"),
        ({"documents": torch.ones(6, 8).char()}, ValueError, "document_scales is None"),
        ({"document_scales": torch.ones(6)}, ValueError, "document_scales is given with"),
        (
            {"documents": torch.ones(6, 8).char(), "document_scales": torch.ones(5)},
            ValueError,
            "document_scales has 5 entries; expected 6",
        ),
        ({"cu_seqlens_q": torch.tensor([0, 3])}, ValueError, "cu_seqlens_q ends with 3"),
        ({"cu_seqlens_d": torch.tensor([0, 5, 4, 6])}, ValueError, "cu_seqlens_d decreases"),
        ({"pairs": torch.tensor([[0, 1]])}, ValueError, "pairs has the document index 1"),
        ({"pairs": None}, TypeError, "pairs is a NoneType"),
        ({"backend": "cuda"}, ValueError, "backend is 'cuda'"),
    ],
)
def test_errors_name_the_argument(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "queries": torch.ones(4, 8),
        "cu_seqlens_q": torch.tensor([0, 4]),
        "documents": torch.ones(6, 8),
        "cu_seqlens_d": torch.tensor([0, 6]),
        "pairs": torch.tensor([[0, 0]]),
    }
    m3kernels.maxsim_alignment(**arguments)
    with pytest.raises(error, match=message):
        m3kernels.maxsim_alignment(**(arguments | change))
