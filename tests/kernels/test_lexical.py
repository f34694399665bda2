from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.lexical.cpu import lexical_scores_torch
from m3kernels.packing import from_lengths

from tests.kernels.conftest import Kernel, another_stream

CSR = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Rows = Sequence[Mapping[int, float]]

ROWS = st.lists(
    st.dictionaries(
        st.sampled_from([0, 3, 4, 9, 9 + 2**18, 250_001, 2**31 - 1]), st.floats(0.1, 4)
    ),
    max_size=6,
)


def csr(rows: Rows, device: torch.device | str = "cpu") -> CSR:
    """The CSR of dicts {id: weight}."""
    terms = [term for row in rows for term in sorted(row.items())]
    return (
        from_lengths([len(row) for row in rows]).to(device),
        torch.tensor([i for i, _ in terms], dtype=torch.int32, device=device),
        torch.tensor([w for _, w in terms], dtype=torch.float32, device=device),
    )


def each(change: Callable[[torch.Tensor], torch.Tensor], csr: CSR) -> CSR:
    """The CSR with its three parts changed."""
    indptr, indices, values = csr
    return change(indptr), change(indices), change(values)


def random_rows(n: int, terms: int, vocab: int, seed: int = 0) -> list[dict[int, float]]:
    rng = torch.Generator().manual_seed(seed)
    return [
        {
            int(i): float(w)
            for i, w in zip(
                torch.randint(0, vocab, (terms,), generator=rng),
                torch.rand(terms, generator=rng) + 0.01,
                strict=True,
            )
        }
        for _ in range(n)
    ]


def examples(seed: int, device: torch.device) -> list[tuple[Any, ...]]:
    """Calls for test_ops, of small integers, whose products are exact."""
    rng = torch.Generator().manual_seed(seed)

    def side(n: int) -> CSR:
        weights = torch.randint(-9, 6, (n, 30), generator=rng).clamp_(min=0).float()
        held = weights != 0
        indptr = from_lengths(held.sum(1))
        csr = indptr, held.nonzero()[:, 1].int(), weights[held]
        return each(lambda part: part.to(device), csr)

    nothing = csr([{}, {}], device)
    return [(side(5), side(20)), (nothing, side(3)), (side(3), nothing), (side(0), side(0))]


# Sums of float32 products, against float64.
LIMITS: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6, "equal_nan": True}


def assert_agrees(kernel: Kernel, q: CSR, d: CSR, **options: Any) -> torch.Tensor:
    """The backend against the reference, which is returned."""
    want = m3kernels.lexical_scores(q, d, **options, backend="reference")
    got = m3kernels.lexical_scores(q, d, **options, backend=kernel.backend)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    torch.testing.assert_close(got, want, **LIMITS)
    return want


def interpreted(kernel: Kernel) -> bool:
    return kernel.backend == "triton" and kernel.device.type == "cpu"


@pytest.fixture
def triton_kernel(kernel: Kernel) -> ModuleType:
    """The Triton module, in tests of what only it has."""
    if kernel.backend != "triton":
        pytest.skip("about the Triton kernel")
    from m3kernels.lexical import launch

    return launch


def test_by_hand(kernel: Kernel) -> None:
    q = csr([{4: 2.0, 9: 1.0}, {}, {5: 3.0}], kernel.device)
    d = csr([{4: 0.5, 5: 1.0, 9: 4.0}, {8: 1.0}], kernel.device)
    for backend in (kernel.backend, "reference"):
        scores = m3kernels.lexical_scores(q, d, backend=backend)
        assert scores.tolist() == [[5.0, 0.0], [0.0, 0.0], [3.0, 0.0]]


@settings(max_examples=80, deadline=None)
@given(q=ROWS, d=ROWS)
def test_any_rows(module_kernel: Kernel, q: Rows, d: Rows) -> None:
    scores = assert_agrees(
        module_kernel, csr(q, module_kernel.device), csr(d, module_kernel.device)
    )
    assert scores.shape == (len(q), len(d))


