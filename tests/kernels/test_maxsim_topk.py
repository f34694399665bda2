from __future__ import annotations

import math
from functools import partial
from typing import Any

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.maxsim_topk.cpu import maxsim_topk_torch
from m3kernels.maxsim_topk.ranking import Best, keys_of
from m3kernels.packing import from_lengths

from tests.kernels.conftest import HAS_TRITON, KERNELS, Kernel
from tests.kernels.test_maxsim import Batch, interpreted, ragged

LENGTHS = st.lists(st.integers(0, 9), max_size=6)
EXAMPLES = 60 if torch.cuda.is_available() else 12


def sort(
    scores: torch.Tensor, k: int, allowed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of each row, as the docstring says it, in Python."""
    out = torch.full((len(scores), k), -torch.inf)
    ids = torch.full((len(scores), k), -1)
    for i, row in enumerate(scores.tolist()):
        may = list(range(len(row)))
        if allowed is not None:
            may = (allowed if allowed.ndim == 1 else allowed[i]).nonzero()[:, 0].tolist()
        numbers = sorted((j for j in may if not math.isnan(row[j])), key=lambda j: (-row[j], j))
        found = [*numbers, *(j for j in may if math.isnan(row[j]))][:k]
        out[i, : len(found)] = scores[i, found].cpu()
        ids[i, : len(found)] = torch.tensor(found, dtype=torch.int64)
    return out.to(scores.device), ids.to(scores.device)


def assert_right(
    kernel: Kernel,
    batch: Batch,
    k: int,
    mask: Any = None,
    allowed: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `maxsim` scores, bit for bit, sorted."""
    every = m3kernels.maxsim(*batch, **options, backend=kernel.backend)
    want, want_ids = sort(every, k, mask if allowed is None else allowed)
    scores, ids = m3kernels.maxsim_topk(
        *batch, k, documents_mask=mask, **options, backend=kernel.backend
    )
    assert (scores.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert not scores.requires_grad
    torch.testing.assert_close(scores, want, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ids, want_ids)
    return scores, ids


def test_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    documents = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [3.0, 0.0], [0.0, 1.0]])
    batch = (queries, torch.tensor([0, 2, 3]), documents, torch.tensor([0, 2, 3, 5, 5]))
    for backend in ("torch", "reference"):
        scores, ids = m3kernels.maxsim_topk(*batch, 3, backend=backend)
        assert scores.tolist() == [[2.5, 2.5, 0.0], [3.0, 3.0, 0.0]]
        assert ids.tolist() == [[0, 2, 3], [0, 2, 3]]
        scores, ids = m3kernels.maxsim_topk(*batch, 3, documents_mask=[2, 1], backend=backend)
        assert scores.tolist() == [[2.5, -1.5, -math.inf], [3.0, -2.0, -math.inf]]
        assert ids.tolist() == [[2, 1, -1], [2, 1, -1]]


RAGGED = {
    "lengths_q": LENGTHS,
    "lengths_d": LENGTHS,
    "k": st.integers(1, 8),
    "masked": st.sampled_from(["no", "each", "all", "ids"]),
    "reduction": st.sampled_from(["mean", "sum"]),
    "seed": st.integers(0, 2**31),
}


def check_ragged(
    kernel: Kernel,
    lengths_q: list[int],
    lengths_d: list[int],
    k: int,
    masked: str,
    reduction: str,
    seed: int,
) -> None:
    batch = ragged(lengths_q, lengths_d, 16, seed=seed, device=kernel.device)
    rng = torch.Generator().manual_seed(seed)
    n_q, n_d = len(lengths_q), len(lengths_d)
    allowed = torch.rand(n_q, n_d, generator=rng) < 0.5
    allowed = (allowed if masked == "each" else allowed[:1].any(0)).to(kernel.device)
    mask: Any = None if masked == "no" else allowed
    if masked == "ids":
        mask = allowed.nonzero()[:, 0].flip(0)
        mask = mask if seed % 2 else mask.tolist()
    options = {} if masked == "no" else {"allowed": allowed}
    assert_right(kernel, batch, k, mask, reduction=reduction, **options)
    want = m3kernels.maxsim_topk(*batch, k, documents_mask=mask, backend="reference")
    got = m3kernels.maxsim_topk(*batch, k, documents_mask=mask, backend=kernel.backend)
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=2e-5)


@settings(max_examples=60)
@given(**RAGGED)
def test_any_ragged_shape(module_device: torch.device, **drawn: Any) -> None:
    check_ragged(Kernel(module_device, "torch"), **drawn)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@settings(max_examples=EXAMPLES, deadline=None)
@given(**RAGGED)
def test_any_ragged_shape_in_triton(**drawn: Any) -> None:
    check_ragged(KERNELS[-1], **drawn)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [1024, 48])
