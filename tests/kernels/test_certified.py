from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import m3kernels
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m3kernels.certified.bounds import Bounds
from m3kernels.certified.rescore import rescore_torch
from m3kernels.certified.screen import Coarse, lost_by_digits
from m3kernels.certified.search import certified_topk_torch
from m3kernels.packing import from_lengths
from torch.nn.functional import normalize

from tests.kernels.conftest import HAS_TRITON, KERNELS, Kernel
from tests.kernels.test_maxsim import Batch, interpreted, ragged

EXAMPLES = 40 if torch.cuda.is_available() else 6


def clustered(
    lengths_q: list[int], lengths_d: list[int], dim: int, *, seed: int, device: torch.device
) -> Batch:
    """Vectors around few centres, so that many documents score nearly the same."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, dim, generator=rng)
    queries, documents = (
        normalize(
            centres[torch.randint(4, (sum(lengths),), generator=rng)]
            + 0.3 * torch.randn(sum(lengths), dim, generator=rng),
            dim=1,
        ).to(device)
        for lengths in (lengths_q, lengths_d)
    )
    cu_q, cu_d = from_lengths(lengths_q).to(device), from_lengths(lengths_d).to(device)
    return queries, cu_q, documents, cu_d


def assert_right(
    kernel: Kernel, batch: Batch, k: int, *, exact: Any = None, **options: Any
) -> m3kernels.CertifiedTopk:
    """What `maxsim_topk` finds with the exact rows; what float32 can't tell may change places."""
    queries, cu_q, documents, cu_d = batch
    certified = m3kernels.certify(
        documents if exact is None else exact, cu_d, device=kernel.device
    )
    options["backend"] = kernel.backend
    found = m3kernels.certified_topk(queries, cu_q, certified, k, **options)
    assert (found.scores.dtype, found.ids.dtype) == (torch.float32, torch.int64)
    wide = (queries, cu_q, documents.float(), cu_d)
    scores, ids = m3kernels.maxsim_topk(*wide, k, **options)
    size = float(scores[scores.isfinite()].abs().max()) if scores.isfinite().any() else 0.0
    near: dict[str, Any] = {"rtol": 0.0, "atol": 4e-6 * size + 1e-37}
    torch.testing.assert_close(found.scores, scores, **near, equal_nan=True)
    if not torch.equal(found.ids, ids):
        options.pop("documents_mask", None)
        every = m3kernels.maxsim(*wide, **options)
        assert ((found.ids < 0) == (ids < 0)).all()
        picked = every.gather(1, found.ids.clamp(min=0))
        torch.testing.assert_close(
            torch.where(found.ids < 0, -torch.inf, picked), scores, **near, equal_nan=True
        )
    for row in found.ids.tolist():
        real = [i for i in row if i >= 0]
        assert len(real) == len(set(real))
    n_q, n_d = cu_q.numel() - 1, cu_d.numel() - 1
    assert found.rescored.shape == (n_q,)
    assert (found.rescored <= n_d).all()
    assert (found.rescored >= (found.ids >= 0).sum(1)).all()
    return found


