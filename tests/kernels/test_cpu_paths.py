"""The CPU's ways to a score: which runs, and that each gives what float32 gives."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels import cpus
from m3kernels.lexical.cpu import lexical_scores_torch
from m3kernels.maxsim import maxima
from m3kernels.maxsim.cpu import maxsim_torch
from m3kernels.maxsim.reference import maxsim_reference
from m3kernels.packing import from_lengths
from m3kernels.sparse_max.cpu import sparse_max_torch
from m3kernels.sparse_max.reference import sparse_max_reference
from torch.nn.functional import normalize

from tests.kernels.conftest import Dispatched

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
CSR = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

FLOAT8 = torch.float8_e4m3fn
LENGTHS_D = [70, 0, 1, 733, 64, 5, 0, 390]  # enough rows for the native paths


def clustered(lengths_q: list[int], lengths_d: list[int], dim: int, seed: int = 0) -> Batch:
    """Unit vectors as a trained model's: best matches score 0.4 to 0.9, the others far less."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(8, dim, generator=rng)
    rows = centres[torch.randint(0, 8, (sum(lengths_d),), generator=rng)]
    spread = 0.4 + 1.2 * torch.rand(len(rows), 1, generator=rng)
    documents = normalize(rows + spread * torch.randn(rows.shape, generator=rng), dim=1)
    near = documents[torch.randint(0, len(documents), (sum(lengths_q),), generator=rng)]
    noise = normalize(torch.randn(near.shape, generator=rng), dim=1)
    queries = normalize(near + 0.8 * noise, dim=1)
    return queries, from_lengths(lengths_q), documents, from_lengths(lengths_d)


