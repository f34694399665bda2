"""What may surround a call of any op, and how its tensors may lie, without a change of its result.

Autocast, strides, exported programs, and dimensions that are no multiple of anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import m3kernels
import pytest
import torch
import torch.fx.experimental._config
from m3kernels import certified_topk, certify
from m3kernels.ops import OPS, Op
from m3kernels.packing import aligned
from torch.export import Dim, export
from torch.utils._pytree import tree_map

from tests.kernels.conftest import Kernel
from tests.kernels.test_maxsim import LIMITS, all_pairs, ragged
from tests.kernels.test_ops import examples

AUTOCAST = [
    ("cpu", torch.bfloat16),
    ("cpu", torch.float16),
    pytest.param(
        "cuda",
        torch.float16,
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card"),
    ),
]

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn]


def same(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("device_type", "narrow"), AUTOCAST, ids=str)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_autocast_changes_nothing(
    kernel: Kernel, op: Op, device_type: str, narrow: torch.dtype
) -> None:
    for backend in (kernel.backend, "reference"):
        for arguments in examples(op, 3, kernel.device):
            want = op.function(*arguments, backend=backend)
            with torch.autocast(device_type, dtype=narrow):
                got = op.function(*arguments, backend=backend)
                assert torch.is_autocast_enabled(device_type)
            same(got, want)


@contextmanager
def rounding(how: str, device: torch.device) -> Iterator[None]:
    """Let torch round the factors of float32 products, which a CPU without bfloat16 ignores."""
    backends: Any = torch.backends
    cuda = device.type == "cuda"
    setting: Any = getattr(backends.cuda if cuda else backends.mkldnn, "matmul", None)
    before = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, before)
        if how == "for all":
            torch.set_float32_matmul_precision("medium")
            yield
            assert torch.get_float32_matmul_precision() == "medium"
        elif not hasattr(setting, "fp32_precision"):
            pytest.skip("this torch has one setting for all")
        else:
            stack.callback(setattr, setting, "fp32_precision", setting.fp32_precision)
            setting.fp32_precision = lower = "tf32" if cuda else "bf16"
            yield
            assert setting.fp32_precision == lower


@pytest.mark.parametrize("how", ["for all", "of the device"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_lower_precision_rounds_no_score(
    device: torch.device, how: str, dtype: torch.dtype
) -> None:
    queries, cu_q, documents, cu_d = ragged([40, 0, 24], [300, 5, 0, 800], 96, device=device)
    batch = queries, cu_q, documents.to(dtype), cu_d
    rows = certify(documents, cu_d)

    def answers() -> list[Any]:
        pairs = all_pairs(3, 4, device)
        return [
            *(m3kernels.maxsim(*batch, backend=backend) for backend in ("torch", "reference")),
            m3kernels.maxsim(*batch, pairs=pairs, backend="torch"),
            m3kernels.maxsim_alignment(*batch, pairs, backend="torch"),
            m3kernels.maxsim_topk(*batch, 2, backend="torch"),
            certified_topk(queries, cu_q, rows, 2, backend="torch").scores,
        ]

    want = answers()
    with rounding(how, device):
        same(answers(), want)
        with ThreadPoolExecutor(4) as pool:  # nobody who leaves takes it from those inside
            for each in pool.map(lambda _: answers(), range(12)):
                same(each, want)
    same(answers(), want)


@pytest.mark.thinned(5)
@pytest.mark.parametrize(("device_type", "narrow"), AUTOCAST, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_rounds_no_score(
    kernel: Kernel, dtype: torch.dtype, device_type: str, narrow: torch.dtype
) -> None:
    queries, cu_q, documents, cu_d = ragged([9, 0, 3], [30, 5, 0, 80], 96, device=kernel.device)
    scales = None
    if dtype.itemsize == 1:
        documents, scales = m3kernels.quantize_tokens(documents, dtype)
    batch = queries, cu_q, documents.to(dtype), cu_d
    for pairs in (None, all_pairs(3, 4, kernel.device)):
        for backend in (kernel.backend, "reference"):
            options: dict[str, Any] = {
                "pairs": pairs, "document_scales": scales, "backend": backend
            }  # fmt: skip
            want = m3kernels.maxsim(*batch, **options)
            with torch.autocast(device_type, dtype=narrow):
                got = m3kernels.maxsim(*batch, **options)
            same(got, want)


@pytest.mark.parametrize(("device_type", "narrow"), AUTOCAST, ids=str)
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_autocast_rounds_no_quantized_row(
    device: torch.device, dtype: torch.dtype, device_type: str, narrow: torch.dtype
) -> None:
    vectors = torch.randn(40, 24, generator=torch.Generator().manual_seed(0)).to(device)
    want = m3kernels.quantize_tokens(vectors, dtype)
    with torch.autocast(device_type, dtype=narrow):
        got = m3kernels.quantize_tokens(vectors, dtype)
    same([part.float() for part in got], [part.float() for part in want])


def another_layout(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """The same numbers, (n, d) or (n,), as a caller's views may hold them."""
    yield rows.repeat_interleave(3, -1)[..., ::3]
    yield rows.repeat_interleave(2, 0)[::2]
    yield torch.nn.functional.pad(rows, (2, 3))[..., 2:-3]
    yield rows.T.contiguous().T
    yield torch.cat([rows.flatten()[:1], rows.flatten()])[1:].view(rows.shape)
    if rows.shape[0] == 1 and rows.ndim == 2:
        yield rows.flatten().as_strided(rows.shape, (3, 1))
        yield rows[0].expand(rows.shape)
        yield rows.T.contiguous().T


