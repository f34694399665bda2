"""Fixtures of the kernel tests: the devices and backends that can run here."""

from __future__ import annotations

import importlib.util
import os
from typing import NamedTuple

import torch

# Without a card the kernels run in Triton's interpreter, which must be asked for before triton is
# imported. What compiles kernels ahead of time does so in a process of its own.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
HAS_TRITON = importlib.util.find_spec("triton") is not None


class Kernel(NamedTuple):
    """Where a test runs, and by which backend."""

    device: torch.device
    backend: str


KERNELS = [Kernel(torch.device(device), "torch") for device in DEVICES]
if HAS_TRITON:
    KERNELS.append(Kernel(torch.device(DEVICES[-1]), "triton"))


def _id(kernel: Kernel) -> str:
    return f"{kernel.device.type}-{kernel.backend}"


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=KERNELS, ids=_id)
def kernel(request) -> Kernel:
    return request.param


# Hypothesis wants a fixture that lives longer than one example.
@pytest.fixture(params=KERNELS, ids=_id, scope="module")
def module_kernel(request) -> Kernel:
    return request.param


@pytest.fixture(params=DEVICES, scope="module")
def module_device(request) -> torch.device:
    return torch.device(request.param)