@pytest.mark.parametrize(
    ("n_q", "n_d", "terms", "vocab"),
    [(1, 100, 50, 400), (33, 17, 80, 300), (65, 3, 9, 2**30)],
    ids=["Q1-N100", "Q33-N17", "Q65-N3-large-ids"],
)
def test_shapes(kernel: Kernel, n_q: int, n_d: int, terms: int, vocab: int) -> None:
    if interpreted(kernel):  # a program takes it some 20 ms
        n_q = -(-n_q // 4)
    q, d = random_rows(n_q, terms, vocab, seed=1), random_rows(n_d, terms, vocab, seed=2)
    assert_agrees(kernel, csr(q, kernel.device), csr([*d, *q], kernel.device))


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("n_q", "terms_q", "n_d", "terms_d"),
    [(2, 700, 20, 9), (2, 12, 20, 5_000), (3, 300, 5, 300), (1, 1, 3, 2_000), (17, 40, 1, 1)],
    ids=["long-queries", "long-documents", "both-long", "one-term", "one-document"],
)
def test_long_rows_on_either_side(
    kernel: Kernel, n_q: int, terms_q: int, n_d: int, terms_d: int
) -> None:
    q, d = random_rows(n_q, terms_q, 6_000, seed=1), random_rows(n_d, terms_d, 6_000, seed=2)
    # rows of very different lengths next to each other
    q, d = [{}, *q, {5: 1.0}], [{5: 2.0, 9: 1.0}, {}, *d]
    assert_agrees(kernel, csr(q, kernel.device), csr(d, kernel.device))


def test_every_place_of_a_row_is_found(kernel: Kernel) -> None:
    """Rows of 0 to 20 terms, with queries for each id in them and between them."""
    d = [{2 * i + 1: i + 1.0 for i in range(length)} for length in range(21)]
    q = [dict.fromkeys(range(42), 1.0), *({i: 1.0} for i in (0, 1, 2, 31, 32, 39, 40))]
    assert_agrees(kernel, csr(q, kernel.device), csr(d, kernel.device))
    assert_agrees(kernel, csr(d[-3:], kernel.device), csr(q, kernel.device))


@pytest.mark.parametrize("searched", ["queries", "documents"])
def test_either_side_can_be_searched(
    kernel: Kernel, triton_kernel: ModuleType, monkeypatch: pytest.MonkeyPatch, searched: str
) -> None:
    works = iter([0.0, 1.0] if searched == "queries" else [1.0, 0.0])
    monkeypatch.setattr(triton_kernel, "work", lambda *_: next(works))
    q = csr([*random_rows(5, 30, 60), {}], kernel.device)
    d = csr([{}, *random_rows(19, 30, 60, seed=3), {4: math.nan}], kernel.device)
    assert_agrees(kernel, q, d)
    assert next(works, None) is None


def test_the_side_that_takes_fewer_steps_is_searched(triton_kernel: ModuleType) -> None:
    work = triton_kernel.work

    def documents_are_searched(n_q: int, terms_q: int, n_d: int, terms_d: int) -> bool:
        nnz_q, nnz_d = n_q * terms_q, n_d * terms_d
        return bool(work(n_q, nnz_q, n_d, nnz_d) <= work(n_d, nnz_d, n_q, nnz_q))

    assert documents_are_searched(1, 20, 1_000, 400)
    assert documents_are_searched(2_000, 20, 100_000, 400)
    assert documents_are_searched(1, 40, 1_000, 30)  # 15 of 16 rows would be missing
    assert not documents_are_searched(1, 2_000, 1_000, 30)
    assert not documents_are_searched(500, 2_000, 1_000, 30)