def quantized(
    documents: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Documents in a dtype, and their scales where it has them."""
    if dtype not in (torch.int8, FLOAT8):
        return documents.to(dtype), None
    scales = documents.abs().amax(1) / (127 if dtype == torch.int8 else 448)
    numbers = documents / scales[:, None]
    return (numbers.round() if dtype == torch.int8 else numbers).to(dtype), scales


def both(
    batch: Batch,
    scales: torch.Tensor | None = None,
    *,
    scratch_bytes: int | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """Scores (n_q, n_d) of all pairs and, shuffled, by `pairs`; they agree."""
    n_q, n_d = batch[1].numel() - 1, batch[3].numel() - 1
    scores = maxsim_torch(*batch, None, scales, reduction, scratch_bytes)
    pairs = torch.cartesian_prod(torch.arange(n_q), torch.arange(n_d)).view(-1, 2)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1))
    by_pair = maxsim_torch(*batch, pairs[order], scales, reduction, scratch_bytes)
    close(by_pair, scores.flatten()[order])
    return scores


def close(got: torch.Tensor, want: torch.Tensor, atol: float = 2e-6) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=atol, equal_nan=True)


@pytest.fixture(params=["native", "widened"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with what this CPU has, once as on a CPU without it."""
    if request.param == "widened":
        monkeypatch.setattr(cpus, "has", lambda feature: False)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("dim", [1024, 65])
@pytest.mark.parametrize("dtype_q", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "dtype_d", [torch.float32, torch.float16, torch.bfloat16, torch.int8, FLOAT8], ids=str
)
def test_every_dtype_keeps_float32_accuracy(
    dtype_q: torch.dtype, dtype_d: torch.dtype, dim: int
) -> None:
    queries, cu_q, documents, cu_d = clustered([32, 0, 7, 1], LENGTHS_D, dim)
    documents, scales = quantized(documents, dtype_d)
    batch = (queries.to(dtype_q), cu_q, documents, cu_d)
    want = maxsim_reference(*batch, None, scales, "mean")
    # int8 sums two digits a number of the query.
    close(both(batch, scales), want, atol=1e-5 if dtype_d == torch.int8 else 2e-6)


def test_the_native_paths_run_where_the_cpu_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def has(feature: str) -> bool:
        asked.append(feature)
        return False

    monkeypatch.setattr(cpus, "has", has)
    for dtype in (torch.bfloat16, torch.int8, torch.float32):
        queries, cu_q, documents, cu_d = clustered([32], [600], 128)
        documents, scales = quantized(documents, dtype)
        maxsim_torch(queries, cu_q, documents, cu_d, None, scales, "mean")
    assert asked == ["avx512_bf16", "vnni"]


def test_a_cpu_check_that_torch_lacks_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    there = cpus.features()
    assert set(there) <= set(cpus.FEATURES)
    monkeypatch.setitem(cpus.FEATURES, "amx", "_is_no_check_of_torch")
    assert cpus.has("amx") is False
    assert cpus.features() == [name for name in there if name != "amx"]


@pytest.mark.thinned(3)
@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("scratch_bytes", [0, 5_000, 60_000, 700_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, FLOAT8], ids=str)
def test_blocks_of_every_size(dtype: torch.dtype, scratch_bytes: int) -> None:
    queries, cu_q, documents, cu_d = clustered([20, 3], LENGTHS_D, 96)
    documents, scales = quantized(documents, dtype)
    batch = (queries, cu_q, documents, cu_d)
    want = maxsim_reference(*batch, None, scales, "mean")
    close(both(batch, scales, scratch_bytes=scratch_bytes), want, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("exact_queries", [True, False])
def test_ties_in_bfloat16_are_told_apart(exact_queries: bool, seed: int) -> None:
    """Rows that differ by less than bfloat16 shows in the product, and by enough in float32."""
    rng = torch.Generator().manual_seed(seed)
    base = normalize(torch.randn(1, 512, generator=rng), dim=1)
    documents = (base + 2e-3 * torch.randn(600, 512, generator=rng)).bfloat16()
    queries = base + 1e-3 * torch.randn(16, 512, generator=rng)
    if exact_queries:
        queries = queries.bfloat16()
    batch = (queries, from_lengths([16]), documents, from_lengths([200, 100, 0, 300]))
    rough = (queries.bfloat16() @ documents.T).float()
    assert (rough == rough.amax(1, keepdim=True)).sum(1).float().mean() > 5
    close(both(batch), maxsim_reference(*batch, None, None, "mean"))


@pytest.mark.parametrize("exact_queries", [True, False])
def test_documents_of_one_row_many_times(exact_queries: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    queries = torch.randn(16, 64, generator=rng)
    if exact_queries:
        queries = queries.bfloat16()
    documents = torch.randn(3, 64, generator=rng).bfloat16().repeat_interleave(400, 0)
    documents = torch.cat([documents, torch.zeros(50, 64, dtype=torch.bfloat16)])
    batch = (queries, from_lengths([16]), documents, from_lengths([400, 400, 400, 50]))
    close(both(batch), maxsim_reference(*batch, None, None, "mean"))


@settings(max_examples=60)
@given(
    lengths_q=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    lengths_d=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    dim=st.sampled_from([16, 33, 256]),
    scratch_bytes=st.sampled_from([None, 3_000, 40_000]),
    largest=st.integers(1, 3),
    dtype=st.sampled_from([torch.bfloat16, torch.int8, FLOAT8]),
    seed=st.integers(0, 2**31),
)
def test_small_integers_come_out_exact(
    lengths_q: list[int],
    lengths_d: list[int],
    dim: int,
    scratch_bytes: int | None,
    largest: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Small integers are exact in each dtype and full of ties."""
    rng = torch.Generator().manual_seed(seed)
    numbers = [
        torch.randint(-largest, largest + 1, (sum(lengths), dim), generator=rng).float()
        for lengths in (lengths_q, lengths_d)
    ]
    scales = None if dtype == torch.bfloat16 else torch.ones(sum(lengths_d))
    batch = (
        numbers[0], from_lengths(lengths_q), numbers[1].to(dtype), from_lengths(lengths_d)
    )  # fmt: skip
    got = both(batch, scales, scratch_bytes=scratch_bytes, reduction="sum")
    want = maxsim_reference(*batch, None, scales, "sum")
    # Two digits of a third are not exact; this is their bound.
    bound = sum(lengths_q) * largest * largest * dim / 64_516
    close(got, want, atol=bound if dtype == torch.int8 else 0.0)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype_q", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype_d", [torch.bfloat16, torch.float32], ids=str)
def test_a_bad_number_stays_in_its_document(
    dtype_d: torch.dtype, dtype_q: torch.dtype, bad: float
) -> None:
    queries, cu_q, documents, cu_d = clustered([32], LENGTHS_D, 128)
    batch = (queries.to(dtype_q), cu_q, documents.to(dtype_d), cu_d)
    clean = both(batch)
    batch[2][100, 3] = bad  # document 3
    scores = both(batch)
    others = [0, 1, 2, 4, 5, 6, 7]
    torch.testing.assert_close(scores[:, others], clean[:, others], rtol=0.0, atol=1e-6)
    close(scores, maxsim_reference(*batch, None, None, "mean"))
    assert not scores[0, 3].isfinite()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype_d", [torch.bfloat16, torch.int8, FLOAT8], ids=str)
def test_a_bad_number_stays_in_its_query(dtype_d: torch.dtype, bad: float) -> None:
    queries, cu_q, documents, cu_d = clustered([16, 16], LENGTHS_D, 128)
    documents, scales = quantized(documents, dtype_d)
    batch = (queries, cu_q, documents, cu_d)
    clean = both(batch, scales)
    queries[3, 5] = bad
    scores = both(batch, scales)
    close(scores, maxsim_reference(*batch, None, scales, "mean"), atol=1e-5)
    close(scores[1], clean[1], atol=1e-5)
    filled = cu_d.diff() > 0
    assert not scores[0, filled].isfinite().any()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("dtype", [torch.int8, FLOAT8], ids=str)
def test_a_nan_scale_stays_in_its_document(dtype: torch.dtype) -> None:
    queries, cu_q, documents, cu_d = clustered([16], LENGTHS_D, 64)
    documents, scales = quantized(documents, dtype)
    assert scales is not None
    clean = both((queries, cu_q, documents, cu_d), scales)
    scales[100] = float("nan")  # document 3
    scores = both((queries, cu_q, documents, cu_d), scales)
    others = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(scores[:, others], clean[:, others])
    assert scores[:, 3].isnan().all()


@pytest.mark.parametrize("size", [1e-30, 1e-5, 1e5, 1e18, 3e37])
def test_bfloat16_of_every_size(size: float) -> None:
    """Norms overflow at 3e37; each token's score still is a float32."""
    queries, cu_q, documents, cu_d = clustered([16], LENGTHS_D, 128)
    batch = (queries, cu_q, (documents * size).bfloat16(), cu_d)
    scores = both(batch)
    torch.testing.assert_close(
        scores, maxsim_reference(*batch, None, None, "mean"), rtol=1e-5, atol=0.0
    )


def test_a_score_does_not_depend_on_the_rest_of_the_call() -> None:
    queries, cu_q, documents, cu_d = clustered([32, 32], LENGTHS_D, 256)
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        rows, scales = quantized(documents, dtype)
        scores = both((queries, cu_q, rows, cu_d), scales)
        for i_d, (start, end) in enumerate(zip(cu_d.tolist(), cu_d[1:].tolist(), strict=False)):
            alone = maxsim_torch(
                queries[32:], from_lengths([32]), rows[start:end], from_lengths([end - start]),
                None, None if scales is None else scales[start:end], "mean",
            )  # fmt: skip
            torch.testing.assert_close(alone[0, 0], scores[1, i_d], rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, FLOAT8], ids=str)
def test_same_bytes_each_time(dtype: torch.dtype) -> None:
    queries, cu_q, documents, cu_d = clustered([32, 5], LENGTHS_D, 128)
    documents, scales = quantized(documents, dtype)
    batch = (queries, cu_q, documents, cu_d)
    assert torch.equal(both(batch, scales), both(batch, scales))


def test_pairs_of_queries_with_other_documents_each() -> None:
    queries, cu_q, documents, cu_d = clustered([12] * 6, [30] * 40, 128)
    rng = torch.Generator().manual_seed(0)
    pairs = torch.stack(
        [torch.arange(6).repeat_interleave(20), torch.randint(0, 40, (120,), generator=rng)], 1
    )
    pairs = pairs[torch.randperm(120, generator=rng)]
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        rows, scales = quantized(documents, dtype)
        batch = (queries, cu_q, rows, cu_d)
        want = maxsim_reference(*batch, pairs, scales, "mean")
        for scratch_bytes in (None, 20_000):
            close(maxsim_torch(*batch, pairs, scales, "mean", scratch_bytes), want, atol=1e-5)


def test_pairs_that_only_look_like_neighbours() -> None:
    """Document 0 twice and then 2: the gap makes up for the repetition."""
    queries, cu_q, documents, cu_d = clustered([16], [300] * 4, 64)
    pairs = torch.tensor([[0, 0], [0, 0], [0, 2]])
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        rows, scales = quantized(documents, dtype)
        batch = (queries, cu_q, rows, cu_d)
        want = maxsim_reference(*batch, pairs, scales, "mean")
        close(maxsim_torch(*batch, pairs, scales, "mean"), want, atol=1e-5)


@pytest.mark.parametrize("largest", [1e-36, 1e-6, 1.0, 1e6, 1e30])
def test_queries_in_digits_keep_their_bound(largest: float) -> None:
    """One number far above the others is the worst case of two digits a number."""
    rng = torch.Generator().manual_seed(0)
    queries = 1e-3 * largest * torch.randn(16, 256, generator=rng)
    queries[:, 7] = largest
    documents = torch.randint(-128, 128, (300, 256), generator=rng).to(torch.int8)
    batch = (queries, from_lengths([1] * 16), documents, from_lengths([300]))
    got = maxsim_torch(*batch, None, torch.ones(300), "mean")
    want = maxsim_reference(*batch, None, torch.ones(300), "mean")
    bound = largest * float(documents.double().abs().sum(1).max()) / 64_516
    # 1e-30 is the smallest scale that a query gets.
    assert (got - want).abs().max() <= max(bound, 1e-30 * 256) + 1e-6 * want.abs().max()


def test_int8_of_one_column() -> None:
    documents = torch.tensor([[10], [-128], [4]], dtype=torch.int8)
    batch = (torch.ones(8, 1), from_lengths([8]), documents, from_lengths([3]))
    assert maxsim_torch(*batch, None, torch.ones(3), "mean").tolist() == [[10.0]]


def test_float8_is_widened_exactly() -> None:
    every = torch.arange(256).to(torch.uint8).view(FLOAT8)[:, None]
    rows, factors = maxima._widen_float8(every)
    want = every.float()
    assert torch.equal((rows * factors[:, None]).nan_to_num(-1.0), want.nan_to_num(-1.0))
    assert want.isnan().sum() == 2
    spoiled = torch.cat([every[:4], every[127:128]]).view(1, 5)
    assert maxima._widen_float8(spoiled)[1].isnan().all()


class _Largest:
    """The largest tensor that an operation makes."""

    def __init__(self) -> None:
        self.bytes = 0

    def saw(self, function: Any, args: tuple[Any, ...], made: Any) -> None:
        old = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in old:
                self.bytes = max(self.bytes, tensor.nbytes)


@pytest.mark.thinned(3)
@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, FLOAT8], ids=str)
@pytest.mark.parametrize("lengths_d", [[40] * 400, [16_000]], ids=["many", "long"])
def test_no_tensor_grows_with_the_documents(dtype: torch.dtype, lengths_d: list[int]) -> None:
    queries, cu_q, documents, cu_d = clustered([32, 32], lengths_d, 64)
    documents, scales = quantized(documents, dtype)
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(len(lengths_d)))
    every_other = pairs[pairs[:, 1] % 2 == 0]
    for chosen in (None, pairs, every_other):
        largest = _Largest()
        with Dispatched(largest.saw):
            maxsim_torch(queries, cu_q, documents, cu_d, chosen, scales, "mean", 300_000)
        assert largest.bytes <= 300_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scratch_bytes", [0, 9_000, 4 << 20])
