"""The launch table of MaxSim: which tile a call uses. Data, so that it can be read and measured.

A tile multiplies BLOCK_D document tokens with BLOCK_Q query tokens, BLOCK_K dimensions at a time.
What decides is how many query tokens the call packs, and how wide an element is in the product:

- Up to about 180 packed query tokens the documents' bytes are the limit: one tile holds all query
  tokens, so that the documents stream through once, and two blocks share a multiprocessor, one
  loading while the other reduces.
- Above that the matrix units are: 128 x 256 keeps them busy from shared memory.
- float32 (as three tf32 products) has twice the bytes and six times the operations.

Nothing is keyed on lengths: a new mix of lengths never compiles a new kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TILES", "Tile", "tile_for"]


@dataclass(frozen=True)
class Tile:
    """One compiled shape of the MaxSim kernels.

    Attributes:
        block_d: document tokens, the matrix product's M: 64 or more, as wgmma wants it.
        block_q: query tokens, its N.
        block_k: dimensions a step.
        num_warps: warps of a block.
        num_stages: steps whose loads are in flight.
        blocks: resident blocks a multiprocessor, for the size of the persistent grid.
        flat: one loop over tiles and dimensions, whose loads never pause. It keeps a second copy
            of the accumulators, which the largest tiles have no registers for.
        pairs: a list of pairs may use it. That kernel keeps running maxima beside the
            accumulators, which the largest tiles have no registers for either.
    """

    block_d: int
    block_q: int
    block_k: int
    num_warps: int
    num_stages: int
    blocks: int
    flat: bool = True
    pairs: bool = True


# (target family, bytes of an element in the product) -> tiles by rising block_q
TILES: dict[tuple[str, int], tuple[Tile, ...]] = {
    ("sm_90", 2): (
        Tile(128, 16, 64, 4, 4, 2),
        Tile(128, 32, 64, 4, 4, 2),
        Tile(128, 64, 64, 4, 4, 2),
        Tile(128, 128, 64, 8, 4, 1),
        Tile(128, 256, 64, 8, 3, 1, flat=False, pairs=False),
    ),
    ("sm_90", 4): (
        Tile(128, 16, 32, 4, 3, 2),
        Tile(128, 32, 32, 4, 3, 2),
        Tile(128, 64, 32, 4, 3, 2),
        Tile(128, 128, 32, 8, 3, 1, pairs=False),
    ),
    # The accumulators lie in tensor memory, which the compiler can't carry through a flat loop.
    ("sm_100", 2): (
        Tile(128, 32, 64, 4, 4, 2, flat=False),
        Tile(128, 64, 64, 4, 4, 2, flat=False),
        Tile(128, 128, 64, 8, 4, 1, flat=False),
    ),
    ("sm_100", 4): (
        Tile(128, 16, 32, 4, 3, 2, flat=False),
        Tile(128, 32, 32, 4, 3, 2, flat=False),
        Tile(128, 64, 32, 4, 3, 2, flat=False),
        Tile(128, 128, 32, 8, 3, 1, flat=False),
    ),
    ("sm_80", 2): (
        Tile(128, 16, 64, 4, 4, 1),
        Tile(128, 32, 64, 4, 4, 1),
        Tile(128, 64, 64, 4, 3, 1, flat=False),
        Tile(128, 128, 64, 8, 3, 1),
    ),
    ("sm_80", 4): (
        Tile(128, 16, 32, 4, 3, 1),
        Tile(128, 32, 32, 4, 3, 1),
        Tile(64, 64, 32, 4, 3, 1),
    ),
    ("gfx942", 2): (
        Tile(128, 16, 64, 4, 2, 2),
        Tile(128, 32, 64, 4, 2, 2),
        Tile(128, 64, 64, 4, 2, 2),
        Tile(128, 128, 64, 8, 2, 1),
    ),
    ("gfx942", 4): (
        Tile(128, 16, 32, 4, 2, 2),
        Tile(128, 32, 32, 4, 2, 2),
        Tile(128, 64, 32, 4, 2, 2),
    ),
    # The interpreter's, see m3kernels.target.
    ("interpreter", 2): (Tile(16, 16, 16, 1, 1, 1), Tile(32, 32, 32, 1, 1, 1, flat=False)),
    ("interpreter", 4): (Tile(16, 16, 16, 1, 1, 1), Tile(32, 32, 32, 1, 1, 1, flat=False)),
}


def tile_for(family: str, itemsize: int, query_rows: int, *, pairs: bool = False) -> Tile:
    """Return the tile for `query_rows` packed query tokens, or so many of each pair's query.

    The smallest that holds them all; past the largest, the one that pads least, and of two alike
    the larger.
    """
    tiles = [tile for tile in TILES[family, itemsize] if tile.pairs or not pairs]
    for tile in tiles:
        if query_rows <= tile.block_q:
            return tile
    return min(tiles[-2:], key=lambda tile: (-query_rows % tile.block_q, -tile.block_q))
