"""The gradients of the ops, against torch's own through a formula in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import m3kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels import Padded, Slices
from m3kernels.maxsim.reference import maxsim_exact
from m3kernels.packing import from_lengths
from torch.autograd import forward_ad

from tests.kernels.conftest import HAS_TRITON, KERNELS, Dispatched, Kernel
from tests.kernels.test_maxsim import all_pairs, ragged

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5, "equal_nan": True}
KINDS = ["packed", "lengths", "mask", "slices"]


def gradients(
    scores: torch.Tensor, leaves: list[torch.Tensor], *, again: bool = False
) -> tuple[torch.Tensor, ...]:
    """By the leaves, of the scores' product with random numbers; the graph stays for `again`."""
    rng = torch.Generator().manual_seed(9)
    factors = torch.randn(scores.shape, generator=rng).to(scores.device, scores.dtype)
    return torch.autograd.grad(scores, leaves, factors, retain_graph=again)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("as_pairs", [False, True], ids=["all", "pairs"])
def test_the_reference_passes_gradcheck(as_pairs: bool, reduction: str) -> None:
    queries, cu_q, documents, cu_d = ragged([2, 0, 3], [4, 1, 0], 5)
    pairs = all_pairs(3, 3)[[4, 0, 0, 6, 8]] if as_pairs else None
    weights = torch.randn(5, generator=torch.Generator().manual_seed(1))
    leaves = [part.double().requires_grad_() for part in (queries, documents, weights)]

    def scores(q: torch.Tensor, d: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return maxsim_exact(q, cu_q, d, cu_d, pairs, None, reduction, w)

    assert torch.autograd.gradcheck(scores, leaves)


DRAWN = {
    "kind": st.sampled_from(KINDS),
    "lengths_q": st.lists(st.integers(0, 5), max_size=4),
    "lengths_d": st.lists(st.integers(0, 9), max_size=4),
    "weighted": st.booleans(),
    "as_pairs": st.booleans(),
    "reduction": st.sampled_from(["mean", "sum"]),
    "seed": st.integers(0, 2**31),
}


def check(
    kernel: Kernel,
    kind: str,
    lengths_q: list[int],
    lengths_d: list[int],
    weighted: bool,
    as_pairs: bool,
    reduction: str,
    seed: int,
) -> None:
    rng = torch.Generator().manual_seed(seed)

    def side(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        room = max([*lengths, 1]) + 1
        mask = torch.arange(room) < torch.tensor(lengths, dtype=torch.int64)[:, None]
        if kind == "mask":
            mask = torch.rand(mask.shape, generator=rng) < 0.6
        return torch.randn(len(lengths), room, 16, generator=rng), mask.to(kernel.device)

    (q, mask_q), (d, mask_d) = side(lengths_q), side(lengths_d)
    w = torch.randn(q.shape[:2], generator=rng)
    pairs = None
    if as_pairs:
        pairs = all_pairs(len(q), len(d))
        pairs = pairs[torch.randint(0, max(len(pairs), 1), (len(pairs),), generator=rng)]
        pairs = pairs.to(kernel.device)
    leaves = [part.to(kernel.device).requires_grad_() for part in (q, d, w)]
    q, d, w = leaves
    asked = leaves if weighted else leaves[:2]
    cu_q, cu_d = from_lengths(mask_q.sum(1)), from_lengths(mask_d.sum(1))
    want = maxsim_exact(
        q[mask_q], cu_q, d[mask_d], cu_d, pairs, None, reduction, w[mask_q] if weighted else None
    )
    # Without a score torch has no graph to go back through.
    wanted = tuple(0 * part for part in asked)
    if want.requires_grad:
        wanted = gradients(want, asked, again=True)
    weights = w
    arguments: tuple[Any, ...] = q[mask_q], cu_q, d[mask_d], cu_d
    if kind == "packed":
        weights = w[mask_q]
    elif kind == "lengths":
        arguments = Padded(q, mask_q.sum(1)), None, Padded(d, mask_d.sum(1)), None
    elif kind == "mask":
        arguments = Padded(q, mask=mask_q), None, Padded(d, mask=mask_d), None
    else:
        weights = w.flatten()
        arguments = tuple(
            part
            for rows, mask in ((q, mask_q), (d, mask_d))
            for part in (
                Slices(
                    rows.flatten(0, 1),
                    torch.arange(len(rows), device=kernel.device) * rows.shape[1],
                    mask.sum(1),
                ),
                None,
            )
        )
    for backend in (kernel.backend, "reference"):
        got = m3kernels.maxsim(
            *arguments, pairs=pairs, query_weights=weights if weighted else None,
            reduction=reduction, backend=backend,
        )  # fmt: skip
        torch.testing.assert_close(got, want.float(), **CLOSE)
        for ours, theirs in zip(gradients(got, asked, again=True), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


@settings(max_examples=25, deadline=None)
@given(**DRAWN)
def test_maxsim(module_device: torch.device, **drawn: Any) -> None:
    check(Kernel(module_device, "torch"), **drawn)


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@settings(max_examples=40 if torch.cuda.is_available() else 6, deadline=None)
@given(**DRAWN)
def test_maxsim_in_triton(**drawn: Any) -> None:
    check(KERNELS[-1], **drawn)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_vectors_have_narrow_gradients(kernel: Kernel, dtype: torch.dtype) -> None:
    """Summed in float32, rounded once."""
    queries, cu_q, documents, cu_d = ragged([9, 40], [30, 2, 8], 32, device=kernel.device)
    narrow = [part.to(dtype).requires_grad_() for part in (queries, documents)]
    wide = [part.detach().double().requires_grad_() for part in narrow]
    want = gradients(maxsim_exact(wide[0], cu_q, wide[1], cu_d, None, None, "mean"), wide)
    scores = m3kernels.maxsim(narrow[0], cu_q, narrow[1], cu_d, backend=kernel.backend)
    for ours, theirs in zip(gradients(scores, narrow), want, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(
            ours, theirs.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-6
        )


def test_of_equal_rows_the_first_has_the_gradient(kernel: Kernel) -> None:
    documents = torch.randn(40, 24, generator=torch.Generator().manual_seed(0)).to(kernel.device)
    documents[[3, 17, 30]] = 5.0  # the same row in several tiles
    queries = torch.ones(2, 24, device=kernel.device)
    cu_q, cu_d = (torch.tensor([0, n], device=kernel.device) for n in (2, 40))
    for pairs in (None, torch.tensor([[0, 0]], device=kernel.device)):
        documents.requires_grad_()
        scores = m3kernels.maxsim(
            queries, cu_q, documents, cu_d, pairs=pairs, backend=kernel.backend
        )
        (by_documents,) = torch.autograd.grad(scores.sum(), documents)
        assert by_documents.any(1).nonzero().flatten().tolist() == [3]
        torch.testing.assert_close(by_documents[3], queries[0])
        documents = documents.detach()


def test_quantized_documents_have_none(kernel: Kernel) -> None:
    queries, cu_q, documents, cu_d = ragged([4, 2], [9, 3], 32, device=kernel.device)
    for narrow in (torch.int8, torch.float8_e4m3fn):
        bytes_, scales = m3kernels.quantize_tokens(documents, narrow)
        q = queries.clone().requires_grad_()
        wide = (bytes_.double() * scales.double()[:, None]).detach()
        (want,) = gradients(maxsim_exact(q, cu_q, wide, cu_d, None, None, "mean"), [q])
        scores = m3kernels.maxsim(
            q, cu_q, bytes_, cu_d, document_scales=scales, backend=kernel.backend
        )
        torch.testing.assert_close(gradients(scores, [q])[0], want, **CLOSE)
        with pytest.raises(ValueError, match="document_scales requires a gradient"):
            m3kernels.maxsim(
                queries, cu_q, bytes_, cu_d, document_scales=scales.clone().requires_grad_()
            )
    with pytest.raises(ValueError, match="documents requires a gradient"):
        m3kernels.maxsim(queries, cu_q, bytes_.requires_grad_(), cu_d, document_scales=scales)


def test_only_what_is_asked_for_is_kept(kernel: Kernel) -> None:
    batch = ragged([4, 2], [9, 3], 32, device=kernel.device)
    called: list[str] = []

    def saw(function: Any, arguments: Any, made: Any) -> None:
        if str(function).startswith("m3kernels"):
            called.append(str(function))

    with Dispatched(saw):
        m3kernels.maxsim(*batch, backend=kernel.backend)
        batch[0].requires_grad_()
        with torch.no_grad():
            m3kernels.maxsim(*batch, backend=kernel.backend)
        with torch.inference_mode():
            m3kernels.maxsim(*batch, backend=kernel.backend)
    assert called == ["m3kernels.maxsim.default"] * 3
    called.clear()
    with Dispatched(saw):
        scores = m3kernels.maxsim(*batch, backend=kernel.backend)
        torch.autograd.backward(scores.sum())
    assert called[0] == "m3kernels.maxsim_kept.default"
    assert batch[0].grad is not None
    assert batch[2].grad is None


def test_scores_are_the_same_with_a_gradient(kernel: Kernel) -> None:
    batch = ragged([14, 0, 2], [9, 3, 0, 70], 48, device=kernel.device)
    want = m3kernels.maxsim(*batch, backend=kernel.backend)
    batch[0].requires_grad_()
    got = m3kernels.maxsim(*batch, backend=kernel.backend)
    assert got.requires_grad
    torch.testing.assert_close(got.detach(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("as_pairs", [False, True], ids=["all", "pairs"])
def test_same_bytes_each_time(kernel: Kernel, as_pairs: bool) -> None:
    queries, cu_q, documents, cu_d = ragged([20, 9], [50, 3, 40], 32, device=kernel.device)
    pairs = all_pairs(2, 3, kernel.device).repeat(3, 1) if as_pairs else None
    leaves = [queries.requires_grad_(), documents.requires_grad_()]

    def once() -> tuple[torch.Tensor, ...]:
        scores = m3kernels.maxsim(
            queries, cu_q, documents, cu_d, pairs=pairs, backend=kernel.backend
        )
        return scores, *gradients(scores, leaves)

    assert all(torch.equal(one, two) for one, two in zip(once(), once(), strict=True))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(kernel: Kernel, narrow: torch.dtype) -> None:
    queries, cu_q, documents, cu_d = ragged([9, 3], [30, 2, 8], 32, device=kernel.device)
    leaves = [queries.requires_grad_(), documents.requires_grad_()]

    def once() -> tuple[torch.Tensor, ...]:
        scores = m3kernels.maxsim(queries, cu_q, documents, cu_d, backend=kernel.backend)
        return scores, *gradients(scores, leaves)

    want = once()
    with torch.autocast(kernel.device.type, dtype=narrow):
        got = once()
    assert all(torch.equal(one, two) for one, two in zip(got, want, strict=True))


def compiled_agrees(function: Callable[..., torch.Tensor], *parts: torch.Tensor) -> None:
    traced = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    results = []
    for run in (function, traced):
        leaves = [part.clone().requires_grad_() for part in parts]
        scores = run(*leaves)
        results.append((scores, *gradients(scores.sin(), leaves)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_torch_compile_differentiates_it(device: torch.device) -> None:
    queries, cu_q, documents, cu_d = ragged([5, 2], [4, 5, 7], 16, device=device)
    pairs = torch.tensor([[0, 1], [1, 2], [0, 0]], device=device)
    weights = torch.rand(7, generator=torch.Generator().manual_seed(0)).to(device)
    padded = documents[:15].view(3, 5, 16)
    lengths = torch.tensor([2, 0, 5], device=device)
    compiled_agrees(lambda q, d: m3kernels.maxsim(q * 2, cu_q, d, cu_d), queries, documents)
    compiled_agrees(
        lambda q, d: m3kernels.maxsim(q * 2, cu_q, d, cu_d, pairs=pairs), queries, documents
    )
    compiled_agrees(
        lambda q, d, w: m3kernels.maxsim(q, cu_q, d, cu_d, query_weights=w),
        queries, documents, weights,
    )  # fmt: skip
    compiled_agrees(
        lambda q, d: m3kernels.maxsim(Padded(q, lengths), None, Padded(d[:, 1:]), None),
        padded, padded * 2,
    )  # fmt: skip


@pytest.mark.parametrize("as_pairs", [False, True], ids=["all", "pairs"])
def test_the_custom_ops_are_well_formed(kernel: Kernel, as_pairs: bool) -> None:
    queries, cu_q, documents, cu_d = ragged([3, 4], [5, 0, 9], 16, device=kernel.device)
    pairs = all_pairs(2, 3, kernel.device) if as_pairs else None
    leaves = [part.requires_grad_() for part in (queries, documents, queries.new_ones(7))]
    arguments = leaves[0], cu_q, leaves[1], cu_d, pairs, None, "mean", kernel.backend, True
    ops = [torch.ops.m3kernels.maxsim.default]
    if not as_pairs:
        ops.append(torch.ops.m3kernels.maxsim_kept.default)
    for op in ops:
        for more in ((), (leaves[2],)):
            torch.library.opcheck(op, (*arguments, *more))


def test_what_has_no_derivative_says_so(kernel: Kernel) -> None:
    queries, cu_q, documents, cu_d = ragged([3, 4], [5, 0, 9], 16, device=kernel.device)

    def scores(q: torch.Tensor) -> torch.Tensor:
        return m3kernels.maxsim(q, cu_q, documents, cu_d, backend=kernel.backend)

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(  # type: ignore[no-untyped-call]
            queries, torch.ones_like(queries)
        )
        with pytest.raises(ValueError, match="maxsim has no derivative in forward mode"):
            scores(dual)
    with pytest.raises(ValueError, match="maxsim has no derivative in forward mode"):
        torch.func.jvp(scores, (queries,), (queries,))
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda q: scores(q).sum())(queries)
    leaf = queries.requires_grad_()
    (once,) = torch.autograd.grad(scores(leaf).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="maxsim_gradients"):
        torch.autograd.grad(once.square().sum(), leaf)


def test_an_infinity_reaches_only_its_own(kernel: Kernel) -> None:
    """A row that is best for nothing that counts passes nothing on, not even 0 times infinity."""
    queries, cu_q, documents, cu_d = ragged([3, 2], [4, 3], 16, device=kernel.device)
    documents[5] = math.inf  # of document 1
    queries.requires_grad_()
    scores = m3kernels.maxsim(queries, cu_q, documents, cu_d, backend=kernel.backend)
    (got,) = torch.autograd.grad(scores[:, 0].sum(), queries)
    assert got.isfinite().all()
    assert got.any(1).all()


CSR = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def states(
    lengths: list[int], seed: int = 0, vocab: int = 9, dim: int = 6
) -> tuple[torch.Tensor, ...]:
    """hidden, weight, bias, token_ids, cu_seqlens."""
    rng = torch.Generator().manual_seed(seed)
    rows = sum(lengths)
    return (
        torch.randn(rows, dim, generator=rng),
        torch.randn(dim, generator=rng),
        torch.randn((), generator=rng),
        torch.randint(0, vocab, (rows,), generator=rng),
        from_lengths(lengths),
    )


def dense_sparse_max(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    ids: torch.Tensor,
    cu: torch.Tensor,
) -> torch.Tensor:
    """The values of the rows one after another, in float64: torch differentiates it."""
    weights = (hidden.double() @ weight.double() + bias.double()).relu()
    values = [weights[:0]]
    for start, end in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True):
        for i in sorted(set(ids[start:end].tolist()) - {0, 1, 2, 3}):
            best = weights[start:end][ids[start:end] == i].max(0).values
            if best > 0:
                values.append(best[None])
    return torch.cat(values)


def test_sparse_max_passes_gradcheck() -> None:
    hidden, weight, bias, ids, cu = states([5, 0, 4])
    leaves = [part.double().requires_grad_() for part in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(lambda h, w, b: dense_sparse_max(h, w, b, ids, cu), leaves)


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("lengths", [[30, 0, 9], [1], [0, 0], [], [200, 40]], ids=str)
def test_sparse_max(kernel: Kernel, lengths: list[int], trim: bool) -> None:
    hidden, weight, bias, ids, cu = (part.to(kernel.device) for part in states(lengths, vocab=12))
    leaves = [part.requires_grad_() for part in (hidden, weight, bias)]
    want = dense_sparse_max(hidden, weight, bias, ids, cu)
    wanted = gradients(want, leaves, again=True)
    for backend in (kernel.backend, "reference"):
        indptr, _, values = m3kernels.sparse_max(
            hidden, weight, bias, ids, cu, trim=trim, backend=backend
        )
        values = values[: int(indptr[-1])]
        torch.testing.assert_close(values, want.float(), **CLOSE)
        for ours, theirs in zip(gradients(values, leaves), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_sparse_max_of_equal_tokens(kernel: Kernel) -> None:
    """The first has the gradient, in each sequence; ignored and negative ones have none."""
    hidden = torch.ones(9, 5, device=kernel.device)
    hidden[2] = -1.0
    hidden.requires_grad_()
    ids = torch.tensor([7, 7, 8, 2, 7, 9, 7, 7, 9], device=kernel.device)
    weight, bias = torch.ones(5, device=kernel.device), torch.zeros((), device=kernel.device)
    cu = torch.tensor([0, 6, 9], device=kernel.device)
    values = m3kernels.sparse_max(hidden, weight, bias, ids, cu, backend=kernel.backend)[2]
    factors = torch.tensor([1.0, 2.0, 3.0, 4.0], device=kernel.device)
    (by_hidden,) = torch.autograd.grad(values, hidden, factors)
    assert by_hidden[:, 0].tolist() == [1, 0, 0, 0, 0, 2, 3, 0, 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_states_have_narrow_gradients(kernel: Kernel, dtype: torch.dtype) -> None:
    hidden, weight, bias, ids, cu = (part.to(kernel.device) for part in states([40, 9], vocab=30))
    narrow = [part.to(dtype).requires_grad_() for part in (hidden, weight, bias)]
    wide = [part.detach().double().requires_grad_() for part in narrow]
    h, w, b = wide
    want = gradients(dense_sparse_max(h, w, b, ids, cu), wide)
    h, w, b = narrow
    values = m3kernels.sparse_max(h, w, b, ids, cu, backend=kernel.backend)[2]
    for ours, theirs in zip(gradients(values, narrow), want, strict=True):
        assert ours.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(ours, theirs.to(dtype), rtol=2 * eps, atol=1e-4)


def rows_of(n: int, seed: int, vocab: int = 12) -> CSR:
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(n, vocab, generator=rng)
    held = torch.rand(n, vocab, generator=rng) < 0.4
    indptr = from_lengths(held.sum(1))
    return indptr, held.nonzero()[:, 1].int(), weights[held]


@pytest.mark.parametrize("sizes", [(3, 20), (1, 1), (0, 4), (4, 0)], ids=str)
def test_lexical_scores(kernel: Kernel, sizes: tuple[int, int]) -> None:
    sides = [rows_of(n, seed) for seed, n in enumerate(sizes)]
    leaves = [values.to(kernel.device).requires_grad_() for _, _, values in sides]
    if leaves[0].numel():
        leaves[0].data[0] = 0.0  # a stored 0 has a gradient too

    def dense(values: list[torch.Tensor]) -> torch.Tensor:
        matrices = []
        for (indptr, indices, _), some in zip(sides, values, strict=True):
            rows = torch.arange(len(indptr) - 1).repeat_interleave(indptr.diff())
            matrix = some.new_zeros(len(indptr) - 1, 12)
            place = (rows.to(some.device), indices.long().to(some.device))
            matrices.append(matrix.index_put(place, some))
        return matrices[0] @ matrices[1].T

    wide = [part.detach().double().requires_grad_() for part in leaves]
    assert torch.autograd.gradcheck(lambda *values: dense(list(values)), wide)
    wanted = gradients(dense(wide), wide)
    for tail, validate in ((0, True), (5, False)):
        given = [
            (
                indptr.to(kernel.device),
                torch.nn.functional.pad(indices, (0, tail), value=7).to(kernel.device),
                torch.nn.functional.pad(values, (0, tail), value=9.0),
            )
            for (indptr, indices, _), values in zip(sides, leaves, strict=True)
        ]
        for backend in (kernel.backend, "reference"):
            got = m3kernels.lexical_scores(given[0], given[1], backend=backend, validate=validate)
            for ours, theirs in zip(gradients(got, leaves, again=True), wanted, strict=True):
                torch.testing.assert_close(ours, theirs.float(), **CLOSE)


def test_an_infinite_weight_reaches_only_those_who_share_it(kernel: Kernel) -> None:
    indptr = torch.tensor([0, 2, 3], device=kernel.device)
    ids = torch.tensor([4, 9, 4], device=kernel.device)
    values = torch.tensor([2.0, math.inf, 3.0], device=kernel.device)
    side = indptr, ids, values
    mine = torch.ones(3, device=kernel.device).requires_grad_()
    scores = m3kernels.lexical_scores((indptr, ids, mine), side, backend=kernel.backend)
    (got,) = torch.autograd.grad(scores[1].sum(), mine)
    assert got.tolist() == [0.0, 0.0, 5.0]


def test_a_lexical_head_can_be_trained(kernel: Kernel) -> None:
    """Through sparse_max's untrimmed rows and lexical_scores, twice the same bytes."""
    hidden, weight, bias, ids, cu = (part.to(kernel.device) for part in states([9, 7, 0, 20]))
    leaves = [part.requires_grad_() for part in (hidden, weight, bias)]

    def once(backend: str) -> tuple[torch.Tensor, ...]:
        csr = m3kernels.sparse_max(hidden, weight, bias, ids, cu, trim=False, backend=backend)
        scores = m3kernels.lexical_scores(csr, csr, backend=backend, validate=False)
        return scores, *gradients(scores, leaves)

    want = once("reference")
    got = once(kernel.backend)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    assert all(torch.equal(a, b) for a, b in zip(got, once(kernel.backend), strict=True))
    with torch.autocast(kernel.device.type, dtype=torch.bfloat16):
        narrow = once(kernel.backend)
    assert all(torch.equal(a, b) for a, b in zip(got, narrow, strict=True))


def test_torch_compile_differentiates_a_lexical_head(device: torch.device) -> None:
    hidden, weight, bias, ids, cu = (part.to(device) for part in states([9, 7, 0, 20]))

    def scores(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        csr = m3kernels.sparse_max(h * 2, w, b, ids, cu, trim=False)
        return m3kernels.lexical_scores(csr, csr, validate=False)

    compiled_agrees(scores, hidden, weight, bias)


def test_the_lexical_ops_are_well_formed(kernel: Kernel) -> None:
    batch = [part.to(kernel.device) for part in states([5, 0, 9])]
    leaves = [part.requires_grad_() for part in batch[:3]]
    torch.library.opcheck(
        torch.ops.m3kernels.sparse_max.default,
        (*leaves, *batch[3:], [0, 1, 2, 3], kernel.backend, True),
        # The tester of tracing adds up all results, the first an integer one, in place.
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    sides = [
        (*(part.to(kernel.device) for part in rows_of(n, n)[:2]), values.requires_grad_())
        for n in (3, 5)
        for values in (rows_of(n, n)[2].to(kernel.device),)
    ]
    torch.library.opcheck(
        torch.ops.m3kernels.lexical_scores.default, (*sides[0], *sides[1], kernel.backend, True)
    )


def test_ops_without_a_gradient_say_so(device: torch.device) -> None:
    queries, cu_q, documents, cu_d = ragged([3, 4], [5, 0, 9], 16, device=device)
    pairs = all_pairs(2, 3, device)
    certified = m3kernels.certify(documents, cu_d)
    leaf = queries.clone().requires_grad_()
    match = r"queries requires a gradient.*queries\.detach\(\)"
    for call in (
        lambda: m3kernels.maxsim_alignment(leaf, cu_q, documents, cu_d, pairs),
        lambda: m3kernels.maxsim_topk(leaf, cu_q, documents, cu_d, 2),
        lambda: m3kernels.certified_topk(leaf, cu_q, certified, 2),
    ):
        with pytest.raises(ValueError, match=match):
            call()
        with torch.no_grad():
            call()