@pytest.fixture(params=["coarse", "fine"])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as this CPU does it, once as a CPU without integer products."""
    if request.param == "fine":
        monkeypatch.setattr(Coarse, "takes", staticmethod(lambda rows: False))


LENGTHS_D = st.lists(st.integers(0, 6), max_size=30)
DRAWN: dict[str, Any] = {
    "lengths_q": st.lists(st.integers(0, 5), max_size=4),
    "lengths_d": LENGTHS_D,
    "k": st.integers(1, 9),
    "masked": st.booleans(),
    "reduction": st.sampled_from(["mean", "sum"]),
    "seed": st.integers(0, 2**31),
    "sizes": st.sampled_from([(0, 0), (-20, 15), (-37, -25), (10, 37), (-3, 3)]),
    "odd": st.sampled_from(["", "zeros", "twice", "ulp", "nan", "inf", "-inf", "query nan"]),
}


def check_drawn(
    kernel: Kernel,
    lengths_q: list[int],
    lengths_d: list[int],
    k: int,
    masked: bool,
    reduction: str,
    seed: int,
    sizes: tuple[int, int],
    odd: str,
) -> None:
    batch = clustered(lengths_q, lengths_d, 16, seed=seed, device=kernel.device)
    queries, _, documents, _ = batch
    rng = torch.Generator().manual_seed(seed)
    low, high = sizes
    documents *= 10 ** (low + (high - low) * torch.rand(len(documents), 1, generator=rng)).to(
        kernel.device
    )
    if len(documents) and odd:
        some = (torch.rand(len(documents), generator=rng) < 0.3).to(kernel.device)
        if odd == "twice":
            documents[some] = documents[0].clone()
        elif odd == "ulp":
            documents[some] = documents[0] * (1 + 2.0**-23)
        elif odd == "query nan":
            queries[: len(queries) // 2, 1] = torch.nan
        elif odd == "zeros":
            documents[some] = 0.0
        else:
            documents[some, 3] = float(odd)
    options: dict[str, Any] = {"reduction": reduction}
    if masked:
        mask = torch.rand(len(lengths_q), len(lengths_d), generator=rng) < 0.6
        options["documents_mask"] = mask.to(kernel.device)
    assert_right(kernel, batch, k, **options)


@pytest.mark.usefixtures("look")
@settings(max_examples=150, deadline=None)
@given(drawn=st.fixed_dictionaries(DRAWN))
def test_anything(module_device: torch.device, drawn: dict[str, Any]) -> None:
    check_drawn(Kernel(module_device, "torch"), **drawn)


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@settings(max_examples=EXAMPLES, deadline=None)
@given(drawn=st.fixed_dictionaries(DRAWN | {"lengths_d": st.lists(st.integers(0, 6), max_size=9)}))
def test_anything_in_triton(drawn: dict[str, Any]) -> None:
    check_drawn(KERNELS[-1], **drawn)


@settings(max_examples=150, deadline=None)
@given(
    dim=st.sampled_from([1, 3, 16, 100]),
    seed=st.integers(0, 2**31),
    exponents=st.tuples(st.integers(-38, 20), st.integers(-38, 20)),
    reduction=st.sampled_from(["mean", "sum"]),
    flat=st.booleans(),
)
def test_the_bound_holds(
    dim: int, seed: int, exponents: tuple[int, int], reduction: str, flat: bool
) -> None:
    """Against float64, for both looks; rows of one number each are rounded the same way."""
    rng = torch.Generator().manual_seed(seed)
    queries, cu_q, documents, cu_d = ragged([3, 0, 7], [4, 0, 1, 9, 3], dim, seed=seed)
    if flat:
        queries = torch.rand(10, 1, generator=rng).expand(10, dim).clone()
        documents = torch.rand(17, 1, generator=rng).expand(17, dim).clone()
    queries = queries * 10.0 ** exponents[0]
    documents = documents * 10.0 ** exponents[1]
    exact = m3kernels.maxsim(
        queries, cu_q, documents, cu_d, reduction=reduction, backend="reference"
    ).double()
    computed = m3kernels.maxsim(queries, cu_q, documents, cu_d, reduction=reduction)
    certified = m3kernels.certify(documents, cu_d)
    fine = m3kernels.maxsim(
        queries, cu_q, certified.rows, cu_d, document_scales=certified.scales, reduction=reduction
    )
    looks = [(fine, lost_by_digits(queries), False)]
    if Coarse.takes(certified.rows):
        coarse = Coarse(queries, cu_q, reduction)
        every = torch.ones(5, dtype=torch.bool)
        scores = coarse.scores(certified.rows, certified.scales, cu_d, every)
        looks.append((scores, coarse.lost, True))
    for scores, lost, exact_sums in looks:
        bounds = Bounds.of(queries, cu_q, lost, reduction, exact_sums=exact_sums)
        lower, upper = bounds.around(scores, certified.residuals, certified.norms)
        for score in (exact, computed.double()):
            # A NaN, of an overflow, has no bound.
            assert ((lower <= score) | (lower == -torch.inf)).all()
            assert ((score <= upper) | (upper == torch.inf)).all()
        if min(exponents) > -15 and sum(exponents) < 30:  # and is worth having
            size = queries.norm(dim=1).max() * documents.norm(dim=1).max()
            size *= 1 if reduction == "mean" else 7
            assert ((upper - lower) <= 0.1 * size).all()


def rounds_alike(n_tokens: int, dim: int) -> bool:
    """Whether this machine's product rounds a row the same in blocks of 512 rows or more."""
    rng = torch.Generator().manual_seed(0)
    rows, tokens = torch.randn(2048, dim, generator=rng), torch.randn(n_tokens, dim, generator=rng)
    places = torch.randperm(2048, generator=rng)[:512]
    return torch.equal(rows[places] @ tokens.T, (rows @ tokens.T)[places])


