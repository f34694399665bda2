"""Compile every kernel for a GPU that need not be there, and report what the compiler made of it.

    python -m m3kernels.aot [--target sm_90 ...] [--match TEXT] [--json]

For each variant of the launch tables: registers a thread, bytes of stack (where registers spill),
shared memory a block beside the target's limit, the blocks that a multiprocessor holds at a time,
the matrix instruction, and whether tiles are loaded by TMA. The exit status is 1 where a variant
spills, asks for too much, waits for each wgmma by itself, misses its matrix instruction or its
place beside another block, or is compiled wrong in a way that was seen before.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from m3kernels.dispatch import triton_version
from m3kernels.ops import OPS
from m3kernels.target import TARGETS, Target
from m3kernels.variant import Variant

__all__ = [
    "DEFAULT_TARGETS",
    "Report",
    "compile_variant",
    "main",
    "overwrites_operands",
    "variants",
    "waits_each",
]

DEFAULT_TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")

# The matrix instruction that a target's kernels should use, as its assembly spells it, the best
# first: what the compiler falls back to is reported by its own name.
_MATRIX_INSTRUCTIONS = {
    "sm_80": ("mma.sync",),
    "sm_90": ("wgmma", "mma.sync"),
    "sm_100": ("tcgen05.mma", "mma.sync"),
    "gfx942": ("v_mfma",),
}

_COLUMNS = " registers  stack   shared / limit    blocks  matrix"


@dataclass(frozen=True)
class Report:
    """What the compiler made of a variant.

    Attributes:
        target: the architecture's name.
        variant: the variant's name.
        registers: a thread.
        stack: bytes a thread; above 0 where registers spill.
        shared_memory: bytes a block.
        shared_memory_limit: what the target gives a block.
        blocks: how many a multiprocessor holds at a time, 0 where it isn't known.
        matrix: the matrix instruction, or "" for none.
        tma: tiles are loaded through tensor descriptors in hardware.
        problems: what should be otherwise, in words.
    """

    target: str
    variant: str
    registers: int
    stack: int
    shared_memory: int
    shared_memory_limit: int
    blocks: int
    matrix: str
    tma: bool
    problems: tuple[str, ...]


def variants(target: Target) -> Iterator[Variant]:
    """Yield every variant that the launchers use on a target."""
    for op in OPS:
        yield from op.variants(target)


def compile_variant(variant: Variant, target: Target) -> Report:
    """Compile a variant for a target and read the result."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    source = ASTSource(
        fn=variant.kernel,
        signature={name: variant.signature.get(name, "constexpr") for name in names},
        constexprs=dict(variant.constants),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in variant.aligned},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget(target.backend, target.arch, target.warp_size),
        options={"num_warps": variant.num_warps, "num_stages": variant.num_stages},
    )
    if target.backend == "cuda":
        assembly = compiled.asm["ptx"]
        registers, stack = _cuda_resources(compiled.asm["cubin"])
    else:
        assembly = compiled.asm["amdgcn"]
        registers, stack = _hip_resources(assembly)
    kinds = _MATRIX_INSTRUCTIONS[target.family]
    matrix = next((kind for kind in kinds if kind in assembly), "")
    tma = "cp.async.bulk.tensor" in assembly
    shared = int(compiled.metadata.shared)

    blocks = _blocks(target, registers, shared, variant.num_warps)

    problems = []
    if stack:
        problems.append(f"{stack} bytes of stack: registers spill")
    if shared > target.shared_memory:
        problems.append(f"{shared} bytes of shared memory; the limit is {target.shared_memory}")
    if 0 < blocks < variant.blocks:
        problems.append(f"{blocks} block(s) a multiprocessor; expected {variant.blocks}")
    if variant.multiplies and matrix != kinds[0]:
        problems.append(f"{matrix or 'no matrix instruction'} instead of {kinds[0]}")
    if (
        target.family == "sm_90"
        and variant.multiplies
        and waits_each(_sass(compiled.asm["cubin"]))
    ):
        problems.append("each wgmma is waited for before the next")
    if variant.tma and not tma:
        problems.append("no TMA loads")
    if not re.search(variant.keeps, compiled.asm["ttgir"]):
        problems.append(f"the compiler dropped what matches {variant.keeps}")
    if overwrites_operands(compiled.asm["ttgir"]):
        problems.append("a step writes to registers that wgmma reads")
    return Report(
        target.name, variant.name, registers, stack, shared, target.shared_memory, blocks, matrix,
        tma, tuple(problems),
    )  # fmt: skip


