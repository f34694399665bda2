from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.maxsim.cpu import maxsim_torch
from m3kernels.packing import from_lengths
from m3kernels.quantize import quantize_tokens
from torch.nn.functional import normalize

FLOAT8 = torch.float8_e4m3fn
DTYPES = [torch.int8, FLOAT8]
LARGEST = {torch.int8: 127.0, FLOAT8: 448.0}


def widened(vectors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    quantized, scales = quantize_tokens(vectors, dtype)
    assert quantized.shape == vectors.shape
    assert quantized.dtype == dtype
    assert scales.shape == vectors.shape[:1]
    assert scales.dtype == torch.float32
    assert not scales.requires_grad
    return quantized.double() * scales.double()[:, None]


def steps(vectors: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Half of the distance between the numbers around each x: the largest error there is."""
    if dtype == torch.int8:
        return (scales / 2)[:, None].expand_as(vectors)
    # Three bits of mantissa, and subnormals 2^-9 apart.
    return torch.maximum(vectors.abs() / 16, scales[:, None] * 2**-10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_an_error_is_at_most_half_a_step(
    device: torch.device, source: torch.dtype, dtype: torch.dtype
) -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(57, 130, generator=rng) * torch.logspace(-3, 3, 57)[:, None]
    vectors = vectors.to(device, source)
    _, scales = quantize_tokens(vectors, dtype)
    largest = vectors.double().abs().amax(1)
    torch.testing.assert_close(scales.double(), largest / LARGEST[dtype], rtol=1e-6, atol=0.0)
    error = (widened(vectors, dtype) - vectors.double()).abs()
    assert (error <= 1.0001 * steps(vectors.double(), scales.double(), dtype)).all()


@settings(max_examples=80)
@given(
    rows=st.integers(0, 9),
    dim=st.integers(1, 40),
    exponent=st.integers(-45, 38),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_rows_of_every_size_stay_finite(
    rows: int, dim: int, exponent: int, dtype: torch.dtype, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    vectors = (torch.rand(rows, dim, generator=rng) * 2 - 1) * 10.0**exponent
    quantized, scales = quantize_tokens(vectors, dtype)
    assert quantized.float().isfinite().all()
    assert scales.isfinite().all()
    assert (scales > 0).all()
    error = (widened(vectors, dtype) - vectors.double()).abs()
    assert (error <= 1.0001 * steps(vectors.double(), scales.double(), dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_extremes_use_the_whole_range(dtype: torch.dtype) -> None:
    vectors = torch.tensor([[1.0, -3.0, 0.0], [-0.1, 0.1, 0.05], [3.4e38, -3.4e38, 0.0]])
    quantized, _ = quantize_tokens(vectors, dtype)
    assert (quantized.float().abs().amax(1) == LARGEST[dtype]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_zeros(device: torch.device, dtype: torch.dtype) -> None:
    quantized, scales = quantize_tokens(torch.zeros(2, 5, device=device), dtype)
    assert (quantized.float() == 0).all()
    assert scales.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_bad_row_shows_in_its_document_alone(
    device: torch.device, dtype: torch.dtype, bad: float
) -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(9, 32, generator=rng).to(device)
    clean, clean_scales = quantize_tokens(vectors, dtype)
    vectors[4, 7] = bad
    quantized, scales = quantize_tokens(vectors, dtype)
    assert scales.isnan().nonzero().tolist() == [[4]]
    assert (quantized[4].float() == 0).all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(quantized[others].float(), clean[others].float())
    assert torch.equal(scales[others], clean_scales[others])
    cu_q, cu_d = from_lengths([3]).to(device), from_lengths([3, 3, 3]).to(device)
    scores = maxsim_torch(vectors[:3], cu_q, quantized, cu_d, None, scales, "mean")
    assert scores.isnan().tolist() == [[False, True, False]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    want = quantize_tokens(vectors, dtype)
    for block in (1, 33, 16 * 7):
        monkeypatch.setattr("m3kernels.quantize._BLOCK", block)
        got = quantize_tokens(vectors, dtype)
        for mine, theirs in zip(got, want, strict=True):
            assert torch.equal(mine.float(), theirs.float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_rows_and_views(dtype: torch.dtype) -> None:
    quantized, scales = quantize_tokens(torch.ones(0, 4), dtype)
    assert (quantized.shape, scales.shape) == ((0, 4), (0,))
    vectors = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    want = quantize_tokens(vectors, dtype)
    got = quantize_tokens(vectors.T.contiguous().T, dtype)
    for mine, theirs in zip(got, want, strict=True):
        assert torch.equal(mine.float(), theirs.float())


def test_rounding_has_no_gradient() -> None:
    vectors = torch.ones(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"vectors requires a gradient.*vectors\.detach\(\)"):
        quantize_tokens(vectors)
    for allowed in (torch.no_grad(), torch.inference_mode()):
        with allowed:
            quantized, scales = quantize_tokens(vectors)
            assert not quantized.requires_grad
            assert not scales.requires_grad
    quantize_tokens(vectors.detach())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_compiles_to_one_graph(dtype: torch.dtype) -> None:
    compiled = torch.compile(
        lambda rows: quantize_tokens(rows, dtype), fullgraph=True, backend="aot_eager"
    )
    for n in (3, 6, 11):
        vectors = torch.randn(n, 16, generator=torch.Generator().manual_seed(n))
        vectors[1] = 0.0
        vectors[2, 0] = float("nan")
        for mine, theirs in zip(compiled(vectors), quantize_tokens(vectors, dtype), strict=True):
            assert torch.equal(mine.float().nan_to_num(-9), theirs.float().nan_to_num(-9))


@pytest.mark.parametrize(
    ("dtype", "largest", "mean"), [(torch.int8, 4e-4, 6e-5), (FLOAT8, 2e-3, 4e-4)], ids=str
)
def test_scores_move_by_as_little_as_the_docstring_says(
    dtype: torch.dtype, largest: float, mean: float
) -> None:
    rng = torch.Generator().manual_seed(0)
    n_q, lengths = 12, torch.randint(5, 80, (60,), generator=rng).tolist()
    centres = torch.randn(16, 1024, generator=rng)
    rows = centres[torch.randint(0, 16, (sum(lengths),), generator=rng)]
    spread = 0.4 + 1.2 * torch.rand(len(rows), 1, generator=rng)
    documents = normalize(rows + spread * torch.randn(rows.shape, generator=rng), dim=1)
    near = documents[torch.randint(0, len(rows), (32 * n_q,), generator=rng)]
    noise = normalize(torch.randn(near.shape, generator=rng), dim=1)
    queries = normalize(near + 0.8 * noise, dim=1)
    cu_q, cu_d = from_lengths([32] * n_q), from_lengths(lengths)
    want = maxsim_torch(queries, cu_q, documents, cu_d, None, None, "mean")
    quantized, scales = quantize_tokens(documents, dtype)
    got = maxsim_torch(queries, cu_q, quantized, cu_d, None, scales, "mean")
    error = (got - want).abs()
    assert error.max() < largest
    assert error.mean() < mean
    kept = (got.topk(10).indices[:, :, None] == want.topk(10).indices[:, None]).any(2).sum(1)
    assert kept.float().mean() >= 9.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]],), TypeError, "vectors is a list"),
        ((torch.ones(2, 2).double(),), TypeError, "vectors has dtype float64"),
        ((torch.ones(2),), ValueError, r"vectors has shape \(2,\)"),
        ((torch.ones(2, 0),), ValueError, "vectors has no columns"),
        ((torch.ones(2, 2), torch.uint8), TypeError, "dtype is torch.uint8; expected torch.int8"),
        ((torch.ones(2, 2), "int8"), TypeError, "dtype is 'int8'"),
    ],
)
def test_errors_name_the_argument(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quantize_tokens(*arguments)
