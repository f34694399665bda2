from __future__ import annotations

from typing import Any

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.maxsim.cpu import maxsim_torch
from m3kernels.packing import from_lengths
from torch.nn.functional import normalize

from tests.kernels.conftest import HAS_TRITON, KERNELS, Kernel, another_stream

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

LENGTHS = st.lists(st.integers(0, 9), max_size=6)
# The interpreter takes a third of a second for what a card does in microseconds.
EXAMPLES = 60 if torch.cuda.is_available() else 15


def ragged(
    lengths_q: list[int],
    lengths_d: list[int],
    dim: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Batch:
    """Packed unit vectors: queries, cu_seqlens_q, documents, cu_seqlens_d."""
    rng = torch.Generator().manual_seed(seed)
    queries, documents = (
        normalize(torch.randn(sum(lengths), dim, generator=rng), dim=1).to(device, dtype)
        for lengths in (lengths_q, lengths_d)
    )
    cu_q, cu_d = from_lengths(lengths_q).to(device), from_lengths(lengths_d).to(device)
    return queries, cu_q, documents, cu_d


def examples(seed: int, device: torch.device) -> list[tuple[Any, ...]]:
    """Calls for test_ops, of small integers, whose products are exact."""
    rng = torch.Generator().manual_seed(seed)

    def call(lengths_q: list[int], lengths_d: list[int]) -> tuple[Any, ...]:
        queries, documents = (
            torch.randint(-3, 4, (sum(lengths), 48), generator=rng).float().to(device)
            for lengths in (lengths_q, lengths_d)
        )
        cu_q, cu_d = from_lengths(lengths_q).to(device), from_lengths(lengths_d).to(device)
        return queries, cu_q, documents, cu_d

    drawn = torch.randint(1, 20, (8,), generator=rng).tolist()
    return [call([*drawn[:3], 0], [0, *drawn[3:]]), call([0, 0], [0]), call([], [2]), call([], [])]


def all_pairs(n_q: int, n_d: int, device: torch.device | str = "cpu") -> torch.Tensor:
    return torch.cartesian_prod(
        torch.arange(n_q, device=device), torch.arange(n_d, device=device)
    ).view(-1, 2)


# Sums of 1024 products in float32, against float64.
LIMITS: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5, "equal_nan": True}


def assert_agrees(kernel: Kernel, batch: Batch, **options: Any) -> torch.Tensor:
    """All pairs, and a pair list from the last to the first, against the reference."""
    want = m3kernels.maxsim(*batch, **options, backend="reference")
    got = m3kernels.maxsim(*batch, **options, backend=kernel.backend)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    torch.testing.assert_close(got, want, **LIMITS)
    n_q, n_d = want.shape
    pairs = all_pairs(n_q, n_d, want.device).flip(0)
    for backend in (kernel.backend, "reference"):
        got = m3kernels.maxsim(*batch, pairs=pairs, **options, backend=backend)
        torch.testing.assert_close(got, want.flatten().flip(0), **LIMITS)
    return want


def interpreted(kernel: Kernel) -> bool:
    return kernel.backend == "triton" and kernel.device.type == "cpu"


def test_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    documents = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    cu_q, cu_d = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 3])
    for backend in ("torch", "reference"):
        scores = m3kernels.maxsim(queries, cu_q, documents, cu_d, backend=backend)
        assert scores.tolist() == [[2.5, -1.5], [3.0, -2.0]]
        scores = m3kernels.maxsim(queries, cu_q, documents, cu_d, reduction="sum", backend=backend)
        assert scores.tolist() == [[5.0, -3.0], [3.0, -2.0]]


RAGGED = {
    "lengths_q": LENGTHS,
    "lengths_d": LENGTHS,
    "reduction": st.sampled_from(["mean", "sum"]),
    "seed": st.integers(0, 2**31),
}


def check_ragged(
    kernel: Kernel, lengths_q: list[int], lengths_d: list[int], dim: int, reduction: str, seed: int
) -> None:
    batch = ragged(lengths_q, lengths_d, dim, seed=seed, device=kernel.device)
    scores = assert_agrees(kernel, batch, reduction=reduction)
    assert scores.shape == (len(lengths_q), len(lengths_d))
    empty_q = torch.tensor(lengths_q, dtype=torch.int64) == 0
    empty_d = torch.tensor(lengths_d, dtype=torch.int64) == 0
    assert (scores[empty_q] == 0).all()
    assert (scores[:, empty_d] == 0).all()


