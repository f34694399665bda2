"""The launch table of MaxSim: which tile a call uses. Data, so that it can be read and measured.

A tile multiplies BLOCK_D document tokens with BLOCK_Q query tokens, BLOCK_K dimensions at a time.
What decides is how many query tokens the call packs, and how wide an element is in the product:

- Up to about 180 packed query tokens the documents' bytes are the limit: one tile holds all query
  tokens, so that the documents stream through once, and two or three blocks share a
  multiprocessor, one loading while another reduces. A tile of 64 document tokens is not slower
  than a larger one, and has less to reduce where documents are short.
- Above that the matrix units are: 128 x 256 keeps them busy from shared memory. There the queries
  lie on M, where the max over a document is one along N, within a thread's own registers and four
  lanes: a third of the instructions that the max over M takes.
- float32 (as three tf32 products) has twice the bytes and six times the operations.
- int8 documents are multiplied as they are, with queries of two int8 digits: BLOCK_Q query tokens
  are 2 * BLOCK_Q columns.
- Where one step takes all dimensions, a tile has little to load: more blocks, fewer stages.
- A pair's document begins in its own tile, so that short tiles read less of the next one.

The rows of sm_90 are the fastest of those that `python -m benchmarks gpu` tried on an H100 at
d = 1024, for documents of 512 tokens and of 36; the other families' come from the compiler's
reports alone.

Nothing is keyed on lengths: a new mix of lengths never compiles a new kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ONE_STEP", "PAIRS", "TILES", "WIDENED", "Tile", "tile_for", "tiles_of"]


@dataclass(frozen=True)
class Tile:
    """One compiled shape of the MaxSim kernels.

    Attributes:
        block_d: document tokens: 64 or more where they are the matrix product's M, as wgmma wants.
        block_q: query tokens.
        block_k: dimensions a step.
        num_warps: warps of a block.
        num_stages: steps whose loads are in flight.
        blocks: resident blocks a multiprocessor, for the size of the persistent grid.
        flat: one loop over tiles and dimensions, whose loads never pause. It keeps a second copy
            of the accumulators, which the largest tiles have no registers for.
        q_on_m: queries are the product's M. Documents that are widened can't use it: in registers
            they can only be M.
    """

    block_d: int
    block_q: int
    block_k: int
    num_warps: int
    num_stages: int
    blocks: int
    flat: bool = True
    q_on_m: bool = False

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


# (target family, bytes of an element in the product) -> tiles by rising block_q
TILES: dict[tuple[str, int], tuple[Tile, ...]] = {
    ("sm_90", 1): (
        Tile(128, 16, 256, 4, 2, 2),
        Tile(128, 32, 256, 4, 2, 2),
        Tile(64, 64, 128, 4, 4, 2),
        Tile(128, 128, 128, 8, 3, 1, flat=False),
    ),
    ("sm_90", 2): (
        Tile(64, 16, 128, 4, 3, 3),
        Tile(64, 32, 128, 4, 3, 3),
        Tile(64, 64, 128, 4, 3, 2),
        Tile(64, 128, 64, 4, 3, 3, flat=False, q_on_m=True),
        Tile(128, 128, 64, 4, 3, 2, flat=False, q_on_m=True),
        Tile(128, 256, 64, 8, 3, 1, flat=False, q_on_m=True),
    ),
    ("sm_90", 4): (
        Tile(128, 16, 64, 4, 3, 2),
        Tile(128, 32, 64, 4, 3, 2),
        Tile(128, 64, 32, 4, 3, 2),
    ),
    # The accumulators lie in tensor memory, which the compiler can't carry through a flat loop.
    ("sm_100", 1): (
        Tile(128, 32, 128, 4, 4, 2, flat=False),
        Tile(128, 64, 128, 4, 4, 1, flat=False),
    ),
    ("sm_100", 2): (
        Tile(128, 32, 64, 4, 4, 2, flat=False),
        Tile(128, 64, 64, 4, 4, 2, flat=False),
        Tile(128, 128, 64, 8, 4, 1, flat=False),
        Tile(128, 128, 64, 4, 4, 1, flat=False, q_on_m=True),
        Tile(128, 256, 64, 8, 3, 1, flat=False, q_on_m=True),
    ),
    ("sm_100", 4): (
        Tile(128, 32, 32, 4, 3, 2, flat=False),
        Tile(128, 64, 32, 4, 3, 2, flat=False),
        Tile(128, 128, 32, 8, 3, 1, flat=False),
    ),
    ("sm_80", 1): (
        Tile(128, 16, 128, 4, 3, 2),
        Tile(128, 32, 128, 4, 3, 2),
        Tile(128, 64, 128, 8, 3, 1),
    ),
    ("sm_80", 2): (
        Tile(128, 16, 64, 4, 4, 1),
        Tile(128, 32, 64, 4, 4, 1),
        Tile(128, 64, 64, 4, 3, 1, flat=False),
        Tile(128, 128, 64, 8, 3, 1),
        Tile(128, 128, 64, 8, 3, 1, flat=False, q_on_m=True),
    ),
    ("sm_80", 4): (
        Tile(128, 16, 32, 4, 3, 1),
        Tile(128, 32, 32, 4, 3, 1),
        Tile(64, 64, 32, 4, 3, 1),
    ),
    ("gfx942", 1): (
        Tile(128, 16, 128, 4, 2, 2),
        Tile(128, 32, 128, 4, 2, 2),
        Tile(128, 64, 128, 8, 2, 1),
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
    ("interpreter", 1): (Tile(16, 16, 16, 1, 1, 1), Tile(32, 32, 32, 1, 1, 1, flat=False)),
    ("interpreter", 2): (
        Tile(16, 16, 16, 1, 1, 1),
        Tile(32, 32, 32, 1, 1, 1, flat=False),
        Tile(32, 64, 32, 1, 1, 1, flat=False, q_on_m=True),
    ),
    ("interpreter", 4): (
        Tile(16, 16, 16, 1, 1, 1),
        Tile(32, 32, 32, 1, 1, 1, flat=False),
        Tile(32, 64, 32, 1, 1, 1, flat=False, q_on_m=True),
    ),
}

# The same for documents that are widened, which are multiplied from registers and so only as M;
# a family that isn't here uses the tiles above that have documents on M.
WIDENED: dict[tuple[str, int], tuple[Tile, ...]] = {
    ("sm_90", 2): (
        Tile(128, 16, 128, 4, 3, 3),
        Tile(128, 32, 128, 4, 3, 3),
        Tile(64, 64, 128, 4, 3, 3),
        Tile(64, 128, 64, 4, 3, 3, flat=False),
        Tile(64, 256, 64, 4, 3, 2, flat=False),
    ),
}

# The same where block_k holds all dimensions, for as many query rows as there is a tile for.
ONE_STEP: dict[tuple[str, int], tuple[Tile, ...]] = {
    ("sm_90", 1): (
        Tile(64, 16, 128, 4, 2, 6),
        Tile(64, 32, 128, 4, 2, 4),
    ),
    ("sm_90", 2): (
        Tile(128, 16, 64, 4, 2, 6),
        Tile(128, 32, 64, 4, 2, 5),
        Tile(128, 64, 64, 4, 2, 3),
        Tile(128, 16, 128, 4, 2, 3),
        Tile(128, 32, 128, 4, 2, 2),
        Tile(128, 64, 128, 4, 2, 2),
    ),
}

# The same for a list of pairs. Its kernel keeps running maxima beside the accumulators, which the
# largest tiles have no registers for.
PAIRS: dict[tuple[str, int], tuple[Tile, ...]] = {
    ("sm_90", 1): (
        Tile(64, 16, 128, 4, 3, 4),
        Tile(64, 32, 128, 4, 3, 3),
        Tile(64, 64, 128, 4, 4, 2),
    ),
    ("sm_90", 2): (
        Tile(64, 16, 128, 4, 3, 3),
        Tile(64, 32, 128, 4, 3, 3),
        Tile(64, 64, 128, 4, 3, 2),
        Tile(64, 128, 64, 8, 4, 1),
    ),
    ("sm_90", 4): (
        Tile(64, 16, 32, 4, 3, 5),
        Tile(64, 32, 32, 4, 3, 4),
        Tile(64, 64, 32, 4, 3, 2),
    ),
    ("sm_100", 1): (
        Tile(64, 32, 128, 4, 3, 4),
        Tile(64, 64, 128, 4, 4, 2),
    ),
    ("sm_100", 2): (
        Tile(64, 32, 64, 4, 4, 4),
        Tile(64, 64, 64, 4, 4, 3),
        Tile(64, 128, 64, 8, 4, 1),
    ),
    ("sm_100", 4): (
        Tile(64, 32, 32, 4, 3, 4),
        Tile(64, 64, 32, 4, 3, 2),
    ),
    ("sm_80", 1): (
        Tile(64, 16, 128, 4, 3, 1),
        Tile(64, 32, 128, 4, 3, 1),
        Tile(64, 64, 128, 4, 3, 1),
    ),
    ("sm_80", 2): (
        Tile(64, 16, 64, 4, 4, 1),
        Tile(64, 32, 64, 4, 4, 1),
        Tile(64, 64, 64, 4, 4, 1),
        Tile(64, 128, 64, 8, 3, 1),
    ),
    ("sm_80", 4): (
        Tile(64, 16, 32, 4, 3, 1),
        Tile(64, 32, 32, 4, 3, 1),
        Tile(64, 64, 32, 4, 3, 1),
    ),
    ("gfx942", 1): (
        Tile(64, 16, 128, 4, 2, 2),
        Tile(64, 32, 128, 4, 2, 2),
        Tile(64, 64, 128, 4, 2, 2),
    ),
    ("gfx942", 2): (
        Tile(64, 16, 64, 4, 2, 2),
        Tile(64, 32, 64, 4, 2, 2),
        Tile(64, 64, 64, 4, 2, 2),
    ),
    ("gfx942", 4): (
        Tile(64, 16, 32, 4, 2, 2),
        Tile(64, 32, 32, 4, 2, 2),
        Tile(64, 64, 32, 4, 2, 2),
    ),
    ("interpreter", 1): (Tile(16, 16, 16, 1, 1, 1), Tile(16, 32, 32, 1, 1, 1)),
    ("interpreter", 2): (Tile(16, 16, 16, 1, 1, 1), Tile(16, 32, 32, 1, 1, 1)),
    ("interpreter", 4): (Tile(16, 16, 16, 1, 1, 1), Tile(16, 32, 32, 1, 1, 1)),
}


# The widest tile for rows that don't begin at multiples of 16 bytes: they are read number by
# number, and each number's mask and address take registers.
_WIDEST_UNALIGNED = {1: 16, 2: 32, 4: 32}


def tiles_of(
    family: str,
    itemsize: int,
    *,
    widened: bool = False,
    pairs: bool = False,
    dim: int = 1024,
    aligned: bool = True,
) -> tuple[Tile, ...]:
    """Return the tiles that a call may use, by rising block_q.

    `widened` is whether the documents have another dtype than the product, `aligned` whether the
    rows begin at multiples of 16 bytes.
    """
    key = family, itemsize
    if not aligned:
        tiles = PAIRS[key] if pairs else TILES[key]
        narrow = [tile for tile in tiles if tile.block_q <= _WIDEST_UNALIGNED[itemsize]]
        return tuple(narrow or tiles[:1])
    if pairs:
        return PAIRS[key]
    if widened and key in WIDENED:
        return WIDENED[key]
    # Where a width has both kinds of tile, queries on M is for what can use it.
    on_m = {tile.block_q for tile in TILES[key] if tile.q_on_m and not widened}
    tiles = tuple(tile for tile in TILES[key] if tile.q_on_m == (tile.block_q in on_m))
    steps = [tile.block_k for tile in ONE_STEP.get(key, ()) if tile.block_k >= dim]
    one_step = tuple(tile for tile in ONE_STEP.get(key, ()) if tile.block_k in steps[:1])
    widest = max((tile.block_q for tile in one_step), default=0)
    return one_step + tuple(tile for tile in tiles if tile.block_q > widest)


def tile_for(
    family: str,
    itemsize: int,
    query_rows: int,
    *,
    widened: bool = False,
    pairs: bool = False,
    dim: int = 1024,
    aligned: bool = True,
) -> Tile:
    """Return the tile for `query_rows` packed query tokens, or so many of each pair's query.

    The smallest that holds them all; past the largest, the one that pads least, and of two alike
    the larger.
    """
    tiles = tiles_of(family, itemsize, widened=widened, pairs=pairs, dim=dim, aligned=aligned)
    for tile in tiles:
        if query_rows <= tile.block_q:
            return tile
    return min(tiles[-2:], key=lambda tile: (-query_rows % tile.block_q, -tile.block_q))
