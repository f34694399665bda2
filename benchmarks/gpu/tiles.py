"""The launch table's rows and their neighbours, timed; where one is faster, a suggestion.

Compiling them takes longer than timing them, and is the CPU's: it is done by many processes first.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import m3kernels
import torch
from m3kernels.dispatch import target_of
from m3kernels.maxsim.launch import maxsim_triton, multiplied_as
from m3kernels.maxsim.tiles import Tile, tile_for
from m3kernels.packing import from_lengths
from torch import Tensor

from benchmarks.gpu.environment import device_of
from benchmarks.gpu.forcing import forced, named
from benchmarks.tables import aligned
from benchmarks.timing import Clock, Run, capture, clock_for, quantile

__all__ = ["around", "run"]

# Less than this is noise.
_WORTH = 0.97
_REPEATS = 15
_LIMIT = 1e-3
# Each compiling process holds a context of its own on the card.
_MOST_COMPILERS = 14
# What a kernel is compiled for doesn't depend on how long documents are.
_TOKENS_TO_COMPILE = 3


@dataclass(frozen=True)
class _Shape:
    """A call whose row of the table is looked at."""

    name: str
    query_rows: int
    documents: int
    tokens: int
    dim: int
    dtype: torch.dtype = torch.bfloat16
    narrow: torch.dtype | None = None
    pairs: bool = False


_SHAPES = (
    _Shape("32 rows", 32, 1000, 512, 1024),
    _Shape("64 rows", 64, 1000, 512, 1024),
    _Shape("128 rows", 128, 1000, 512, 1024),
    _Shape("4096 rows", 4096, 250, 512, 1024),
    _Shape("int8", 32, 1000, 512, 1024, narrow=torch.int8),
    _Shape("fp8", 32, 1000, 512, 1024, torch.float16, torch.float8_e4m3fn),
    _Shape("d = 64", 32, 4000, 512, 64),
    _Shape("d = 128", 32, 4000, 512, 128),
    _Shape("float32", 32, 250, 512, 1024, torch.float32),
    _Shape("pairs", 32, 1000, 180, 1024, pairs=True),
    _Shape("100 documents", 32, 100, 512, 1024),
)
_SHAPES_DRY = (
    _Shape("12 rows", 12, 3, 20, 16, torch.float32),
    _Shape("int8", 12, 3, 20, 16, torch.float32, torch.int8),
)


def run(*, dry: bool) -> dict[str, Any]:
    """Time each shape with its tile and those around it."""
    device = device_of(dry=dry)
    target = target_of(device)
    assert target is not None
    clock = clock_for(device)
    tiles: dict[_Shape, list[Tile]] = {}
    for shape in _SHAPES_DRY if dry else _SHAPES:
        if shape.narrow != torch.float8_e4m3fn or target.fp8:
            tiles[shape] = _tiles(shape, target.family)[: 3 if dry else None]
    if not dry:
        _compile_all([(shape, tile) for shape, some in tiles.items() for tile in some])
    shapes: list[dict[str, Any]] = []
    for shape, some in tiles.items():
        timed = _timings(shape, some, device, clock, repeats=2 if dry else _REPEATS)
        shapes.append({"name": shape.name, "row": named(some[0]), "tiles": timed})
    return _told(shapes)


def _tiles(shape: _Shape, family: str) -> list[Tile]:
    """The row of the table that a shape uses, then those around it."""
    documents = shape.narrow or shape.dtype
    compute = multiplied_as(shape.dtype, documents)
    mine = tile_for(
        family,
        compute.itemsize,
        shape.query_rows,
        widened=documents != compute,
        pairs=shape.pairs,
        dim=shape.dim,
    )
    on_n = documents != compute or compute == torch.int8
    return list(around(mine, widened=on_n, pairs=shape.pairs))


def _compile_all(jobs: list[tuple[_Shape, Tile]]) -> None:
    """Compile kernels in as many processes as there are cores, into Triton's cache on the disk."""
    workers = min(os.cpu_count() or 1, _MOST_COMPILERS, len(jobs))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(_compile, jobs, chunksize=1)


def _compile(job: tuple[_Shape, Tile]) -> None:
    shape, tile = job
    arguments = _inputs(replace(shape, tokens=_TOKENS_TO_COMPILE), torch.device("cuda"))
    with contextlib.suppress(Exception), forced(tile):  # the timing says why it doesn't run
        maxsim_triton(*arguments)