@settings(max_examples=60)
@given(**RAGGED, dim=st.sampled_from([1, 7, 16]))
def test_any_ragged_shape(module_device: torch.device, **drawn: Any) -> None:
    check_ragged(Kernel(module_device, "torch"), **drawn)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@settings(max_examples=EXAMPLES)
@given(**RAGGED, dim=st.sampled_from([16, 48]))
def test_any_ragged_shape_in_triton(**drawn: Any) -> None:
    check_ragged(KERNELS[-1], **drawn)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("lengths_q", "lengths_d", "dim"),
    [
        ([32], [513, 1, 100, 0, 37, 511], 1024),
        ([5, 123, 1, 0, 17], [123, 5, 64, 200], 192),
        ([1] * 40, [3, 2, 1] * 30, 80),
        ([700], [9, 600], 48),
    ],
    ids=["Q32-D1024", "ragged-D192", "short-queries-D80", "long-query-D48"],
)
def test_shapes_and_dtypes(
    kernel: Kernel, lengths_q: list[int], lengths_d: list[int], dim: int, dtype: torch.dtype
) -> None:
    if interpreted(kernel):  # its tiles are an eighth of a card's
        lengths_q, lengths_d = lengths_q[:8], lengths_d[:9]
        lengths_q = [-(-n // 8) for n in lengths_q]
        lengths_d = [-(-n // 8) for n in lengths_d]
    batch = ragged(lengths_q, lengths_d, dim, dtype=dtype, device=kernel.device)
    assert_agrees(kernel, batch)


def test_the_longest_vectors(kernel: Kernel) -> None:
    assert_agrees(kernel, ragged([3], [5, 20], 4100, device=kernel.device))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("scratch_bytes", [0, 3_000])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_rounds_of_queries(kernel: Kernel, scratch_bytes: int, reduction: str) -> None:
    """Queries whose partial maxima don't fit in one round, some across two or three rounds."""
    if kernel.backend != "triton":
        pytest.skip("torch has test_blocks_of_every_size")
    from m3kernels.maxsim.launch import maxsim_triton

    lengths_q, lengths_d = [5, 0, 40, 0, 90, 1, 0], [3, 0, 41, 1]
    batch = ragged(lengths_q, lengths_d, 16, device=kernel.device)
    want = m3kernels.maxsim(*batch, reduction=reduction, backend="reference")
    got = maxsim_triton(*batch, None, None, reduction, scratch_bytes)
    torch.testing.assert_close(got, want, **LIMITS)


def test_few_pairs_share_a_document(kernel: Kernel) -> None:
    """One pair is split over several programs, many are not: the same scores."""
    batch = ragged([3, 20], [100, 0, 7, 64], 32, device=kernel.device)
    pairs = all_pairs(2, 4, kernel.device)
    together = m3kernels.maxsim(*batch, pairs=pairs.repeat(3, 1), backend=kernel.backend)
    for i, pair in enumerate(pairs):
        alone = m3kernels.maxsim(*batch, pairs=pair[None], backend=kernel.backend)
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-6)


def test_documents_of_one_token(kernel: Kernel) -> None:
    """As many documents as rows in a tile, and empty ones between them."""
    lengths_d = [1, 0, 1, 1, 0, 0, 0, 1] * 9
    assert_agrees(kernel, ragged([5], lengths_d, 16, device=kernel.device))


def test_empty_documents_in_a_row(kernel: Kernel) -> None:
    """More empty documents than a tile has rows, before, between and after others."""
    lengths_d = [0] * 70 + [3] + [0] * 70 + [40, 1] + [0] * 70
    assert_agrees(kernel, ragged([2, 1], lengths_d, 16, device=kernel.device))


@pytest.mark.slow
def test_a_document_of_8192_tokens(kernel: Kernel) -> None:
    batch = ragged([3], [2, 8192, 1], 16, device=kernel.device)
    want = m3kernels.maxsim(*batch, backend="reference")
    got = m3kernels.maxsim(*batch, backend=kernel.backend)
    torch.testing.assert_close(got, want, **LIMITS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card's memory")
def test_more_numbers_than_32_bits_count(kernel: Kernel) -> None:
    """100,000 documents, the last of them beyond 2^32 bytes and 2^31 numbers."""
    if kernel.device.type != "cuda":
        pytest.skip("needs a card's memory")
    lengths_d = torch.full((100_000,), 22)
    rows = int(lengths_d.sum())
    documents = torch.zeros(rows, 1024, dtype=torch.bfloat16, device=kernel.device)
    queries, cu_q, last, _ = ragged([32], [22], 1024, dtype=torch.bfloat16, device=kernel.device)
    documents[-22:] = last
    cu_d = from_lengths(lengths_d).to(kernel.device)
    scores = m3kernels.maxsim(queries, cu_q, documents, cu_d, backend=kernel.backend)
    cu_last = torch.tensor([0, 22], device=kernel.device)
    want = m3kernels.maxsim(queries, cu_q, last, cu_last, backend="reference")
    torch.testing.assert_close(scores[:, -1:], want, **LIMITS)
    assert not scores[:, :-1].any()


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_nothing_to_score(kernel: Kernel, sizes: tuple[int, int]) -> None:
    n_q, n_d = sizes
    for rows in (0, 2):
        batch = ragged([rows] * n_q, [rows] * n_d, 16, device=kernel.device)
        assert assert_agrees(kernel, batch).shape == sizes


def test_offsets_that_lie_stay_in_bounds(kernel: Kernel) -> None:
    """With validate=False wrong offsets give wrong scores, and nothing worse."""
    if kernel.backend != "triton":
        pytest.skip("the torch path indexes by them")
    queries, cu_q, documents, cu_d = ragged([3, 4], [9, 30, 5], 16, device=kernel.device)
    for cu_wrong in ([0, 5, 2, 44], [0, 50, 60, 70], [7, 9, 9, 9], [-9, 0, 3, 44], [0, 0, 0, 0]):
        wrong = torch.tensor(cu_wrong, device=kernel.device)
        options: dict[str, Any] = {"backend": "triton", "validate": False}
        scores = m3kernels.maxsim(queries, cu_q, documents, wrong, **options)
        assert scores.shape == (2, 3)
        pairs = torch.tensor([[0, 0], [9, 1], [-1, 2], [1, 7]], device=kernel.device)
        m3kernels.maxsim(queries, cu_q, documents, wrong, pairs=pairs, **options)
        cu_lies = wrong[:3] // 5
        m3kernels.maxsim(queries, cu_lies, documents, cu_d, **options)
        m3kernels.maxsim(queries, cu_lies, documents, cu_d, pairs=pairs, **options)


def test_pairs_of_nothing_stay_in_bounds(kernel: Kernel) -> None:
    if kernel.backend != "triton":
        pytest.skip("the torch path indexes by them")
    queries, cu_q, documents, cu_d = ragged([3], [9], 16, device=kernel.device)
    pairs = torch.tensor([[0, 0]], device=kernel.device)
    for cu in ((cu_q[:1], cu_d), (cu_q, cu_d[:1])):
        scores = m3kernels.maxsim(
            queries, cu[0], documents, cu[1], pairs=pairs, backend="triton", validate=False
        )
        assert scores.tolist() == [0.0]


@pytest.mark.parametrize("backend", [None, "torch"])
def test_torch_compile_traces_it(device: torch.device, backend: str | None) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def scores(
        queries: torch.Tensor,
        cu_q: torch.Tensor,
        documents: torch.Tensor,
        cu_d: torch.Tensor,
        pairs: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        every = m3kernels.maxsim(queries * 2, cu_q, documents, cu_d, backend=backend)
        some = m3kernels.maxsim(queries, cu_q, documents, cu_d, pairs=pairs, backend=backend)
        return every / 2, some

    for lengths_d in ([5, 0, 9], [3, 4, 5, 40]):
        batch = ragged([3, 4], lengths_d, 16, device=device)
        pairs = all_pairs(2, len(lengths_d), device)
        want = m3kernels.maxsim(*batch)
        every, some = scores(*batch, pairs)
        torch.testing.assert_close(every, want)
        torch.testing.assert_close(some, want.flatten())


def test_the_custom_op_is_well_formed(kernel: Kernel) -> None:
    queries, cu_q, documents, cu_d = ragged([3, 4], [5, 0, 9], 16, device=kernel.device)
    pairs = all_pairs(2, 3, kernel.device)
    for some in (None, pairs):
        torch.library.opcheck(
            torch.ops.m3kernels.maxsim.default,
            (queries, cu_q, documents, cu_d, some, None, "mean", kernel.backend, True),
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
@pytest.mark.parametrize("as_pairs", [False, True], ids=["all", "pairs"])
def test_a_cuda_graph_records_it(as_pairs: bool) -> None:
    device = torch.device("cuda")
    batch = ragged([32, 7], [513, 1, 100, 0, 37], 1024, dtype=torch.bfloat16, device=device)
    pairs = all_pairs(2, 5, device) if as_pairs else None
    options: dict[str, Any] = {"pairs": pairs, "backend": "triton", "validate": False}
    m3kernels.maxsim(*batch, **options)  # compiled before the recording
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = m3kernels.maxsim(*batch, **options)
    fresh = ragged(
        [32, 7], [1, 200, 400, 50, 0], 1024, seed=9, dtype=torch.bfloat16, device=device
    )
    for old, new in zip(batch, fresh, strict=True):
        old.copy_(new)
    graph.replay()
    want = m3kernels.maxsim(*fresh, pairs=pairs, backend="reference")
    torch.testing.assert_close(scores, want, **LIMITS)
    another = torch.cuda.CUDAGraph()  # one that has recorded a graph records no other
    with pytest.raises(ValueError, match="pass validate=False"), torch.cuda.graph(another):
        m3kernels.maxsim(*batch, backend="triton")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_any_stream(kernel: Kernel) -> None:
    if kernel.device.type != "cuda":
        pytest.skip("a stream is a card's")
    batch = ragged([32], [513, 1, 100], 1024, dtype=torch.float16, device=kernel.device)
    want = m3kernels.maxsim(*batch, backend="reference")
    with another_stream():
        scores = m3kernels.maxsim(*batch, backend=kernel.backend)
    torch.testing.assert_close(scores, want, **LIMITS)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
def test_any_card() -> None:
    batch = ragged([32], [513, 1, 100], 1024, dtype=torch.float16, device="cuda:1")
    with torch.cuda.device(0):
        assert_agrees(Kernel(torch.device("cuda:1"), "triton"), batch)


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("float16", "float32")], ids=str)
def test_queries_and_documents_of_two_dtypes(kernel: Kernel, dtypes: tuple[str, str]) -> None:
    queries, cu_q, documents, cu_d = ragged([4, 9], [30, 2, 8], 48, device=kernel.device)
    queries, documents = (
        rows.to(getattr(torch, dtype))
        for rows, dtype in zip((queries, documents), dtypes, strict=True)
    )
    assert_agrees(kernel, (queries, cu_q, documents, cu_d))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("narrow", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
def test_quantized_documents(kernel: Kernel, dtype: torch.dtype, narrow: torch.dtype) -> None:
    queries, cu_q, documents, cu_d = ragged([8, 3], [40, 0, 17, 1], 96, device=kernel.device)
    quantized, scales = m3kernels.quantize_tokens(documents, narrow)
    batch = (queries.to(dtype), cu_q, quantized, cu_d)
    scores = assert_agrees(kernel, batch, document_scales=scales)
    wide = (queries.to(dtype), cu_q, quantized.float() * scales[:, None], cu_d)
    widened = m3kernels.maxsim(*wide, backend=kernel.backend)
    torch.testing.assert_close(scores, widened, rtol=1e-4, atol=1e-5)


def test_a_scale_weighs_before_the_max(kernel: Kernel) -> None:
    queries = torch.eye(16, device=kernel.device)[:1]
    documents = torch.zeros(2, 16, dtype=torch.int8, device=kernel.device)
    documents[:, 0] = torch.tensor([10, 4])
    scales = torch.tensor([0.1, 1.0], device=kernel.device)
    cu_d = torch.tensor([0, 2], device=kernel.device)
    cu_q = torch.tensor([0, 1], device=kernel.device)
    assert_agrees(kernel, (queries, cu_q, documents, cu_d), document_scales=scales)
    scores = m3kernels.maxsim(
        queries, cu_q, documents, cu_d, document_scales=scales, backend=kernel.backend
    )
    assert scores.tolist() == [[4.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_number_stays_in_its_document(kernel: Kernel, bad: float) -> None:
    batch = ragged([3, 4], [5, 6, 0, 7], 16, device=kernel.device)
    clean = m3kernels.maxsim(*batch, backend=kernel.backend)
    batch[2][7, 3] = bad  # document 1
    scores = assert_agrees(kernel, batch)
    others = [0, 2, 3]
    torch.testing.assert_close(scores[:, others], clean[:, others])
    if bad != bad:
        assert scores[:, 1].isnan().all()


def test_a_nan_stays_in_its_query(kernel: Kernel) -> None:
    batch = ragged([3, 4], [5, 6], 16, device=kernel.device)
    clean = m3kernels.maxsim(*batch, backend=kernel.backend)
    batch[0][1, 0] = float("nan")
    scores = assert_agrees(kernel, batch)
    assert scores[0].isnan().all()
    torch.testing.assert_close(scores[1], clean[1])


def test_a_nan_scale_stays_in_its_document(kernel: Kernel) -> None:
    queries, cu_q, _, cu_d = ragged([3], [2, 2], 16, device=kernel.device)
    documents = torch.ones(4, 16, dtype=torch.int8, device=kernel.device)
    scales = torch.tensor([1.0, 1.0, float("nan"), 1.0], device=kernel.device)
    scores = assert_agrees(kernel, (queries, cu_q, documents, cu_d), document_scales=scales)
    assert scores.isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("scratch_bytes", [0, 600, 2_000, 10_000, 1 << 26])
def test_blocks_of_every_size(device: torch.device, scratch_bytes: int) -> None:
    lengths_q, lengths_d = [4, 0, 9, 1], [3, 0, 0, 12, 1, 7, 0, 2, 2]
    batch = ragged(lengths_q, lengths_d, 24, device=device)
    want = m3kernels.maxsim(*batch, backend="reference")
    got = maxsim_torch(*batch, None, None, "mean", scratch_bytes)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    pairs = all_pairs(4, 9, device)
    got = maxsim_torch(*batch, pairs, None, "mean", scratch_bytes)
    torch.testing.assert_close(got, want.flatten(), rtol=1e-5, atol=1e-6)


def test_more_query_tokens_than_one_product_takes(device: torch.device) -> None:
    batch = ragged([513, 2, 600], [5, 3], 8, device=device)
    assert_agrees(Kernel(device, "torch"), batch)


def test_pairs_may_repeat_and_come_in_any_order(kernel: Kernel) -> None:
    batch = ragged([4, 1, 0, 60], [5, 0, 9, 200, 3], 32, device=kernel.device)
    want = m3kernels.maxsim(*batch, backend="reference")
    pairs = torch.tensor([[3, 4], [0, 0], [2, 2], [3, 4], [1, 3], [1, 1]], device=kernel.device)
    for dtype in (torch.int64, torch.int32):
        got = m3kernels.maxsim(*batch, pairs=pairs.to(dtype), backend=kernel.backend)
        torch.testing.assert_close(got, want[pairs[:, 0], pairs[:, 1]], rtol=1e-5, atol=1e-6)
    none = m3kernels.maxsim(*batch, pairs=pairs[:0], backend=kernel.backend)
    assert none.shape == (0,)


def test_views_and_int32_offsets(kernel: Kernel) -> None:
    queries, cu_q, documents, cu_d = ragged([4, 3], [5, 6, 2], 48, device=kernel.device)
    want = m3kernels.maxsim(queries, cu_q, documents, cu_d, backend="reference")
    strided = documents.repeat_interleave(2, 1)[:, ::2]
    transposed = queries.T.contiguous().T
    assert not strided.is_contiguous()
    assert not transposed.is_contiguous()
    packed = (transposed, cu_q.int(), strided, cu_d.int())
    got = m3kernels.maxsim(*packed, backend=kernel.backend)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert_agrees(kernel, packed)
    # at an address that is no multiple of 16 bytes
    shifted = torch.empty(documents.numel() + 1, device=kernel.device)[1:].view_as(documents)
    assert_agrees(kernel, (queries, cu_q, shifted.copy_(documents), cu_d))


def test_same_bytes_each_time(kernel: Kernel) -> None:
    batch = ragged([7, 30], [50, 3, 90], 64, device=kernel.device)
    pairs = all_pairs(2, 3, kernel.device)
    for some in (None, pairs):
        first, second = (
            m3kernels.maxsim(*batch, pairs=some, backend=kernel.backend) for _ in range(2)
        )
        assert torch.equal(first, second)


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
        ({"backend": "triton"}, ValueError, "can't run backend='triton': .*backend='torch'"),
    ],
)
def test_errors_name_the_argument(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    # The interpreter would take these tensors, which lie on the CPU.
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    arguments: dict[str, Any] = {
        "queries": torch.ones(4, 8),
        "cu_seqlens_q": torch.tensor([0, 4]),
        "documents": torch.ones(6, 8),
        "cu_seqlens_d": torch.tensor([0, 6]),
    }
    m3kernels.maxsim(**arguments)
    with pytest.raises(error, match=message):
        m3kernels.maxsim(**(arguments | change))
