"""How the MaxSim kernels are launched: tiles, digits, fixed costs, long documents."""

from __future__ import annotations

from typing import Any

import m3kernels
import pytest
import torch
from m3kernels.dispatch import launching_on
from m3kernels.packing import from_lengths
from m3kernels.target import TARGETS, processors

from tests.kernels.conftest import HAS_TRITON, KERNELS, Dispatched
from tests.kernels.test_maxsim import LIMITS, all_pairs, ragged

if not HAS_TRITON:
    pytest.skip("triton is not installed", allow_module_level=True)

from m3kernels.maxsim import launch
from m3kernels.maxsim.kernels import maxsim_digits_kernel
from m3kernels.maxsim.tiles import PAIRS, TILES, tile_for, tiles_of
from m3kernels.sparse_max import launch as sparse_max_launch

DEVICE = KERNELS[-1].device
FAMILIES = sorted({target.family for target in TARGETS.values()} | {"interpreter"})


def digits_of(queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two digits (rows, d) and the scale (rows,) of each query row, in float64."""
    rows, dim = queries.shape
    digits = torch.full((rows, 2, dim), 99, dtype=torch.int8, device=queries.device)
    scales = torch.full((rows,), 99.0, device=queries.device)
    constants = launch.digits_constants(TARGETS["sm_90"], dim)
    with launching_on(queries.device):
        maxsim_digits_kernel[(rows,)](queries, digits, scales, rows, **constants)
    return digits[:, 0].double(), digits[:, 1].double(), scales.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dim", [16, 48, 1000])
def test_two_digits_keep_sixteen_bits_of_a_query(dtype: torch.dtype, dim: int) -> None:
    """Each number is off by max|q| / 127 / 508 at most, and by float32's own rounding."""
    seed = int(torch.randint(1 << 30, ()))
    rng = torch.Generator().manual_seed(seed)
    queries = torch.randn(9, dim, generator=rng)
    queries[1] *= 1e-5
    queries[2] *= 1e3
    queries[3] = 0
    queries[4] = queries[4, 0]
    queries[5, 1:] *= 1e-4
    queries = queries.to(DEVICE, dtype)
    high, low, scales = digits_of(queries)
    assert high.abs().max() <= 127
    assert low.abs().max() <= 127
    error = (scales[:, None] * (254 * high + low) - queries.double()).abs()
    largest = queries.double().abs().amax(1, keepdim=True)
    assert (error <= largest * (1 / 127 / 508 + 2**-22) + 1e-30).all(), seed


def test_digits_of_numbers_that_are_none() -> None:
    inf, nan = float("inf"), float("nan")
    queries = torch.ones(5, 16, device=DEVICE)
    queries[0, 3], queries[1, 4] = inf, -inf
    queries[2, 5] = nan
    queries[3, 6], queries[3, 7] = inf, nan
    queries[4, 8], queries[4, 9] = inf, inf
    high, _, scales = digits_of(queries)
    assert scales[:2].tolist() == [inf, inf]
    assert scales[2:].isnan().all()
    assert high[0].nonzero().tolist() == [[3]]
    assert high[0, 3] == 1
    assert high[1].nonzero().tolist() == [[4]]
    assert high[1, 4] == -1


@pytest.mark.parametrize("as_pairs", [False, True], ids=["all", "pairs"])
@pytest.mark.parametrize("dim", [16, 160])
def test_int8_documents_are_within_the_digits_error(as_pairs: bool, dim: int) -> None:
    seed = int(torch.randint(1 << 30, ()))
    queries, cu_q, documents, cu_d = ragged([9, 0, 40], [30, 0, 3, 17], dim, seed=seed)
    quantized, scales = m3kernels.quantize_tokens(documents)
    batch = [x.to(DEVICE) for x in (queries, cu_q, quantized, cu_d)]
    pairs = all_pairs(3, 4, DEVICE) if as_pairs else None
    options: dict[str, Any] = {"document_scales": scales.to(DEVICE), "pairs": pairs}
    got = m3kernels.maxsim(*batch, **options, backend="triton").view(3, 4).cpu().double()
    # What each number may be off by, summed for a document's widest row.
    rows = quantized.double() * scales.double()[:, None]
    products = rows @ queries.double().T
    widest = rows.abs().sum(1)
    for i_q, i_d in ((0, 0), (0, 2), (0, 3), (2, 0), (2, 2), (2, 3)):
        of_query, of_document = (slice(cu[i], cu[i + 1]) for cu, i in ((cu_q, i_q), (cu_d, i_d)))
        want = products[of_document, of_query].amax(0).mean()
        off = queries[of_query].double().abs().amax(1).mean() / 127 / 508
        limit = off * widest[of_document].max() + 1e-6
        assert (got[i_q, i_d] - want).abs() <= limit, seed
    assert not got[1].any()
    assert not got[:, 1].any()


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_bad_number_in_a_query_of_int8_documents(bad: float) -> None:
    rng = torch.Generator().manual_seed(3)
    queries = torch.randn(5, 16, generator=rng)
    queries[2, 3] = bad
    documents = torch.randint(-3, 4, (9, 16), generator=rng).char()
    documents[:, 3] = torch.tensor([2, 1, 1, 3, 1, 0, -1, -1, -2])
    batch = (queries, from_lengths([2, 3]), documents, from_lengths([4, 2, 3]))
    on_device = [x.to(DEVICE) for x in batch]
    scales = torch.rand(9, generator=rng).to(DEVICE) + 0.1
    want = m3kernels.maxsim(*on_device, document_scales=scales, backend="reference")
    got = m3kernels.maxsim(*on_device, document_scales=scales, backend="triton")
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("lengths_q", [[40, 0, 21], [100, 0, 28]], ids=["a-tile", "two-tiles"])
def test_queries_on_m(dtype: torch.dtype, lengths_q: list[int]) -> None:
    """A tile's queries are the product's rows: the same scores, whatever the documents' ends."""
    assert tile_for("interpreter", dtype.itemsize, sum(lengths_q)).q_on_m
    lengths_d = [0, 31, 1, 0, 33, 64, 7, 0]
    batch = ragged(lengths_q, lengths_d, 48, dtype=dtype, device=DEVICE)
    batch[2][40, 3] = float("nan")  # document 4
    want = m3kernels.maxsim(*batch, backend="reference")
    got = m3kernels.maxsim(*batch, backend="triton")
    torch.testing.assert_close(got, want, **LIMITS)
    assert got[0].isnan().nonzero().tolist() == [[4]]


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the interpreter runs what sm_100 compiles")
@pytest.mark.parametrize("n_q", [4, 40, 70])
def test_documents_of_a_tile_are_counted(n_q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on sm_100."""
    plain = launch.tiles_constants

    def counted(*arguments: Any) -> dict[str, Any]:
        return plain(*arguments) | {"COUNTED": True}

    monkeypatch.setattr(launch, "tiles_constants", counted)
    batch = ragged([n_q], [3, 0, 70, 1, 1, 0, 0, 33, 9], 32, device=DEVICE)
    got = launch.maxsim_triton(*batch, None, None, "mean")
    torch.testing.assert_close(got, m3kernels.maxsim(*batch, backend="reference"), **LIMITS)


def test_widened_documents_never_lie_on_n() -> None:
    for family in FAMILIES:
        for itemsize in (2, 4):
            tiles = tiles_of(family, itemsize, widened=True)
            assert not any(tile.q_on_m for tile in tiles)
            widths = [tile.block_q for tile in tiles_of(family, itemsize)]
            assert widths == sorted(widths)


def test_which_tile() -> None:
    def shape(*arguments: Any, **options: Any) -> tuple[int, int, int]:
        tile = tile_for("sm_90", *arguments, **options)
        return tile.block_d, tile.block_q, tile.num_warps

    assert shape(2, 32) == (64, 32, 4)
    assert shape(2, 33) == (64, 64, 4)
    assert shape(2, 100) == (64, 128, 4)
    assert shape(2, 384) == (128, 128, 4)
    assert shape(2, 4096) == (128, 256, 8)
    assert tile_for("sm_90", 2, 4096).q_on_m
    assert not tile_for("sm_90", 2, 4096, widened=True).q_on_m
    # one step takes all dimensions, for as many query rows as there is a tile for
    assert tile_for("sm_90", 2, 32, dim=64).block_k == 64
    assert tile_for("sm_90", 2, 32, dim=65).block_k == 128
    assert [tile.block_q for tile in tiles_of("sm_90", 2, dim=64)] == [16, 32, 64, 128, 128, 256]
    assert tile_for("sm_90", 2, 32, dim=64).blocks == 5
    assert tile_for("sm_90", 1, 32, dim=128).blocks == 4
    assert tile_for("sm_90", 2, 4096, dim=64) == tile_for("sm_90", 2, 4096)
    for family in FAMILIES:
        for (of_family, _), tiles in PAIRS.items():
            if of_family == family != "interpreter":
                assert {tile.block_d for tile in tiles} == {64}
    assert PAIRS.keys() == TILES.keys()


class Launches:
    """The kernels that a call launches, and the operations of torch's that run on the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.kernels: list[str] = []
        self.operations: list[str] = []
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, _Counted(self, name, getattr(module, name)))

    def of(self, call: Any, *arguments: Any) -> list[str]:
        """Return the kernels of one call, and keep the operations."""
        free = {"empty", "new_empty", "view", "slice", "detach", "alias"}

        def saw(function: Any, args: tuple[Any, ...], made: Any) -> None:
            name = function.__name__.split(".")[0]
            if name not in free:
                self.operations.append(name)

        self.kernels, self.operations = [], []
        with Dispatched(saw):
            call(*arguments)
        return self.kernels


class _Counted:
    """A kernel that tells of its launches."""

    def __init__(self, launches: Launches, name: str, kernel: Any) -> None:
        self.launches, self.name, self.kernel = launches, name.removesuffix("_kernel"), kernel

    def __getitem__(self, grid: Any) -> Any:
        def launched(*arguments: Any, **options: Any) -> None:
            self.launches.kernels.append(self.name)
            before = list(self.launches.operations)
            self.kernel[grid](*arguments, **options)
            self.launches.operations = before  # the interpreter's own are none of the call's

        return launched


@pytest.mark.slow
def test_how_many_launches_a_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs some microseconds, where 100 documents of 512 tokens take 24 to read."""
    launches = Launches(monkeypatch, launch)
    queries, cu_q, documents, cu_d = ragged([3, 0, 67], [5, 0, 40], 32, device=DEVICE)
    batch = (queries, cu_q, documents, cu_d)
    rest = (None, None, "mean")
    assert launches.of(launch.maxsim_triton, *batch, *rest) == ["maxsim_tiles", "maxsim_sums"]
    assert launches.operations == []  # no fill, no copy
    many = ragged([3, 0, 600], [5, 0, 4], 32, device=DEVICE)  # more rows than any tile has
    rounds = launches.of(launch.maxsim_triton, *many, *rest, 0)
    assert len(rounds) > 2
    assert rounds == ["maxsim_tiles", "maxsim_sums"] * (len(rounds) // 2)
    assert launches.operations == []
    pairs = all_pairs(3, 3, DEVICE)
    # enough of them that none is split
    pairs = pairs.repeat(processors(DEVICE) * launch.PROGRAMS_WANTED // 9 + 1, 1)
    want = ["maxsim_pairs"]
    assert launches.of(launch.maxsim_triton, *batch, pairs, None, "mean") == want
    assert launches.operations == []
    split = ["maxsim_pairs", "maxsim_pairs_sums"]
    assert launches.of(launch.maxsim_triton, *batch, pairs[:1], None, "mean") == split
    quantized, scales = m3kernels.quantize_tokens(documents)
    narrow = (queries, cu_q, quantized, cu_d, None, scales, "mean")
    want = ["maxsim_digits", "maxsim_tiles", "maxsim_sums"]
    assert launches.of(launch.maxsim_triton, *narrow) == want
    assert launches.operations == []


def test_how_many_launches_sparse_max_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches(monkeypatch, sparse_max_launch)
    hidden = torch.randn(20, 32, device=DEVICE)
    weight, bias = torch.randn(32, device=DEVICE), torch.zeros((), device=DEVICE)
    ids = torch.arange(20, device=DEVICE)
    cu = from_lengths([4, 16]).to(DEVICE)
    arguments = (hidden, weight, bias, ids, cu, (0,))
    want = ["weigh", "sort", "own", "write"]
    assert launches.of(sparse_max_launch.sparse_max_triton, *arguments) == want
    assert launches.operations == []


@pytest.mark.slow
def test_every_score_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cleared before, so what no kernel writes would be what the memory had."""
    new_empty = torch.Tensor.new_empty

    def poisoned(self: torch.Tensor, *size: Any, **options: Any) -> torch.Tensor:
        made = new_empty(self, *size, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    lengths_q, lengths_d = [0, 5, 0, 0, 40, 1, 0], [0, 0, 3, 0, 41, 0]
    batch = ragged(lengths_q, lengths_d, 16, device=DEVICE)
    want = m3kernels.maxsim(*batch, backend="reference")
    for scratch_bytes in (0, 3_000, 1 << 20):
        got = launch.maxsim_triton(*batch, None, None, "mean", scratch_bytes)
        torch.testing.assert_close(got, want, **LIMITS)
    pairs = all_pairs(7, 6, DEVICE)
    for some in (pairs, pairs[:2], pairs[26:27]):
        got = launch.maxsim_triton(*batch, some, None, "mean")
        torch.testing.assert_close(got, want[some[:, 0], some[:, 1]], **LIMITS)


@pytest.mark.slow
def test_a_book_among_short_documents() -> None:
    """A document of far more tiles than are read one after another, with neighbours of few."""
    block_d = tile_for("interpreter", 4, 4, dim=16).block_d
    rows = block_d * (3 * launch.BLOCK_T + 1) + 5
    lengths_d = [3, 0, rows, 1, block_d * launch.BLOCK_T, 2]
    batch = ragged([1, 3], lengths_d, 16, device=DEVICE)
    batch[2][3 + rows - 1, 0] = 50.0  # the last row, alone in its tile
    want = m3kernels.maxsim(*batch, backend="reference")
    got = m3kernels.maxsim(*batch, backend="triton")
    torch.testing.assert_close(got, want, **LIMITS)
    batch[2][3 + rows // 2, 0] = float("nan")
    got = m3kernels.maxsim(*batch, backend="triton")
    assert got.isnan().nonzero().tolist() == [[0, 2], [1, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("n_documents", [1, 2, 15, 16, 17, 240, 257, 700])
def test_programs_find_their_first_document(n_documents: int) -> None:
    rng = torch.Generator().manual_seed(n_documents)
    lengths_d = torch.randint(0, 3, (n_documents,), generator=rng).tolist()
    lengths_d[-1] = 40  # the second program begins within it, or far from the first document
    batch = ragged([2], lengths_d, 16, device=DEVICE)
    want = m3kernels.maxsim(*batch, backend="reference")
    got = m3kernels.maxsim(*batch, backend="triton")
    torch.testing.assert_close(got, want, **LIMITS)