@pytest.mark.parametrize("grid_blocks", [1, 2, 3])
@pytest.mark.parametrize("n_s", [32, 33, 65])
def test_several_launches(
    kernel: Kernel, triton_kernel: ModuleType, grid_blocks: int, n_s: int
) -> None:
    """More rows than a grid's second dimension takes."""
    q = csr(random_rows(1, 3, 9), kernel.device)
    d = csr(random_rows(n_s, 5, 9, seed=2), kernel.device)
    want = m3kernels.lexical_scores(q, d, backend="reference")
    got = triton_kernel.lexical_scores_triton(q, d, grid_blocks)
    torch.testing.assert_close(got, want, **LIMITS)


def test_more_queries_than_a_grid_has_rows(kernel: Kernel) -> None:
    if interpreted(kernel):
        pytest.skip("test_several_launches has smaller grids")
    n_q = 65_535 + 100
    indptr = torch.arange(n_q + 1, device=kernel.device).clamp(max=n_q - 1)  # the last is empty
    ids = torch.arange(n_q - 1, dtype=torch.int32, device=kernel.device) % 3
    q = (indptr, ids, torch.ones(n_q - 1, device=kernel.device))
    d = csr([{0: 1.0, 2: 2.0}, {1: 3.0}, {}], kernel.device)
    scores = m3kernels.lexical_scores(q, d, backend=kernel.backend)
    rows = torch.tensor([[1.0, 0, 0], [0, 3, 0], [2, 0, 0]], device=kernel.device)
    assert torch.equal(scores[:-1], rows[ids.long()])
    assert not scores[-1].any()
    scores = m3kernels.lexical_scores(d, q, backend=kernel.backend)
    assert torch.equal(scores[:, :-1], rows[ids.long()].T)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a million rows need a card")
def test_more_documents_than_one_launch_takes() -> None:
    device = torch.device("cuda")
    n_d = 65_535 * 16 + 100
    ids = torch.arange(n_d, device=device) % 3
    d = (torch.arange(n_d + 1, device=device), ids, torch.ones(n_d, device=device))
    scores = m3kernels.lexical_scores(csr([{0: 1.0, 2: 2.0}], device), d, backend="triton")
    assert torch.equal(scores[0], torch.tensor([1.0, 0.0, 2.0], device=device)[ids])


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0), (2, 2)], ids=str)
def test_nothing_to_score(kernel: Kernel, sizes: tuple[int, int]) -> None:
    n_q, n_d = sizes
    for row_q, row_d in [({}, {}), ({4: 1.0}, {}), ({}, {4: 1.0})]:
        q, d = csr([row_q] * n_q, kernel.device), csr([row_d] * n_d, kernel.device)
        scores = assert_agrees(kernel, q, d)
        assert scores.shape == sizes
        assert not scores.any()


@pytest.mark.parametrize("block_queries", [1, 2, 3, 5, 64])
def test_blocks_of_every_size(device: torch.device, block_queries: int) -> None:
    q = csr([*random_rows(4, 10, 30), {}], device)
    d = csr(random_rows(6, 12, 30, seed=3), device)
    q, d = ((indptr, indices.long(), values) for indptr, indices, values in (q, d))
    want = m3kernels.lexical_scores(q, d, backend="reference")
    torch.testing.assert_close(lexical_scores_torch(q, d, block_queries), want)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["query", "document"])
def test_a_bad_weight_reaches_only_the_pairs_that_share_it(
    kernel: Kernel, bad: float, side: str
) -> None:
    rows = [{4: 1.0, 9: 2.0}, {9: 1.0}, {4: 3.0, 11: 1.0}, {}]
    spoiled = [{4: bad, 9: 2.0}, *rows[1:]]
    q, d = (spoiled, rows) if side == "query" else (rows, spoiled)
    scores = assert_agrees(kernel, csr(q, kernel.device), csr(d, kernel.device))
    scores = scores if side == "query" else scores.T
    assert scores[0].isfinite().tolist() == [False, True, False, True]
    assert scores[1:].isfinite().all()


def test_a_stored_zero_is_no_term(kernel: Kernel) -> None:
    zero, infinite = [{4: 0.0, 5: 1.0}], [{4: math.inf, 5: 1.0}]
    for q, d in [(zero, infinite), (infinite, zero), (zero, [{4: math.nan, 5: 1.0}])]:
        scores = assert_agrees(kernel, csr(q, kernel.device), csr(d, kernel.device))
        assert scores.tolist() == [[1.0]]


