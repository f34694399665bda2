"""Fixtures of the kernel tests: the devices and backends that can run here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tests.interpreting  # noqa: F401  (before triton is imported)

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
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=KERNELS, ids=_id)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    chosen: Kernel = request.param
    return chosen


# Hypothesis wants a fixture that lives longer than one example.
@pytest.fixture(params=KERNELS, ids=_id, scope="module")
def module_kernel(request: pytest.FixtureRequest) -> Kernel:
    chosen: Kernel = request.param
    return chosen


@pytest.fixture(params=DEVICES, scope="module")
def module_device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@contextmanager
def another_stream() -> Iterator[None]:
    """Launch on a stream that is not the card's current one; the current one waits for it."""
    cuda: Any = torch.cuda  # its streams have no types
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        yield
    cuda.current_stream().wait_stream(stream)


class Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells `saw` of every operation: what is called, its arguments, and what it made."""

    def __init__(self, saw: Callable[[Any, tuple[Any, ...], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.saw = saw

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        self.saw(function, args, made)
        return made
