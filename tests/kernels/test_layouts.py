"""Padded sequences, slices of one matrix, masks and weights: the scores of the packed batch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels import Padded, Slices
from m3kernels.layouts import check_side, settle
from m3kernels.packing import FLOAT_DTYPES, from_lengths

from tests.kernels.conftest import HAS_TRITON, KERNELS, Dispatched, Kernel
from tests.kernels.test_maxsim import LIMITS, all_pairs

DIM = 16
KINDS = ["packed", "lengths", "left", "right", "holes", "slices"]


class Sequences(NamedTuple):
    """The same sequences in a layout, and packed: vectors, cu_seqlens, a number for each token."""

    given: Any
    cu: torch.Tensor | None
    numbers: torch.Tensor
    packed: torch.Tensor
    packed_cu: torch.Tensor
    packed_numbers: torch.Tensor


def draw(
    kind: str,
    lengths: list[int],
    rng: torch.Generator,
    *,
    dim: int = DIM,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Sequences:
    """Sequences of these lengths; what is no token of theirs is NaN."""
    n, room = len(lengths), max([*lengths, 1]) + 2
    counts = torch.tensor(lengths, dtype=torch.int64)
    places = torch.arange(room)
    mask = places < counts[:, None]
    if kind == "left":
        mask = mask.flip(1)
    elif kind == "holes":
        mask = torch.stack([
            torch.randperm(room, generator=rng) < length for length in lengths
        ]) if lengths else mask  # fmt: skip
    vectors = torch.full((n, room, dim), math.nan)
    numbers = torch.full((n, room), math.nan)
    vectors[mask] = torch.randn(sum(lengths), dim, generator=rng)
    numbers[mask] = torch.randn(sum(lengths), generator=rng)
    vectors, numbers = vectors.to(device, dtype), numbers.to(device)
    mask, counts = mask.to(device), counts.to(device)
    packed = vectors[mask], from_lengths(counts), numbers[mask]
    if kind == "packed":
        return Sequences(packed[0], packed[1], packed[2], *packed)
    if kind == "lengths":
        return Sequences(Padded(vectors, lengths=counts), None, numbers, *packed)
    if kind == "slices":
        order = torch.randperm(n, generator=rng).to(device)  # where in the matrix each one lies
        matrix, spread = torch.empty_like(vectors), torch.empty_like(numbers)
        matrix[order], spread[order] = vectors, numbers
        slices = Slices(matrix.flatten(0, 1), (order * room).int(), counts.int())
        return Sequences(slices, None, spread.flatten(), *packed)
    return Sequences(Padded(vectors, mask=mask), None, numbers, *packed)


LENGTHS = st.lists(st.integers(0, 7), max_size=5)
DRAWN = {
    "kind_q": st.sampled_from(KINDS),
    "kind_d": st.sampled_from(KINDS),
    "lengths_q": LENGTHS,
    "lengths_d": LENGTHS,
    "weighted": st.booleans(),
    "reduction": st.sampled_from(["mean", "sum"]),
    "seed": st.integers(0, 2**31),
}


def check(
    kernel: Kernel,
    kind_q: str,
    kind_d: str,
    lengths_q: list[int],
    lengths_d: list[int],
    weighted: bool,
    reduction: str,
    seed: int,
) -> None:
    rng = torch.Generator().manual_seed(seed)
    q = draw(kind_q, lengths_q, rng, device=kernel.device)
    d = draw(kind_d, lengths_d, rng, device=kernel.device)
    want = m3kernels.maxsim(
        q.packed, q.packed_cu, d.packed, d.packed_cu, reduction=reduction, backend="reference",
        query_weights=q.packed_numbers if weighted else None,
    )  # fmt: skip
    assert want.shape == (len(lengths_q), len(lengths_d))
    options: dict[str, Any] = {
        "reduction": reduction, "query_weights": q.numbers if weighted else None
    }  # fmt: skip
    pairs = all_pairs(len(lengths_q), len(lengths_d), kernel.device).flip(0)
    # Values are looked at or not: a mask is settled in two ways.
    validations = [True] if kernel.backend != "triton" else [True, False]
    for backend in (kernel.backend, "reference"):
        for validate in validations:
            options |= {"backend": backend, "validate": validate}
            got = m3kernels.maxsim(q.given, q.cu, d.given, d.cu, **options)
            torch.testing.assert_close(got, want, **LIMITS)
            got = m3kernels.maxsim(q.given, q.cu, d.given, d.cu, pairs=pairs, **options)
            torch.testing.assert_close(got, want.flatten().flip(0), **LIMITS)


@settings(max_examples=60, deadline=None)
@given(**DRAWN)
def test_any_layout(module_device: torch.device, **drawn: Any) -> None:
    check(Kernel(module_device, "torch"), **drawn)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@settings(max_examples=60 if torch.cuda.is_available() else 8, deadline=None)
@given(**DRAWN)
def test_any_layout_in_triton(**drawn: Any) -> None:
    check(KERNELS[-1], **drawn)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_q", [1, 3])
def test_documents_of_many_tiles(kernel: Kernel, kind: str, n_q: int) -> None:
    rng = torch.Generator().manual_seed(n_q)
    q = draw("packed", [5, 19, 2][:n_q], rng, device=kernel.device)
    d = draw(kind, [70, 0, 3, 40, 16], rng, device=kernel.device)
    want = m3kernels.maxsim(q.packed, q.packed_cu, d.packed, d.packed_cu, backend="reference")
    got = m3kernels.maxsim(q.given, q.cu, d.given, d.cu, backend=kernel.backend)
    torch.testing.assert_close(got, want, **LIMITS)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("narrow", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_documents(kernel: Kernel, kind: str, narrow: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    q = draw("lengths", [3, 0, 9], rng, device=kernel.device)
    d = draw(kind, [20, 3, 0, 7], rng, device=kernel.device)
    vectors = d.given if isinstance(d.given, torch.Tensor) else d.given.vectors
    bytes_, scales = m3kernels.quantize_tokens(vectors.reshape(-1, DIM), narrow)
    bytes_, scales = bytes_.view(vectors.shape), scales.view(vectors.shape[:-1])
    given: Any = bytes_
    if isinstance(d.given, Padded):
        given = Padded(bytes_, lengths=d.given.lengths, mask=d.given.mask)
    elif isinstance(d.given, Slices):
        given = Slices(bytes_, d.given.offsets, d.given.lengths)
    packed, packed_scales = m3kernels.quantize_tokens(d.packed, narrow)
    want = m3kernels.maxsim(
        q.packed, q.packed_cu, packed, d.packed_cu, document_scales=packed_scales,
        backend="reference",
    )  # fmt: skip
    for pairs, wanted in ((None, want), (all_pairs(3, 4, kernel.device), want.flatten())):
        got = m3kernels.maxsim(
            q.given, q.cu, given, d.cu, pairs=pairs, document_scales=scales, backend=kernel.backend
        )
        torch.testing.assert_close(got, wanted, **LIMITS)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("cut", ["first token", "last token", "columns", "transposed"])
def test_views_of_a_padded_tensor(kernel: Kernel, cut: str, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(1)
    hidden = torch.randn(4, 9, 24, generator=rng).to(kernel.device, dtype)
    view = {
        "first token": hidden[:, 1:],
        "last token": hidden[:, :-1],
        "columns": hidden[..., :16],
        "transposed": hidden.transpose(0, 1),
    }[cut]
    lengths = torch.tensor([3, 0, 7, 2, 1, 4, 4, 0, 2], device=kernel.device)
    lengths = lengths[: len(view)].clamp(max=view.shape[1])
    padded = Padded(view, lengths=lengths)
    rows = torch.arange(view.shape[1], device=kernel.device) < lengths[:, None]
    packed, cu = view[rows], from_lengths(lengths)
    want = m3kernels.maxsim(packed, cu, packed, cu, backend="reference")
    got = m3kernels.maxsim(padded, None, padded, None, backend=kernel.backend)
    torch.testing.assert_close(got, want, **LIMITS)
    side = check_side("documents", padded, None, dtypes=FLOAT_DTYPES)
    lies_in = side.rows.untyped_storage().data_ptr() == hidden.untyped_storage().data_ptr()
    assert lies_in == (cut != "transposed"), "only what is no matrix of rows is copied"


def test_padded_without_lengths_is_full(kernel: Kernel) -> None:
    vectors = torch.randn(3, 4, DIM, generator=torch.Generator().manual_seed(0)).to(kernel.device)
    cu = torch.arange(0, 13, 4, device=kernel.device)
    rows = vectors.flatten(0, 1)
    want = m3kernels.maxsim(rows, cu, rows, cu, backend="reference")
    got = m3kernels.maxsim(Padded(vectors), None, Padded(vectors), None, backend=kernel.backend)
    torch.testing.assert_close(got, want, **LIMITS)


def test_slices_overlap_and_repeat(kernel: Kernel) -> None:
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(50, DIM, generator=rng).to(kernel.device)
    offsets = torch.tensor([40, 3, 0, 3, 49, 50], device=kernel.device)
    lengths = torch.tensor([10, 30, 50, 30, 1, 0], device=kernel.device)
    slices = Slices(matrix, offsets, lengths)
    parts = [matrix[o : o + n] for o, n in zip(offsets.tolist(), lengths.tolist(), strict=True)]
    packed, cu = torch.cat(parts), from_lengths(lengths)
    want = m3kernels.maxsim(packed, cu, packed, cu, backend="reference")
    for backend in (kernel.backend, "reference"):
        got = m3kernels.maxsim(slices, None, slices, None, backend=backend)
        torch.testing.assert_close(got, want, **LIMITS)


@pytest.mark.parametrize("kind", ["lengths", "left", "right", "slices"])
def test_documents_are_not_copied(kind: str) -> None:
    """On a CPU no tensor of a call grows with the documents."""
    rng = torch.Generator().manual_seed(0)
    d = draw(kind, [40, 3, 0, 90] * 500, rng, dim=64)
    q = draw("packed", [8], rng, dim=64)
    lies_at = d.given.vectors.untyped_storage().data_ptr()
    largest = 0

    def saw(function: Any, arguments: Any, made: Any) -> None:
        nonlocal largest
        for part in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(part, torch.Tensor) and part.untyped_storage().data_ptr() != lies_at:
                largest = max(largest, part.numel() * part.element_size())

    with Dispatched(saw):
        m3kernels.maxsim(q.given, q.cu, d.given, None, backend="torch")
    documents = d.given.vectors.numel() * 4
    assert documents > 40 << 20
    assert largest < 17 << 20


def test_settled_masks_copy_only_for_holes() -> None:
    rows = torch.arange(12.0)[:, None]
    where = torch.tensor([[0, 4], [4, 8], [8, 12]])
    runs = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    same, spans, order = settle(rows, where, runs, look=True)
    assert same is rows
    assert order is None
    assert (spans[:2].tolist(), spans.diff(dim=1)[:, 0].tolist()) == ([[1, 3], [4, 8]], [2, 4, 0])
    holes = runs.clone()
    holes[0, 3], holes[0, 2] = True, False
    for mask, look in ((holes, True), (runs, False), (holes, False)):
        copied, cu, order = settle(rows, where, mask, look=look)
        n = int(cu[-1])
        assert copied[:n, 0].tolist() == rows[mask.flatten(), 0].tolist()
        assert order is not None
        assert torch.equal(rows[order], copied)


def test_a_weight_of_zero_hides_what_is_not_finite(kernel: Kernel) -> None:
    queries = torch.ones(3, DIM, device=kernel.device)
    queries[1] = math.nan
    queries[2] = math.inf
    documents = torch.ones(2, DIM, device=kernel.device)
    cu_q, cu_d = (torch.tensor([0, n], device=kernel.device) for n in (3, 2))
    weights = torch.tensor([2.0, 0.0, 0.0], device=kernel.device)
    for pairs in (None, torch.tensor([[0, 0]], device=kernel.device)):
        for backend in (kernel.backend, "reference"):
            score = m3kernels.maxsim(
                queries, cu_q, documents, cu_d, pairs=pairs, query_weights=weights, backend=backend
            )
            assert score.item() == pytest.approx(2 * DIM / 3)  # of three tokens


def test_weights_in_rounds(kernel: Kernel) -> None:
    if kernel.backend != "triton":
        pytest.skip("about the launches")
    from m3kernels.maxsim.routes import maxsim_triton_anyhow

    rng = torch.Generator().manual_seed(0)
    q = draw("packed", [5, 0, 17, 9], rng, device=kernel.device)
    d = draw("packed", [8, 20, 0], rng, device=kernel.device)
    batch = q.packed, q.packed_cu, d.packed, d.packed_cu
    want = m3kernels.maxsim(*batch, query_weights=q.numbers, backend="reference")
    for scratch_bytes in (0, 100, 1 << 20):
        got = maxsim_triton_anyhow(
            *batch, None, None, "mean", q.numbers, scratch_bytes=scratch_bytes
        )
        torch.testing.assert_close(got, want, **LIMITS)


@pytest.mark.parametrize("kind", ["packed", "lengths", "slices"])
def test_same_bytes_each_time(kernel: Kernel, kind: str) -> None:
    rng = torch.Generator().manual_seed(0)
    q = draw(kind, [7, 20], rng, device=kernel.device)
    d = draw(kind, [20, 3], rng, device=kernel.device)
    for weights in (None, q.numbers):
        options: dict[str, Any] = {"query_weights": weights, "backend": kernel.backend}
        one, two = (m3kernels.maxsim(q.given, q.cu, d.given, d.cu, **options) for _ in range(2))
        assert torch.equal(one, two)


@pytest.mark.parametrize("layout", ["lengths", "mask", "slices"])
def test_torch_compile_traces_a_layout(device: torch.device, layout: str) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def scores(
        vectors: torch.Tensor, lengths: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        offsets = torch.arange(lengths.shape[0], device=lengths.device) * vectors.shape[1]
        side: Any = Padded(vectors, lengths=lengths)
        if layout == "mask":
            side = Padded(vectors, mask=mask)
        elif layout == "slices":
            side = Slices(vectors.flatten(0, 1), offsets, lengths)
        factors = weights.flatten() if layout == "slices" else weights
        return m3kernels.maxsim(side, None, side, None, query_weights=factors)

    rng = torch.Generator().manual_seed(0)
    for n, room in ((3, 5), (4, 9)):
        vectors = torch.randn(n, room, DIM, generator=rng).to(device)
        weights = torch.rand(n, room, generator=rng).to(device)
        lengths = torch.randint(0, room + 1, (n,), generator=rng).to(device)
        mask = torch.arange(room, device=device) < lengths[:, None]
        packed, cu = vectors[mask], from_lengths(lengths)
        want = m3kernels.maxsim(packed, cu, packed, cu, query_weights=weights[mask])
        torch.testing.assert_close(scores(vectors, lengths, mask, weights), want)


VECTORS, LENGTHS_OF = torch.ones(2, 3, 8), torch.tensor([3, 2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": Padded(VECTORS)}, ValueError, "cu_seqlens_q is given with Padded queries"),
        ({"cu_seqlens_q": None}, ValueError, "cu_seqlens_q is None; expected the offsets"),
        ({"cu_seqlens_d": None}, ValueError, "cu_seqlens_d is None; expected the offsets"),
        ({"queries": Padded(VECTORS[0])}, ValueError, r"queries.vectors has shape \(3, 8\)"),
        ({"queries": Padded(VECTORS.long())}, TypeError, "queries.vectors has dtype int64"),
        (
            {"queries": Padded(VECTORS, lengths=torch.tensor([3]))},
            ValueError,
            "queries.lengths has 1 entries; expected 2",
        ),
        (
            {"queries": Padded(VECTORS, lengths=torch.tensor([3, 4]))},
            ValueError,
            "queries.lengths has 4; expected 0 <= length <= 3",
        ),
        (
            {"queries": Padded(VECTORS, lengths=torch.tensor([3, -1]))},
            ValueError,
            "queries.lengths has -1; expected 0 <= length <= 3",
        ),
        (
            {"queries": Padded(VECTORS, LENGTHS_OF, torch.ones(2, 3) > 0)},
            ValueError,
            "queries has lengths and a mask",
        ),
        (
            {"queries": Padded(VECTORS, mask=torch.ones(2, 3))},
            TypeError,
            "queries.mask has dtype float32",
        ),
        (
            {"queries": Padded(VECTORS, mask=torch.ones(3, 2) > 0)},
            ValueError,
            r"queries.mask has shape \(3, 2\); expected \(2, 3\)",
        ),
        (
            {"queries": Slices(VECTORS[0], torch.tensor([0, 2]), torch.tensor([1, 2]))},
            ValueError,
            "queries has a slice of 2 rows from row 2 on; expected slices within the 3 rows",
        ),
        (
            {"queries": Slices(VECTORS[0], torch.tensor([-1]), torch.tensor([1]))},
            ValueError,
            "queries has a slice of 1 rows from row -1 on",
        ),
        (
            {"queries": Slices(VECTORS[0], torch.tensor([0]), torch.tensor([1, 2]))},
            ValueError,
            "queries.lengths has 2 entries; expected 1",
        ),
        ({"query_weights": torch.ones(3)}, ValueError, "query_weights has 3 entries; expected 4"),
        ({"query_weights": torch.ones(4).long()}, TypeError, "query_weights has dtype int64"),
        (
            {"queries": Padded(VECTORS), "query_weights": torch.ones(6)},
            ValueError,
            r"query_weights has shape \(6,\)",
        ),
        (
            {"queries": Padded(VECTORS), "query_weights": torch.ones(3, 2)},
            ValueError,
            r"query_weights has shape \(3, 2\); expected \(2, 3\)",
        ),
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
    }
    if "queries" in change and "is given" not in message:
        arguments["cu_seqlens_q"] = None
    with pytest.raises(error, match=message):
        m3kernels.maxsim(**(arguments | change))