@pytest.mark.parametrize("ids_d", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("ids_q", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("weights_d", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weights_q", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(
    kernel: Kernel,
    weights_q: torch.dtype,
    weights_d: torch.dtype,
    ids_q: torch.dtype,
    ids_d: torch.dtype,
) -> None:
    q = csr(random_rows(2, 20, 60), kernel.device)
    d = csr(random_rows(7, 20, 60, seed=5), kernel.device)
    q = (q[0].int(), q[1].to(ids_q), q[2].to(weights_q))
    d = (d[0], d[1].to(ids_d), d[2].to(weights_d))
    assert_agrees(kernel, q, d)


def test_ids_beyond_int32(kernel: Kernel) -> None:
    """An id of 2^32 + 4 is not 4, in either order."""
    indptr, indices, values = csr([{4: 1.0, 5: 2.0}, {4: 3.0}], kernel.device)
    large = (indptr, indices.long() + 2**32, values)
    assert not assert_agrees(kernel, (indptr, indices, values), large).any()
    assert not assert_agrees(kernel, large, (indptr, indices, values)).any()
    assert assert_agrees(kernel, large, large).tolist() == [[5.0, 3.0], [3.0, 9.0]]


def test_views(kernel: Kernel) -> None:
    q = csr(random_rows(2, 20, 60), kernel.device)
    d = csr(random_rows(7, 20, 60, seed=5), kernel.device)
    want = assert_agrees(kernel, q, d)
    strided = each(lambda part: part.repeat_interleave(2)[::2], d)
    assert not any(part.is_contiguous() for part in strided)
    got = m3kernels.lexical_scores(q, strided, backend=kernel.backend)
    torch.testing.assert_close(got, want, **LIMITS)
    # at an address that is no multiple of 16 bytes
    shifted = each(lambda part: torch.cat([part[:1], part])[1:], d)
    got = m3kernels.lexical_scores(q, shifted, backend=kernel.backend)
    torch.testing.assert_close(got, want, **LIMITS)


def test_takes_what_sparse_max_returns(kernel: Kernel) -> None:
    rng = torch.Generator().manual_seed(0)
    cu = torch.tensor([0, 30, 50, 90], device=kernel.device)
    csrs = m3kernels.sparse_max(
        torch.randn(90, 8, generator=rng).to(kernel.device),
        torch.randn(8, generator=rng).to(kernel.device),
        torch.zeros(1, device=kernel.device),
        torch.randint(0, 40, (90,), generator=rng).to(kernel.device),
        cu,
        backend="torch",
    )
    scores = assert_agrees(kernel, csrs, csrs)
    torch.testing.assert_close(scores, scores.T)


def untrimmed(csr: CSR, tail: int) -> CSR:
    """The CSR with entries past its last row that would spoil the scores, were they read."""
    indptr, indices, values = csr
    ids = torch.cat([indices[:tail], indices.new_tensor([-1, 4, 4, 0])])
    return (
        indptr,
        torch.cat([indices, ids]),
        torch.cat([values, values.new_full((ids.shape[0],), math.nan)]),
    )


@pytest.mark.parametrize("tail", [0, 50])
def test_untrimmed(kernel: Kernel, tail: int) -> None:
    q = csr([{4: 1.0, 9: 2.0}, {}, *random_rows(2, 20, 30)], kernel.device)
    d = csr([*random_rows(17, 9, 30, seed=1), {}, {4: 3.0}, {}], kernel.device)
    want = m3kernels.lexical_scores(q, d, backend="reference")
    q, d = untrimmed(q, tail), untrimmed(d, tail)
    assert torch.equal(assert_agrees(kernel, q, d, validate=False), want)
    assert_agrees(kernel, d, q, validate=False)
    for swapped in ((q, d), (d, q)):
        with pytest.raises(ValueError, match="indptr ends with"):
            m3kernels.lexical_scores(*swapped, backend=kernel.backend)


def test_untrimmed_without_a_term(kernel: Kernel) -> None:
    indptr = torch.zeros(4, dtype=torch.int64, device=kernel.device)
    empty = untrimmed(csr([{}, {}, {}], kernel.device), 0)
    assert torch.equal(empty[0], indptr)
    d = csr([{4: 1.0}], kernel.device)
    assert not assert_agrees(kernel, empty, d, validate=False).any()
    assert not assert_agrees(kernel, d, empty, validate=False).any()


@pytest.mark.parametrize(
    "wrong",
    [
        [0, 9, 2, 12],
        [0, 50, 60, 2**40],
        [7, 9, 9, 9],
        [-9, 0, 3, 12],
        [-(2**62), 2**62, -5, 2**62],
        [12, 8, 4, 0],
        [-3, -2, -1, -1],
    ],
    ids=str,
)
def test_an_indptr_that_lies_stays_in_bounds(kernel: Kernel, wrong: list[int]) -> None:
    """With validate=False it gives wrong scores, and nothing worse."""
    good = csr(random_rows(3, 9, 30), kernel.device)
    # Ids that all rows share and weights that would show, on both sides of what may be read.
    spare = 64
    ids = torch.arange(12 + 2 * spare, dtype=torch.int32, device=kernel.device) % 30
    weights = torch.full((ids.shape[0],), math.nan, device=kernel.device)
    weights[spare:-spare] = 1.0
    lying = (
        torch.tensor(wrong, device=kernel.device),
        ids[spare:-spare],
        weights[spare:-spare],
    )
    for q, d in ((good, lying), (lying, good), (lying, lying)):
        for backend in (kernel.backend, "reference"):
            scores = m3kernels.lexical_scores(q, d, validate=False, backend=backend)
            assert scores.shape == (3, 3)
            assert scores.isfinite().all()


def test_ids_that_lie_stay_in_bounds(kernel: Kernel) -> None:
    """With validate=False ids that don't ascend or are negative are only found or not found."""

    def guarded(rows: Rows) -> CSR:  # NaN weights before and after
        indptr, ids, weights = csr(rows, kernel.device)
        return indptr, ids, torch.nn.functional.pad(weights, (4, 4), value=math.nan)[4:-4]

    good = guarded([{0: 1.0, 4: 1.0, 9: 1.0}] * 2)
    for wrong in ([-1, -1, -1, -1], [9, 4, 0, -5], [4, 4, 4, 4], [2**31 - 1, 0, -(2**31), 9]):
        ids = torch.tensor(wrong, dtype=torch.int32, device=kernel.device)
        indptr, _, weights = guarded([dict.fromkeys(range(4), 1.0)])
        lying = (indptr, ids, weights)
        for q, d in ((good, lying), (lying, good), (lying, lying)):
            options: dict[str, Any] = {"validate": False, "backend": kernel.backend}
            assert m3kernels.lexical_scores(q, d, **options).isfinite().all()


def test_same_bytes_each_time(kernel: Kernel) -> None:
    n = 10 if interpreted(kernel) else 20
    q = csr(random_rows(n, 50, 90), kernel.device)
    d = csr(random_rows(2 * n, 50, 90, seed=4), kernel.device)
    first, second = (m3kernels.lexical_scores(q, d, backend=kernel.backend) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("validate", [True, False])
def test_torch_compile_traces_it(kernel: Kernel, validate: bool) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def scores(q: CSR, d: CSR) -> torch.Tensor:
        q = (q[0], q[1], q[2] * 2)
        return m3kernels.lexical_scores(q, d, backend=kernel.backend, validate=validate) / 2

    for n_d in (3, 18):
        q = csr(random_rows(2, 20, 60), kernel.device)
        d = csr(random_rows(n_d, 20, 60, seed=5), kernel.device)
        want = m3kernels.lexical_scores(q, d, backend="reference")
        torch.testing.assert_close(scores(q, d), want, **LIMITS)


@pytest.mark.parametrize("validate", [True, False])
def test_the_custom_op_is_well_formed(kernel: Kernel, validate: bool) -> None:
    q = csr(random_rows(2, 5, 9), kernel.device)
    d = csr(random_rows(3, 5, 9, seed=1), kernel.device)
    torch.library.opcheck(
        torch.ops.m3kernels.lexical_scores.default, (*q, *d, kernel.backend, validate)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_a_cuda_graph_records_it() -> None:
    device = torch.device("cuda")

    def batch(seed: int) -> list[CSR]:
        # Of the same sizes, in buffers that are longer than the terms.
        q, d = random_rows(9, 30, 900, seed), random_rows(70, 300, 900, seed + 1)
        sides = []
        for rows, nnz in ((q, 400), (d, 30_000)):
            indptr, indices, values = csr(rows, device)
            spare = (0, nnz - indices.shape[0])
            pad = torch.nn.functional.pad
            sides.append((indptr, pad(indices, spare, value=7), pad(values, spare, value=1.0)))
        return sides

    q, d = batch(0)
    options: dict[str, Any] = {"backend": "triton", "validate": False}
    m3kernels.lexical_scores(q, d, **options)  # compiled before the recording
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = m3kernels.lexical_scores(q, d, **options)
    fresh = batch(5)
    for old, new in zip((*q, *d), (*fresh[0], *fresh[1]), strict=True):
        old.copy_(new)
    graph.replay()
    want = m3kernels.lexical_scores(*fresh, validate=False, backend="reference")
    torch.testing.assert_close(scores, want, **LIMITS)
    another = torch.cuda.CUDAGraph()  # one that has recorded a graph records no other
    with pytest.raises(ValueError, match="pass validate=False"), torch.cuda.graph(another):
        m3kernels.lexical_scores(q, d, backend="triton")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_any_stream(kernel: Kernel) -> None:
    if kernel.device.type != "cuda":
        pytest.skip("a stream is a card's")
    q = csr(random_rows(9, 30, 900), kernel.device)
    d = csr(random_rows(70, 300, 900, seed=1), kernel.device)
    want = m3kernels.lexical_scores(q, d, backend="reference")
    with another_stream():
        scores = m3kernels.lexical_scores(q, d, backend=kernel.backend)
    torch.testing.assert_close(scores, want, **LIMITS)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
def test_any_card() -> None:
    device = torch.device("cuda:1")
    with torch.cuda.device(0):
        q, d = csr(random_rows(9, 30, 900), device), csr(random_rows(70, 300, 900), device)
        assert_agrees(Kernel(device, "triton"), q, d)


@pytest.mark.parametrize(
    ("q", "d", "error", "message"),
    [
        ("text", None, TypeError, "q_csr is no triple"),
        (None, (torch.tensor([0]),), TypeError, "d_csr is no triple"),
        (
            None,
            tuple(t.to("meta") for t in csr([{4: 1.0}])),
            ValueError,
            "d_csr's indices is on meta",
        ),
        ((torch.tensor([0, 2]), torch.tensor([4, 4]), torch.ones(2)), None, ValueError, "q_csr's"),
        (None, (torch.tensor([0, 2]), torch.tensor([4]), torch.ones(1)), ValueError, "d_csr's"),
        (None, (torch.tensor([0, 1]), torch.tensor([-4]), torch.ones(1)), ValueError, "d_csr's"),
    ],
)
def test_errors_name_the_argument(q: Any, d: Any, error: type[Exception], message: str) -> None:
    good = csr([{4: 1.0}])
    with pytest.raises(error, match=message):
        m3kernels.lexical_scores(q or good, d or good)


def test_errors_name_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    good = csr([{4: 1.0}])
    with pytest.raises(ValueError, match="backend is 'cuda'"):
        m3kernels.lexical_scores(good, good, backend="cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="lexical_scores can't run backend='triton'"):
        m3kernels.lexical_scores(good, good, backend="triton")