def test_dtypes(kernel: Kernel, dtype: torch.dtype, dim: int) -> None:
    lengths_d = [5, 1, 20, 0, 7, 60] if interpreted(kernel) else [513, 1, 100, 0, 37, 511] * 9
    batch = ragged([32, 5, 0, 1], lengths_d, dim, dtype=dtype, device=kernel.device)
    assert_right(kernel, batch, 4)
    allowed = torch.zeros(len(lengths_d), dtype=torch.bool, device=kernel.device)
    allowed[[5, 0, 2]] = True
    assert_right(kernel, batch, 4, [5, 0, 2], allowed)


@pytest.mark.parametrize("narrow", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
def test_quantized_documents(kernel: Kernel, narrow: torch.dtype) -> None:
    queries, cu_q, documents, cu_d = ragged([8, 3], [40, 0, 17, 1], 96, device=kernel.device)
    quantized, scales = m3kernels.quantize_tokens(documents, narrow)
    batch = (queries, cu_q, quantized, cu_d)
    allowed = torch.tensor([True, False, False, True], device=kernel.device)
    assert_right(kernel, batch, 3, document_scales=scales)
    assert_right(kernel, batch, 3, allowed, document_scales=scales)


@pytest.mark.parametrize("dim", [24, 1024])
@pytest.mark.parametrize("n_tokens", [1, 3, 40])
def test_blocks_of_every_size(device: torch.device, dim: int, n_tokens: int) -> None:
    """The bits of maxsim's own blocks, where a product in others would round differently."""
    from m3kernels.maxsim.cpu import maxsim_torch

    rng = torch.Generator().manual_seed(dim + n_tokens)
    lengths_d = torch.randint(0, 40, (300,), generator=rng).tolist()
    batch = ragged([n_tokens, 0, 2], lengths_d, dim, device=device)
    allowed = (torch.rand(3, 300, generator=rng) < 0.02).to(device)
    for scratch_bytes in (5_000, 60_000, 2_000_000):
        every = maxsim_torch(*batch, None, None, "mean", scratch_bytes)
        for k, may in ((1, None), (30, None), (400, None), (5, allowed), (5, allowed[0])):
            want, want_ids = sort(every, k, may)
            scores, ids = maxsim_topk_torch(*batch, k, may, None, "mean", scratch_bytes)
            assert torch.equal(scores, want)
            assert torch.equal(ids, want_ids)


@pytest.mark.slow
@pytest.mark.parametrize("scratch_bytes", [0, 3_000, 1 << 28])
def test_ranges_of_every_size(
    kernel: Kernel, scratch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of maxsim's own rounds of queries, whatever documents share a range."""
    if kernel.backend != "triton":
        pytest.skip("torch has test_blocks_of_every_size")
    from m3kernels.maxsim import launch as of_maxsim
    from m3kernels.maxsim_topk import launch

    narrow = partial(of_maxsim.maxsim_triton, scratch_bytes=3_000)
    monkeypatch.setattr(launch, "maxsim_triton", narrow)
    batch = ragged([5, 0, 40, 1], [3, 0, 41, 1, 17, 2], 16, device=kernel.device)
    every = of_maxsim.maxsim_triton(*batch, None, None, "mean", 3_000)
    allowed = torch.tensor([True, False, True, False, True, True], device=kernel.device)
    for may in (None, allowed, allowed.repeat(4, 1)):
        want, want_ids = sort(every, 4, may)
        scores, ids = launch.maxsim_topk_triton(*batch, 4, may, None, "mean", scratch_bytes)
        assert torch.equal(scores, want)
        assert torch.equal(ids, want_ids)


def test_equal_scores_go_by_id(kernel: Kernel) -> None:
    queries, cu_q, documents, _ = ragged([3], [4], 16, device=kernel.device)
    cu_d = from_lengths([4] * 30).to(kernel.device)
    batch = (queries, cu_q, documents.repeat(30, 1), cu_d)
    _, ids = assert_right(kernel, batch, 7)
    assert ids.tolist() == [[0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_numbers(kernel: Kernel, bad: float) -> None:
    queries = torch.ones(1, 16, device=kernel.device)
    documents = torch.arange(5.0, device=kernel.device)[:, None].repeat(1, 16)
    documents[3, 0] = bad
    documents[1] = -torch.inf
    cu_q, cu_d = (torch.tensor(cu, device=kernel.device) for cu in ([0, 1], [0, 1, 2, 3, 4, 5]))
    _, ids = assert_right(kernel, (queries, cu_q, documents, cu_d), 6)
    want = {"nan": [4, 2, 0, 1, 3, -1], "inf": [3, 4, 2, 0, 1, -1], "-inf": [4, 2, 0, 1, 3, -1]}
    assert ids.tolist() == [want[str(bad)]]


def test_a_query_with_a_nan_finds_by_id(kernel: Kernel) -> None:
    batch = ragged([3, 2], [4, 0, 5, 6], 16, device=kernel.device)
    batch[0][1] = float("nan")
    scores, ids = assert_right(kernel, batch, 3)
    assert ids[0].tolist() == [1, 0, 2]  # the empty document scores 0.0
    assert scores[0].isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_nothing_to_score(kernel: Kernel, sizes: tuple[int, int]) -> None:
    n_q, n_d = sizes
    for rows in (0, 2):
        batch = ragged([rows] * n_q, [rows] * n_d, 16, device=kernel.device)
        scores, ids = assert_right(kernel, batch, 4)
        assert scores.shape == (n_q, 4)
        assert (ids[:, n_d:] == -1).all()


def test_no_document_is_allowed(kernel: Kernel) -> None:
    batch = ragged([3, 2], [4, 5], 16, device=kernel.device)
    none = torch.zeros(2, dtype=torch.bool, device=kernel.device)
    masks: list[Any] = [[], none, none.repeat(2, 1)]
    for mask in masks:
        scores, ids = assert_right(kernel, batch, 2, mask, none)
        assert (scores == -torch.inf).all()
        assert (ids == -1).all()


@pytest.mark.slow
def test_no_matrix_of_all_scores() -> None:
    """300,000 documents: what is allocated at a time stays far below their scores."""
    from tests.kernels.conftest import Dispatched

    n_q, n_d = 64, 300_000
    largest = 0

    def saw(function: Any, args: tuple[Any, ...], made: Any) -> None:
        nonlocal largest
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                largest = max(largest, tensor.untyped_storage().nbytes())

    queries, cu_q, documents, _ = ragged([8] * n_q, [n_d], 2)
    cu_d = torch.arange(n_d + 1)
    allowed = torch.ones(n_d, dtype=torch.bool)
    with Dispatched(saw):
        maxsim_topk_torch(queries, cu_q, documents, cu_d, 10, allowed, None, "mean")
    assert 0 < largest < 24 << 20 < n_q * n_d * 4


@given(
    data=st.lists(
        st.floats(width=32, allow_nan=True) | st.sampled_from([0.0, -0.0, 1.0]), max_size=30
    ),
    k=st.integers(1, 40),
    step=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_the_order_of_any_floats(data: list[float], k: int, step: int, seed: int) -> None:
    scores = torch.tensor([data], dtype=torch.float32)
    allowed = torch.rand(len(data), generator=torch.Generator().manual_seed(seed)) < 0.8
    best = Best(1, k, scores.device)
    best.most = k + seed % 7
    for first in range(0, len(data), step):
        ids = torch.arange(first, min(first + step, len(data)))
        best.add(keys_of(scores[:, ids], ids, allowed[ids]))
    got, ids = best.result()
    want, want_ids = sort(scores, k, allowed)
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ids, want_ids)


def test_torch_compile_traces_it(device: torch.device) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def best(
        queries: torch.Tensor, cu_q: torch.Tensor, documents: torch.Tensor, cu_d: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores, ids = m3kernels.maxsim_topk(queries, cu_q, documents, cu_d, 3)
        return scores / 2, ids

    for lengths_d in ([5, 0, 9, 2], [3, 4, 5, 40]):
        batch = ragged([3, 4], lengths_d, 16, device=device)
        want, want_ids = m3kernels.maxsim_topk(*batch, 3)
        scores, ids = best(*batch)
        torch.testing.assert_close(scores * 2, want)
        assert torch.equal(ids, want_ids)


def test_the_custom_op_is_well_formed(kernel: Kernel) -> None:
    batch = ragged([3, 4], [5, 0, 9], 16, device=kernel.device)
    ids = torch.tensor([2, 0], device=kernel.device)
    for mask in (None, ids, torch.ones(2, 3, dtype=torch.bool, device=kernel.device)):
        torch.library.opcheck(
            torch.ops.m3kernels.maxsim_topk.default,
            (*batch, 2, mask, None, "mean", kernel.backend, True),
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": [[1.0]]}, TypeError, "queries is a list"),
        ({"documents": torch.ones(6, 9)}, ValueError, "documents has vectors of 9; expected 8"),
        ({"documents": torch.ones(6, 8).char()}, ValueError, "document_scales is None"),
        ({"cu_seqlens_d": torch.tensor([0, 5, 4, 6])}, ValueError, "cu_seqlens_d decreases"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"k": True}, TypeError, "k is a bool"),
        ({"k": 2.0}, TypeError, "k is a float"),
        ({"documents_mask": [1]}, ValueError, "documents_mask has the id 1; expected 0 <= id < 1"),
        ({"documents_mask": [-1]}, ValueError, "documents_mask has the id -1"),
        ({"documents_mask": [True]}, TypeError, "documents_mask has something other than ints"),
        ({"documents_mask": "0"}, TypeError, "documents_mask is a str"),
        ({"documents_mask": torch.ones(1)}, TypeError, "documents_mask has dtype float32"),
        ({"documents_mask": torch.ones(2).bool()}, ValueError, r"documents_mask has shape \(2,\)"),
        ({"documents_mask": torch.ones(1, 1).long()}, ValueError, "ids of shape"),
        ({"reduction": "max"}, ValueError, "reduction is 'max'"),
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
        "k": 1,
    }
    m3kernels.maxsim_topk(**arguments)
    with pytest.raises(error, match=message):
        m3kernels.maxsim_topk(**(arguments | change))
