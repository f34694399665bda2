"""A tile of MaxSim's launch table, forced on a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from m3kernels.maxsim import launch
from m3kernels.maxsim.tiles import Tile

__all__ = ["forced", "named"]


@contextmanager
def forced(tile: Tile) -> Iterator[None]:
    """Let `maxsim_triton` use this tile whatever the call is."""

    def tile_of(*_: Any, **__: Any) -> Tile:
        return tile

    with patch.object(launch, "tile_of", tile_of):
        yield


def named(tile: Tile) -> str:
    """Return a tile in a few letters: "128x32x64 w4 s4 b2"."""
    kinds = ("" if tile.flat else " nested") + (" q-on-m" if tile.q_on_m else "")
    shape = f"{tile.block_d}x{tile.block_q}x{tile.block_k}"
    return f"{shape} w{tile.num_warps} s{tile.num_stages} b{tile.blocks}{kinds}"