LENGTHS = [([5, 0, 3], [9, 1, 0, 4]), ([1], [12]), ([4, 2], [1]), ([1], [1])]


@pytest.mark.thinned(6)
@pytest.mark.parametrize(("lengths_q", "lengths_d"), LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vectors_lie_anyhow(
    kernel: Kernel, dtype: torch.dtype, lengths_q: list[int], lengths_d: list[int]
) -> None:
    queries, cu_q, documents, cu_d = ragged(lengths_q, lengths_d, 48, device=kernel.device)
    scales = None
    if dtype.itemsize == 1:
        documents, scales = m3kernels.quantize_tokens(documents, dtype)
    documents = documents.to(dtype)
    bytes_ = documents.view(torch.int8) if dtype.itemsize == 1 else documents
    want = m3kernels.maxsim(
        queries, cu_q, documents, cu_d, document_scales=scales, backend="reference"
    )
    pairs = all_pairs(want.shape[0], want.shape[1], kernel.device)
    for q, raw in zip(another_layout(queries), another_layout(bytes_), strict=False):
        d = raw.view(dtype)
        for some, wanted in ((None, want), (pairs, want.flatten())):
            got = m3kernels.maxsim(
                q, cu_q, d, cu_d, pairs=some, document_scales=scales, backend=kernel.backend
            )
            torch.testing.assert_close(got, wanted, **LIMITS)


def test_every_row_the_same_row(kernel: Kernel) -> None:
    """Stride 0: rows, scales and pairs that one row, number or pair stands for."""
    queries, cu_q, documents, cu_d = ragged([4, 3], [5, 2], 32, device=kernel.device)
    queries, documents = queries[:1].expand(7, -1), documents[:1].expand(7, -1)
    narrow, scales = m3kernels.quantize_tokens(documents[:1])
    pairs = torch.tensor([[1, 0]], device=kernel.device).expand(5, -1)
    for d, s in ((documents, None), (narrow.expand(7, -1), scales.expand(7))):
        batch = queries, cu_q, d, cu_d
        for some in (None, pairs):
            options: dict[str, Any] = {"pairs": some, "document_scales": s}
            want = m3kernels.maxsim(*batch, **options, backend="reference")
            got = m3kernels.maxsim(*batch, **options, backend=kernel.backend)
            torch.testing.assert_close(got, want, **LIMITS)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_tensors_of_any_op_lie_anyhow(kernel: Kernel, op: Op) -> None:
    def spread(part: Any) -> Any:
        if not isinstance(part, torch.Tensor) or part.ndim == 0:
            return part
        return part.repeat_interleave(3, -1)[..., ::3]

    for arguments in examples(op, 5, kernel.device):
        want = op.function(*arguments, backend="reference")
        got = op.function(*tree_map(spread, arguments), backend=kernel.backend)
        torch.testing.assert_close(got, want)


def test_one_row_of_states(kernel: Kernel) -> None:
    rng = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(1, 24, generator=rng), torch.randn(24, generator=rng)
    bias, ids, cu = torch.tensor(9.0), torch.tensor([7]), torch.tensor([0, 1])
    weight, bias, ids, cu = (part.to(kernel.device) for part in (weight, bias, ids, cu))
    hidden = hidden.to(kernel.device)
    want = m3kernels.sparse_max(hidden, weight, bias, ids, cu, backend="reference")
    for states in another_layout(hidden):
        got = m3kernels.sparse_max(states, weight, bias, ids, cu, backend=kernel.backend)
        torch.testing.assert_close(got, want)


def test_aligned_rows_have_the_strides_of_their_shape() -> None:
    row = torch.arange(8.0)
    for odd in (
        row.as_strided((1, 5), (3, 1)),
        row[:5][:, None].T,
        row.as_strided((5, 1), (1, 9)),
    ):
        assert aligned(odd).stride() == torch.empty(odd.shape).stride()
        assert torch.equal(aligned(odd), odd)
    packed = torch.zeros(3, 4)
    assert aligned(packed).data_ptr() == packed.data_ptr()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [1, 7, 20, 24, 100, 1000])
