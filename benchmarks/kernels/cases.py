"""The cases of all ops, and their inputs."""

from __future__ import annotations

import zlib
from fnmatch import fnmatch

import torch

from benchmarks.kernels.bench import Case, Inputs
from benchmarks.kernels.ops import NAMES, bench_of

__all__ = ["cases", "draw", "key"]


def key(case: Case) -> str:
    """Return the name that ``--case`` matches, such as "maxsim/ragged"."""
    return f"{case.op}/{case.name}"


def cases(device: str, *, quick: bool, patterns: list[str] | None = None) -> list[Case]:
    """Return the cases for "cuda" or "cpu" whose key matches one of `patterns`, or all."""
    found = [case for name in NAMES for case in bench_of(name).cases(device, quick)]
    if not patterns:
        return found
    return [case for case in found if any(fnmatch(key(case), pattern) for pattern in patterns)]


def draw(case: Case, seed: int, device: torch.device) -> Inputs:
    """Draw a case's inputs; the same seed, case and kind of device give the same ones."""
    generator = torch.Generator(device)
    generator.manual_seed(seed ^ zlib.crc32(key(case).encode()))
    return case.draw(generator)
