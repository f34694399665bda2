"""A module, or a package, for each op, under the name of its folder in m3kernels.

It has the op's `BENCH`. The adapter of a contender gets a case's inputs, brings them into the form
that its contender likes best, which is not timed, and returns the call that is. It raises
`Unsupported` where the contender has no way to do the case, and lets every other error through:
the suite reports it beside the name.
"""

from __future__ import annotations

from importlib import import_module

from m3kernels.ops import OPS

from benchmarks.kernels.bench import Bench

__all__ = ["bench_of"]

_FOLDERS = {op.name: op.folder for op in OPS}


def bench_of(op: str) -> Bench:
    """Return how an op is benchmarked.

    Raises:
        KeyError: `m3kernels.ops` has no such op.
        ImportError: it has, and there is no module for it here.
    """
    found: Bench = import_module(f"{__name__}.{_FOLDERS[op]}").BENCH
    return found