def test_vectors_of_any_dimension(kernel: Kernel, dim: int, dtype: torch.dtype) -> None:
    """Rows that are no multiple of 16 bytes are read where they lie, the last block masked."""
    queries, cu_q, documents, cu_d = ragged([3, 0, 9], [5, 17, 0, 9], dim, device=kernel.device)
    scales = None
    if dtype.itemsize == 1:
        documents, scales = m3kernels.quantize_tokens(documents, dtype)
    elif dtype != torch.float32:
        queries = queries.to(dtype)
    batch = queries, cu_q, documents.to(dtype), cu_d
    want = m3kernels.maxsim(*batch, document_scales=scales, backend="reference")
    got = m3kernels.maxsim(*batch, document_scales=scales, backend=kernel.backend)
    torch.testing.assert_close(got, want, **LIMITS)
    pairs = all_pairs(want.shape[0], want.shape[1], kernel.device)
    got = m3kernels.maxsim(*batch, pairs=pairs, document_scales=scales, backend=kernel.backend)
    torch.testing.assert_close(got, want.flatten(), **LIMITS)


def test_vectors_without_dimensions(kernel: Kernel) -> None:
    batch = ragged([3, 1], [5, 2], 0, device=kernel.device)
    assert m3kernels.maxsim(*batch).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    if kernel.backend == "triton":
        with pytest.raises(ValueError, match="vectors have no dimensions; use backend='torch'"):
            m3kernels.maxsim(*batch, backend="triton")


class _Scores(torch.nn.Module):
    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        return m3kernels.maxsim(*batch[:4], pairs=batch[4] if len(batch) > 4 else None)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_one_document(device: torch.device, strict: bool) -> None:
    batch = ragged([5], [9], 16, device=device)
    program = export(_Scores(), batch, strict=strict)
    fresh = ragged([5], [9], 16, seed=3, device=device)
    same(program.module()(*fresh), m3kernels.maxsim(*fresh))
    # Its tokens are as many as it likes: only the rows are dynamic.
    rows = ({0: Dim.DYNAMIC}, None, {0: Dim.DYNAMIC}, None)
    program = export(_Scores(), batch, dynamic_shapes=(rows,), strict=strict)
    for lengths in (([1], [1]), ([3], [70])):
        fresh = ragged(*lengths, 16, device=device)
        same(program.module()(*fresh), m3kernels.maxsim(*fresh))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("sample", [([5, 2], [9, 3, 4]), ([5], [9])], ids=["several", "one"])
def test_export_with_any_number_of_documents(
    device: torch.device, sample: tuple[list[int], list[int]], strict: bool
) -> None:
    """One among them, which torch takes for another program unless it is told not to."""
    every = {0: Dim.DYNAMIC}
    batch = ragged(*sample, 16, device=device)
    config: Any = torch.fx.experimental._config  # has no types
    with config.patch(backed_size_oblivious=True):
        program = export(_Scores(), batch, dynamic_shapes=((every,) * 4,), strict=strict)
    for lengths in (([4, 1], [8]), ([4], [8, 8]), ([1, 2, 3], [4, 0, 9, 7]), ([2], [3])):
        fresh = ragged(*lengths, 16, device=device)
        same(program.module()(*fresh), m3kernels.maxsim(*fresh))


def test_export_of_pairs(device: torch.device) -> None:
    batch, pairs = ragged([5, 2], [9, 3, 4], 16, device=device), all_pairs(2, 3, device)
    every = {0: Dim.DYNAMIC}
    program = export(_Scores(), (*batch, pairs), dynamic_shapes=((every,) * 5,))
    for n in (2, 6):
        same(program.module()(*batch, pairs[:n]), m3kernels.maxsim(*batch, pairs=pairs[:n]))
    program = export(_Scores(), (*batch, pairs[:1]))
    same(program.module()(*batch, pairs[1:2]), m3kernels.maxsim(*batch, pairs=pairs[1:2]))