def around(tile: Tile, *, widened: bool, pairs: bool) -> Iterator[Tile]:
    """Yield a row of the table, then its neighbours: one or two things are different in each."""
    yield tile
    seen = {tile}
    shapes = product(
        (tile.block_d // 2, tile.block_d, tile.block_d * 2), (-1, 0, 1), (-1, 0, 1, 2)
    )
    for block_d, stages, blocks in shapes:
        changed = replace(
            tile,
            block_d=block_d,
            num_warps=8 if block_d * tile.block_q >= 128 * 128 else tile.num_warps,
            num_stages=tile.num_stages + stages,
            blocks=tile.blocks + blocks,
        )
        differences = (block_d != tile.block_d) + (stages != 0) + (blocks != 0)
        lawful = 64 <= block_d <= 256 or block_d == tile.block_d
        if pairs and blocks:
            continue  # its grid doesn't ask
        if not lawful or differences > 2 or changed.num_stages < 1 or changed.blocks < 1:
            continue
        for other in (changed, replace(changed, flat=not changed.flat)):
            if other not in seen and not (pairs and not other.flat):
                seen.add(other)
                yield other
    for block_k, stages in product((tile.block_k // 2, tile.block_k * 2), (-1, 0, 1)):
        if tile.num_stages + stages > 1:
            yield replace(tile, block_k=block_k, num_stages=tile.num_stages + stages)
    if not widened and not pairs:
        yield replace(tile, q_on_m=not tile.q_on_m, flat=False)


def _timings(
    shape: _Shape, tiles: list[Tile], device: torch.device, clock: Clock, repeats: int
) -> list[dict[str, Any]]:
    """Return the seconds of each tile that compiles, fits and gives what the first one gives."""
    arguments = _inputs(shape, device)
    with forced(tiles[0]):
        want = maxsim_triton(*arguments)
    rows: list[dict[str, Any]] = []
    for tile in tiles:
        row: dict[str, Any] = {"tile": named(tile)}
        rows.append(row)
        with forced(tile):
            try:
                got = maxsim_triton(*arguments)
                if not torch.allclose(got, want, atol=_LIMIT, rtol=_LIMIT):
                    row["refused"] = "wrong"
                    continue
                run: Run = partial(maxsim_triton, *arguments)
                if device.type == "cuda":
                    run, _ = capture(run)  # the device's time alone
                seconds = [clock.once(run) for _ in range(repeats)]
            except Exception as error:  # too much shared memory, or the compiler's own
                row["refused"] = f"{type(error).__name__}: {error}"[:160]
                continue
        row["median_s"] = quantile(sorted(seconds), 0.5)
    return rows


def _inputs(shape: _Shape, device: torch.device) -> tuple[Any, ...]:
    """The arguments of `maxsim_triton`."""
    n_rows = shape.documents * shape.tokens
    queries = _unit(shape.query_rows, shape.dim, device).to(shape.dtype)
    documents = _unit(n_rows, shape.dim, device).to(shape.dtype)
    scales: Tensor | None = None
    if shape.narrow is not None:
        documents, scales = m3kernels.quantize_tokens(documents, shape.narrow)
    cu_q = from_lengths([shape.query_rows]).to(device)
    cu_d = from_lengths([shape.tokens] * shape.documents).to(device)
    pairs = None
    if shape.pairs:
        ids = torch.arange(shape.documents, device=device)
        pairs = torch.stack([torch.zeros_like(ids), ids], 1)
    return queries, cu_q, documents, cu_d, pairs, scales, "mean"


def _unit(rows: int, dim: int, device: torch.device) -> Tensor:
    return torch.randn(rows, dim, device=device).mul_(dim**-0.5)


def _told(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    table = [("shape", "row of the table", "us", "fastest", "us")]
    suggestions, wrong = [], []
    for shape in shapes:
        timed = [row for row in shape["tiles"] if "median_s" in row]
        wrong += [
            f"{shape['name']}: {row['tile']}"
            for row in shape["tiles"]
            if row.get("refused") == "wrong"
        ]
        if not timed or "median_s" not in shape["tiles"][0]:
            wrong.append(f"{shape['name']}: the table's own row doesn't run")
            continue
        mine = shape["tiles"][0]["median_s"]
        best = min(timed, key=lambda row: float(row["median_s"]))
        us = f"{mine * 1e6:,.1f}", f"{best['median_s'] * 1e6:,.1f}"
        table.append((shape["name"], shape["row"], us[0], best["tile"], us[1]))
        if best["median_s"] < _WORTH * mine:
            suggestions.append(f"{shape['name']}: {shape['row']} -> {best['tile']}")
    return {
        "status": "wrong" if wrong else "ok",
        "summary": f"{len(shapes)} shapes, {len(suggestions)} rows could be faster",
        "shapes": shapes,
        "suggestions": suggestions,
        "wrong": wrong,
        "table": [*aligned(table, left=(0, 1, 3)), *(f"  try {line}" for line in suggestions)],
    }
