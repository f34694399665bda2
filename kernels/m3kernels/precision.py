"""Torch's own products in the dtypes that are written, whatever a program allows elsewhere."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch

__all__ = ["as_written"]


def as_written(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which torch computes in the dtypes that are written.

    Under torch.autocast a product of float32 tensors is rounded to 16 bits, and what is written
    into a float32 tensor no longer fits it. torch.set_float32_matmul_precision rounds the factors
    of such a product, to bfloat16 on a CPU that multiplies these, to TF32 on a GPU.
    """
    cast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    full = _FULL.get(device.type)
    if full is None or not full.needed():
        return torch.autocast(device.type, enabled=False) if cast else nullcontext()
    stack = ExitStack()
    if cast:
        stack.enter_context(torch.autocast(device.type, enabled=False))
    stack.enter_context(full)
    return stack


class _FullFloat32:
    """Float32 products in float32 while somebody is inside, in any thread."""

    def __init__(self, backend: Any) -> None:
        """Take the part of torch.backends whose `matmul` says how products may be rounded."""
        # torch < 2.9 has one setting for all
        own = getattr(backend, "matmul", None)
        self._setting = own if hasattr(own, "fp32_precision") else None
        self._lock = threading.Lock()
        self._inside = 0
        self._before = ""

    def needed(self) -> bool:
        return self._inside > 0 or self._get() not in ("ieee", "none", "highest")

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = self._get()
                self._set("ieee")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set(self._before)

    def _get(self) -> str:
        if self._setting is None:
            return torch.get_float32_matmul_precision()
        return str(self._setting.fp32_precision)

    def _set(self, precision: str) -> None:
        if self._setting is None:
            torch.set_float32_matmul_precision(precision.replace("ieee", "highest"))
        else:
            self._setting.fp32_precision = precision


_FULL = {
    "cpu": _FullFloat32(torch.backends.mkldnn),
    "cuda": _FullFloat32(torch.backends.cuda),
}