@pytest.mark.thinned(3)
@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("dim", [16, 224, 1024])
@pytest.mark.parametrize("lengths_q", [[32], [7, 0, 9]], ids=str)
def test_the_same_bits(lengths_q: list[int], dim: int) -> None:
    if not rounds_alike(sum(lengths_q), dim):
        pytest.skip("this machine's product doesn't promise it")
    rng = torch.Generator().manual_seed(dim)
    lengths_d = torch.randint(0, 120, (150,), generator=rng).tolist()
    batch = clustered(lengths_q, lengths_d, dim, seed=dim, device=torch.device("cpu"))
    batch[2][1000:3000] = batch[2][3000:5000]  # documents that repeat others' rows
    certified = m3kernels.certify(batch[2], batch[3])
    for k, ids in itertools.product((1, 10, 40), (None, list(range(20, 150, 3)))):
        want = m3kernels.maxsim_topk(*batch, k, documents_mask=ids)
        got = m3kernels.certified_topk(*batch[:2], certified, k, documents_mask=ids)
        assert torch.equal(got.scores, want[0])
        assert torch.equal(got.ids, want[1])


@pytest.mark.parametrize("dim", [24, 1024])
@pytest.mark.parametrize("lengths_q", [[6], [5, 0, 9]], ids=str)
def test_scored_again_in_blocks_of_every_size(lengths_q: list[int], dim: int) -> None:
    from m3kernels.maxsim.cpu import maxsim_torch

    lengths_d = [3, 0, 40, 1, 7, 0, 25, 30] * 3
    batch = ragged(lengths_q, lengths_d, dim, seed=dim)
    certified = m3kernels.certify(batch[2], batch[3])
    ids = torch.tensor([1, 2, 3, 6, 9, 10, 17, 22, 23])
    for scratch_bytes in (0, 5_000, 60_000, 2_000_000):
        every = maxsim_torch(*batch, None, None, "mean", scratch_bytes)
        got = rescore_torch(*batch[:2], certified, ids, "mean", scratch_bytes)
        torch.testing.assert_close(got, every[:, ids], rtol=0, atol=2e-6)
        found = certified_topk_torch(*batch[:2], certified, 4, None, "mean", scratch_bytes)
        want = m3kernels.maxsim_topk(*batch, 4)
        torch.testing.assert_close(found[0], want[0], rtol=0, atol=2e-6)


@pytest.mark.usefixtures("look")
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 5))
def test_rounding_that_misleads_as_far_as_it_can(seed: int, k: int) -> None:
    """All that int8 leaves out lies along the query, for it in some documents, else against it.

    The others have 61 unit steps more in int8, and still score less.
    """
    rng = torch.Generator().manual_seed(seed)
    dim, n = 64, 40
    signs = torch.where(torch.rand(dim, generator=rng) < 0.5, -1.0, 1.0)
    base = torch.randint(-60, 60, (dim,), generator=rng).float()
    base[0] = 127 * signs[0]  # the scale is 1
    better = torch.rand(n, generator=rng) < 0.5
    left_out = torch.where(better, 1, -1) * (0.489 + 0.002 * torch.rand(n, generator=rng))
    documents = base.repeat(n, 1)
    documents[:, 1:] += left_out[:, None] * signs[1:]
    documents[~better, 1:62] += signs[1:62]
    queries = signs[None].repeat(3, 1)
    batch = (queries, torch.tensor([0, 3]), documents, torch.arange(n + 1))
    assert_right(Kernel(torch.device("cpu"), "torch"), batch, k)


@pytest.mark.usefixtures("look")
def test_few_are_scored_again() -> None:
    batch = clustered([32], [20] * 400, 224, seed=3, device=torch.device("cpu"))
    spread = torch.linspace(0.1, 1.0, 400)[torch.randperm(400)].repeat_interleave(20)
    batch[2].mul_(spread[:, None])
    found = assert_right(Kernel(torch.device("cpu"), "torch"), batch, 10)
    assert 10 <= int(found.rescored[0]) < 40


def test_equal_documents_go_by_id(kernel: Kernel) -> None:
    queries, cu_q, documents, _ = ragged([3], [4], 16, device=kernel.device)
    cu_d = from_lengths([4] * 20).to(kernel.device)
    found = assert_right(kernel, (queries, cu_q, documents.repeat(20, 1), cu_d), 5)
    assert found.ids.tolist() == [[0, 1, 2, 3, 4]]
    assert found.rescored.tolist() == [20]  # the tie at the border is kept