def _blocks(target: Target, registers: int, shared: int, num_warps: int) -> int:
    """Blocks that fit on a multiprocessor by registers, shared memory and warps; 0 on AMD.

    NVIDIA's occupancy rules: 65,536 registers, given to warps 256 at a time; 1 KB of shared
    memory that each block uses beside its own; 48 warps or more.
    """
    if target.backend != "cuda":
        return 0
    by_registers = 65_536 // (-(-32 * registers // 256) * 256 * num_warps)
    by_memory = (target.shared_memory + 1024) // (shared + 1024)
    return min(by_registers, by_memory, 48 // num_warps)


def _cuda_resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes a thread, from the binary."""
    usage = _of_binary(cubin, "cuobjdump", "-res-usage")
    return _number(r"REG:(\d+)", usage), _number(r"STACK:(\d+)", usage)


def _sass(cubin: bytes) -> str:
    return _of_binary(cubin, "nvdisasm", "-c")


def waits_each(code: str) -> bool:
    """Return whether a wait stands after every wgmma of a kernel, by its disassembly.

    ptxas puts one where it can't tell who uses the accumulators meanwhile, and says so in a
    warning that Triton doesn't show. A wgmma that reads registers has its wait by intent: they
    are written again.
    """
    products = len(re.findall(r"\b[HIQ]GMMA\.\S+ R\d+, gdesc", code))
    return products > 1 and code.count("WARPGROUP.DEPBAR") >= products


def overwrites_operands(ttgir: str) -> bool:
    """Return whether a wgmma that reads registers may still run when the next step writes to them.

    By the kernel's IR: such a product is waited for with others allowed to be under way.
    """
    from_registers = re.compile(r"(%\S+) = ttng\.warp_group_dot %.* : tensor<")
    for dot in from_registers.finditer(ttgir):
        wait = re.search(
            rf"warp_group_dot_wait {re.escape(dot[1])}\b.*\{{pendings = (\d+)", ttgir[dot.end() :]
        )
        if wait is None or wait[1] != "0":
            return True
    return False


def _of_binary(cubin: bytes, tool: str, *options: str) -> str:
    """What one of CUDA's tools that Triton brings says of a binary."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [getattr(knobs.nvidia, tool).path, *options, file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout


def _hip_resources(assembly: str) -> tuple[int, int]:
    """Vector registers and scratch bytes a thread, from the assembly's metadata."""
    registers = _number(r"\.vgpr_count:\s*(\d+)", assembly)
    return registers, _number(r"\.private_segment_fixed_size:\s*(\d+)", assembly)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"the compiler's report has no {pattern}")
    return int(found[1])


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m m3kernels.aot", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--target", nargs="+", choices=list(TARGETS), default=DEFAULT_TARGETS)
    parser.add_argument("--match", default="", help="only variants whose name has this text")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    installed = triton_version()
    if installed is None:
        parser.error("triton is not installed; install it with `pip install triton`")
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 replaces the compiler; unset it")

    failed = False
    width = 0
    for name in options.target:
        target = TARGETS[name]
        if installed < target.triton:
            needed = ".".join(map(str, target.triton))
            print(f"{name}: left out, it needs triton {needed} or newer", file=sys.stderr)
            continue
        chosen = [variant for variant in variants(target) if options.match in variant.name]
        width = max([width, *(len(variant.name) for variant in chosen)])
        if chosen and not options.json:
            print(f"{'target':8}{'variant':{width}}", _COLUMNS)
        for variant in chosen:
            report = compile_variant(variant, target)
            failed |= bool(report.problems)
            print(json.dumps(asdict(report)) if options.json else _line(report, width), flush=True)
    return int(failed)


def _line(report: Report, width: int) -> str:
    shared = f"{report.shared_memory:7} /{report.shared_memory_limit:7}"
    matrix = report.matrix + (" + TMA" if report.tma else "")
    line = (
        f"{report.target:8}{report.variant:{width}}  {report.registers:9}  {report.stack:5}  "
        f"{shared}  {report.blocks or '':6}  {matrix}"
    )
    return "  <- ".join([line.rstrip(), *report.problems])


if __name__ == "__main__":
    sys.exit(main())