@pytest.mark.parametrize("amx", [False, True])
def test_sparse_max_keeps_float32_accuracy(
    dtype: torch.dtype, scratch_bytes: int, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "has", lambda feature: amx)
    rng = torch.Generator().manual_seed(0)
    lengths = [64, 0, 1, 200, 33]
    n = sum(lengths)
    hidden = torch.randn(n, 1024, generator=rng).to(dtype)
    weight = (torch.randn(1024, generator=rng) / 32).to(dtype)
    batch = (
        hidden, weight, torch.tensor(0.25).to(dtype), torch.randint(0, 60, (n,), generator=rng),
        from_lengths(lengths),
    )  # fmt: skip
    for ignored in ((0, 1, 2, 3), (), tuple(range(20))):
        got = sparse_max_torch(*batch, ignored, scratch_bytes)
        want = sparse_max_reference(*batch, ignored)
        for mine, theirs in zip(got[:2], want[:2], strict=True):
            assert torch.equal(mine, theirs)
        torch.testing.assert_close(got[2], want[2], rtol=1e-5, atol=2e-6)


def test_sparse_max_keeps_a_nan_in_its_id() -> None:
    hidden = torch.tensor([[1.0], [float("nan")], [2.0], [3.0]])
    ids = torch.tensor([7, 7, 7, 9], dtype=torch.int32)
    indptr, indices, values = sparse_max_torch(
        hidden, torch.ones(1), torch.tensor(0.0), ids, from_lengths([2, 2]), (0,)
    )
    assert indptr.tolist() == [0, 1, 3]
    assert indices.tolist() == [7, 7, 9]
    assert values[0].isnan()
    assert values[1:].tolist() == [2.0, 3.0]


