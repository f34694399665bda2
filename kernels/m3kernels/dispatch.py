"""Which implementation of an op runs."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from m3kernels import target
from m3kernels.target import Target

__all__ = [
    "BACKENDS",
    "choose",
    "interpreting",
    "launching_on",
    "no_triton",
    "target_of",
    "triton_version",
]

BACKENDS = ("triton", "torch", "reference")


def interpreting() -> bool:
    """Whether Triton runs kernels in Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def target_of(device: torch.device) -> Target | None:
    """Return the target that kernels on `device` are launched for, or None where none runs."""
    if device.type == "cpu" and interpreting():
        return target.INTERPRETER
    return target.of(device)


def launching_on(device: torch.device) -> torch.cuda.device:
    """Return the context to launch in: Triton takes the current device, not the tensors'."""
    return torch.cuda.device(device.index if device.type == "cuda" else -1)


def choose(op: str, backend: str | None, device: torch.device, unsupported: str | None) -> str:
    """Return the name of the implementation that runs.

    Args:
        op: the op's name, for the error.
        backend: "triton", "torch" or "reference", or None for the best one there is.
        device: where the tensors are.
        unsupported: why the op's Triton kernel can't take these tensors, or None.

    Raises:
        ValueError: `backend` is not a backend's name, or it is "triton" and can't be used here.
            The message says why.
    """
    if backend is None:
        usable = device.type == "cuda" and not no_triton(device) and not unsupported
        return "triton" if usable else "torch"
    if backend not in BACKENDS:
        known = ", ".join(repr(known) for known in BACKENDS)
        raise ValueError(f"backend is {backend!r}; expected None or one of {known}")
    if backend == "triton":
        reason = no_triton(device) or unsupported
        if reason:
            raise ValueError(f"{op} can't run backend='triton': {reason}; use backend='torch'")
    return backend


def no_triton(device: torch.device) -> str | None:
    """Return why no Triton kernel runs on this device, or None."""
    found = triton_version()
    if found is None:
        return "triton is not installed"
    card = target_of(device)
    if card is None:
        if device.type == "cuda":
            return f"no launch table is made for {torch.cuda.get_device_name(device)}"
        return f"the tensors are on {device}, and it needs a GPU (or TRITON_INTERPRET=1)"
    if found < card.triton:
        needed = ".".join(map(str, card.triton))
        return f"triton is {found[0]}.{found[1]}, and {card.name} needs {needed} or newer"
    return None


@cache
def triton_version() -> tuple[int, int] | None:
    """Return the (major, minor) of the triton that is installed, or None."""
    for name in ("triton", "pytorch-triton", "triton-rocm", "pytorch-triton-rocm"):
        try:
            major, minor = version(name).split(".")[:2]
        except PackageNotFoundError:
            continue
        return int(major), int(minor)
    return None
