"""Shapes and states at the edge, against float64: what the interpreter can't tell of a card.

Each check is a function; it raises `AssertionError` where a result is wrong and `Skipped` where
the machine lacks what it needs. An error that takes the card's context with it ends the part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import m3kernels
import torch
from m3kernels.dispatch import target_of
from m3kernels.maxsim.launch import maxsim_triton
from m3kernels.maxsim.tiles import tiles_of
from m3kernels.packing import from_lengths
from torch import Tensor

from benchmarks.gpu.environment import device_of
from benchmarks.gpu.forcing import forced, named
from benchmarks.timing import capture

__all__ = ["CHECKS", "Skipped", "run"]

Batch = tuple[Tensor, Tensor, Tensor, Tensor]

# Largest differences of scores of unit vectors from float64 ones of the same inputs.
_LIMIT = 2e-5


class Skipped(Exception):  # noqa: N818  (an answer, not an error)
    """The machine lacks something; the message says what."""


def run(*, dry: bool) -> dict[str, Any]:
    """Run all checks and return each one's outcome."""
    device = device_of(dry=dry)
    outcomes: dict[str, dict[str, str]] = {}
    for check in CHECKS:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            outcomes[name] = {"status": "ok", "note": check(device, dry) or ""}
        except Skipped as why:
            outcomes[name] = {"status": "skipped", "note": str(why)}
        except Exception as error:  # the next checks still tell something
            told = (str(error).strip().splitlines() or [""])[0][:200]
            outcomes[name] = {"status": "wrong", "note": f"{type(error).__name__}: {told}"}
    counts = [outcome["status"] for outcome in outcomes.values()]
    told = ", ".join(f"{counts.count(kind)} {kind}" for kind in ("ok", "wrong", "skipped"))
    return {
        "status": "wrong" if "wrong" in counts else "ok",
        "summary": told,
        "checks": outcomes,
        "table": [
            f"  {name}: {outcome['status']}: {outcome['note']}"
            for name, outcome in outcomes.items()
            if outcome["status"] != "ok"
        ],
    }


def _ragged(
    lengths_q: list[int], lengths_d: list[int], dim: int, dtype: torch.dtype, device: torch.device
) -> Batch:
    """Unit vectors, fresh at each call."""
    queries, documents = (
        torch.nn.functional.normalize(torch.randn(sum(n), dim), dim=1).to(device, dtype)
        for n in (lengths_q, lengths_d)
    )
    return (
        queries,
        from_lengths(lengths_q).to(device),
        documents,
        from_lengths(lengths_d).to(device),
    )


def _agrees(batch: Batch, limit: float = _LIMIT, **options: Any) -> float:
    """Compare all pairs with the reference's; return the largest difference."""
    want = m3kernels.maxsim(*batch, **options, backend="reference")
    got = m3kernels.maxsim(*batch, **options, backend="triton", validate=False)
    return _close(got, want, limit)


def _close(got: Tensor, want: Tensor, limit: float = _LIMIT) -> float:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=limit, equal_nan=True)
    finite = (got - want)[want.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def check_every_tile(device: torch.device, dry: bool) -> str:
    """Each row of the launch tables, on documents that end anywhere in a tile."""
    target = target_of(device)
    assert target is not None
    dim = 48 if dry else 1024
    kinds = [(2, torch.float16, None), (4, torch.float32, None), (1, torch.float16, torch.int8)]
    if not dry:
        kinds.append((2, torch.bfloat16, None))
    if target.fp8:
        kinds.append((2, torch.float16, torch.float8_e4m3fn))
    n, worst = 0, 0.0
    for itemsize, dtype, narrow in kinds:
        widened = narrow == torch.float8_e4m3fn
        for pairs in (False, True):
            for of_dim in (dim, 16 if dry else 64):
                tiles = tiles_of(target.family, itemsize, widened=widened, pairs=pairs, dim=of_dim)
                for tile in tiles:
                    difference = _of_tile(tile, of_dim, dtype, narrow, pairs, device)
                    n, worst = n + 1, max(worst, difference)
    return f"{n} tiles, {worst:.1e} off at most"


def _of_tile(
    tile: Any,
    dim: int,
    dtype: torch.dtype,
    narrow: torch.dtype | None,
    as_pairs: bool,
    device: torch.device,
) -> float:
    lengths_d = [tile.block_d + 3, 0, 1, 2 * tile.block_d, 7, tile.block_d - 11, 5]
    lengths_q = [tile.block_q, 0, 3]
    queries, cu_q, documents, cu_d = _ragged(lengths_q, lengths_d, dim, dtype, device)
    scales = None
    if narrow is not None:
        documents, scales = m3kernels.quantize_tokens(documents, narrow)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(7)).to(device) if as_pairs else None
    arguments = (queries, cu_q, documents, cu_d)
    want = m3kernels.maxsim(*arguments, pairs=pairs, document_scales=scales, backend="reference")
    try:
        with forced(tile):
            got = maxsim_triton(*arguments, pairs, scales, "mean")
        return _close(got, want)
    except Exception as error:
        raise AssertionError(f"{named(tile)} {dtype} {narrow} d={dim}: {error}") from error


