"""The ops, one line each: what `m3kernels.aot`, the tests and the benchmarks go through.

An op's folder has modules and functions of fixed names, which are imported when they are asked
for: Triton is there only where kernels are.

    __init__.py   `name`, the public function, which is also torch.ops.m3kernels.`name`
    reference.py  `name`_reference
    cpu.py        `name`_torch
    launch.py     `name`_triton, which launches what kernels.py has
    variants.py   variants(target), what it compiles
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from m3kernels.dispatch import BACKENDS
from m3kernels.target import Target
from m3kernels.variant import Variant

__all__ = ["OPS", "Op"]

_MODULES = {"reference": "reference", "torch": "cpu", "triton": "launch"}


@dataclass(frozen=True)
class Op:
    """An op of this package.

    Attributes:
        name: the public function's.
        folder: its subpackage's; variants' names begin with it.
    """

    name: str
    folder: str

    @property
    def function(self) -> Callable[..., Any]:
        """The public function: it checks its arguments and takes `backend`."""
        return self._from(self.module(), self.name)

    @property
    def overload(self) -> torch._ops.OpOverload:
        """The op as torch knows it: it takes checked arguments and traces."""
        self.module()  # which registers it
        overload: torch._ops.OpOverload = getattr(torch.ops.m3kernels, self.name).default
        return overload

    def implementation(self, backend: str) -> Callable[..., Any]:
        """Return what runs for a backend, "reference", "torch" or "triton".

        Raises:
            ValueError: there is no such backend.
            ImportError: it is "triton", and triton is not installed.
        """
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
        return self._from(self.module(_MODULES[backend]), f"{self.name}_{backend}")

    def variants(self, target: Target) -> Iterator[Variant]:
        """Yield every variant of the op's kernels that its launcher uses on a target.

        Raises:
            ImportError: triton is not installed.
        """
        found: Iterator[Variant] = self.module("variants").variants(target)
        return found

    def module(self, name: str | None = None) -> ModuleType:
        """Import the op's subpackage, or a module of it."""
        package = f"{__package__}.{self.folder}"
        return import_module(package if name is None else f"{package}.{name}")

    @staticmethod
    def _from(module: ModuleType, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(module, name)
        return function


OPS = (
    Op("maxsim", "maxsim"),
    Op("maxsim_alignment", "maxsim_alignment"),
    Op("sparse_max", "sparse_max"),
    Op("lexical_scores", "lexical"),
)
