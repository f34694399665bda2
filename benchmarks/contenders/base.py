"""What a contender is."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from benchmarks.inputs import CSR
from benchmarks.timing import Run


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


def package(name: str) -> Any:
    """Import a peer's package."""
    if find_spec(name.partition(".")[0]) is None:
        raise NotInstalled("not installed")
    return importlib.import_module(name)