def check_dimensions(device: torch.device, dry: bool) -> str:
    """From 16 to 4096: descriptors wider than the tensor, and widths that take none."""
    dims = [16, 40] if dry else [16, 24, 32, 40, 48, 64, 80, 96, 128, 256, 1000, 1024, 2048, 4096]
    dims += [17] if dry else [17, 100, 1001]
    worst = 0.0
    for dim in dims:
        for dtype in (torch.float32, torch.float16):
            batch = _ragged([5, 30], [3, 0, 20, 1], dim, dtype, device)
            worst = max(worst, _agrees(batch))
    return f"{len(dims)} widths, {worst:.1e} off at most"


def check_infinities_in_three_tf32_products(device: torch.device, dry: bool) -> str:
    """An infinity is inf + rest + rest: what the rests are decides."""
    for side in (0, 2):
        for value in (float("inf"), -float("inf"), float("nan"), 3e38):
            batch = _ragged([3, 4], [5, 0, 6], 64, torch.float32, device)
            batch[side][1, 5] = value
            _agrees(batch)
    return ""


def check_float8_nan(device: torch.device, dry: bool) -> str:
    """The interpreter reads 502 there."""
    target = target_of(device)
    if dry or target is None or not target.fp8:
        raise Skipped("needs a card with float8_e4m3fn")
    queries, cu_q, documents, cu_d = _ragged([3], [4, 5], 64, torch.float16, device)
    narrow, scales = m3kernels.quantize_tokens(documents, torch.float8_e4m3fn)
    narrow.view(torch.uint8)[2, 7] = 0x7F
    got = m3kernels.maxsim(queries, cu_q, narrow, cu_d, document_scales=scales, backend="triton")
    assert got.isnan().tolist() == [[True, False]], got.tolist()
    return ""


def check_nan_rows_past_the_end(device: torch.device, dry: bool) -> str:
    """Rows that belong to no document, in the last document's tile and after it."""
    for dtype in (torch.float32, torch.float16):
        queries, cu_q, documents, cu_d = _ragged([5, 40], [3, 20], 64, dtype, device)
        want = m3kernels.maxsim(queries, cu_q, documents, cu_d, backend="reference")
        padded = torch.cat([documents, documents.new_full((300, 64), float("nan"))])
        more = torch.cat([queries, queries.new_full((100, 64), float("nan"))])
        got = m3kernels.maxsim(more, cu_q, padded, cu_d, backend="triton", validate=False)
        _close(got, want)
    return ""


def check_more_numbers_than_32_bits_count(device: torch.device, dry: bool) -> str:
    if dry or torch.cuda.mem_get_info(device)[0] < 12 << 30:
        raise Skipped("needs 12 GB of a card's memory")
    rows = (1 << 21) + 4096
    documents = torch.zeros(rows, 1024, dtype=torch.bfloat16, device=device)
    queries, cu_q, last, _ = _ragged([32], [22], 1024, torch.bfloat16, device)
    documents[-22:] = last
    cu_d = torch.tensor([0, 700, rows - 22, rows], device=device)
    got = m3kernels.maxsim(queries, cu_q, documents, cu_d, backend="triton")
    cu_last = torch.tensor([0, 22], device=device)
    want = m3kernels.maxsim(queries, cu_q, last, cu_last, backend="reference")
    _close(got[:, 2:], want)
    assert not got[:, :2].any()
    return f"{rows * 1024:,} numbers"


