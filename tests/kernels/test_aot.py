"""What the compiler makes of every kernel, for cards that need not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from m3kernels.aot import overwrites_operands, waits_each
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


def reports_of(target: str, match: str) -> dict[str, dict[str, Any]]:
    """The reports of the variants whose names have `match`, by name."""
    run = aot("--target", target, "--match", match, "--json")
    reports = [json.loads(line) for line in run.stdout.splitlines()]
    return {report["variant"]: report for report in reports}


@pytest.mark.slow
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
    # MaxSim's loop is another where one step takes all dimensions, and its tiles are too.
    tiles = [r["variant"] for r in reports if r["variant"].startswith("maxsim tiles")]
    widths = {int(name.partition(" d=")[2] or 1024) for name in tiles}
    assert widths == {64, 128, 256, 1024}
    limit = {"sm_80": 101_376, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}[target]
    matrix = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}
    for report in reports:
        # sm_80's tables serve sm_86, sm_89 and sm_120 too, which have less
        assert report["shared_memory"] <= limit, report
        assert report["stack"] == 0, report
        if " x " in report["variant"]:  # a MaxSim tile
            assert report["matrix"] == matrix[target], report
            assert report["tma"] == (target in ("sm_90", "sm_100")), report


def test_the_memory_bound_tile_leaves_room_for_others() -> None:
    """1 x 32 query tokens: three blocks a multiprocessor, one loading while another reduces."""
    name = "maxsim tiles bf16 x bf16 64x32x128"
    report = reports_of("sm_90", name)[name]
    assert report["blocks"] >= 3
    assert 3 * report["shared_memory"] <= 232_448
    assert 3 * 128 * report["registers"] <= 65_536


@pytest.mark.slow
def test_one_step_a_tile_leaves_room_for_more() -> None:
    """64 dimensions: what a block waits for, four others fill."""
    reports = reports_of("sm_90", "maxsim tiles bf16 x bf16")
    assert reports["maxsim tiles bf16 x bf16 128x32x64 d=64"]["blocks"] >= 5
    assert reports["maxsim tiles bf16 x bf16 128x16x64 d=64"]["blocks"] >= 6


@pytest.mark.slow
def test_int8_documents_are_multiplied_as_they_are() -> None:
    """Two int8 digits a query number: no conversion in a step, and two blocks at a time."""
    reports = reports_of("sm_90", "x i8")
    assert {name.split(" x ")[0] for name in reports} == {
        "maxsim tiles digits",
        "maxsim pairs digits",
    }
    assert reports["maxsim tiles digits x i8 128x32x256"]["blocks"] >= 2


def test_the_wait_after_each_wgmma_is_seen() -> None:
    product = "  HGMMA.64x32x16.F32.BF16 R24, gdesc[UR8], R24 ;\n"
    wait = "  WARPGROUP.DEPBAR.LE gsb0, 0x0 ;\n"
    assert waits_each((product + wait) * 4)
    assert not waits_each(product * 4 + wait)
    # operands in registers, which are written again
    assert not waits_each((product.replace("gdesc[UR8]", "R4") + wait) * 4)
    assert not waits_each("")


def test_a_product_from_registers_is_waited_for() -> None:
    product = "  %a = ttng.warp_group_dot %x, %y, %z {isAsync = true} : tensor<128x16xf16> * b\n"
    wait = "  %b:2 = ttng.warp_group_dot_wait %a, %y {pendings = 0 : i32} : tensor<128x32xf32>\n"
    assert not overwrites_operands(product + wait)
    assert overwrites_operands(product + wait.replace("= 0", "= 1"))
    assert overwrites_operands(product)
    from_memory = product.replace("tensor<", "!ttg.memdesc<")
    assert not overwrites_operands(from_memory + wait.replace("= 0", "= 1"))


def test_a_table_for_people() -> None:
    run = aot("--target", "sm_90", "--match", "maxsim sums of 128")
    header, line = run.stdout.splitlines()
    assert header.split()[:3] == ["target", "variant", "registers"]
    assert line.startswith("sm_90   maxsim sums of 128")


def test_it_refuses_to_run_interpreted() -> None:
    run = aot(TRITON_INTERPRET="1")
    assert run.returncode == 2
    assert "unset it" in run.stderr


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_float32_is_never_one_tf32_product(target: str) -> None:
    import torch
    from m3kernels.maxsim.launch import constants, multiplied_as
    from m3kernels.maxsim.tiles import TILES

    for queries, documents in (
        (torch.float32, torch.float32),
        (torch.float32, torch.float8_e4m3fn),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
    ):
        compute = multiplied_as(queries, documents)
        assert compute == torch.float32
        for tile in TILES[target, 4]:
            of_tile = constants(TARGETS[target], tile, 1024, compute, False, False)
            assert of_tile["PRECISION"] == "tf32x3"
    # Integers: the queries' digits, not a conversion of the documents.
    for queries in (torch.float32, torch.float16, torch.bfloat16):
        assert multiplied_as(queries, torch.int8) == torch.int8
