"""What the CPU at hand can do, as far as torch says it."""

from __future__ import annotations

import torch

__all__ = ["FEATURES", "features", "has"]

FEATURES = {
    "avx2": "_is_avx2_supported",
    "avx512": "_is_avx512_supported",
    "avx512_bf16": "_is_avx512_bf16_supported",
    "vnni": "_is_vnni_supported",
    "amx": "_is_amx_tile_supported",
}
"""By name the check of `torch.cpu`."""


def has(feature: str) -> bool:
    """Whether torch says so of this CPU; False where this torch has no such check.

    Args:
        feature: a name in `FEATURES`.
    """
    check = getattr(torch.cpu, FEATURES[feature], None)
    return check is not None and bool(check())


def features() -> list[str]:
    """The names of what there is, in the order of `FEATURES`."""
    return [name for name in FEATURES if has(name)]