def test_queries_without_tokens_read_little(kernel: Kernel) -> None:
    batch = ragged([0, 3, 0], [4] * 30, 16, device=kernel.device)
    mask = torch.arange(30, device=kernel.device) % 2 == 1
    found = assert_right(kernel, batch, 4, documents_mask=mask)
    assert found.ids[::2].tolist() == [[1, 3, 5, 7]] * 2
    assert found.rescored[::2].tolist() == [4, 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_exact_rows_of_other_dtypes(kernel: Kernel, dtype: torch.dtype) -> None:
    sizes = [3] * 12 if interpreted(kernel) else [30] * 60
    queries, cu_q, documents, cu_d = clustered([8, 2], sizes, 48, seed=1, device=kernel.device)
    assert_right(kernel, (queries.to(dtype), cu_q, documents.to(dtype), cu_d), 3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exact_rows_in_a_file(kernel: Kernel, tmp_path: Path, dtype: str) -> None:
    sizes = [3] * 12 if interpreted(kernel) else [30] * 60
    queries, cu_q, documents, cu_d = clustered([8], sizes, 48, seed=2, device=kernel.device)
    path = tmp_path / "rows"
    rows = documents.cpu().numpy().astype(dtype)
    rows.tofile(path)
    file = np.memmap(path, dtype=dtype, mode="r", shape=rows.shape)
    batch = (queries, cu_q, torch.from_numpy(rows).to(kernel.device), cu_d)
    assert_right(kernel, batch, 3, exact=file)
    assert m3kernels.certify(file, cu_d).exact is file


def test_nothing(kernel: Kernel) -> None:
    for lengths_q, lengths_d in itertools.product(([], [0], [2]), repeat=2):
        batch = ragged(lengths_q, lengths_d, 16, device=kernel.device)
        assert_right(kernel, batch, 2)
        if lengths_q:
            assert_right(kernel, batch, 2, documents_mask=[])


def test_a_million_bits_of_memory() -> None:
    """No number for each of many queries and documents is held at a time."""
    from tests.kernels.conftest import Dispatched

    n_q, n_d, largest = 400, 60_000, 0

    def saw(function: Any, args: tuple[Any, ...], made: Any) -> None:
        nonlocal largest
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                largest = max(largest, tensor.untyped_storage().nbytes())

    queries, cu_q, documents, _ = ragged([1] * n_q, [n_d], 16, seed=5)
    certified = m3kernels.certify(documents, torch.arange(n_d + 1))
    with Dispatched(saw):
        certified_topk_torch(queries, cu_q, certified, 3, None, "mean")
    assert 0 < largest < 20 << 20 < n_q * n_d


def test_certify_by_hand() -> None:
    documents = torch.tensor([[127.0, 0.25], [0.0, 0.0], [1.0, torch.nan], [3.0, -4.0]])
    certified = m3kernels.certify(documents, torch.tensor([0, 2, 3, 4, 4]))
    assert certified.rows.tolist() == [[127, 0], [0, 0], [0, 0], [95, -127]]
    assert certified.residuals[:2].tolist() == [pytest.approx(0.25), torch.inf]
    assert float(certified.residuals[0]) >= 0.25
    assert certified.residuals[3] == 0
    assert certified.norms.tolist() == [
        pytest.approx((127**2 + 0.25**2) ** 0.5), torch.inf, pytest.approx(5.0), 0.0
    ]  # fmt: skip
    assert certified.exact is documents


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]], torch.tensor([0, 1])), TypeError, "documents is a list"),
        ((torch.ones(2), torch.tensor([0, 2])), ValueError, r"documents has shape \(2,\)"),
        ((torch.ones(2, 3).char(), torch.tensor([0, 2])), TypeError, "documents has dtype int8"),
        ((np.ones((2, 3)), torch.tensor([0, 2])), TypeError, "documents has dtype float64"),
        ((np.ones(2, np.float32), torch.tensor([0, 2])), ValueError, "documents has shape"),
        ((torch.ones(2, 0), torch.tensor([0, 2])), ValueError, "documents has no columns"),
        ((torch.ones(2, 3), [0, 2]), TypeError, "cu_seqlens_d is a list"),
        ((torch.ones(2, 3), torch.tensor([0, 3])), ValueError, "cu_seqlens_d ends with 3"),
    ],
)
def test_certify_names_what_is_wrong(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        m3kernels.certify(*arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"documents": torch.ones(6, 8)}, TypeError, "documents is a Tensor; expected Certified"),
        ({"queries": torch.ones(4, 9)}, ValueError, "documents has vectors of 8; expected 9"),
        ({"queries": torch.ones(4, 8, device="meta")}, ValueError, "queries is on meta"),
        ({"cu_seqlens_q": torch.tensor([0, 3])}, ValueError, "cu_seqlens_q ends with 3"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"documents_mask": [1]}, ValueError, "documents_mask has the id 1"),
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
        "documents": m3kernels.certify(torch.ones(6, 8), torch.tensor([0, 6])),
        "k": 1,
    }
    m3kernels.certified_topk(**arguments)
    with pytest.raises(error, match=message):
        m3kernels.certified_topk(**(arguments | change))
