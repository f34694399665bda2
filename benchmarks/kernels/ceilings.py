"""What this machine reaches at best: copy bandwidth and matmul rates, measured in the same run."""

from __future__ import annotations

import time

import torch

from benchmarks.timing import Clock, Run

__all__ = ["copy_bandwidth", "matmul_rates"]

# The best of this many seconds, after two calls that don't count: a ceiling is what the machine
# can do, so a busy moment must not lower it.
_SECONDS = 1.5
_QUICK_SECONDS = 0.1
_WARM_UPS = 2


def copy_bandwidth(device: torch.device, clock: Clock, *, quick: bool) -> float:
    """Return bytes read plus bytes written a second by a large copy within the device."""
    size = (1 << 30) if device.type == "cuda" else (256 << 20)
    numbers = torch.ones((size >> 3 if quick else size) // 4, device=device)
    copy = torch.empty_like(numbers)
    seconds = _best(clock, lambda: copy.copy_(numbers), quick)
    return 2 * numbers.numel() * 4 / seconds


def matmul_rates(device: torch.device, clock: Clock, *, quick: bool) -> dict[str, float]:
    """Return operations a second of a large square product, by the dtype of its inputs.

    float32 is without TF32. A dtype that torch can't multiply here is left out.
    """
    if device.type == "cuda":
        names, n = ["bfloat16", "float16", "float32", "int8"], 2048 if quick else 8192
    else:
        names, n = ["bfloat16", "float32", "int8"], 512 if quick else 2048
    rates = {}
    for name in names:
        try:
            rates[name] = 2 * n**3 / _matmul_seconds(n, name, device, clock, quick)
        except RuntimeError:
            continue
    return rates


def _matmul_seconds(n: int, name: str, device: torch.device, clock: Clock, quick: bool) -> float:
    # Random numbers: a product of zeros runs faster than one of data.
    if name == "int8":
        a, b = (
            torch.randint(-127, 128, (n, n), dtype=torch.int8, device=device) for _ in range(2)
        )
        # cuBLAS takes int8 only where both operands are laid out along the summed dimension.
        return _best(clock, lambda: torch._int_mm(a, b.T), quick)
    dtype = getattr(torch, name)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return _best(clock, lambda: a @ b, quick)


def _best(clock: Clock, run: Run, quick: bool) -> float:
    for _ in range(_WARM_UPS):
        clock.once(run)
    end = time.monotonic() + (_QUICK_SECONDS if quick else _SECONDS)
    best = clock.once(run)
    while time.monotonic() < end:
        best = min(best, clock.once(run))
    return best
