"""A module, or a package, for each op under its folder's name in m3kernels, and for searches.

It has the op's `BENCH`. The adapter of a contender gets a case's inputs, brings them into the form
that its contender likes best, which is not timed, and returns the call that is. It raises
`Unsupported` where the contender has no way to do the case, and lets every other error through:
the suite reports it beside the name.
"""

from __future__ import annotations

from importlib import import_module

from m3kernels.ops import OPS

from benchmarks.kernels.bench import Bench

__all__ = ["NAMES", "bench_of"]

_FOLDERS = {op.name: op.folder for op in OPS}

# What is made of ops, and has no kernels of its own.
_SEARCHES = ("maxsim_topk",)

NAMES = (*_FOLDERS, *_SEARCHES)
"""What has a `BENCH` here."""


def bench_of(op: str) -> Bench:
    """Return how an op is benchmarked.

    Raises:
        ImportError: there is no module for it here.
    """
    found: Bench = import_module(f"{__name__}.{_FOLDERS.get(op, op)}").BENCH
    return found