def test_lexical_scores_of_many_documents_match_a_dense_product() -> None:
    rng = torch.Generator().manual_seed(0)

    def csr(n: int, terms: int) -> tuple[torch.Tensor, CSR]:
        dense = torch.rand(n, 500, generator=rng)
        dense[dense < dense.topk(terms + 1).values[:, -1:]] = 0.0
        held = dense != 0
        return dense, (from_lengths(held.sum(1)), held.nonzero()[:, 1], dense[held])

    q_dense, q_csr = csr(9, 12)
    d_dense, d_csr = csr(300, 40)
    for block in (1, 4, 64):
        close(lexical_scores_torch(q_csr, d_csr, block), q_dense @ d_dense.T)


@pytest.mark.parametrize("kind", ["one length", "long", "short", "mixed"])
def test_maxima_of_rows_in_any_blocks(kind: str) -> None:
    """However documents are cut into blocks, and whichever way their maxima are taken."""
    draw = torch.Generator().manual_seed(len(kind))
    lengths = {
        "one length": torch.full((40,), 97),
        "long": torch.randint(200, 700, (12,), generator=draw),
        "short": torch.randint(0, 40, (200,), generator=draw),
        "mixed": torch.randint(0, 3, (150,), generator=draw) ** 6 * 9,
    }[kind]
    cu = from_lengths(lengths)
    rows, starts = int(cu[-1]), cu.tolist()
    values = torch.randn(rows, 5, generator=draw)
    values[torch.randint(rows, (3,), generator=draw), 2] = torch.nan
    want = torch.stack(
        [
            part.amax(0) if part.shape[0] else torch.full((5,), -torch.inf)
            for part in torch.split(values, lengths.tolist())
        ]
    )
    length = int(lengths[0]) if kind == "one length" else 0
    for size in (1, 96, 97, 1500, rows):
        got = torch.full_like(want, -torch.inf)
        for begin in range(0, rows, size):
            end = min(begin + size, rows)
            first, last = bisect_right(starts, begin) - 1, bisect_left(starts, end)
            here = cu[first : last + 1].clamp(begin, end) - begin
            whose = maxima.Rows(here, end - begin, begin - starts[first], length)
            maxima._raise(got[first:last], whose, values[begin:end])
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_large_blocks_of_long_vectors(dtype: torch.dtype) -> None:
    """Which oneDNN multiplies where there is one; the rest of the rows is MKL's."""
    lengths_d = [1000] * 40 + [0, 5000, 7, 3]
    queries, cu_q, documents, cu_d = clustered([32], lengths_d, 512)
    documents = documents.to(dtype)
    here = maxima._onednn_linear() and dtype == torch.float32  # others are widened in small blocks
    seen: list[int] = []

    def saw(function: Any, arguments: tuple[Any, ...], made: Any) -> None:
        if "_linear_pointwise" in str(function):
            seen.append(arguments[0].shape[0])

    with Dispatched(saw):
        got = maxsim_torch(queries, cu_q, documents, cu_d, None, None, "mean")
    assert seen == ([1 << 15] if here else [])
    want = maxsim_reference(queries, cu_q, documents, cu_d, None, None, "mean")
    close(got, want)
    # rows that lie apart are left to MKL, which takes any stride
    wide = documents.new_zeros(len(documents), 520)
    wide[:, :512] = documents
    close(maxsim_torch(queries, cu_q, wide[:, :512], cu_d, None, None, "mean"), want)


def test_a_torch_without_onednns_product(monkeypatch: pytest.MonkeyPatch) -> None:
    maxima._onednn_linear.cache_clear()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not maxima._onednn_linear()
    monkeypatch.undo()
    maxima._onednn_linear.cache_clear()