def check_more_queries_than_a_grid_counts(device: torch.device, dry: bool) -> str:
    n = 70 if dry else 70_000
    batch = _ragged([1] * n, [3, 5], 16, torch.float32, device)
    return f"{n:,} queries, {_agrees(batch):.1e} off at most"


def check_a_book(device: torch.device, dry: bool) -> str:
    n = 700 if dry else 100_000
    batch = _ragged([8], [3, n, 0, 1], 16, torch.float32, device)
    return f"{n:,} tokens, {_agrees(batch):.1e} off at most"


def check_two_threads(device: torch.device, dry: bool) -> str:
    """Two threads of one process call at the same time."""
    batches = [_ragged([8, 3], [30, 5, 100], 64, torch.float16, device) for _ in range(2)]
    wanted = [m3kernels.maxsim(*batch, backend="reference") for batch in batches]
    found: list[list[Tensor]] = [[], []]

    def call(i: int) -> None:
        for _ in range(1 if dry else 20):
            found[i].append(m3kernels.maxsim(*batches[i], backend="triton"))

    # The interpreter patches the language as it runs, so there they go one after another.
    threads = [threading.Thread(target=call, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
        if dry:
            thread.join()
    for thread in threads:
        thread.join()
    for got, want in zip(found, wanted, strict=True):
        assert got, "a thread ended early"
        for scores in got:
            _close(scores, want)
    return ""


def check_two_streams(device: torch.device, dry: bool) -> str:
    if dry:
        raise Skipped("a stream is a card's")
    cuda: Any = torch.cuda
    streams = [cuda.Stream(), cuda.Stream()]
    batches = [_ragged([8, 3], [300, 5, 100], 1024, torch.float16, device) for _ in streams]
    wanted = [m3kernels.maxsim(*batch, backend="reference") for batch in batches]
    torch.cuda.synchronize()
    found: list[Tensor] = []
    for stream, batch in zip(streams, batches, strict=True):
        with torch.cuda.stream(stream):
            found.append(m3kernels.maxsim(*batch, backend="triton", validate=False))
    torch.cuda.synchronize()
    for got, want in zip(found, wanted, strict=True):
        _close(got, want)
    return ""


def check_another_current_device(device: torch.device, dry: bool) -> str:
    if dry or torch.cuda.device_count() < 2:
        raise Skipped("needs two cards")
    batch = _ragged([8], [30, 5], 64, torch.float16, torch.device("cuda", 1))
    with torch.cuda.device(0):
        _agrees(batch)
    return ""


def check_a_warm_graph(device: torch.device, dry: bool) -> str:
    if dry:
        raise Skipped("a graph is a card's")
    batch = _ragged([32], [300, 5, 100], 1024, torch.bfloat16, device)
    replay, scores = capture(lambda: m3kernels.maxsim(*batch, backend="triton", validate=False))
    fresh = _ragged([32], [300, 5, 100], 1024, torch.bfloat16, device)
    batch[0].copy_(fresh[0])
    batch[2].copy_(fresh[2])
    replay()
    _close(scores, m3kernels.maxsim(*fresh, backend="reference"))
    return ""


def check_a_cold_graph(device: torch.device, dry: bool) -> str:
    """Nothing of this width was compiled before the recording began."""
    if dry:
        raise Skipped("a graph is a card's")
    batch = _ragged([32], [300, 5], 368, torch.bfloat16, device)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = m3kernels.maxsim(*batch, backend="triton", validate=False)
    graph.replay()
    _close(scores, m3kernels.maxsim(*batch, backend="reference"))
    return "recorded while it compiled"


CHECKS: tuple[Callable[[torch.device, bool], str], ...] = (
    check_every_tile,
    check_dimensions,
    check_infinities_in_three_tf32_products,
    check_float8_nan,
    check_nan_rows_past_the_end,
    check_more_numbers_than_32_bits_count,
    check_more_queries_than_a_grid_counts,
    check_a_book,
    check_two_threads,
    check_two_streams,
    check_another_current_device,
    check_a_warm_graph,
    check_a_cold_graph,
)
