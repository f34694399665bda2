"""The float64 result of a case, the least work, and whether a contender gave that result.

The results are computed apart from m3kernels' own references, in `ops/`, so that an error there
cannot hide one here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.kernels.draws import CSR, VOCABULARY

__all__ = ["SIZES", "TOLERANCE", "Check", "Expected", "Work", "check_values"]

SIZES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int8": 1,
    "float8_e4m3fn": 1,
}
"""Bytes of a number."""

# ||out - expected|| / ||expected|| that passes, by the dtype of the documents or the states. Room
# for a product that is rounded to its inputs' dtype, or for queries that a peer quantizes too;
# not for TF32 where float32 was asked for.
TOLERANCE = {
    "float32": 2e-5,
    "float16": 2e-3,
    "bfloat16": 5e-3,
    "int8": 5e-3,
    "float8_e4m3fn": 5e-3,
}

# A single element may be off by this many tolerances, relative to the largest value.
_WORST = 5.0


@dataclass(frozen=True)
class Work:
    """The fewest bytes that a case moves (inputs once, outputs once), and its operations."""

    bytes: int
    flops: int

    def floor(self, bandwidth: float, rate: float) -> tuple[float, str]:
        """Return the shortest time there can be, in seconds, and the bound that sets it."""
        memory, compute = self.bytes / bandwidth, self.flops / rate
        return (memory, "memory") if memory >= compute else (compute, "compute")


@dataclass(frozen=True)
class Check:
    """How far an output is from the expected one."""

    relative: float  # ||out - expected|| / ||expected||
    largest: float  # max |out - expected|
    ok: bool
    why: str = ""

    def __str__(self) -> str:
        return self.why or f"max error {self.largest:.2g}, relative {self.relative:.2g}"


@dataclass(frozen=True)
class Expected:
    """The float64 result of a case, and the work that it takes at least."""

    work: Work
    tolerance: float
    values: Tensor | CSR

    def check(self, got: Tensor | CSR) -> Check:
        """Compare an output of the shape that the op promises."""
        if isinstance(self.values, tuple):
            if not isinstance(got, tuple):
                return Check(float("nan"), float("nan"), ok=False, why="no CSR triple")
            return _check_csr(got, self.values, self.tolerance)
        if isinstance(got, tuple):
            return Check(float("nan"), float("nan"), ok=False, why="no tensor")
        return check_values(got, self.values, self.tolerance)


def check_values(got: Tensor, expected: Tensor, tolerance: float) -> Check:
    """Compare two tensors; NaN and another shape never pass."""
    if got.shape != expected.shape:
        why = f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
        return Check(float("nan"), float("nan"), ok=False, why=why)
    difference = got.double() - expected
    norm = float(expected.norm())
    relative = float(difference.norm()) / norm if norm else float(difference.norm())
    largest = float(difference.abs().max()) if difference.numel() else 0.0
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    ok = relative <= tolerance and largest <= _WORST * tolerance * max(scale, 1e-30)
    return Check(relative, largest, ok)


def _check_csr(got: CSR, expected: CSR, tolerance: float) -> Check:
    """Compare as vectors over (row, id); an absent entry is 0.

    Where the float64 weight is a hair above 0, rounding decides whether it is an entry.
    """
    if got[0].shape != expected[0].shape:
        return Check(float("nan"), float("nan"), ok=False, why=f"{got[0].numel() - 1} rows")
    (got_keys, ok_order), (expected_keys, _) = _keys(got), _keys(expected)
    if not ok_order:
        return Check(float("nan"), float("nan"), ok=False, why="indices do not ascend")
    keys, places = torch.unique(torch.cat([got_keys, expected_keys]), return_inverse=True)
    vectors = torch.zeros(2, keys.numel(), dtype=torch.float64, device=keys.device)
    vectors[0, places[: got_keys.numel()]] = got[2].double()
    vectors[1, places[got_keys.numel() :]] = expected[2].double()
    return check_values(vectors[0], vectors[1], tolerance)


def _keys(csr: CSR) -> tuple[Tensor, bool]:
    indptr, indices, _ = csr
    rows = torch.arange(indptr.numel() - 1, device=indptr.device)
    keys = torch.repeat_interleave(rows, indptr.diff()) * VOCABULARY + indices.long()
    return keys, bool((keys.diff() > 0).all())
