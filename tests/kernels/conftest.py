"""Fixtures of the kernel tests: the devices there are, and ragged batches."""

from __future__ import annotations

import pytest
import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param)


# Hypothesis wants a fixture that lives longer than one example.
@pytest.fixture(params=DEVICES, scope="module")
def module_device(request) -> torch.device:
    return torch.device(request.param)
