"""One compiled form of a kernel, as a launch makes it: what `m3kernels.aot` compiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["TYPE_NAMES", "Variant", "signature"]

TYPE_NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.float8_e4m3fn: "fp8e4nv",
}
"""The dtypes as Triton writes them."""


@dataclass(frozen=True)
class Variant:
    """A kernel with everything that the compiler is told.

    Attributes:
        name: the op, the kernel and what tells this variant from others.
        kernel: the `triton.jit` function.
        signature: the type of each argument that is not a constant, as Triton writes it:
            "*fp32", "i32", "tensordesc<bf16[128,64]>".
        constants: the values of the compile-time arguments.
        num_warps: warps of a block.
        num_stages: steps whose loads are in flight.
        aligned: the pointers that the launcher keeps at multiples of 16 bytes.
        multiplies: whether it is a matrix product, so that it must use the matrix units.
        tma: whether it loads through tensor descriptors.
        blocks: blocks that a multiprocessor should hold at a time.
        keeps: a pattern of what the compiler's last IR must still have, for what it once dropped.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int = 3
    aligned: tuple[str, ...] = ()
    multiplies: bool = False
    tma: bool = False
    blocks: int = 1
    keeps: str = ""


def signature(kernel: Any, types: Mapping[str, str]) -> dict[str, str]:
    """Return the types of those arguments that a `triton.jit` function has."""
    return {name: types[name] for name in kernel.arg_names if name in types}
