"""After `warmup` a call launches no kernel that was not launched before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import m3kernels
import pytest
import torch
from m3kernels.dispatch import target_of
from m3kernels.ops import OPS
from m3kernels.packing import from_lengths

from tests.kernels.conftest import HAS_TRITON, KERNELS
from tests.kernels.test_maxsim import LIMITS, all_pairs, ragged

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")

Launches = set[tuple[Any, ...]]


class Recorder:
    """A kernel that tells what would be compiled: its constants and its arguments' types."""

    def __init__(self, kernel: Any, launches: Launches) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        def launch(*arguments: Any, **constants: Any) -> Any:
            types = tuple(self._type(part) for part in arguments)
            named = tuple(sorted((key, str(value)) for key, value in constants.items()))
            self.launches.add((self.kernel.fn.__name__, types, named))
            return self.kernel[grid](*arguments, **constants)

        return launch

    @staticmethod
    def _type(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return str(part.dtype)
        if hasattr(part, "block_shape"):
            return str(part.base.dtype), tuple(part.block_shape)
        return type(part).__name__


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    found: Launches = set()
    for op in OPS:
        launch = op.module("launch")
        for name in op.module("kernels").__all__:
            if name.endswith("_kernel"):
                monkeypatch.setattr(launch, name, Recorder(getattr(launch, name), found))
    return found


@needs_triton
@pytest.mark.parametrize(
    ("dim", "dtypes"),
    [
        (16, [torch.float32, (torch.float16, torch.int8)]),
        pytest.param(
            20, [torch.bfloat16, (torch.float32, torch.float8_e4m3fn)], marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_later_calls_launch_nothing_new(launches: Launches, dim: int, dtypes: list[Any]) -> None:
    device = KERNELS[-1].device
    done = m3kernels.warmup(dim, dtypes, device)
    assert {name.split()[0] for name in done} == {op.name for op in OPS}
    warm = set(launches)
    every = {
        name for op in OPS for name in op.module("kernels").__all__ if name.endswith("_kernel")
    }
    if dim == 20:
        every.remove("maxsim_digits_kernel")  # for int8
    assert {name for name, _, _ in warm} == every
    launches.clear()
    rng = torch.Generator().manual_seed(dim)
    for given in dtypes:
        of_q, of_d = given if isinstance(given, tuple) else (given, given)
        for longest in (3, 30):
            lengths_q = torch.randint(0, longest, (3,), generator=rng).tolist()
            lengths_d = torch.randint(0, longest, (5,), generator=rng).tolist()
            queries, cu_q, documents, cu_d = ragged([*lengths_q, 1], lengths_d, dim, device=device)
            scales = None
            if of_d.itemsize == 1:
                documents, scales = m3kernels.quantize_tokens(documents, of_d)
            batch = queries.to(of_q), cu_q, documents.to(of_d), cu_d
            options: dict[str, Any] = {"document_scales": scales, "backend": "triton"}
            pairs = all_pairs(4, 5, device)
            for reduction in ("mean", "sum"):
                for some in (None, pairs[:1], pairs[3:6], pairs):
                    m3kernels.maxsim(*batch, pairs=some, reduction=reduction, **options)
            for some in (pairs[:1], pairs):
                m3kernels.maxsim_alignment(*batch, some, **options)
            m3kernels.maxsim_topk(*batch, 2, **options)
            weights = torch.ones(len(queries), device=device)
            m3kernels.maxsim(*batch, query_weights=weights, **options)
        hidden = torch.randn(9, dim, generator=rng).to(device, of_q)
        csr = m3kernels.sparse_max(
            hidden, hidden[0], hidden[0, 0], torch.arange(9, device=device),
            from_lengths([4, 0, 5]).to(device), backend="triton",
        )  # fmt: skip
        m3kernels.lexical_scores(csr, csr, backend="triton")
    assert launches
    assert launches <= warm, launches - warm


def test_nothing_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert m3kernels.warmup(1024, [torch.bfloat16, torch.float32], "cpu") == ()
    if not torch.cuda.is_available():
        assert m3kernels.warmup(1024) == ()


@needs_triton
def test_what_a_card_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("about the card that the interpreter stands for")
    cpu = torch.device("cpu")
    target = target_of(cpu)
    assert target is not None
    without = replace(target, fp8=False)
    monkeypatch.setattr("m3kernels.token_vectors.target_of", lambda device: without)
    done = m3kernels.warmup(16, [(torch.float16, torch.float8_e4m3fn)], "cpu")
    assert done == ("sparse_max float16", "lexical_scores")


@pytest.mark.parametrize(
    ("dim", "dtypes", "error", "message"),
    [
        (0, [torch.float32], ValueError, "dim is 0; expected 1 or more"),
        (16, [torch.int8], TypeError, "dtypes has torch.int8; expected"),
        (16, [torch.float64], TypeError, "dtypes has torch.float64; expected"),
        (16, [(torch.int8, torch.float16)], TypeError, "dtypes has"),
    ],
)
def test_errors_name_the_argument(
    dim: int, dtypes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        m3kernels.warmup(dim, dtypes, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_a_cuda_graph_records_a_first_call() -> None:
    """Of a dimension that no other test has compiled kernels for."""
    device, dim = torch.device("cuda"), 1056
    m3kernels.warmup(dim, [torch.float16], device)
    batch = ragged([32, 7], [51, 1, 100], dim, dtype=torch.float16, device=device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = m3kernels.maxsim(*batch, backend="triton", validate=False)
    graph.replay()
    want = m3kernels.maxsim(*batch, backend="reference")
    torch.testing.assert_close(scores, want, **LIMITS)
