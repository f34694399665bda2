"""Random numbers that the ops' inputs are made of, on the device of their generator."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["CSR", "ROWS", "VOCABULARY", "normal", "offsets", "zipf"]

CSR: TypeAlias = tuple[Tensor, Tensor, Tensor]

VOCABULARY = 250_002  # XLM-RoBERTa's

ROWS = 1 << 16
"""Rows of float32 that are drawn at a time."""


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers whose rows have a length of about 1."""
    drawn = torch.randn(shape, device=generator.device, generator=generator)
    return drawn.mul_(shape[-1] ** -0.5)


def offsets(lengths: Tensor) -> Tensor:
    offsets = lengths.new_zeros(lengths.numel() + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def zipf(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Ids from 4 up to the vocabulary's last, int64, the k-th with a chance of about 1 / k."""
    uniform = torch.rand(shape, device=generator.device, generator=generator)
    last = VOCABULARY - 4
    return (last ** uniform.double()).long().clamp_(max=last) + 3
