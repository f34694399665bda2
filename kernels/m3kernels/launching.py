"""Launches of Triton's kernels that cost less than triton's own, which look everything up again.

At each call `triton.jit` binds the arguments, looks at each to see what the kernel is specialised
for, and makes a key of it all: tens of microseconds a launch, several times what a small kernel
runs. Here the key is made of what these kernels are specialised for and nothing else: dtypes,
whether a pointer is a multiple of 16 bytes, and the compile-time arguments. Behind it stands the
compiled kernel as triton returns it, launched as triton's tutorials launch one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

__all__ = ["cdiv", "launch"]

_INT32 = 2**31

# By device, kernel and what it is compiled for: the kernel, and its compile-time arguments.
_compiled: dict[tuple[Any, ...], tuple[Any, list[Any]]] = {}


def cdiv(a: int, b: int) -> int:
    """Return how many b cover a."""
    return -(-a // b)  # triton.cdiv takes ten times as long


def launch(
    kernel: Any, grid: Sequence[int], *arguments: Any, options: dict[str, int], **constants: Any
) -> None:
    """Launch a kernel on the current device and stream.

    Args:
        kernel: the `triton.jit` function, or what stands for it in the interpreter.
        grid: one to three numbers of programs.
        arguments: tensors, tensor descriptors and integers, in the kernel's order. No integer may
            be specialised for: the kernel names all of them in `do_not_specialize`.
        options: the compiler's: num_warps and num_stages.
        constants: the compile-time arguments, all that the kernel has.
    """
    if not isinstance(kernel, JITFunction):
        kernel[tuple(grid)](*arguments, **constants, **options)
        return
    key = (
        torch.cuda.current_device(),
        id(kernel),
        *map(_kind, arguments),
        *constants.values(),
        *options.values(),
    )
    known = _compiled.get(key)
    if known is None:
        compiled = kernel[tuple(grid)](*arguments, **constants, **options)
        rest = kernel.arg_names[len(arguments) :]
        _compiled[key] = compiled, [constants[name] for name in rest]
        return
    compiled, values = known
    compiled[(*grid, 1, 1)[:3]](*arguments, *values)


def _kind(argument: Any) -> object:
    """What a kernel is specialised for in an argument."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if isinstance(argument, int):
        return -_INT32 <= argument < _INT32
    return argument.base.dtype, tuple(argument.block_shape)
