"""What an op brings to be benchmarked: its cases, their inputs, and who is timed on them.

`ops/` has a module for each op of `m3kernels.ops`, with its `BENCH`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from benchmarks.kernels.draws import CSR
from benchmarks.kernels.expected import Expected
from benchmarks.timing import Run

__all__ = [
    "Bench",
    "Case",
    "Contender",
    "Inputs",
    "NotInstalled",
    "Prepared",
    "Unsupported",
    "package",
]


class Unsupported(Exception):  # noqa: N818  (an answer, not an error)
    """The contender has no way to do the case; the message says why."""


class NotInstalled(Unsupported):
    """The contender's package is not here."""


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready to be timed on some inputs."""

    run: Run
    # What `run` returned -> scores (n_q, n_d), or CSR for sparse_max. Not timed.
    result: Callable[[Any], Tensor | CSR] = lambda out: out
    note: str = ""


@dataclass(frozen=True)
class Contender:
    """A way to compute an op."""

    name: str
    family: str  # contenders of one family share a colour in the plots
    prepare: Callable[[Any], Prepared]
    ours: bool = False
    # The run fails where this contender does. A CUDA graph is a bonus.
    required: bool = False


class Inputs(Protocol):
    """A case's inputs, drawn."""

    def expected(self) -> Expected:
        """Compute what the op gives, in float64, and the work that it takes at least."""

    def ours(self, backend: str | None) -> Prepared:
        """The op through its public function, without a wait for the device.

        Timed with `validate=False`: the peers don't check their arguments' values either.
        """


class Case(Protocol):
    """Shapes and dtypes, as data; its string describes them."""

    op: ClassVar[str]

    @property
    def name(self) -> str:
        """What tells it from the op's other cases."""

    @property
    def dtype(self) -> str:
        """Whose matmul rate bounds it: the dtype of the queries or the states."""

    def draw(self, generator: torch.Generator) -> Inputs:
        """Draw the inputs on the generator's device."""


@dataclass(frozen=True)
class Bench:
    """How an op is benchmarked.

    Attributes:
        cases: the cases for a device, "cuda" or "cpu"; with True one small one of each kind.
        peers: who else is timed.
        ours_too: further ways to call ours, timed on a GPU.
    """

    cases: Callable[[str, bool], list[Case]]
    peers: tuple[Contender, ...] = ()
    ours_too: tuple[Contender, ...] = ()


def package(name: str) -> Any:
    """Import a peer's package."""
    if find_spec(name.partition(".")[0]) is None:
        raise NotInstalled("not installed")
    return importlib.import_module(name)
