"""What the session runs on, read and never set."""

from __future__ import annotations

from typing import Any

import torch
from m3kernels.dispatch import target_of

from benchmarks import machine

__all__ = ["device_of", "run"]

_PACKAGES = ("triton", "numpy", "pytest", "late-interaction-kernels", "flash-maxsim", "scipy")


def device_of(*, dry: bool) -> torch.device:
    """Return where a part runs: the card, or the CPU in a rehearsal.

    Raises:
        RuntimeError: torch finds no card, and it is no rehearsal.
    """
    if dry:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU here; --dry rehearses on the CPU")
    return torch.device("cuda", torch.cuda.current_device())


def run(*, dry: bool) -> dict[str, Any]:
    """Return the machine, the versions and the launch tables' name for the card."""
    device = device_of(dry=dry)
    target = target_of(device)
    described = machine.describe(device)
    return {
        "status": "ok" if target is not None else "wrong",
        "summary": f"{described['name']}, {target.name if target else 'no launch table'}",
        "machine": described,
        "versions": machine.versions(*_PACKAGES),
        "target": target.name if target else None,
        "load": machine.load(),
        "devices": torch.cuda.device_count(),
    }
