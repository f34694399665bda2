"""What the compiler makes of every kernel, for cards that need not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from m3kernels.dispatch import triton_version
from m3kernels.ops import OPS
from m3kernels.target import TARGETS

from tests.kernels.conftest import HAS_TRITON

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")


def aot(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: this one may have the interpreter's triton."""
    environment = {
        key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"
    } | environment
    return subprocess.run(
        [sys.executable, "-m", "m3kernels.aot", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_every_variant_compiles_as_intended(target: str) -> None:
    installed = triton_version()
    assert installed is not None
    if installed < TARGETS[target].triton:
        pytest.skip(f"{target} needs a newer triton")
    run = aot("--target", target, "--json")
    reports = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, [r for r in reports if r["problems"]] or run.stderr[-2000:]
    assert {report["variant"].split()[0] for report in reports} == {op.folder for op in OPS}
    limit = {"sm_80": 101_376, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}[target]
    matrix = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}
    for report in reports:
        # sm_80's tables serve sm_86, sm_89 and sm_120 too, which have less
        assert report["shared_memory"] <= limit, report
        assert report["stack"] == 0, report
        if " x " in report["variant"]:  # a MaxSim tile
            assert report["matrix"] == matrix[target], report
            assert report["tma"] == (target in ("sm_90", "sm_100")), report


def test_the_memory_bound_tile_leaves_room_for_two_blocks() -> None:
    """1 x 32 query tokens: two blocks a multiprocessor, one loading while the other reduces."""
    run = aot("--target", "sm_90", "--match", "maxsim tiles bf16 x bf16 128x32x64", "--json")
    report = json.loads(run.stdout)
    assert 2 * report["shared_memory"] <= 232_448
    assert 2 * 128 * report["registers"] <= 65_536


def test_a_table_for_people() -> None:
    run = aot("--target", "sm_90", "--match", "maxsim sums")
    header, line = run.stdout.splitlines()
    assert header.split()[:3] == ["target", "variant", "registers"]
    assert line.startswith("sm_90   maxsim sums")


def test_it_refuses_to_run_interpreted() -> None:
    run = aot(TRITON_INTERPRET="1")
    assert run.returncode == 2
    assert "unset it" in run.stderr


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_float32_is_never_one_tf32_product(target: str) -> None:
    import torch
    from m3kernels.maxsim.launch import constants, product_dtype
    from m3kernels.maxsim.tiles import TILES

    for queries, documents in (
        (torch.float32, torch.float32),
        (torch.float32, torch.int8),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
    ):
        compute = product_dtype(queries, documents)
        assert compute == torch.float32
        for tile in TILES[target, 4]:
            of_tile = constants(TARGETS[target], tile, 1024, compute, False)
            assert of_tile["PRECISION"] == "tf32x3"
